"""`sweep.html`: the best recipes, the figures, and what was swept, in one file in the style of the report."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights.report import page, tables
from jaxweights.report.style import Picture
from jaxweights.sweeps import table

NAME = "sweep.html"


def write(folder: pathlib.Path, result: Mapping[str, Any], pictures: Sequence[Picture]) -> pathlib.Path:
    """Writes the page.

    Args:
      folder: folder of the sweep.
      result: of `outcome.collect`.
      pictures: of `picture.draw`.

    Returns:
      Its path.
    """
    said, *notes = table.counts(result)
    best = tables.plain(table.best_rows(result)) + "".join(f"<p>{html.escape(note)}</p>" for note in notes)
    if result["best"]:
        flags = " ".join(table.flags_of(result["recipes"][result["best"][0]]["values"]))
        best += f'<p>The first as flags:</p><div class="cite"><pre>{html.escape(flags)}</pre></div>'
    best += "<p>Recipes are ranked by the test accuracy that is shown, so the first ones are flattered.</p>"
    swept = [["setting", "values", "traced"]]
    for axis in result["axes"]:
        values = ", ".join(map(table.shown, axis["values"]))
        listed = axis["kind"] in ("grid", "choice")
        swept.append(
            [axis["name"], values if listed else f"{axis['kind']}: {values}", "yes" if axis["traced"] else "no"]
        )
    what = f"generator {result['generator']}" if result["generator"] else "recipes of zoos"
    parts = [
        page.section("best", "Best recipes", best),
        *(page.figure(picture) for picture in pictures),
        page.section("space", "What was swept", tables.plain(swept)),
    ]
    facts = f"{said} {result['data'][0].partition(';')[0]}."
    return page.write_parts(folder / NAME, f"Sweep of {what}", facts, parts)
