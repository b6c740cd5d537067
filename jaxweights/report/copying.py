"""What was found out about flows: how far they are from the field that copies their training networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxweights.report import compare, style, tables
from jaxweights.report.measures import Estimate, Measure
from jaxweights.report.style import Section
from jaxweights.studies import copying

_GROUPS = {copying.TRAIN: "paths to training networks", copying.HELDOUT: "paths to held-out networks"}
_MEASURES = (
    Measure(("loss",), "loss: flow &minus; path"),
    Measure(("exact",), "copying field &minus; path"),
    Measure(("distance",), "flow &minus; copying field"),
    Measure(("nearer",), "% nearer to the copying field", 100),
)
_NOTE = (
    "Mean squared differences of velocities per dimension. The field of least loss on the training networks leads to "
    "these and nowhere else. On paths to other networks a flow that has learned more is nearer to the paths than to "
    "that field."
)


def parts(name: str, study: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Iterator[Section]:
    """A sentence and tables: over all times, and by time.

    Args:
      name: name of the generator.
      study: entries of `metrics.json` that `studies.copying.run` returned.
      arrays: arrays that it returned.
    """
    found = compare.table({_GROUPS[group]: study[group] for group in _GROUPS}, {}, _MEASURES)
    content = f"<p>{_NOTE} {sentence(study)}</p>{found}"
    if "nearer" in study[copying.HELDOUT]:
        content += tables.folded("by time", _by_time(arrays))
    yield Section(f"copying-{name}", f"Distance from copying: {style.label(name)}", content)


def sentence(study: Mapping[str, Any]) -> str:
    """What the points on paths to held-out networks say; HTML."""
    nearer = Estimate.of(study[copying.HELDOUT].get("nearer"))
    if nearer is None:
        return "On spheres that field has no closed form."
    where = "nearer to the copying field than to the path"
    if nearer.above(0.5):
        verdict = "mostly that of a copier"
    else:
        verdict = "not mostly that of a copier" if nearer.at_most(0.5) else "open: the interval holds one half"
    return f"On paths to held-out networks the flow is {where} at {100 * nearer.value:.0f} % of the points: {verdict}."


def _by_time(arrays: Mapping[str, np.ndarray]) -> str:
    heldout = [arrays[f"{copying.HELDOUT}/{name}"].mean(axis=0) for name in ("loss", "distance", "nearer")]
    rows = [
        [f"{t:.2f}", f"{loss:.3g}", f"{distance:.3g}", f"{100 * nearer:.0f}"]
        for t, loss, distance, nearer in zip(arrays["times"], *heldout, strict=True)
    ]
    return tables.grid(["time", "flow &minus; path", "flow &minus; copying field", "% nearer"], rows, "numbers")
