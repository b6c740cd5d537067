"""Kinds of files, told apart by their first bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

from jaxweights.formats import hdf5, msgpack, numpy_files, safetensors, torch_files

HEAD = 512  # bytes that tell kinds apart
TRUST = (
    "It holds Python objects. Loading it runs code that it may contain, so do it only if you trust where it is from."
)
_PICKLES = tuple(b"\x80" + bytes([version]) for version in range(2, 6))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
      name: what it is, with its article.
      fits: whether a file with these first bytes is one.
      modules: what reads it in Python.
      arrays: whether it may hold arrays.
      advice: what to mind, or to do instead.
    """

    name: str
    fits: Callable[[bytes], bool]
    modules: str = ""
    arrays: bool = True
    advice: str = ""


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(prefixes)


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")
    return bool(text.strip()) and not text.startswith("PK") and all(c.isprintable() or c in "\t\r\n" for c in text)


def _is_table(head: bytes) -> bool:
    return _is_text(head) and b"," in head and set(head) <= set(b"0123456789+-.eE, \t\r\n")


NUMPY = Kind("a NumPy .npy file", _starts(numpy_files.MAGIC))
TORCH = Kind("a PyTorch file", lambda head: False, "torch")  # in the container of today, a zip archive
OLD_TORCH = Kind("a PyTorch file", _starts(torch_files.MAGIC), "torch")
PICKLE = Kind("a pickle file", _starts(*_PICKLES), advice=TRUST)
SAFETENSORS = Kind("a safetensors file", safetensors.fits, "safetensors.flax")
HDF5 = Kind("an HDF5 file", _starts(hdf5.MAGIC), "h5py")
MATLAB_7 = Kind("a MATLAB 7.3 file", _starts(hdf5.MATLAB), "h5py")
MSGPACK = Kind("a msgpack file", msgpack.fits, "flax.serialization")
_KINDS = (
    NUMPY,
    OLD_TORCH,
    PICKLE,
    SAFETENSORS,
    HDF5,
    MATLAB_7,
    # A damaged one ends the process in SciPy's reader.
    Kind(
        "a MATLAB file",
        _starts(b"MATLAB 5.0"),
        "scipy.io",
        advice="Read it with scipy.io.loadmat where you trust it, and write its arrays with numpy.savez; or save it in "
        "MATLAB with -v7.3, which is read.",
    ),
    Kind(
        "a Git LFS pointer",
        _starts(b"version https://git-lfs"),
        arrays=False,
        advice="Fetch the file itself with git lfs pull.",
    ),
    Kind(
        "a compressed file",
        _starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"),
        arrays=False,
        advice="Unpack it first.",
    ),
    Kind(
        "an HTML page",
        lambda head: head.lstrip().lower().startswith((b"<!doctype", b"<html")),
        arrays=False,
        advice="It is a page of a web site in place of a file; download it again.",
    ),
    MSGPACK,
    Kind("a table of text", _is_table, advice="Read it with numpy.loadtxt(path, delimiter=',')."),
    Kind(
        "a text file", _is_text, arrays=False, advice="Read its numbers into an array and write that with numpy.savez."
    ),
)


def recognise(head: bytes, names: Iterable[str] = ()) -> Kind | None:
    """The kind of a file other than `.npz`, where it is known.

    Args:
      head: its first `HEAD` bytes.
      names: for a zip archive, names of what it holds.
    """
    if any(name.endswith("data.pkl") for name in names):
        return TORCH
    return next((kind for kind in _KINDS if kind.fits(head)), None)
