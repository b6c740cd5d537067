"""What the series of an audit are compared with: training networks, one per run, and their distances to a series."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxweights.auditing.battery import pairwise
from jaxweights.auditing.battery.copying import CALIBRATED_NEIGHBOURS
from jaxweights.auditing.battery.pairwise import Nearest
from jaxweights.auditing.rows import row_blocks

_BLOCK_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Sample:
    """Networks in random order, with distances.

    Attributes:
      rows: `[n, D]` float32.
      order: `[n]` rows of the series that these are.
      to_train: `[n, N]` distances to the reference's training networks.
      to_runs: distances to the nearest training runs; to a run it is that to its nearest checkpoint.
      within: `[n, n]` distances among themselves.
    """

    rows: np.ndarray
    order: np.ndarray
    to_train: np.ndarray
    to_runs: Nearest
    within: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, rows: slice) -> Sample:
        """Some of the networks."""
        to_runs = Nearest(*(x[rows] for x in self.to_runs))
        return Sample(self.rows[rows], self.order[rows], self.to_train[rows], to_runs, self.within[rows, rows])


class Reference:
    """Training networks for tests of whole populations.

    Checkpoints of a run are near duplicates, which held-out networks, one per run, do not have; so one of each run,
    chosen at random, stands for it. Only the distance to the nearest network asks all of them.

    Attributes:
      train: `[N, D]` training networks in random order, one per run.
      several_runs: whether networks have others of another run.
      centre: `[D]` float64 mean of all training networks.
      nearest: the neighbours of `train` among themselves.
      within: `[m, m]` distances of the first m among themselves.
    """

    def __init__(self, train: Any, runs: np.ndarray | None, sizes: tuple[int, int], k: int, rng: np.random.Generator):
        """Chooses the networks and measures them.

        Args:
          train: `[T, D]` floats.
          runs: `[T]` integers; networks of one run are its checkpoints. None, or a single run: all are apart.
          sizes: most training networks, and most networks of a series.
          k: neighbours of training networks.
          rng: random generator.
        """
        self.several_runs = runs is None or len(np.unique(runs)) > 1
        if runs is None or not self.several_runs:
            runs = np.arange(len(train))
        self._all, self._largest, runs = np.asarray(train, np.float32), sizes[1], np.asarray(runs)
        if (np.diff(runs) < 0).any():
            by_run = np.argsort(runs, kind="stable")
            self._all, runs = self._all[by_run], runs[by_run]
        self._starts = np.unique(runs, return_index=True)[1]
        counts = np.diff(np.append(self._starts, len(train)))
        chosen = self._starts + rng.integers(0, counts)
        self._kept = rng.permutation(chosen)[: sizes[0]]
        self.train = self._all[self._kept]
        self.centre = self._all.mean(axis=0, dtype=np.float64)
        first = self.train[: sizes[1]]
        self.within = pairwise.distances(first, first, self.centre)
        parts = [self._nearest_others(rows, k) for rows in self._blocks(len(self.train))]
        self.nearest = Nearest(*(np.concatenate(x) for x in zip(*parts, strict=True)))

    def sample(self, networks: Any, rng: np.random.Generator) -> Sample:
        """Networks of a series `[n, D]`, a random part where there are too many, with their distances."""
        order = rng.permutation(len(networks))[: self._largest]
        rows = np.asarray(networks[order], np.float32)
        parts = [self._measured(rows[block]) for block in self._blocks(len(rows))]
        to_train = np.concatenate([part for part, _ in parts])
        to_runs = Nearest(*(np.concatenate(x) for x in zip(*(part for _, part in parts), strict=True)))
        return Sample(rows, order, to_train, to_runs, pairwise.distances(rows, rows, self.centre))

    def _measured(self, rows: np.ndarray) -> tuple[np.ndarray, Nearest]:
        to_all = pairwise.distances(rows, self._all, self.centre)
        to_runs = to_all
        if len(self._starts) < len(self._all):
            to_runs = np.minimum.reduceat(to_all, self._starts, axis=1)
        return to_all[:, self._kept], pairwise.nearest(to_runs, CALIBRATED_NEIGHBOURS)

    def _nearest_others(self, rows: slice, k: int) -> Nearest:
        between = pairwise.distances(self.train[rows], self.train, self.centre)
        between[np.arange(len(between)), np.arange(rows.start, rows.stop)] = np.inf
        return pairwise.nearest(between, min(k, len(self.train) - 1))

    def _blocks(self, count: int):
        return row_blocks(count, max(1, _BLOCK_BYTES // (4 * len(self._all))))
