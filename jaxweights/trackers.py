"""Loss curves for TensorBoard and Weights & Biases, beside `metrics.jsonl`, which has them always."""

from __future__ import annotations

import importlib
import pathlib
from atexit import register as at_exit
from collections.abc import Callable, Mapping
from typing import Any

from jaxweights import extras
from jaxweights.errors import UserError

Tracker = Callable[[Mapping[str, Any]], None]
"""Takes a row of `metrics.jsonl`: `generator`, `stage`, `step`, and numbers by name."""

_FLUSH_SECONDS = 10
_PLACE = ("generator", "stage", "step")


def tensorboard(folder: pathlib.Path | str) -> Tracker:
    """Writes event files into a folder.

    Raises:
      UserError: tensorboardX is not installed.
    """
    with extras.importing("track"):
        from tensorboardX import SummaryWriter
    writer = SummaryWriter(str(folder), flush_secs=_FLUSH_SECONDS)
    at_exit(writer.close)

    def write(row: Mapping[str, Any]) -> None:
        for name, value in _numbers(row).items():
            writer.add_scalar(name, value, row["step"])

    return write


def wandb(project: str, folder: pathlib.Path | str, config: Mapping[str, Any]) -> Tracker:
    """Logs to a project of Weights & Biases, in a run of its own.

    Args:
      project: its name.
      folder: where its files are.
      config: of the experiment.

    Raises:
      UserError: wandb is not installed.
    """
    try:
        client = importlib.import_module("wandb")
    except ModuleNotFoundError as error:
        raise UserError("wandb is not installed; `pip install wandb`, then `wandb login`.") from error
    run = client.init(project=project, dir=str(folder), config=dict(config))
    run.define_metric("*", step_metric="step")

    def write(row: Mapping[str, Any]) -> None:
        run.log({**_numbers(row), "step": row["step"]})

    return write


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    place = "/".join(str(row[key]) for key in _PLACE[:2] if key in row)
    return {f"{place}/{name}": value for name, value in row.items() if name not in _PLACE}
