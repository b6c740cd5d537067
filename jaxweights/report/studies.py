"""Sections of the page about studies."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.report import autoencoder, compare, copying, giveaway, probing, prompting, shapes
from jaxweights.report.style import Picture, Section, Series


@dataclasses.dataclass(frozen=True)
class Findings:
    """Findings of a study, with what their figures need.

    Attributes:
      name: name of the generator, or of the study if it covers all series together.
      study: its entry under `studies` in `metrics.json`.
      arrays: its per-network arrays.
      series: the experiment's series, for their colours.
      metrics: `metrics.json`.
      seed: random seed of the choice of what is drawn.
      folder: output folder of the figures.
    """

    name: str
    study: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    series: Sequence[Series]
    metrics: Mapping[str, Any]
    seed: int
    folder: pathlib.Path


def _autoencoder(f: Findings) -> Iterator[Picture | Section]:
    return autoencoder.parts(f.name, f.study, f.arrays, f.series, f.metrics, f.seed, f.folder)


def _prompting(f: Findings) -> Iterator[Picture | Section]:
    colour = next((s.colour for s in f.series if s.name == f.name), "#d62728")
    return prompting.parts(f.name, f.study, f.arrays, colour, f.folder)


def _copying(f: Findings) -> Iterator[Picture | Section]:
    return copying.parts(f.name, f.study, f.arrays)


def _shapes(f: Findings) -> Iterator[Picture | Section]:
    return shapes.parts(f.study, f.arrays, f.series, f.seed, f.folder)


def _giveaway(f: Findings) -> Iterator[Picture | Section]:
    return giveaway.parts(f.study, f.series, f.metrics["series"])


def _probing(f: Findings) -> Iterator[Picture | Section]:
    return probing.parts(f.study, f.series)


PARTS: dict[str, Callable[[Findings], Iterator[Picture | Section]]] = {
    "autoencoder": _autoencoder,
    "prompting": _prompting,
    "copying": _copying,
    "shapes": _shapes,
    "giveaway": _giveaway,
    "probing": _probing,
}
"""By the name of a study in `studies.STUDIES`."""


def parts(
    series: Sequence[Series], workdir: pathlib.Path, metrics: Mapping[str, Any], seed: int, folder: pathlib.Path
) -> list[Picture | Section]:
    """Figures and sections of all studies, in the order of the page.

    Args:
      series: series of the experiment, for their colours.
      workdir: workdir of the experiment, with `studies/<name>.npz`.
      metrics: result of the audit, with `studies` where there are any.
      seed: random seed of the choice of what is drawn.
      folder: output folder of the figures.

    Raises:
      UserError: the arrays of a study are missing.
    """
    found: list[Picture | Section] = []
    for name, study in metrics.get("studies", {}).items():
        arrays = compare.read_arrays(workdir, name)
        found += PARTS[study["study"]](Findings(name, study, arrays, series, metrics, seed, folder))
    return found
