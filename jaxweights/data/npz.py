"""Image sets in one `.npz` file: plain arrays, or concatenated JPEG images."""

from __future__ import annotations

import pathlib
import zipfile
import zlib

import numpy as np

from jaxweights.data.dataset import Raw
from jaxweights.data.encoded import decode_images
from jaxweights.errors import UserError

_PLAIN = ("train_images", "train_labels", "test_images", "test_labels")
# Names in Keras.
_KERAS = ("x_train", "y_train", "x_test", "y_test")
_JPEG = ("train_jpeg", "train_length", "train_label", "test_jpeg", "test_length", "test_label")


def read(path: pathlib.Path, resize: int = 0, channels: int | None = None) -> Raw:
    """Reads an image set from an `.npz` file.

    Three layouts are read: `train_images, train_labels, test_images, test_labels`; the same as `x_train, y_train,
    x_test, y_test`; and JPEG images, `{train,test}_jpeg` (uint8, all images concatenated), `_length` (bytes per image)
    and `_label`.

    Args:
      path: the file.
      resize: side of resized JPEG images, 0 for no resizing.
      channels: number of channels of resized images, see `encoded.decode_images`.

    Raises:
      UserError: the file is missing, truncated, not an `.npz`, holds Python objects, or has none of these layouts.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the path of an .npz file with the keys {', '.join(_PLAIN)}.")
    try:
        # Opened here because numpy leaves a damaged file that it opened itself unclosed.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            keys = set(archive.files)
            layout = next((keyset for keyset in (_PLAIN, _KERAS, _JPEG) if keys.issuperset(keyset)), None)
            arrays = [archive[key] for key in layout or ()]
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as .npz ({error}); it is damaged or of another kind.") from error
    if layout is None:
        raise UserError(
            f"{path} has the keys {sorted(keys)}; it must have {', '.join(_PLAIN)}, or {', '.join(_KERAS)}, or the "
            f"JPEG layout {', '.join(_JPEG)}."
        )
    if layout is _JPEG:
        arrays = [
            _unpack_jpeg(arrays[0], arrays[1], f"{path}, train_jpeg", resize, channels),
            arrays[2],
            _unpack_jpeg(arrays[3], arrays[4], f"{path}, test_jpeg", resize, channels),
            arrays[5],
        ]
    resized = resize > 0 and layout is _JPEG
    return Raw(*arrays, files=f"npz {path.name}", where=str(path), resized=resized)


def _unpack_jpeg(packed: np.ndarray, lengths: np.ndarray, where: str, resize: int, channels: int | None) -> np.ndarray:
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
    ends = np.cumsum(lengths)
    files = (packed[end - length : end].tobytes() for end, length in zip(ends, lengths, strict=True))
    return decode_images(files, len(lengths), where, resize, channels)
