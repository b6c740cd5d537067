"""The published files of CIFAR-10 and CIFAR-100, for Python and for C, in archives or unpacked."""

from __future__ import annotations

import contextlib
import gzip
import io
import pathlib
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxweights.data.inspection import Bad, Inspection
from jaxweights.data.raw import AS_STORED, Raw, Reading

_PIXELS = (3, 32, 32)
_AGAIN = "Get the file again."


class _Layout(NamedTuple):
    """Files of one distribution.

    Attributes:
      archive: name of the archive.
      folder: name of the folder in it.
      train, test: names of the files in that.
      label: key of the labels, or number of label bytes in front of each image (CIFAR-100: coarse, then fine).
    """

    archive: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label: bytes | int


_BATCHES = tuple(f"data_batch_{batch}" for batch in range(1, 6))
LAYOUTS = {
    "cifar10": (
        _Layout("cifar-10-python.tar.gz", "cifar-10-batches-py", _BATCHES, ("test_batch",), b"labels"),
        _Layout(
            "cifar-10-binary.tar.gz",
            "cifar-10-batches-bin",
            tuple(f"{batch}.bin" for batch in _BATCHES),
            ("test_batch.bin",),
            1,
        ),
    ),
    "cifar100": (
        _Layout("cifar-100-python.tar.gz", "cifar-100-python", ("train",), ("test",), b"fine_labels"),
        _Layout("cifar-100-binary.tar.gz", "cifar-100-binary", ("train.bin",), ("test.bin",), 2),
    ),
}


def find(name: str, folder: pathlib.Path) -> tuple[pathlib.Path, _Layout] | None:
    """Returns a folder of files, or an archive of them, in a folder that may itself be the one of the files."""
    for layout in LAYOUTS.get(name, ()):
        files = (*layout.train, *layout.test)
        for place in (folder / layout.folder, folder):
            if any((place / file).is_file() for file in files):
                return place, layout
        if (folder / layout.archive).is_file():
            return folder / layout.archive, layout
    return None


def read(path: pathlib.Path, layout: _Layout, reading: Reading = AS_STORED) -> Raw:
    """Reads what `find` returned, in the published order.

    Raises:
      UserError: files are missing, truncated, damaged or of another kind; the message lists all of them.
    """
    inspection = Inspection(path, "files", "Get these files again", reading.skip_bad)
    with _opener(path, layout) as open_file:
        parts = [
            [_part(name, open_file, layout.label, inspection) for name in names]
            for names in (layout.train, layout.test)
        ]
    good = [[part for part in split if part is not None] for split in parts]
    skipped = inspection.settle(min(map(len, good)))
    arrays = [np.concatenate(of) for split in good for of in zip(*split, strict=True)]
    return Raw(*arrays, files=f"original {path.name}", where=str(path), skipped=skipped)


@contextlib.contextmanager
def _opener(path: pathlib.Path, layout: _Layout) -> Iterator[Callable[[str], bytes]]:
    """Yields a function from the name of a file to its bytes; it raises `KeyError` for one that is missing."""
    if path.is_dir():

        def from_folder(name: str) -> bytes:
            if not (path / name).is_file():
                raise KeyError(name)
            return (path / name).read_bytes()

        yield from_folder
        return
    with contextlib.ExitStack() as stack:
        try:
            content = path.read_bytes()
            # The whole stream is unpacked, since its checksum stands at its end.
            plain = gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
            archive = stack.enter_context(tarfile.open(fileobj=io.BytesIO(plain)))
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            reason = "is no tar archive" if isinstance(error, tarfile.ReadError) else f"cannot be read ({error})"
            raise Bad(path, f"{reason}: it is damaged or of another kind", _AGAIN) from error

        def from_archive(name: str) -> bytes:
            file = archive.extractfile(f"{layout.folder}/{name}")
            if file is None:
                raise KeyError(name)
            return file.read()

        yield from_archive


def _part(
    name: str, open_file: Callable[[str], bytes], label: bytes | int, inspection: Inspection
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images `[n, 32, 32, 3]` uint8 and labels `[n]` int32 of one file; None where it is bad."""

    def parse() -> tuple[np.ndarray, np.ndarray]:
        try:
            content = open_file(name)
            pixels, labels = _rows(content, label) if isinstance(label, int) else _batch(content, label)
            images = np.ascontiguousarray(pixels.reshape(len(labels), *_PIXELS).transpose(0, 2, 3, 1))
        except KeyError as error:
            raise Bad(name, "is missing", _AGAIN) from error
        # What pickle raises for foreign bytes is no closed list.
        except Exception as error:
            problem = " ".join(str(error).split()) or type(error).__name__
            raise Bad(name, f"is truncated, damaged or of another kind ({problem})", _AGAIN) from error
        return images, labels

    return inspection.look(name, parse)


def _rows(content: bytes, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + int(np.prod(_PIXELS)))
    if not len(rows):
        raise ValueError("it is empty")
    # The finest label is the last one.
    return rows[:, label_bytes:], rows[:, label_bytes - 1].astype(np.int32)


def _batch(content: bytes, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch: Any = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    by_name = {name.encode() if isinstance(name, str) else name: value for name, value in batch.items()}
    if not {b"data", key} <= by_name.keys():
        raise ValueError(f"it has no {b'data'.decode()} or no {key.decode()}")
    pixels, labels = by_name[b"data"], np.asarray(by_name[key])
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or labels.dtype.kind != "i" or labels.ndim != 1:
        raise ValueError("pixels must be bytes and labels integers")
    return pixels, labels.astype(np.int32)


class _Unpickler(pickle.Unpickler):
    """Reads arrays and plain containers, and runs nothing else that a file may name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, global_name)
        if module_name in ("numpy.core.multiarray", "numpy._core.multiarray") and global_name == "_reconstruct":
            return _reconstruct
        if (module_name, global_name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"it has {module_name}.{global_name}, which is not read")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """An empty array, which the unpickler fills."""
    del kind, code
    return np.ndarray.__new__(np.ndarray, shape, np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """Bytes, as Python 3 writes them for Python 2."""
    return text.encode(encoding)
