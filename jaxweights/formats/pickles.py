"""Pickles, read without importing or calling anything that they name.

A pickle is a program for a machine with a stack. `scan` goes through it before anything is made, and refuses operations
and names that are not allowed; a `Machine` then runs it, which knows plain values and what `allowed` lists.
"""

from __future__ import annotations

from typing import Any

from jaxweights.formats import allowed, opcodes
from jaxweights.formats.contents import Refused
from jaxweights.formats.machine import OPERATIONS
from jaxweights.formats.opcodes import CODES

_WHY = {
    "INST": "makes an object of a class",
    "OBJ": "makes an object of a class",
    "NEWOBJ_EX": "makes an object of a class",
    "EXT1": "names a class by a number (an extension)",
    "EXT2": "names a class by a number (an extension)",
    "EXT4": "names a class by a number (an extension)",
    "PERSID": "refers to something outside of it",
    "NEXT_BUFFER": "refers to something outside of it",
}
_SIZES = opcodes.sizes([opcodes.NAMES[code] for code in OPERATIONS])
_TEXTS = {CODES[name] for name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")}
_PUTS = {CODES[name] for name in ("BINPUT", "LONG_BINPUT", "MEMOIZE")}
_GETS = {CODES[name] for name in ("BINGET", "LONG_BINGET")}


def scan(data: Any, start: int = 0) -> int:
    """Goes through a pickle without running it.

    Args:
      data: bytes, or a map of a file.
      start: where the pickle begins.

    Returns:
      Where it ends.

    Raises:
      Refused: it has operations or names that are not allowed.
      ValueError: it is no whole pickle.
    """
    end, at, names = len(data), start, _Names(data)
    unlisted: dict[str, None] = {}
    stop, stack_global, memoize = CODES["STOP"], CODES["STACK_GLOBAL"], CODES["MEMOIZE"]
    while at < end:
        code = data[at]
        size, place = _SIZES[code], at + 1
        if size >= 0:
            at = place + size
        elif size >= -8:
            at = place - size + int.from_bytes(data[place : place - size], "little")
        elif size == opcodes.GLOBAL:
            full, at = opcodes.global_name(data, place)
            names.push(None)
            if allowed.find(*full) is None:
                unlisted[".".join(full)] = None
            continue
        else:
            raise _refused_code(code)
        if at > end:
            break
        if code in _TEXTS:
            names.push((place - size, at))
        elif code in _PUTS:
            names.put(None if code == memoize else int.from_bytes(data[place:at], "little"))
        elif code in _GETS:
            names.get(int.from_bytes(data[place:at], "little"))
        elif code == stack_global:
            full = names.pair()
            if allowed.find(*full) is None:
                unlisted[".".join(full)] = None
            names.push(None)
        elif code == stop:
            if unlisted:
                raise Refused(allowed.unlisted(list(unlisted)))
            return at
        else:
            names.push(None)
    raise ValueError("it ends within a pickle")


class _Names:
    """The last two texts of the stack, as far as it takes to find the names of a pickle without running it."""

    def __init__(self, data: Any):
        self._data = data
        self._last: tuple[Any, Any] = (None, None)
        self._memo: dict[int, Any] = {}

    def push(self, text: tuple[int, int] | None) -> None:
        self._last = (self._last[1], text)

    def put(self, index: int | None) -> None:
        self._memo[len(self._memo) if index is None else index] = self._last[1]

    def get(self, index: int) -> None:
        self.push(self._memo.get(index))

    def pair(self) -> tuple[str, str]:
        if None in self._last:
            raise Refused("names a class by words that are made up only when it runs, so it cannot be checked.")
        module, name = (opcodes.text(self._data[start:end]) for start, end in self._last)
        return module[: opcodes.LONGEST_NAME], name[: opcodes.LONGEST_NAME]


def _refused_code(code: int) -> Exception:
    name = opcodes.NAMES.get(code)
    if name is None:
        return ValueError(f"byte {code} is no operation of a pickle")
    return Refused(f"{_WHY.get(name, 'has an operation that PyTorch does not write')} ({name}), which is not read.")
