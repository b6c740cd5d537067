"""Members of zip archives, checked before they are read."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import numpy as np

from jaxweights.formats.contents import Refused, largest

_STEP = 1 << 20  # bytes that are unpacked at a time


def members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name.

    Args:
      archive: the archive.
      size: bytes of the file.

    Raises:
      Refused: a member that is encrypted, packed in a way that is not read, or named like a path out of a folder.
      ValueError: two members of a name, or sizes that the file cannot have.
    """
    found: dict[str, zipfile.ZipInfo] = {}
    stored = unpacked = 0
    for member in archive.infolist():
        name = member.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or ":" in name.split("/")[0]:
            raise Refused(f"has a member {name[:80]!r}, whose name is a path out of its folder; it is not read.")
        if name in found:
            raise ValueError(f"two members are called {name[:80]!r}")
        if member.flag_bits & 1:
            raise Refused("is encrypted. Write it anew without a password.")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(
                "is packed in a way that is not read (neither stored nor deflated). Unpack and pack it again."
            )
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise ValueError(f"the member {name[:80]!r} has two sizes")
        unpacked += member.file_size
        stored += member.compress_size
        found[name] = member
    if stored > size:
        raise ValueError("its members overlap")
    if unpacked > largest(size):
        raise ValueError(f"its members are said to have {unpacked:,} bytes, far more than it")
    return found


def content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member, compared with its checksum."""
    return array(archive, member).tobytes()


def array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """The bytes of a member as a new array `[n]` uint8, compared with its checksum; raises `ValueError`."""
    found = np.empty(member.file_size, np.uint8)
    with archive.open(member) as file:
        read_into(file, found)
    return found


def read_into(file: Any, target: np.ndarray) -> None:
    """Fills `[n]` uint8 with all that is left of a binary file; raises `ValueError` where that is not `n` bytes."""
    view, place = target.data, 0
    try:
        while place < len(view):
            read = file.readinto(view[place : place + _STEP])
            if not read:
                raise ValueError("it ends early")
            place += read
        # The checksum of a member is compared at its end.
        if file.read(1):
            raise ValueError("there is more than its header says")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(str(error)) from error
