"""Directories that tensorflow-datasets prepared, read without TensorFlow.

Two formats are read: array_record through the library's reader, and tfrecord, which most existing directories have,
through our own. Both give the stored order, which is fixed on disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxweights import extras
from jaxweights.data.encoded import decode_images
from jaxweights.data.inspection import Bad, Inspection
from jaxweights.data.known import test_split
from jaxweights.data.raw import AS_STORED, Raw, Reading
from jaxweights.data.records import parse_example, read_tfrecord
from jaxweights.errors import UserError
from jaxweights.files import read_json

# Only finished directories are named by a plain version; the library writes into `incomplete.XXXXXX_<version>`.
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_READABLE = ("array_record", "tfrecord")
_AGAIN = "Remove the folder and prepare the data set again"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
# Serialised examples are fetched this many at a time: few enough for photographs of a hundred kilobytes each.
_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A finished directory.

    Attributes:
      path: `<data_dir>/<name>/<version>`.
      file_format: `array_record` or `tfrecord`.
      shards: split name to its files.
      counts: split name to the number of examples in each file.
    """

    path: pathlib.Path
    file_format: str
    shards: dict[str, list[pathlib.Path]]
    counts: dict[str, list[int]]


def find(name: str, data_dir: pathlib.Path) -> Prepared | None:
    """Returns the prepared directory of a data set, or None when there is none.

    It is `<data_dir>/<name>/<version>`, `<data_dir>/<name>/<configuration>/<version>`, or a version below a `data_dir`
    that is already the folder of this data set. Among several versions array_record is taken before tfrecord, then the
    newest version.

    Raises:
      UserError: a directory's description is damaged, or all directories are in a format that cannot be read, or there
        are several configurations.
    """
    versions = _versions(data_dir / name, "*") or _configuration(name, data_dir)
    if not versions:
        versions = [path for path in _versions(data_dir, "*") if _describe(path).get("name") == name]
    described = [(path, info := _describe(path), _formats(info, path)) for path in versions]
    for file_format in _READABLE:
        for path, info, formats in described:
            if file_format in formats:
                return _list_shards(path, info, file_format, name)
    if described:
        path, _, formats = described[0]
        raise UserError(
            f"{path.parent} is prepared as {', '.join(sorted(formats))}; only {' and '.join(_READABLE)} are read. "
            f"Remove it and run `python -m launch.prepare_data --dataset={name} --data_dir={data_dir}`."
        )
    return None


