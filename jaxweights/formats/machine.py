"""A machine for pickles that knows plain values and what `allowed` lists, and imports and calls nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxweights.formats import allowed, opcodes
from jaxweights.formats.contents import Bag, Refused


class _Mark:
    """Where the items of a container begin."""


_MARK = _Mark()
_MADE = 16  # bytes and items that calls make per byte of a pickle, at most
_ALWAYS = 1 << 20


class Machine:
    """Runs a pickle that `pickles.scan` has let through.

    Args:
      persistent: what becomes of persistent ids.
      nested: what becomes of files within it, from the arguments of their reader: their bytes.
    """

    def __init__(self, persistent: Callable[[Any], Any], nested: Callable[[tuple[Any, ...]], Any]):
        self._persistent, self._nested = persistent, nested
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._unfilled: dict[int, np.ndarray] = {}
        self._left = self._left_within = 0

    def load(self, data: Any, start: int, end: int) -> Any:
        """The value of the pickle from `start` to `end`.

        Raises:
          Refused: it calls what may not be called.
          ValueError: it is damaged.
        """
        at, stack, sizes = start, self._stack, _SIZES
        # A file may call with one large value again and again.
        self._left, self._left_within = _MADE * (end - start) + _ALWAYS, end - start
        while at < end:
            code = data[at]
            size, place = sizes[code], at + 1
            if size >= 0:
                at = place + size
                content = data[place:at] if size else b""
            elif size >= -8:
                place, length = place - size, int.from_bytes(data[place : place - size], "little")
                at = place + length
                content = data[place:at]
            else:
                content, at = opcodes.global_name(data, place)
            try:
                OPERATIONS[code](self, content)
            except (IndexError, KeyError) as error:
                raise ValueError("its stack or its memo lacks a value") from error
        if len(stack) != 1 or stack[0] is _MARK or self._unfilled:
            raise ValueError("it does not end with one value")
        return stack[0]

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def marked(self) -> list[Any]:
        """Takes what lies above the last mark from the stack."""
        stack = self._stack
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a container has no beginning")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ValueError("a container has no value where one is needed")
        return value

    def top(self, *kinds: type) -> Any:
        value = self._stack[-1]
        if type(value) not in kinds:
            raise ValueError(f"items are put into something of the type {type(value).__name__}")
        return value

    def memoize(self, index: int | None = None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._stack[-1]

    def get(self, index: int) -> None:
        self.push(self._memo[index])

    def name(self, module: str, name: str) -> None:
        """Pushes what stands for a name."""
        found = allowed.find(module, name)
        if found is None:
            raise Refused(allowed.unlisted([f"{module}.{name}"]))
        self.push(found)

    def call(self) -> None:
        """REDUCE: what becomes of a call."""
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, allowed.Name) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is no function")
        if function is allowed.NESTED:
            self._left_within -= sum(len(content) for content in arguments if isinstance(content, bytes))
            if self._left_within < 0:
                raise ValueError("the files within it are larger than it")
            self.push(self._nested(arguments))
            return
        if function.call is None:
            raise Refused(f"calls {function.name}, which may be named in a file but not called.")
        try:
            made = function.call(*arguments)
        except TypeError as error:
            raise ValueError(f"{function.name} has other arguments than it takes") from error
        if function.name.endswith("multiarray._reconstruct"):
            self._unfilled[id(made)] = made
        elif isinstance(made, (str, bytes, list, tuple, dict, set, frozenset)):
            self._pay(len(made))
        elif isinstance(made, np.ndarray) and function.name.endswith("_frombuffer"):
            self._pay(made.nbytes)
        self.push(made)

    def _pay(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("it makes far more than it holds")

    def new(self) -> None:
        """NEWOBJ: an object of a class that is not at hand."""
        arguments, kind = self.pop(), self.pop()
        if not isinstance(kind, allowed.Name) or kind.new is None or arguments != ():
            name = kind.name if isinstance(kind, allowed.Name) else type(kind).__name__
            raise Refused(f"makes an object of {name}, which is not read.")
        self.push(kind.new())

    def build(self) -> None:
        """BUILD: the state of an object."""
        state, target = self.pop(), self._stack[-1]
        if isinstance(target, np.ndarray) and self._unfilled.pop(id(target), None) is not None:
            allowed.fill(target, state)
            self._pay(target.nbytes)
        elif isinstance(target, allowed.NumpyType):
            target.build(state)
        elif isinstance(target, Bag) and isinstance(state, dict) and all(isinstance(name, str) for name in state):
            target.attributes.update(state)
        elif not (type(target) is dict and isinstance(state, dict)):  # attributes of a state dict say nothing
            raise ValueError(f"something of the type {type(target).__name__} gets a state")

    def persistent(self) -> None:
        self.push(self._persistent(self.pop()))

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for key, value in _pairs(items):
            target[allowed.key(key)] = value


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a key has no value")
    return zip(items[::2], items[1::2], strict=True)


def _tuple(machine: Machine, count: int) -> None:
    items = [machine.pop() for _ in range(count)]
    machine.push(tuple(reversed(items)))


def _stack_global(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise ValueError("a name is no text")
    machine.name(module, name)


def _string(machine: Machine, content: bytes) -> None:
    """A text of Python 2, which did not tell it from bytes."""
    try:
        machine.push(content.decode("utf-8"))
    except UnicodeDecodeError:
        machine.push(content.decode("latin-1"))


def _append(machine: Machine, items: list[Any]) -> None:
    machine.top(list).extend(items)


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _add_items(machine: Machine, _: Any) -> None:
    items = machine.marked()
    machine.top(set).update(map(allowed.key, items))


def _operations() -> dict[int, Callable[[Machine, Any], Any]]:
    def unsigned(content: bytes) -> int:
        return int.from_bytes(content, "little")

    def signed(content: bytes) -> int:
        return int.from_bytes(content, "little", signed=True)

    def nothing(machine: Machine, content: Any) -> None:
        pass

    found: dict[str, Callable[[Machine, Any], Any]] = {
        "PROTO": nothing,
        "FRAME": nothing,
        "STOP": nothing,
        "MARK": lambda m, c: m.push(_MARK),
        "POP": lambda m, c: m._stack.pop(),
        "POP_MARK": lambda m, c: m.marked(),
        "NONE": lambda m, c: m.push(None),
        "NEWTRUE": lambda m, c: m.push(True),
        "NEWFALSE": lambda m, c: m.push(False),
        "BINFLOAT": lambda m, c: m.push(struct.unpack(">d", c)[0]),
        "EMPTY_LIST": lambda m, c: m.push([]),
        "EMPTY_TUPLE": lambda m, c: m.push(()),
        "EMPTY_DICT": lambda m, c: m.push({}),
        "EMPTY_SET": lambda m, c: m.push(set()),
        "TUPLE": lambda m, c: m.push(tuple(m.marked())),
        "TUPLE1": lambda m, c: _tuple(m, 1),
        "TUPLE2": lambda m, c: _tuple(m, 2),
        "TUPLE3": lambda m, c: _tuple(m, 3),
        "FROZENSET": lambda m, c: m.push(frozenset(map(allowed.key, m.marked()))),
        "APPEND": lambda m, c: _append(m, [m.pop()]),
        "APPENDS": lambda m, c: _append(m, m.marked()),
        "SETITEM": _set_item,
        "SETITEMS": lambda m, c: m.set_items(m.marked()),
        "ADDITEMS": _add_items,
        "MEMOIZE": lambda m, c: m.memoize(),
        "GLOBAL": lambda m, c: m.name(*c),
        "STACK_GLOBAL": _stack_global,
        "REDUCE": lambda m, c: m.call(),
        "NEWOBJ": lambda m, c: m.new(),
        "BUILD": lambda m, c: m.build(),
        "BINPERSID": lambda m, c: m.persistent(),
    }
    for name in ("BININT", "LONG1", "LONG4"):
        found[name] = lambda m, c: m.push(signed(c))
    for name in ("BININT1", "BININT2"):
        found[name] = lambda m, c: m.push(unsigned(c))
    for name in ("BINSTRING", "SHORT_BINSTRING"):
        found[name] = _string
    for name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
        found[name] = lambda m, c: m.push(opcodes.text(c))
    for name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"):
        found[name] = lambda m, c: m.push(bytes(c))
    found["BYTEARRAY8"] = lambda m, c: m.push(bytes(c))
    for name in ("BINGET", "LONG_BINGET"):
        found[name] = lambda m, c: m.get(unsigned(c))
    for name in ("BINPUT", "LONG_BINPUT"):
        found[name] = lambda m, c: m.memoize(unsigned(c))
    return {opcodes.CODES[name]: operation for name, operation in found.items()}


OPERATIONS = _operations()
"""What becomes of the machine, by operation and the bytes behind it."""
_SIZES = opcodes.sizes([opcodes.NAMES[code] for code in OPERATIONS])
