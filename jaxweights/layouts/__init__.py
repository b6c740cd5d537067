"""Layouts of checkpoints on disk, one file each: published zoos, folders of state dicts, sets of neural fields.

To add one, write a file with a `Layout` (see `base`) and a line of `LAYOUTS`.
"""

from __future__ import annotations

import pathlib

from jaxweights.errors import UserError
from jaxweights.layouts import (
    deepweightflow,
    exported,
    fields,
    gpt,
    huggingface,
    hyperdiffusion,
    modelzoos,
    modelzoos_dataset,
    pdiff,
    plain,
    sane,
    smallcnn,
    vectors,
    weightflow,
)
from jaxweights.layouts.base import Entry, Found, Layout, Options

__all__ = ["LAYOUTS", "Entry", "Found", "Layout", "Options", "recognise"]

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        exported.LAYOUT,
        modelzoos.LAYOUT,
        modelzoos_dataset.LAYOUT,
        sane.LAYOUT,
        gpt.LAYOUT,
        hyperdiffusion.LAYOUT,
        pdiff.LAYOUT,
        deepweightflow.LAYOUT,
        weightflow.LAYOUT,
        smallcnn.LAYOUT,
        fields.LAYOUT,
        huggingface.LAYOUT,
        plain.LAYOUT,
        vectors.LAYOUT,
    )
}


def recognise(path: pathlib.Path | str, name: str = "") -> Layout:
    """The layout of a source, by names and first bytes alone.

    Args:
      path: file or folder.
      name: the layout, where it is given.

    Raises:
      UserError: no such path or layout, or one that fits no layout or several.
    """
    place = pathlib.Path(path).expanduser()
    if name and name not in LAYOUTS:
        raise UserError(f"There is no layout {name!r}; there are {', '.join(LAYOUTS)}.")
    if not place.exists():
        raise UserError(f"There is no {place}. Give the file or folder of the networks (--from).")
    try:
        fitting = [layout for layout in LAYOUTS.values() if layout.recognise(place)]
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror or error}).") from error
    if name:
        if LAYOUTS[name] not in fitting:
            fits = f"it fits {', '.join(layout.name for layout in fitting)}" if fitting else "it fits no layout"
            raise UserError(f"{place} is no {name}: {LAYOUTS[name].looks_for} were looked for; {fits}.")
        return LAYOUTS[name]
    special = [layout for layout in fitting if layout.rank == min(other.rank for other in fitting)]
    if len(special) == 1:
        return special[0]
    if special:
        raise UserError(
            f"{place} fits several layouts: {', '.join(layout.name for layout in special)}. Say which with --layout."
        )
    looked = "\n".join(f"    {layout.name}: {layout.looks_for}" for layout in LAYOUTS.values())
    raise UserError(f"{place} fits no layout. What was looked for:\n{looked}")
