"""TFRecord files and the `tf.train.Example` messages in them, without TensorFlow.

A TFRecord file is a sequence of records: length (8 bytes, little endian), masked CRC-32C of these 8 bytes, data, masked
CRC-32C of the data (tensorflow.org/tutorials/load_data/tfrecord). An Example is a protocol buffer that maps names to
lists of bytes, floats or integers (tensorflow/core/example/example.proto, feature.proto).
"""

from __future__ import annotations

import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from jaxweights.data.inspection import Bad

_POLYNOMIAL = np.uint32(0x82F63B78)
_MASK_DELTA = np.uint32(0xA282EAD8)
_LENGTH_BYTES = 8
_CRC_BYTES = 4
_FRAME_BYTES = _LENGTH_BYTES + 2 * _CRC_BYTES
# Checksums are computed for this many records at once: enough to hide Python's cost per byte column, few enough that
# the cache lines in use (one per record) stay in the cache.
_CRC_BLOCK = 4096
_AGAIN = "Prepare the data set again."


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ _POLYNOMIAL, table >> 1)
    return table


_TABLE = _crc_table()


def masked_crc32c(buffer: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the masked CRC-32C of many slices of a buffer at once.

    The slices of a block are walked side by side, one byte column at a time, longest first, so that the columns are
    prefixes of the block.

    Args:
      buffer: `[bytes]` uint8.
      starts: `[n]` int64, first byte of each slice.
      lengths: `[n]` int64.

    Returns:
      `[n]` uint32.
    """
    result = np.empty(len(starts), np.uint32)
    for block in range(0, len(starts), _CRC_BLOCK):
        rows = block + np.argsort(-lengths[block : block + _CRC_BLOCK], kind="stable")
        position = starts[rows].copy()
        columns = np.arange(lengths[rows].max(initial=0))
        active = np.searchsorted(-lengths[rows], -columns)
        crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
        for count in active:
            head = crc[:count]
            crc[:count] = _TABLE[(head ^ buffer[position[:count]]) & 0xFF] ^ (head >> 8)
            position[:count] += 1
        crc = ~crc
        result[rows] = ((crc >> 15) | (crc << 17)) + _MASK_DELTA
    return result


def read_tfrecord(path: pathlib.Path) -> list[bytes]:
    """Returns the records of a TFRecord file, after checking all checksums.

    Raises:
      Bad: the file is missing, truncated, or a checksum is wrong.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise Bad(path, "is missing", _AGAIN) from error
    except OSError as error:
        raise Bad(path, f"cannot be read ({error.strerror})", _AGAIN) from error
    starts, lengths = [], []
    position = 0
    while position < len(data):
        header_end = position + _LENGTH_BYTES + _CRC_BYTES
        length = struct.unpack_from("<Q", data, position)[0] if header_end <= len(data) else len(data)
        if header_end + length + _CRC_BYTES > len(data):
            raise Bad(path, f"is truncated or damaged at byte {position}", _AGAIN)
        starts.append(header_end)
        lengths.append(length)
        position += _FRAME_BYTES + length
    buffer = np.frombuffer(data, np.uint8)
    starts, lengths = np.array(starts, np.int64), np.array(lengths, np.int64)
    frames = starts - _LENGTH_BYTES - _CRC_BYTES
    for first, size, stored in (
        (frames, np.full_like(lengths, _LENGTH_BYTES), frames + _LENGTH_BYTES),
        (starts, lengths, starts + lengths),
    ):
        expected = buffer[stored[:, None] + np.arange(_CRC_BYTES)].view("<u4")[:, 0]
        wrong = np.flatnonzero(masked_crc32c(buffer, first, size) != expected)
        if wrong.size:
            raise Bad(path, f"is damaged: the checksum of record {wrong[0]} is wrong", _AGAIN)
    return [data[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Returns an unsigned integer of seven bits per byte, and the position behind it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, start and end of each field of the message in `data[position:end]`.

    An integer field is yielded as the place of its varint.

    Raises:
      ValueError: not a protocol buffer.
    """
    while position < end:
        key, start = _varint(data, position)
        wire = key & 7
        if wire == 0:
            position = _varint(data, start)[1]
        elif wire == 1:
            position = start + 8
        elif wire == 2:
            length, start = _varint(data, start)
            position = start + length
        elif wire == 5:
            position = start + 4
        else:
            raise ValueError(f"wire type {wire}")
        if position > end:
            raise ValueError("a field is longer than its message")
        yield key >> 3, start, position


def parse_example(data: bytes) -> dict[str, list[bytes] | list[int]]:
    """Parses a `tf.train.Example`.

    Args:
      data: the serialised message.

    Returns:
      Feature name to its list of bytes or of integers; features that hold floats, or nothing, map to an empty list.

    Raises:
      ValueError: not such a message.
    """
    features: dict[str, list[bytes] | list[int]] = {}
    try:
        for number, start, end in _fields(data, 0, len(data)):
            if number == 1:
                for entry, entry_start, entry_end in _fields(data, start, end):
                    if entry == 1:
                        _parse_entry(data, entry_start, entry_end, features)
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the message ends inside a field") from error
    return features


def _parse_entry(data: bytes, start: int, end: int, features: dict) -> None:
    """Adds one entry of the map from names to features."""
    name, values = "", []
    for number, field_start, field_end in _fields(data, start, end):
        if number == 1:
            name = data[field_start:field_end].decode()
        elif number == 2:
            for kind, list_start, list_end in _fields(data, field_start, field_end):
                values = _parse_list(data, kind, list_start, list_end)
    features[name] = values


def _parse_list(data: bytes, kind: int, start: int, end: int) -> list[bytes] | list[int]:
    """Returns the values of a BytesList (kind 1) or an Int64List (kind 3), whose integers may be packed or not."""
    values = []
    for number, position, field_end in _fields(data, start, end):
        if number != 1:
            continue
        if kind == 1:
            values.append(data[position:field_end])
        elif kind == 3:
            while position < field_end:
                value, position = _varint(data, position)
                values.append(value - (1 << 64) if value >= 1 << 63 else value)
    return values
