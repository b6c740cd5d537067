"""Members of zip archives, checked before they are read."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from jaxweights.formats.contents import Refused, largest

_STEP = 1 << 20  # bytes that are unpacked at a time
_LOCAL = struct.Struct("<4s22xHH")  # in front of a member's content: signature, lengths of its name and extra field
_SIGNATURE = b"PK\x03\x04"


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


def array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, data: Any = None) -> np.ndarray:
    """The bytes of a member as an array `[n]` uint8, compared with its checksum; raises `ValueError`.

    Args:
      archive: the archive.
      member: of it.
      data: a map of the archive's file, which a member that is not packed is a read-only view of; None for new arrays.
    """
    if data is not None and member.compress_type == zipfile.ZIP_STORED:
        return _mapped(data, member)
    found = np.empty(member.file_size, np.uint8)
    with archive.open(member) as file:
        read_into(file, found)
    return found


def _mapped(data: Any, member: zipfile.ZipInfo) -> np.ndarray:
    signature, name, extra = _LOCAL.unpack_from(data, member.header_offset)
    place = member.header_offset + _LOCAL.size + name + extra
    if signature != _SIGNATURE or place + member.file_size > len(data):
        raise ValueError(f"the member {member.filename[:80]!r} is not where the archive says")
    found = np.ndarray((member.file_size,), np.uint8, data, place)
    if hasattr(member, "CRC") and zlib.crc32(found.data) != member.CRC:
        raise ValueError(f"the checksum of the member {member.filename[:80]!r} is another")
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
