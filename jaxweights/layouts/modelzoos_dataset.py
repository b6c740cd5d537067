"""The ModelZoos and the zoos of Hyper-Representations as data sets: one `.pt` file of pickled dataset objects."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights import files, formats
from jaxweights.errors import UserError
from jaxweights.formats import Bag
from jaxweights.layouts import modelzoos
from jaxweights.layouts.base import TEST, TRAIN, VALIDATION, Entry, Found, Layout, Options, Tensors, nothing

_SPLITS = {"trainset": TRAIN, "valset": VALIDATION, "testset": TEST}
_HEAD = 1 << 16  # bytes of a pickle in which its classes are named
_CLASSES = (b"checkpoints_to_datasets",)
_LABEL = re.compile(r"^(.*?)#_#epoch_(\d+)")
_STATED = {"test_acc": "accuracy", "test_loss": "loss"}
_OF_TRAINING = ("train_acc", "train_loss", "ggap")  # of which ggap is the first less the accuracy of test images
_SMALL = {"module_list.0": (8, 5), "module_list.3": (6, 5), "module_list.6": (4, 2)}
_LARGE = {"module_list.0": (16, 3), "module_list.4": (32, 3), "module_list.8": (15, 3)}


@dataclasses.dataclass(frozen=True)
class Held:
    """Networks that were read with their file.

    Attributes:
      networks: state dicts, or flat vectors.
    """

    networks: Sequence[Any]

    def __call__(self, key: str) -> Tensors:
        """The network of a number."""
        found = self.networks[int(key)]
        if isinstance(found, np.ndarray):
            return np.asarray(found, np.float32).ravel()
        return formats.state_dict(found, f"network {key}")[0]


def _is_dataset(path: pathlib.Path) -> bool:
    """Whether a file of PyTorch names classes of such data sets."""
    if path.suffix not in (".pt", ".pth") or not path.is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((n for n in archive.namelist() if n.endswith("data.pkl")), None)
            if name is None:
                return False
            with archive.open(name) as member:
                head = member.read(_HEAD)
    except (zipfile.BadZipFile, OSError):
        with path.open("rb") as file:
            head = file.read(_HEAD)
    return any(name in head for name in _CLASSES)


def _datasets(path: pathlib.Path) -> list[pathlib.Path]:
    if path.is_file():
        return [path] if _is_dataset(path) else []
    return [file for file in sorted(path.glob("*.pt")) if _is_dataset(file)]


def recognise(path: pathlib.Path) -> bool:
    """Whether a file is one, or a folder has one."""
    return bool(_datasets(path))


def find(path: pathlib.Path, options: Options) -> Found:
    """All networks of all splits; their tensors stay on disk until they are read."""
    del options
    there = _datasets(path)
    if len(there) > 1:
        raise UserError(f"{path} has {len(there)} data sets of networks; give one: {', '.join(map(str, there[:5]))}.")
    file = there[0]
    value = formats.read(file, "the data set of networks", mapped=True).value
    parts = value if isinstance(value, Mapping) else {"trainset": value}
    entries: list[Entry] = []
    networks: list[Any] = []
    template: Mapping[str, Any] = {}
    for name, split in _SPLITS.items():
        if isinstance(parts.get(name), Bag):
            held = parts[name].attributes
            template = template or held.get("checkpoint_base") or {}
            entries += _entries(held, split, len(networks), f"{name} of {file}")
            networks += list(held["data_in"])
    if not entries:
        raise nothing("a data set of networks", file, f"objects {', '.join(_SPLITS)} with networks")
    beside = _nlin(file.parent / "config_zoo.json")
    recipe = modelzoos.recipe(file, beside)
    shapes = None
    if isinstance(networks[0], np.ndarray):
        shapes = _shapes(template, networks[0].size)
    return Found(
        "modelzoos_dataset",
        file,
        entries,
        Held(networks),
        recipe,
        shapes=shapes,
        by_order=True,
        notes=("runs are told by the paths of their checkpoints", "steps are epochs"),
        one_file=True,
    )


def _entries(held: Mapping[str, Any], split: str, first: int, what: str) -> list[Entry]:
    count = len(held.get("data_in", ()))
    labels = [str(label) for label in held.get("labels_in") or [""] * count]
    paths, epochs = _told(held, labels, count)
    properties = {
        name: list(values)
        for name, values in (held.get("properties") or {}).items()
        if isinstance(values, (list, tuple, np.ndarray)) and len(values) == count
    }
    if len(paths) != count or len(epochs) != count:
        raise UserError(f"The {what} has {count} networks, but {len(paths)} paths and {len(epochs)} epochs.")
    found = []
    for i in range(count):
        stated = {name: float(values[i]) for name, values in properties.items() if _is_number(values[i])}
        if min(stated.get("ggap", 0), stated.get("train_acc", 0)) <= modelzoos.NOT_MEASURED:
            stated = {name: value for name, value in stated.items() if name not in _OF_TRAINING}
        known = {ours: stated.pop(name, math.nan) for name, ours in _STATED.items()}
        seed = stated.pop("seed", -1.0)
        found.append(
            Entry(
                str(first + i),
                re.split(r"[\\/]", paths[i].rstrip("/\\"))[-1],
                epochs[i],
                split,
                int(seed) if seed >= 0 else -1,
                known["accuracy"],
                known["loss"],
                stated,
            )
        )
    return found


def _told(held: Mapping[str, Any], labels: Sequence[str], count: int) -> tuple[list[str], list[int]]:
    """Paths and epochs of networks, from their own attributes or from the labels."""
    matches = [_LABEL.match(label) for label in labels]
    paths = [str(path) for path in held.get("paths") or ()]
    epochs = [int(epoch) for epoch in held.get("epochs") or ()]
    if len(paths) != count:
        paths = [match[1] for match in matches if match]
    if len(epochs) != count:
        epochs = [int(match[2]) for match in matches if match]
    return paths, epochs


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) or (isinstance(value, np.ndarray) and value.size == 1)


def _nlin(config: pathlib.Path) -> list[str]:
    """The activation in the configuration beside a data set."""
    if not config.is_file():
        return []
    found = files.read_json(config, "configuration of a zoo", "Download it again.").get("model::nlin")
    return [found] if isinstance(found, str) else []


def _shapes(template: Mapping[str, Any], size: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of vectors: those of the template in the file, or of the published networks."""
    tensors = {name: value.shape for name, value in template.items() if isinstance(value, np.ndarray)}
    if tensors and sum(math.prod(shape) for shape in tensors.values()) == size:
        return tensors
    for convolutions, heads, inputs in ((_SMALL, (9, 11), 1), (_SMALL, (9, 11), 3), (_LARGE, (13, 16), 3)):
        shapes = _cnn(convolutions, heads, inputs)
        if sum(math.prod(shape) for shape in shapes.values()) == size:
            return shapes
    return {}


def _cnn(
    convolutions: Mapping[str, tuple[int, int]], heads: tuple[int, int], inputs: int
) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, (outputs, window) in convolutions.items():
        found |= {f"{name}.weight": (outputs, inputs, window, window), f"{name}.bias": (outputs,)}
        inputs = outputs
    pixels = 9 if convolutions is _SMALL else 4
    for number, (width, outputs) in zip(heads, ((inputs * pixels, 20), (20, 10)), strict=True):
        found |= {f"module_list.{number}.weight": (outputs, width), f"module_list.{number}.bias": (outputs,)}
    return found


LAYOUT = Layout(
    "modelzoos_dataset",
    "ModelZoos and Hyper-Representations, dataset.pt",
    "a .pt file that names dataset objects of checkpoints_to_datasets or ghrp, or a folder with one",
    recognise,
    find,
)
