"""Runs of a source as numbers, and which of them are held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxweights.errors import UserError
from jaxweights.layouts.base import GENERATED, TEST, TRAIN, VALIDATION, Entry, runs_of
from jaxweights.population import GENERATED as GENERATED_ROWS
from jaxweights.population import HELDOUT
from jaxweights.population import TRAIN as TRAIN_ROWS

_SHARE = 0.2  # of runs that are held out where nobody says how many
_LEAST = 8  # held-out runs that an audit needs


@dataclasses.dataclass(frozen=True)
class Split:
    """Runs of a source in its order.

    Attributes:
      runs: identities; a run's number is its place.
      split: split of a population by run.
      notes: how they were divided.
    """

    runs: tuple[str, ...]
    split: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def numbers(self) -> dict[str, int]:
        """Number by identity."""
        return {run: number for number, run in enumerate(self.runs)}

    def count(self, split: str) -> int:
        """Number of runs in a split."""
        return self.split.count(split)


def divide(entries: Sequence[Entry], num_heldout: int | None, seed: int) -> Split:
    """Divides the runs of a source.

    Args:
      entries: its networks.
      num_heldout: runs to hold out, drawn by the seed; None for the source's own split, or a fifth of the runs, at
        least 8, where it has none.
      seed: random seed.

    Raises:
      UserError: a run in two splits of the source, a number for a source that has a split, or more runs than there are.
    """
    runs = runs_of(entries)
    theirs: dict[str, set[str]] = {run: set() for run in runs}
    for entry in entries:
        theirs[entry.run].add(entry.split)
    two = next((run for run in runs if len(theirs[run]) > 1), None)
    if two is not None:
        names = " and ".join(sorted(name or "none" for name in theirs[two]))
        raise UserError(f"The run {two} has checkpoints in several splits of the source ({names}): it is not whole.")
    given = [next(iter(theirs[run])) for run in runs]
    if not any(given):
        return _drawn(runs, num_heldout, seed)
    if num_heldout is not None:
        raise UserError("The source has a split of its own, which is kept. Leave --num_heldout out.")
    return _given(runs, given)


def _given(runs: Sequence[str], given: Sequence[str]) -> Split:
    """The split of the source; runs in none of its parts are training runs."""
    ours = {TRAIN: TRAIN_ROWS, VALIDATION: HELDOUT, TEST: HELDOUT, GENERATED: GENERATED_ROWS, "": TRAIN_ROWS}
    counts = ", ".join(f"{given.count(name):,} {name or 'in none'}" for name in dict.fromkeys(given))
    notes = [f"split of the source: {counts} (runs)"]
    if VALIDATION in given:
        notes.append("validation runs are held out, like test runs")
    if "" in given:
        notes.append("runs in no part of the split are training runs")
    return Split(tuple(runs), tuple(ours[name] for name in given), tuple(notes))


def _drawn(runs: Sequence[str], num_heldout: int | None, seed: int) -> Split:
    """Held-out runs drawn by a seed."""
    most = len(runs) - 1
    if num_heldout is None:
        wanted = max(round(_SHARE * len(runs)), _LEAST)
        count = wanted if wanted <= most else 0
        if not count:
            note = f"no run is held out: there are {len(runs)}, and an audit needs {_LEAST} held-out runs and others"
            return Split(tuple(runs), (TRAIN_ROWS,) * len(runs), (note,))
    else:
        count = num_heldout
        if not 0 <= count <= most:
            raise UserError(f"--num_heldout is {count}, but there are {len(runs)} runs; set it between 0 and {most}.")
    chosen = set(np.random.default_rng(seed).permutation(len(runs))[:count].tolist())
    split = tuple(HELDOUT if number in chosen else TRAIN_ROWS for number in range(len(runs)))
    note = (
        f"the source has no split: {count:,} of {len(runs):,} runs are held out, drawn by seed {seed} (--num_heldout)"
    )
    return Split(tuple(runs), split, (note,))
