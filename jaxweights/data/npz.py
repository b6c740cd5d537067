"""Image sets in one `.npz` file: plain arrays, or concatenated JPEG images."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxweights.data.encoded import decode_images
from jaxweights.data.inspection import Inspection
from jaxweights.data.numpy_files import read_arrays
from jaxweights.data.raw import AS_STORED, Raw, Reading
from jaxweights.errors import UserError

_PLAIN = ("train_images", "train_labels", "test_images", "test_labels")
# Names in Keras.
_KERAS = ("x_train", "y_train", "x_test", "y_test")
_JPEG = ("train_jpeg", "train_length", "train_label", "test_jpeg", "test_length", "test_label")
_CONTENT = ", ".join(f"{key}=..." for key in _PLAIN)


def read(path: pathlib.Path, reading: Reading = AS_STORED) -> Raw:
    """Reads an image set from an `.npz` file.

    Three layouts are read: `train_images, train_labels, test_images, test_labels`; the same as `x_train, y_train,
    x_test, y_test`; and JPEG images, `{train,test}_jpeg` (uint8, all images concatenated), `_length` (bytes per image)
    and `_label`.

    Args:
      path: the file.
      reading: how JPEG images are read.

    Raises:
      UserError: the file is missing, damaged or of another kind, holds Python objects, or has none of these layouts; or
        JPEG images are bad.
    """
    arrays = read_arrays(path, _CONTENT, (_PLAIN, _KERAS, _JPEG))
    layout = next((keyset for keyset in (_PLAIN, _KERAS, _JPEG) if arrays.keys() >= set(keyset)), None)
    if layout is None:
        found = "one array" if "" in arrays else f"the keys {sorted(arrays)}"
        raise UserError(
            f"{path} has {found}; it must have {', '.join(_PLAIN)}, or {', '.join(_KERAS)}, or the JPEG layout "
            f"{', '.join(_JPEG)}. Write it by numpy.savez({path.stem + '.npz'!r}, {_CONTENT})."
        )
    chosen = [arrays[key] for key in layout]
    files, where = f"npz {path.name}", str(path)
    if layout is not _JPEG:
        return Raw(*chosen, files=files, where=where)
    inspection = Inspection(path, "images", skip=reading.skip_bad)
    train_images, train_labels = _unpack_jpeg(chosen[:3], f"{path}, train_jpeg", inspection, reading)
    test_images, test_labels = _unpack_jpeg(chosen[3:], f"{path}, test_jpeg", inspection, reading)
    skipped = inspection.settle(min(len(train_images), len(test_images)))
    return Raw(
        train_images,
        train_labels,
        test_images,
        test_labels,
        files=files,
        where=where,
        resized=reading.resize > 0,
        skipped=skipped,
    )


def _unpack_jpeg(
    arrays: list[np.ndarray], where: str, inspection: Inspection, reading: Reading
) -> tuple[np.ndarray, np.ndarray]:
    """Good images of a part, and their labels."""
    packed, lengths, labels = arrays
    if (
        packed.dtype != np.uint8
        or packed.ndim != 1
        or not np.issubdtype(lengths.dtype, np.integer)
        or lengths.ndim != 1
    ):
        raise UserError(f"{where}: the images must be uint8 [bytes] and the lengths integers [n].")
    lengths = lengths.astype(np.int64)
    if (lengths <= 0).any() or lengths.sum() != len(packed):
        raise UserError(f"{where}: the lengths must be positive and add up to the {len(packed)} bytes of the images.")
    if labels.shape[:1] != lengths.shape:
        raise UserError(f"{where}: there are {len(lengths)} images, but labels of shape {labels.shape}.")
    ends = np.cumsum(lengths)
    files = (packed[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True))
    images, good = decode_images(files, len(lengths), inspection, f"{where.rsplit(None, 1)[-1]} images", reading)
    return images, labels[good]
