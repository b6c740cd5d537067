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
_FROM_STACK = (CODES["STACK_GLOBAL"],)
_STACKED = b"\x04"  # the protocol that began with it


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
    end, at = len(data), start
    # The names of earlier protocols stand in the pickle; those of later ones come from the stack.
    names = _Names(data) if data[start + 1 : start + 2] >= _STACKED else None
    unlisted: dict[str, None] = {}
    stop = CODES["STOP"]
    while at < end:
        code = data[at]
        size, place = _SIZES[code], at + 1
        full = None
        if size >= 0:
            at = place + size
        elif size >= -8:
            place -= size
            at = place + int.from_bytes(data[place + size : place], "little")
        elif size == opcodes.GLOBAL:
            full, at = opcodes.global_name(data, place)
        else:
            raise _refused_code(code)
        if at > end:
            break
        if code in _FROM_STACK:
            if names is None:
                raise _refused_code(code)
            full = names.pair()
        if full is not None and allowed.find(*full) is None:
            unlisted[".".join(full)] = None
        if names is not None:
            names.follow(code, place, at)
        if code == stop:
            if unlisted:
                raise Refused(allowed.unlisted(list(unlisted)))
            return at
    raise ValueError("it ends within a pickle")


class _Names:
    """The last two texts of the stack, as far as it takes to find the names of a pickle without running it."""

    def __init__(self, data: Any):
        self._data = data
        self._last: tuple[Any, Any] = (None, None)
        self._memo: dict[int, Any] = {}
        self._count = 0

    def follow(self, code: int, start: int, end: int) -> None:
        """Takes note of an operation whose content stands between `start` and `end`."""
        if code in _TEXTS:
            self._last = (self._last[1], (start, end))
        elif code in _PUTS:
            index = self._count if code == CODES["MEMOIZE"] else int.from_bytes(self._data[start:end], "little")
            self._count += 1
            if self._last[1] is not None:
                self._memo[index] = self._last[1]
        else:
            found = self._memo.get(int.from_bytes(self._data[start:end], "little")) if code in _GETS else None
            self._last = (self._last[1], found)

    def pair(self) -> tuple[str, str]:
        """Module and name that STACK_GLOBAL finds; raises `Refused` where only the machine knows them."""
        if None in self._last:
            raise Refused("names a class by words that are made up only when it runs, so it cannot be checked.")
        module, name = (opcodes.text(self._data[start:end]) for start, end in self._last)
        return module[: opcodes.LONGEST_NAME], name[: opcodes.LONGEST_NAME]


def _refused_code(code: int) -> Exception:
    name = opcodes.NAMES.get(code)
    if name is None:
        return ValueError(f"byte {code} is no operation of a pickle")
    return Refused(f"{_WHY.get(name, 'has an operation that PyTorch does not write')} ({name}), which is not read.")
