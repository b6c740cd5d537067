"""Pre-trained models of `transformers` and `diffusers`: where their weights are looked for, and what is said where
these are absent, damaged, or of another kind of model."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from jaxweights import extras
from jaxweights.bias.adapters.folder import Running
from jaxweights.errors import UserError
from jaxweights.settings import Settings, plain, setting

EXTRA = "adapters"
_SAMPLED = 1 << 20  # bytes at each end of a file that its fingerprint is made of
_NUMBERED = re.compile(r"LABEL_\d+")  # what transformers calls a class without a name
_INSTALLED_BY = re.compile(r"pip install ([\w.-]+)")
_KEPT_APART = ("batch_size", "fetch")  # settings that no output depends on
_CONFIGS = ("config.json", "model_index.json")  # of a model, of a pipeline
_ABSENT = "is neither a folder nor in the cache of the Hugging Face hub on this machine"
_SUFFIXES = (".json", ".safetensors", ".bin", ".txt", ".model")


@dataclasses.dataclass(frozen=True)
class ModelSettings(Settings):
    """A pre-trained model, and how it is computed with.

    Attributes:
      model: a folder with its weights, or its name on the Hugging Face hub, whose local cache is looked into.
      revision: branch, tag or commit on the hub.
      dtype: numbers that it computes with; "auto" for float16 on accelerators and float32 on CPU.
      batch_size: images that it gets at a time.
      fetch: whether weights that are not on this machine are fetched from the hub.
    """

    model: str = ""
    revision: str = "main"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "float32"
    batch_size: int = setting(8, at_least=1)
    fetch: bool = False

    @property
    def facts(self) -> dict[str, Any]:
        """The settings that outputs depend on."""
        return {key: value for key, value in plain(self).items() if key not in _KEPT_APART}


class Loaded(NamedTuple):
    """A model in the memory of the device that it computes on.

    Attributes:
      model: a module or pipeline of PyTorch, in evaluation mode.
      device: where it is.
      dtype: what it computes with.
      weights: what tells its weights from others: the commit of the hub, or a fingerprint of the folder.
    """

    model: Any
    device: Any
    dtype: Any
    weights: str


def torch() -> Any:
    """PyTorch.

    Raises:
      UserError: it is not installed.
    """
    return extras.module(EXTRA, "torch")


def device() -> Any:
    """The accelerator that PyTorch finds, else the CPU."""
    found = torch().accelerator
    return found.current_accelerator() if found.is_available() else torch().device("cpu")


def load(settings: ModelSettings, library: Literal["transformers", "diffusers"], kind: str, **options: Any) -> Loaded:
    """Loads a model for inference.

    Args:
      settings: which, and its numbers.
      library: where its class is from.
      kind: name of the class.
      options: further arguments of its `from_pretrained`.

    Raises:
      UserError: the extra is not installed, the weights are absent or damaged, or they are of another kind of model,
        some of whose weights would be left at random.
    """
    torch()  # without it the libraries can be imported, and fail later
    place = device()
    dtype = settings.dtype if settings.dtype != "auto" else "float32" if place.type == "cpu" else "float16"
    numbers = getattr(torch(), dtype)
    options["dtype" if library == "transformers" else "torch_dtype"] = numbers
    whole = "Pipeline" in kind
    if not whole:
        options["output_loading_info"] = True
    model = from_pretrained(settings, library, kind, **options)
    if not whole:
        model, info = model
        _refuse_random(settings, kind, info)
        model = model.eval()
    return Loaded(model.to(place), place, numbers, identity(settings))


def from_pretrained(settings: ModelSettings, library: str, kind: str, **options: Any) -> Any:
    """What `from_pretrained` of a class gives, be it a model, a pipeline, or what prepares their inputs.

    Raises:
      UserError: see `load`.
    """
    maker = getattr(extras.module(EXTRA, library), kind)
    return built(settings, kind, maker.from_pretrained, **options)


def built(settings: ModelSettings, kind: str, build: Callable[..., Any], **options: Any) -> Any:
    """What a function makes of the folder of a model or its name on the hub, `revision` and `local_files_only`.

    Raises:
      UserError: see `load`; the message names the kind.
    """
    name, local = find(settings)
    try:
        return build(name, revision=settings.revision, local_files_only=local, **options)
    except ImportError as error:
        needed = _INSTALLED_BY.search(str(error))
        package = f"the package {needed[1]}, which" if needed else "a package that"
        raise UserError(
            f"{_where(settings)} needs {package} is not installed ({_first(error)}). Install "
            f'`pip install "jaxweights[{EXTRA}]"`, or {needed[1] if needed else "what it names"} alone.'
        ) from error
    except Exception as error:  # files of strangers can raise anything
        raise UserError(
            f"{_where(settings)} cannot be loaded as {kind} ({_first(error)}). {_cure(settings)}"
        ) from error


def find(settings: ModelSettings) -> tuple[str, bool]:
    """The folder of a model, or its name on the hub, and whether its files are on this machine; else they are fetched.

    Raises:
      UserError: the model is not there and not to be fetched.
    """
    name = _place(settings)
    local = not settings.fetch or pathlib.Path(name).is_dir()
    if local and _config(settings) is None:
        lacking = f"is a folder without {' or '.join(_CONFIGS)}" if pathlib.Path(name).is_dir() else _ABSENT
        raise UserError(f"{_where(settings)} {lacking}. {_cure(settings)}")
    return name, local


def class_names(settings: ModelSettings, model: Any) -> dict[int, str]:
    """Names of the classes of a model of `transformers`, by number.

    Raises:
      UserError: its config has none, so that the library numbers them.
    """
    found = {int(number): str(name) for number, name in model.config.id2label.items()}
    if all(_NUMBERED.fullmatch(name) for name in found.values()):
        raise UserError(
            f"{_where(settings)} has no names for its {len(found):,} classes: its config numbers them (LABEL_0, ...). "
            "Put the names into `id2label` of its config.json, by number, or choose a model that has them."
        )
    return found


def processor(settings: ModelSettings, kind: str = "AutoImageProcessor") -> Any:
    """What brings images to the form that a model of `transformers` was trained on; Pillow resizes them.

    Raises:
      UserError: see `load`.
    """
    return from_pretrained(settings, "transformers", kind, backend="pil")


def within_memory(settings: ModelSettings, running: Running) -> Running:
    """A model whose lack of memory is told as an error of the user's, with the cure."""

    def run(batch: Sequence[Any]) -> Sequence[Any]:
        try:
            return running.run(batch)
        except torch().OutOfMemoryError as error:
            raise UserError(
                f"{_where(settings)} needs more memory than the device has, with batches of {settings.batch_size} "
                f"images. Lower batch_size, or set dtype to float16. ({_first(error)})"
            ) from error

    return dataclasses.replace(running, run=run)


