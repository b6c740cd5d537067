"""Files of SANE (Schürholt et al., arXiv 2406.09997): training samples, models, and generated networks."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np

from jaxweights import files, formats
from jaxweights.errors import UserError
from jaxweights.layouts.base import GENERATED, Entry, Found, Layout, Options, natural
from jaxweights.layouts.tensors import Files

_SAMPLES = ("dataset_torch.train", "dataset_torch.val", "dataset_torch.test")
_INFO = "dataset_info_*.json"
_MADE = re.compile(r"checkpoint_\d+\.pt$")
_STATE, _PARAMS = "state.pt", "params.json"


def _samples(path: pathlib.Path) -> bool:
    return any((path / name).is_dir() for name in _SAMPLES) or next(path.glob(_INFO), None) is not None


def _generated(path: pathlib.Path) -> list[pathlib.Path]:
    """Files checkpoint_0.pt, checkpoint_1.pt, ..., where a folder has no other files of tensors."""
    there = [file for file in path.iterdir() if file.suffix == ".pt"]
    return sorted(there, key=lambda p: natural(p.name)) if all(_MADE.match(f.name) for f in there) else []


def recognise(path: pathlib.Path) -> bool:
    """Whether a folder has training samples, or generated networks alone."""
    return path.is_dir() and (_samples(path) or (path / _STATE).is_file() or bool(_generated(path)))


def find(path: pathlib.Path, options: Options) -> Found:
    """The generated networks of a folder.

    Raises:
      UserError: training samples, which are windows of networks, or a model.
    """
    del options
    if _samples(path):
        raise UserError(
            f"{path} holds SANE's training samples: windows of tokens at random places of networks, standardised and "
            f"permuted. Networks cannot be rebuilt from them.{_zoo_of(path)} Give the folder of the runs that they "
            "were made of."
        )
    if (path / _STATE).is_file():
        raise UserError(f"{path / _STATE} is a SANE model, not networks that it was trained on or generated.")
    entries = [Entry(file.name, file.stem, split=GENERATED) for file in _generated(path)]
    notes = ("checkpoint_<i>.pt are generated networks, not steps (--layout=plain for steps of one run)",)
    return Found("sane", path, entries, Files(path), notes=notes)


def _zoo_of(path: pathlib.Path) -> str:
    for info in sorted(path.glob(_INFO)):
        zoo = files.read_json(info, "description of samples", "Make it again.").get("zoo_path")
        if zoo:
            return f" They are of {zoo}."
    return ""


def model(path: pathlib.Path | str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A SANE autoencoder from its folder `checkpoint_<epoch>`.

    Args:
      path: the folder, with `state.pt`.

    Returns:
      Its tensors by name, without the prefix of compiled modules, and the settings `ae:*` of `params.json` in it or in
      the folder above; empty where there are none.

    Raises:
      UserError: no such files, or other ones.
    """
    folder = pathlib.Path(path).expanduser()
    tensors, _ = formats.state_dict(formats.read(folder / _STATE, "the SANE model").value, f"the model {folder}")
    for place in (folder, folder.parent):
        if (place / _PARAMS).is_file():
            found = files.read_json(place / _PARAMS, "configuration of a model", "Copy the folder again.")
            return tensors, {key: value for key, value in found.items() if str(key).startswith("ae:")}
    return tensors, {}


LAYOUT = Layout(
    "sane",
    "SANE: generated networks (training samples are refused)",
    f"folders {_SAMPLES[0]} or {_INFO}, {_STATE}, or files checkpoint_0.pt alone",
    recognise,
    find,
)