def _versions(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Descriptions of finished versions, newest first."""
    return sorted(
        (path for path in folder.glob(f"{pattern}/dataset_info.json") if _VERSION.fullmatch(path.parent.name)),
        key=lambda path: [int(part) for part in path.parent.name.split(".")],
        reverse=True,
    )


def _configuration(name: str, data_dir: pathlib.Path) -> list[pathlib.Path]:
    """Versions one level down, as tensorflow-datasets prepares data sets that have configurations."""
    versions = _versions(data_dir / name, "*/*")
    folders = sorted({path.parents[1] for path in versions})
    if folders[1:]:
        raise UserError(
            f"{data_dir / name} has the configurations {', '.join(folder.name for folder in folders)}; choose one by "
            f"--data_dir={folders[0]} and the like."
        )
    return versions


def _describe(path: pathlib.Path) -> dict[str, Any]:
    """Returns the content of a `dataset_info.json`."""
    return read_json(path, "description of a data set", f"{_AGAIN}.")


def _formats(info: dict[str, Any], path: pathlib.Path) -> set[str]:
    """File formats that a description lists."""
    # Old versions of the library knew only tfrecord and did not write the format.
    others = info.get("alternativeFileFormats", [])
    formats = [info.get("fileFormat", "tfrecord"), *(others if isinstance(others, list) else [others])]
    if not all(isinstance(each, str) for each in formats):
        raise UserError(f"{path} has the file formats {formats}, which must be names. {_AGAIN}.")
    return set(formats)


def _list_shards(path: pathlib.Path, info: dict[str, Any], file_format: str, name: str) -> Prepared:
    shards, counts = {}, {}
    try:
        for split in info["splits"]:
            part, lengths = split["name"], [int(count) for count in split.get("shardLengths", ())]
            if min(lengths, default=0) < 0:
                raise ValueError(f"shardLengths {lengths}")
            total = len(lengths)
            names = [
                split.get("filepathTemplate", _TEMPLATE).format(
                    DATASET=info.get("name", name),
                    SPLIT=part,
                    FILEFORMAT=file_format,
                    SHARD_INDEX=f"{shard:05d}",
                    NUM_SHARDS=f"{total:05d}",
                    SHARD_X_OF_Y=f"{shard:05d}-of-{total:05d}",
                )
                for shard in range(total)
            ]
            if any("/" in each for each in names):
                raise ValueError(f"the file {names[0]}")
            shards[part], counts[part] = [path.parent / each for each in names], lengths
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not describe its splits as tensorflow-datasets does ({error!r}). {_AGAIN}."
        ) from error
    return Prepared(path.parent, file_format, shards, counts)


def read(prepared: Prepared, name: str, reading: Reading = AS_STORED) -> Raw:
    """Reads training and test images in the stored order.

    Args:
      prepared: result of `find`.
      name: the data set's name.
      reading: how images are read; no more of them are decoded than its limits ask for.

    Raises:
      UserError: a split is missing, files are missing, truncated or damaged, images are bad, or the examples have no
        `image` or no `label`; the message lists all of them.
    """
    splits = ("train", test_split(name))
    for split in splits:
        if split not in prepared.shards:
            there = sorted(map(str, prepared.shards))
            raise UserError(f"{prepared.path} has the splits {there}, but '{split}' is needed. {_AGAIN}.")
    inspection = Inspection(prepared.path, "files or images", _AGAIN, reading.skip_bad)
    (train_images, train_labels), (test_images, test_labels) = (
        _read_split(prepared, split, limit, inspection, reading)
        for split, limit in zip(splits, reading.limits, strict=True)
    )
    return Raw(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        files=f"tensorflow-datasets {name} {prepared.path.name} {prepared.file_format}",
        where=str(prepared.path),
        resized=reading.resize > 0,
        limited=reading.limits != (0, 0),
        skipped=inspection.settle(min(len(train_labels), len(test_labels))),
    )


def _read_split(
    prepared: Prepared, split: str, limit: int, inspection: Inspection, reading: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split."""
    shards, counts = prepared.shards[split], prepared.counts[split]
    read = _array_records if prepared.file_format == "array_record" else _tfrecords
    labels: list[int] = []

    def encoded() -> Iterator[bytes]:
        for path, count in zip(shards, counts, strict=True):
            # Files beyond the limit are looked at only when others are bad, so that all bad ones are listed.
            if limit and len(labels) >= limit and (not inspection.bad or inspection.skip):
                break
            for record in inspection.look(path.name, read, path, count, limit - len(labels) if limit else count) or ():
                if not limit or len(labels) < limit:
                    image, label = _image_and_label(record, len(labels), str(path))
                    labels.append(label)
                    yield image

    # A description that states more examples than there can be is refused when its files are read.
    total = sum(min(n, path.stat().st_size) for n, path in zip(counts, shards, strict=True) if path.is_file())
    total = min(limit, total) if limit else total
    images, good = decode_images(encoded(), total, inspection, f"{split} images", reading)
    return images, np.array(labels, np.int64)[good]


def _image_and_label(record: bytes, row: int, where: str) -> tuple[bytes, int]:
    try:
        example = parse_example(record)
    except ValueError as error:
        raise UserError(f"{where}: record {row} is not an example ({error}). {_AGAIN}.") from error
    image, label = example.get("image", ()), example.get("label", ())
    if len(image) != 1 or not isinstance(image[0], bytes) or len(label) != 1 or not isinstance(label[0], int):
        raise UserError(
            f"{where}: record {row} has the features {sorted(example)}; one encoded `image` and one integer `label` "
            "are needed."
        )
    return image[0], label[0]


def _tfrecords(path: pathlib.Path, count: int, wanted: int) -> list[bytes]:
    """Records of a tfrecord file, all of them since there is no index."""
    del wanted
    records = read_tfrecord(path)
    _check_count(path, len(records), count)
    return records


def _array_records(path: pathlib.Path, count: int, wanted: int) -> list[bytes]:
    """The first records of an array_record file."""
    with extras.importing("data"):
        from array_record.python.array_record_module import ArrayRecordReader

    if not path.is_file():
        raise Bad(path, "is missing", f"{_AGAIN}.")
    try:
        with contextlib.closing(ArrayRecordReader(str(path))) as reader:
            stored = reader.num_records()
            _check_count(path, stored, count)
            blocks = range(0, max(0, min(stored, wanted)), _BLOCK)
            ends = ((start, min(start + _BLOCK, stored)) for start in blocks)
            return [record for start, end in ends for record in reader.read(list(range(start, end)))]
    # What pybind makes of the status codes of the C++ side.
    except (ValueError, IndexError, RuntimeError, OSError, TypeError, NotImplementedError) as error:
        raise Bad(path, f"is damaged ({(str(error).splitlines() or ['unreadable'])[0]})", f"{_AGAIN}.") from error


def _check_count(path: pathlib.Path, stored: int, stated: int) -> None:
    if stored != stated:
        raise Bad(path, f"has {stored} examples, but dataset_info.json states {stated}", f"{_AGAIN}.")
