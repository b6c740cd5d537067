"""What a model says of every image of a folder, as a table for the analysis of objects, captions and questions."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxweights import files, settings
from jaxweights.bias.adapters import folder
from jaxweights.bias.adapters.base import Adapter, convert_folder
from jaxweights.bias.adapters.clip import EmbedSettings
from jaxweights.bias.adapters.folder import Converted
from jaxweights.bias.adapters.labels import LabelSettings
from jaxweights.bias.adapters.presence import DetectSettings, SegmentSettings
from jaxweights.bias.adapters.table import TableTask
from jaxweights.bias.adapters.vision_language import CaptionSettings, CheckSettings
from jaxweights.bias.transformations import TRANSFORMATIONS
from jaxweights.checks import choose
from jaxweights.errors import UserError

_TABLES = (CaptionSettings, CheckSettings, DetectSettings, EmbedSettings, LabelSettings, SegmentSettings)
TABLES: dict[str, type[TableTask]] = {kind.SECTION: kind for kind in _TABLES}
"""Tasks whose output is a table."""
PICTURES: dict[str, type[Adapter]] = {name: kind for name, kind in TRANSFORMATIONS.items() if issubclass(kind, Adapter)}
"""Tasks whose output is a picture of every image: the transformations by pre-trained models."""


class Annotated(NamedTuple):
    """What was written.

    Attributes:
      place: the table, or the folder of pictures.
      converted: which images have an output.
    """

    place: pathlib.Path
    converted: Converted


def make(task: str, values: Mapping[str, Any]) -> TableTask | Adapter:
    """Settings of a task.

    Args:
      task: a key of `TABLES` or `PICTURES`.
      values: by name.

    Raises:
      UserError: an unknown task or setting.
    """
    known: dict[str, type[TableTask | Adapter]] = {**TABLES, **PICTURES}
    if task not in known:
        raise UserError(f"There is no task {task!r}; {choose(task, tuple(known))}.")
    return settings.make(known[task], values, task)


def annotate(task: TableTask | Adapter, source: pathlib.Path | str, target: pathlib.Path | str) -> Annotated:
    """Applies a model to every image below a folder that has no output yet.

    Args:
      task: what is done.
      source: folder of images.
      target: outside of it; gets `<task>.jsonl` with a row `{"image", ...}` for every image, in order of their paths,
        and the folder `<task>/`, whose `manifest.json` has the model and all settings. A picture is in that folder.

    Raises:
      UserError: no images, outputs of other settings or weights in the target, or a model that cannot be loaded.
    """
    if isinstance(task, Adapter):
        place = pathlib.Path(target) / task.KIND
        return Annotated(place, convert_folder(task, source, place))
    folder.refuse_within(source, target)
    place = pathlib.Path(target) / task.SECTION
    converted = folder.convert(task.step(), folder.listed(source), place)
    table = place.with_suffix(".jsonl")
    with files.atomic(table) as temporary, temporary.open("w", encoding="utf-8") as file:
        for image, path in converted.outputs.items():
            file.write(json.dumps({"image": image, **_row(path)}, ensure_ascii=False) + "\n")
    return Annotated(table, converted)


def _row(path: pathlib.Path) -> dict[str, Any]:
    return files.read_json(path, "output of a model", f"Remove {path} and run the same command again.")


def outputs(task: TableTask | Adapter, source: pathlib.Path | str, target: pathlib.Path | str) -> tuple[int, int]:
    """The number of images below a folder, and of those that have an output."""
    step = task.step()
    name = task.KIND if isinstance(task, Adapter) else task.SECTION
    paths = folder.output_paths(step, folder.listed(source), pathlib.Path(target) / name)
    return len(paths), sum(path.exists() for path in paths.values())
