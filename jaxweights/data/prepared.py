"""Directories that tensorflow-datasets prepared, read without TensorFlow.

Two formats are read: array_record through the library's data source, and tfrecord, which most existing directories
have, through our own reader. Both give the stored order, which is fixed on disk.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from jaxweights import extras
from jaxweights.data.dataset import Raw
from jaxweights.data.encoded import decode_images
from jaxweights.data.known import known_channels, test_split
from jaxweights.data.records import parse_example, read_tfrecord
from jaxweights.errors import UserError

# Only finished directories are named by a plain version; the library writes into `incomplete.XXXXXX_<version>`.
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_READABLE = ("array_record", "tfrecord")
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

    Among several versions array_record is taken before tfrecord, then the newest version.

    Raises:
      UserError: a directory's description is damaged, or all directories are in a format that cannot be read.
    """
    folder = data_dir / name
    versions = sorted(
        (path for path in folder.glob("*/dataset_info.json") if _VERSION.fullmatch(path.parent.name)),
        key=lambda path: [int(part) for part in path.parent.name.split(".")],
        reverse=True,
    )
    described = [(path, *_describe(path)) for path in versions]
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


def _describe(path: pathlib.Path) -> tuple[dict, set[str]]:
    """Returns the content of a `dataset_info.json` and the file formats it lists."""
    try:
        info = json.loads(path.read_text())
        # Old versions of the library knew only tfrecord and did not write the format.
        return info, {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", ())}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove {path.parent} and prepare it again.") from error


def _list_shards(path: pathlib.Path, info: dict, file_format: str, name: str) -> Prepared:
    shards, counts = {}, {}
    try:
        for split in info["splits"]:
            counts[split["name"]] = [int(count) for count in split.get("shardLengths", ())]
            total = len(counts[split["name"]])
            shards[split["name"]] = [
                path.parent
                / split.get("filepathTemplate", _TEMPLATE).format(
                    DATASET=info.get("name", name),
                    SPLIT=split["name"],
                    FILEFORMAT=file_format,
                    SHARD_INDEX=f"{shard:05d}",
                    NUM_SHARDS=f"{total:05d}",
                    SHARD_X_OF_Y=f"{shard:05d}-of-{total:05d}",
                )
                for shard in range(total)
            ]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} does not describe its splits as tensorflow-datasets does ({error!r}); remove {path.parent} and "
            "prepare it again."
        ) from error
    return Prepared(path.parent, file_format, shards, counts)


def read(prepared: Prepared, name: str, resize: int = 0, limits: tuple[int, int] = (0, 0)) -> Raw:
    """Reads training and test images in the stored order.

    Args:
      prepared: result of `find`.
      name: the data set's name.
      resize: side of the square images to make (see `encoded.resize_picture`), 0 for images that are of one size.
      limits: numbers of training and test images to read, 0 for all.

    Raises:
      UserError: a split or a file is missing, truncated or damaged, or the examples have no `image` or no `label`.
    """
    splits = ("train", test_split(name))
    (train_images, train_labels), (test_images, test_labels) = (
        _read_split(prepared, split, limit, resize, known_channels(name))
        for split, limit in zip(splits, limits, strict=True)
    )
    return Raw(
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        files=f"tensorflow-datasets {name} {prepared.path.name} {prepared.file_format}",
        where=str(prepared.path),
        resized=resize > 0,
    )


def _read_split(
    prepared: Prepared, split: str, limit: int, resize: int, channels: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if split not in prepared.shards:
        raise UserError(f"{prepared.path} has the splits {sorted(prepared.shards)}, but '{split}' is needed.")
    for shard in prepared.shards[split]:
        if not shard.is_file():
            raise UserError(f"{shard} is missing; remove {prepared.path} and prepare the data set again.")
    count = sum(prepared.counts[split])
    count = min(limit or count, count)
    labels = np.empty(count, np.int64)
    reader = _array_records if prepared.file_format == "array_record" else _tfrecords
    where = str(prepared.shards[split][0]) if count else str(prepared.path)

    def encoded() -> Iterator[bytes]:
        for row, record in enumerate(itertools.islice(reader(prepared, split), count)):
            image, labels[row] = _image_and_label(record, row, where)
            yield image

    return decode_images(encoded(), count, where, resize, channels), labels


def _image_and_label(record: bytes, row: int, where: str) -> tuple[bytes, int]:
    try:
        example = parse_example(record)
    except ValueError as error:
        raise UserError(f"{where}: record {row} is not an example ({error}); prepare the data set again.") from error
    image, label = example.get("image", ()), example.get("label", ())
    if len(image) != 1 or not isinstance(image[0], bytes) or len(label) != 1 or not isinstance(label[0], int):
        raise UserError(
            f"{where}: record {row} has the features {sorted(example)}; one encoded `image` and one integer `label` "
            "are needed."
        )
    return image[0], label[0]


def _tfrecords(prepared: Prepared, split: str) -> Iterator[bytes]:
    for path, count in zip(prepared.shards[split], prepared.counts[split], strict=True):
        records = read_tfrecord(path)
        if len(records) != count:
            raise UserError(
                f"{path} has {len(records)} examples, but dataset_info.json states {count}; remove {prepared.path} and "
                "prepare the data set again."
            )
        yield from records


def _array_records(prepared: Prepared, split: str) -> Iterator[bytes]:
    with extras.importing("data"):
        import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(prepared.path)
        source = builder.as_data_source(
            # The declared type is that of the decorator that logs calls.
            split,  # pyright: ignore[reportCallIssue]
            deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            file_format="array_record",
        )
        if len(source) != sum(prepared.counts[split]):
            raise ValueError(f"{len(source)} examples, dataset_info.json states {sum(prepared.counts[split])}")
        blocks = range(0, len(source), _BLOCK)
        for start in blocks:
            yield from source.__getitems__(range(start, min(start + _BLOCK, len(source))))
    # The reader's C++ side raises what pybind makes of its status codes, mostly ValueError, IndexError, RuntimeError.
    except (ValueError, IndexError, RuntimeError, OSError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{prepared.path} cannot be read ({error}); remove it and prepare the data set again."
        ) from error
