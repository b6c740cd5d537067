"""Arrays of weights from files. What a file is, is found out first: a whole `.npz` of arrays is read, and for anything
else there is a sentence, with the command that makes an `.npz` file of it where there is one."""

from __future__ import annotations

import dataclasses
import pathlib
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Literal

import numpy as np

from jaxweights.errors import UserError
from jaxweights.formats import safetensors

_HEAD = 512  # bytes that tell kinds apart


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a file is read for, in messages.

    Attributes:
      what: name of the content, e.g. "The imported population".
      setting: the setting that names the file; empty where none does.
      content: "rows" for an array `weights` `[N, P]`, "tensors" for one network, a tensor per name.
    """

    what: str
    setting: str = ""
    content: Literal["rows", "tensors"] = "rows"

    @property
    def write(self) -> str:
        """How such a file is written."""
        given = "weights=array of shape [N, P]" if self.content == "rows" else "**tensors by name"
        return f"Write it with numpy.savez(path, {given})"


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of file that is not read.

    Attributes:
      name: what it is, with its article.
      fits: whether a file with these first bytes is one.
      rows: Python expression for its array `[N, P]`, FILE in place of the file; empty where nothing can be converted.
      tensors: likewise for its tensors by name.
      modules: modules that the expressions need.
      advice: what to mind, or to do instead.
    """

    name: str
    fits: Callable[[bytes], bool]
    rows: str = ""
    tensors: str = ""
    modules: str = ""
    advice: str = ""


