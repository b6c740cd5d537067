"""The operations of pickles: how long they are, and the names in them."""

from __future__ import annotations

import pickletools
from typing import Any

CODES = {op.name: op.code.encode("latin-1")[0] for op in pickletools.opcodes}
NAMES = {code: name for name, code in CODES.items()}
GLOBAL = -9
UNKNOWN = -10
LONGEST_NAME = 200
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: -1,
    pickletools.TAKEN_FROM_ARGUMENT4: -4,
    pickletools.TAKEN_FROM_ARGUMENT4U: -4,
    pickletools.TAKEN_FROM_ARGUMENT8U: -8,
    pickletools.UP_TO_NEWLINE: UNKNOWN,
}


def sizes(names: list[str]) -> list[int]:
    """By operation, the number of bytes behind it; -1 to -8 where so many bytes have that number, `GLOBAL` for two
    lines of text, and `UNKNOWN` for operations that are not among the names."""
    found = [UNKNOWN] * 256
    for op in pickletools.opcodes:
        if op.name in names:
            size = 0 if op.arg is None else _LENGTHS.get(op.arg.n, op.arg.n)
            found[CODES[op.name]] = GLOBAL if op.name == "GLOBAL" else size
    return found


def global_name(data: Any, at: int) -> tuple[tuple[str, str], int]:
    """Module and name of a GLOBAL, and where it ends; raises `ValueError` where it does not."""
    first = data.find(b"\n", at, at + LONGEST_NAME)
    second = data.find(b"\n", first + 1, first + 1 + LONGEST_NAME) if first >= 0 else -1
    if second < 0:
        raise ValueError("a name has no end")
    return (text(data[at:first]), text(data[first + 1 : second])), second + 1


def text(content: bytes) -> str:
    """A text in UTF-8; raises `ValueError` for anything else."""
    try:
        return str(content, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise ValueError("a text is not UTF-8") from error