def identity(settings: ModelSettings) -> str:
    """Commit of the hub, or a fingerprint of a folder."""
    place = _place(settings)
    if pathlib.Path(place).is_dir():
        return f"fingerprint {fingerprint(pathlib.Path(place))}"
    config = _config(settings)
    return f"commit {config.parent.name}" if config else f"revision {settings.revision}"


@functools.cache
def fingerprint(folder: pathlib.Path) -> str:
    """Hash of the names, sizes, beginnings and ends of a folder's configs and weights, 20 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=10)
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES):
        size = path.stat().st_size
        found.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            found.update(file.read(_SAMPLED))
            file.seek(max(0, size - _SAMPLED))
            found.update(file.read(_SAMPLED))
    return found.hexdigest()


def _place(settings: ModelSettings) -> str:
    """The folder of a model, or its name on the hub."""
    if not settings.model:
        settings.refuse("model", "give a folder with weights, or a name on the Hugging Face hub")
    folder = pathlib.Path(settings.model).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if settings.model.startswith((".", "/", "~")) or settings.model.count("/") != 1:
        settings.refuse("model", "there is no such folder, and a name on the hub is an owner, a slash, and a name")
    return settings.model


def _config(settings: ModelSettings) -> pathlib.Path | None:
    """The file that says what kind of model is in a folder or the cache, if it is there."""
    place = _place(settings)
    if pathlib.Path(place).is_dir():
        paths = (pathlib.Path(place) / name for name in _CONFIGS)
        return next((path for path in paths if path.exists()), None)
    hub = extras.module(EXTRA, "huggingface_hub")
    found = (hub.try_to_load_from_cache(place, name, revision=settings.revision) for name in _CONFIGS)
    return next((pathlib.Path(path) for path in found if isinstance(path, str)), None)


def _refuse_random(settings: ModelSettings, kind: str, info: Any) -> None:
    """Raises where weights were not in the files, which libraries draw at random with a warning alone."""
    missing = sorted(map(str, info.get("missing_keys", ()))) + sorted(map(str, info.get("mismatched_keys", ())))
    if missing:
        raise UserError(
            f"{_where(settings)} has no weights for {len(missing)} parts of {kind} ({', '.join(missing[:3])}), which "
            "would be random: it is of another kind of model, or not fine-tuned for this. Choose another."
        )


def _where(settings: ModelSettings) -> str:
    return f"{settings.section}.model {settings.model!r}"


def _cure(settings: ModelSettings) -> str:
    if pathlib.Path(settings.model).expanduser().is_dir():
        return "Give a folder as save_pretrained writes it, complete, with its configs and weights (.safetensors)."
    revision = "" if settings.revision == "main" else f" --revision {settings.revision}"
    return (
        f"Fetch its weights once, with `hf download {settings.model}{revision}` or with fetch set to true; or give a "
        "folder that has them as model."
    )


def _first(error: BaseException) -> str:
    """The first line of a message, or the name of its kind."""
    return str(error).strip().partition("\n")[0][:300].rstrip(".") or type(error).__name__
