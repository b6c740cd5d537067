"""Zip archives of network after network: all bytes but the weights and their checksums are the same for all of them."""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

DATE = (1980, 1, 1, 0, 0, 0)  # the zip format's earliest, so that the same networks make the same files
_FLOAT = 4  # bytes
_LOCAL, _CENTRAL = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I")  # headers of a member
_LOCAL_CHECKSUM, _CENTRAL_CHECKSUM = 14, 16  # where in them the CRC-32 stands
_PADDING = struct.Struct("<2sH")
_READABLE = 0o644 << 16  # for the programs that unpack it


class Member(NamedTuple):
    """A file in the archive.

    Attributes:
      name: its path.
      head: what it begins with, of all networks.
      span: entries of the weight vector that follow, as little-endian float32.
    """

    name: str
    head: bytes = b""
    span: slice = slice(0, 0)


@dataclasses.dataclass(frozen=True)
class _Part:
    """Where entries of a weight vector stand in the archive.

    Attributes:
      source: bytes of the vector.
      target: bytes of the archive.
      head: CRC-32 of what the member begins with.
      checksums: where the CRC-32 of the member stands.
    """

    source: slice
    target: slice
    head: int
    checksums: tuple[int, int]


class Archive:
    """An uncompressed zip archive of a weight vector.

    Args:
      members: its files, in order.
      alignment: the contents of all members begin at multiples of so many bytes, as PyTorch has them.
    """

    def __init__(self, members: Sequence[Member], alignment: int = 1):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for member in members:
                content = member.head + bytes(_FLOAT * (member.span.stop - member.span.start))
                add(archive, file.tell(), member.name, content, alignment)
            begins = [info.header_offset for info in archive.infolist()]
        self._bytes = bytearray(file.getvalue())
        entries = self._entries(archive.start_dir, len(members))
        self._parts = [
            self._part(*one)
            for one in zip(members, begins, entries, strict=True)
            if one[0].span.stop > one[0].span.start
        ]

    def _entries(self, place: int, count: int) -> list[int]:
        """Where the members stand in the central directory."""
        found = []
        for _ in range(count):
            found.append(place)
            fields = _CENTRAL.unpack_from(self._bytes, place)
            place += _CENTRAL.size + sum(fields[10:13])  # name, extra field, comment
        return found

    def _part(self, member: Member, begin: int, entry: int) -> _Part:
        fields = _LOCAL.unpack_from(self._bytes, begin)
        first = begin + _LOCAL.size + fields[-2] + fields[-1] + len(member.head)
        source = slice(_FLOAT * member.span.start, _FLOAT * member.span.stop)
        target = slice(first, first + source.stop - source.start)
        checksums = begin + _LOCAL_CHECKSUM, entry + _CENTRAL_CHECKSUM
        return _Part(source, target, zlib.crc32(member.head), checksums)

    def of(self, vector: np.ndarray) -> bytearray:
        """The archive of a vector `[P]` float32; it changes with the next call."""
        data = np.ascontiguousarray(vector, "<f4").view(np.uint8).data
        for part in self._parts:
            content = data[part.source]
            self._bytes[part.target] = content
            for place in part.checksums:
                struct.pack_into("<I", self._bytes, place, zlib.crc32(content, part.head))
        return self._bytes


def add(archive: zipfile.ZipFile, place: int, name: str, content: bytes | memoryview, alignment: int = 1) -> None:
    """Adds an uncompressed file to an archive.

    Args:
      archive: the archive.
      place: where it ends.
      name: path of the file.
      content: of the file.
      alignment: its content begins at a multiple of so many bytes.
    """
    info = zipfile.ZipInfo(name, DATE)
    info.external_attr = _READABLE
    info.extra = _padding(place + _LOCAL.size + len(name.encode()), alignment)
    archive.writestr(info, content)


def _padding(place: int, alignment: int) -> bytes:
    """An extra field behind which, if it begins at that place, there is a multiple of the alignment."""
    if alignment == 1:
        return b""
    size = -(place + _PADDING.size) % alignment
    return _PADDING.pack(b"FB", size) + b"Z" * size