def _starts(*prefixes: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(prefixes)


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")
    return bool(text.strip()) and not text.startswith("PK") and all(c.isprintable() or c in "\t\r\n" for c in text)


def _is_table(head: bytes) -> bool:
    return _is_text(head) and b"," in head and set(head) <= set(b"0123456789+-.eE, \t\r\n")


_PICKLES = tuple(b"\x80" + bytes([version]) for version in range(2, 6))
_TRUST = "Loading it runs code that it may contain, so do it only if you trust where it comes from."
_OBJECTS = "It holds Python objects. " + _TRUST
_LOADED = "(torch.load(FILE, map_location='cpu', weights_only=True))"
_STATE_DICTS = "('state_dict', 'model_state_dict', 'model')"
_TORCH = _Kind(
    "a PyTorch file",
    _starts(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"),  # of PyTorch before 1.6; later files are zip archives
    rows=f"(lambda d: torch.stack(list(d['weights'] if isinstance(d, dict) else d))){_LOADED}.detach().float().numpy()",
    tensors="(lambda d: {k: v.detach().float().numpy() for k, v in next((d[k] for k in "
    f"{_STATE_DICTS} if k in d), d).items() if torch.is_tensor(v)}}){_LOADED}",
    modules="torch",
)
_DATASETS = (
    "(lambda d: (h5py.File(FILE).visititems(lambda k, v: d.update({k.replace('/', '.'): v[()]TURN}) "
    "if isinstance(v, h5py.Dataset) and k[0] != '#' else None), d)[1])({})"
)
_KINDS = (
    _Kind("a NumPy .npy file", lambda head: head.startswith(b"\x93NUMPY") and b"'|O'" not in head, "numpy.load(FILE)"),
    _Kind(
        "a NumPy .npy file",
        _starts(b"\x93NUMPY"),
        rows="numpy.stack(list(numpy.load(FILE, allow_pickle=True)))",
        tensors="numpy.load(FILE, allow_pickle=True).item()",
        advice=_OBJECTS,
    ),
    _TORCH,
    _Kind(
        "a pickle file",
        _starts(*_PICKLES),
        rows="numpy.stack(list(numpy.load(FILE, allow_pickle=True)))",
        tensors="numpy.load(FILE, allow_pickle=True)",
        advice=_OBJECTS,
    ),
    _Kind(
        "a safetensors file",
        safetensors.fits,
        rows="numpy.asarray(next(iter(safetensors.flax.load_file(FILE).values())), 'float32')",
        tensors="{k: numpy.asarray(v, 'float32') for k, v in safetensors.flax.load_file(FILE).items()}",
        modules="safetensors.flax",
    ),
    _Kind(
        "an HDF5 file",
        _starts(b"\x89HDF\r\n\x1a\n"),
        rows="h5py.File(FILE)['weights'][:]",
        tensors=_DATASETS.replace("TURN", ""),
        modules="h5py",
    ),
    _Kind(
        "a MATLAB 7.3 file",
        _starts(b"MATLAB 7.3"),
        rows="h5py.File(FILE)['weights'][:].T",  # MATLAB stores the last axis first
        tensors=_DATASETS.replace("TURN", ".T"),
        modules="h5py",
    ),
    _Kind(
        "a MATLAB file",
        _starts(b"MATLAB 5.0"),
        rows="scipy.io.loadmat(FILE)['weights']",
        # Structs, as fc1.weight is one, nest.
        tensors="(lambda f, d: f(f, d))(lambda f, d: {'.'.join([k, *p]): a for k, v in d.items() if k[0] != '_' for "
        "p, a in ([([q], a) for q, a in f(f, v).items()] if isinstance(v, dict) else [([], v)])}, "
        "scipy.io.loadmat(FILE, simplify_cells=True))",
        modules="scipy.io",
    ),
    _Kind("a Git LFS pointer", _starts(b"version https://git-lfs"), advice="Fetch the file itself with git lfs pull."),
    _Kind(
        "a compressed file", _starts(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"), advice="Unpack it first."
    ),
    _Kind(
        "an HTML page",
        lambda head: head.lstrip().lower().startswith((b"<!doctype", b"<html")),
        advice="It is a page of a web site in place of a file; download it again.",
    ),
    _Kind("a table of text", _is_table, "numpy.loadtxt(FILE, delimiter=',', ndmin=2)"),
    _Kind("a text file", _is_text, advice="Read its numbers into an array and write that with numpy.savez."),
)


def recognise(head: bytes, names: Iterable[str] = ()) -> _Kind | None:
    """The kind of a file that holds no arrays as `.npz` does, where it is known.

    Args:
      head: its first 512 bytes.
      names: for a zip archive, names of what it holds.
    """
    if any(name.endswith("data.pkl") for name in names):
        return _TORCH
    return next((kind for kind in _KINDS if kind.fits(head)), None)


def read(path: pathlib.Path | str, wanted: Wanted) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name, of any type but Python objects.

    Args:
      path: the file; "~" is the home folder.
      wanted: what it is read for.

    Raises:
      UserError: no file, a file of another kind (with the command that converts it), or a truncated or damaged one.
    """
    setting = f"Set {wanted.setting} to" if wanted.setting else "Give"
    if not str(path):
        raise UserError(f"{wanted.what} has no file. {setting} the path of an .npz file.")
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise UserError(_folder(path, wanted))
    try:
        with path.open("rb") as file:
            return _read(path, file, wanted)
    except FileNotFoundError as error:
        raise UserError(f"{wanted.what} {path} does not exist. {setting} the path of an .npz file.") from error
    except OSError as error:
        raise UserError(f"{wanted.what} {path} cannot be read ({error.strerror or error}).") from error


def _read(path: pathlib.Path, file: IO[bytes], wanted: Wanted) -> dict[str, np.ndarray]:
    head = file.read(_HEAD)
    found = recognise(head)
    if found is not None:
        raise UserError(_convert(path, wanted, found))
    if not head.startswith(b"PK"):
        kind = "of an unknown kind, not an .npz file" if head else "empty (0 bytes)"
        raise UserError(f"{wanted.what} {path} is {kind}. {wanted.write}.")
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            found = recognise(head, names)
            if found is not None:
                raise UserError(_convert(path, wanted, found))
            foreign = [name for name in names if not name.endswith(".npy")]
            if foreign or not names:
                found = f"holds {', '.join(foreign[:3])}" if foreign else "is empty"
                raise UserError(f"{wanted.what} {path} is a zip archive that {found}, not arrays. {wanted.write}.")
            return {name.removesuffix(".npy"): _member(archive, name, f"{wanted.what} {path}") for name in names}
    except (UserError, OSError):
        raise
    except MemoryError as error:
        raise UserError(f"{wanted.what} {path} is damaged, or does not fit in memory ({error}).") from error
    except Exception as error:  # what zipfile and NumPy raise for damaged files is no closed list
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{wanted.what} {path} is truncated or damaged ({reason}). Copy the file again, or write it anew with "
            "numpy.savez."
        ) from error


def _member(archive: zipfile.ZipFile, name: str, what: str) -> np.ndarray:
    """One array; its checksum is compared on the way."""
    with archive.open(name) as member:
        objects = b"'|O'" in member.read(_HEAD)
    if objects:
        raise UserError(
            f"{what} has Python objects in the array {name.removesuffix('.npy')!r}, which are not read: often "
            "vectors of different lengths. Write arrays of numbers, e.g. numpy.stack(vectors)."
        )
    with archive.open(name) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        # zipfile compares the checksum at the end of a member, which a header with too small a shape does not reach.
        if member.read(1):
            raise ValueError(f"{name} is longer than its header says")
    return array


def _convert(path: pathlib.Path, wanted: Wanted, kind: _Kind) -> str:
    """The sentence on a file of another kind."""
    message = f"{wanted.what} {path} is {kind.name}, not an .npz file of arrays. {kind.advice}".rstrip()
    if not kind.rows:
        return message
    if wanted.content == "rows":
        given = f"weights={kind.rows}"
    else:
        given = f"**{kind.tensors}" if kind.tensors else f"weights={kind.rows}"
    return f"{message} {_command(path, wanted, kind.modules, given)}"


def _command(path: pathlib.Path, wanted: Wanted, modules: str, given: str) -> str:
    """The command that writes an `.npz` file with the given arguments, and what to do then."""
    target = path.with_suffix(".npz")
    if target.exists():
        target = path.with_name(f"{path.stem}_converted.npz")
    imports = ", ".join(["numpy", *filter(None, [modules])])
    code = f"import {imports}; numpy.savez({str(target)!r}, {given.replace('FILE', repr(str(path)))})"
    for special in '\\"$`':
        code = code.replace(special, f"\\{special}")
    then = f"set {wanted.setting} to {target}" if wanted.setting else f"read {target}"
    return f'Convert it, then {then}:\n    python -c "{code}"'


def _folder(path: pathlib.Path, wanted: Wanted) -> str:
    """The sentence on a folder in place of a file."""
    if wanted.content == "rows" and (path / "index.json").is_file():
        given = (
            "**(lambda p: {'weights': p.weights, **{k: p.records[k] for k in ('run', 'step', 'seed', 'split')}})"
            "(jaxweights.store.PopulationStore.open(FILE).read())"
        )
        command = _command(path, wanted, "jaxweights.store", given)
        return f"{wanted.what} {path} is the folder of a stored population, not an .npz file. {command}"
    return f"{wanted.what} {path} is a folder; give an .npz file in it. {wanted.write}."
