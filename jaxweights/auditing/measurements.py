"""Per-network measurements of a series, which all tests, tables and figures are made from."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from jaxweights import files
from jaxweights.errors import UserError

TRAINING, HELDOUT, HELDOUT_CONTROL = "training", "heldout", "heldout_control"
NOISE_LADDER = "noise_ladder"
"""The networks of `front.ladder`, which are measured like a series and are none."""
RESERVED = (TRAINING, HELDOUT, HELDOUT_CONTROL, NOISE_LADDER)
LEAKED_WEIGHTS, LEAKED_OUTPUTS = 1, 2
NEIGHBOURS = 3
"""Nearest training networks kept per sample, for the figures."""


def _unmeasured() -> Any:
    return dataclasses.field(default_factory=lambda: np.zeros(0))


@dataclasses.dataclass(frozen=True)
class Measured:
    """Per-network measurements of one series of n networks; distances are Euclidean, to the training networks.

    Training networks are compared with those of other runs; where there is a single training run, with all others of
    it, most of which are near duplicates by construction.

    Attributes:
      accuracy: `[n]` fraction; empty where the networks were not evaluated.
      loss: `[n]` nats; likewise.
      max_error_iou: `[n]` largest IoU of the sets of misclassified examples of the probe set; likewise.
      min_l2: `[n]` distance to the nearest training network.
      nearest: `[n, 3]` rows of the training population, nearest first.
      second_l2: `[n]` distance to the nearest training network of another run than the nearest one's; NaN where there
        is none, and for training networks.
      aligned_min_l2, aligned_nearest, aligned_second_l2: the same of balanced networks over the permutations and sign
        flips of their hidden units, without running statistics: exact for one group of units, upper bounds for several,
        and empty for a spec without groups.
      aligned_permutation: `[n, 3, units]`, what brings the nearest networks' units onto the sample's, group after
        group.
      hull_residual: `[n]` distance to the best convex combination of nearest (or of all) training networks, raw or
        aligned, the smaller.
      same_run_l2: `[n]` distance to the nearest other checkpoint of its own run, in training or, for held-out networks,
        among the held-out checkpoints; NaN where there is none, as for samples without parents.
      other_run_l2: `[n]` distance to the nearest training network of any run but its own; NaN where there is none.
      leak: `[n]` `LEAKED_WEIGHTS` if it has the weights of a held-out network, whatever the order, scale and signs of
        its hidden units, `LEAKED_OUTPUTS` if it has the outputs of one, else 0.
      aligned_sign: `[n, 3, units]`, which units change sign with `aligned_permutation`; empty where none may.
      affine_residual: `[n]` distance to the affine hull of all training networks (of other runs, for training ones), as
        weights or in canonical coordinates (`coordinates`), the smaller; NaN where the hull fills the space, see
        `affine`.
      sibling_l2: `[n]` distance to the nearest other network of the series (of another run, for training networks), as
        weights or in canonical coordinates, the smaller; NaN for one alone.
      wrong: `[n]` int64, misclassified examples that `max_error_iou` rests on; empty where networks were not evaluated.
      function_l2: `[n]` root mean square of the differences between a network's outputs on the probe set (of
        classifiers probabilities) and those of the training network where it is smallest; NaN for undefined networks,
        and this and the following ones empty where outputs cannot be asked for.
      function_second: `[n]` the same to the next training run, as `second_l2`.
      function_max: `[n]` largest absolute difference to that nearest network.
      function_nearest: `[n]` int64, its row.
      disagreement: `[n]` share of the probe set that another network of the series decides otherwise, the mean over all
        others; empty for tasks without decisions.
      nearest_disagreement: `[n]` the same with the training network `function_nearest`.
      ensemble_gain: `[n]`, at the first network of every ensemble what averaging the outputs of its members gains in
        accuracy on the probe set over the members' mean; NaN elsewhere.
      barrier: `[n]` largest excess of the loss on the line to `nearest[:, 0]` over the linear interpolation of its
        ends; NaN for networks that it was not measured of.
      aligned_barrier: `[n]` the same to `aligned_nearest[:, 0]`, brought onto the network first.
      training_row: `[n]` int64, ascending, of training networks that are a part of all: which ones; empty otherwise.
    """

    accuracy: np.ndarray
    loss: np.ndarray
    max_error_iou: np.ndarray
    min_l2: np.ndarray
    nearest: np.ndarray
    second_l2: np.ndarray
    aligned_min_l2: np.ndarray
    aligned_nearest: np.ndarray
    aligned_second_l2: np.ndarray
    aligned_permutation: np.ndarray
    hull_residual: np.ndarray
    same_run_l2: np.ndarray = _unmeasured()
    other_run_l2: np.ndarray = _unmeasured()
    leak: np.ndarray = _unmeasured()
    aligned_sign: np.ndarray = _unmeasured()
    affine_residual: np.ndarray = _unmeasured()
    sibling_l2: np.ndarray = _unmeasured()
    wrong: np.ndarray = _unmeasured()
    function_l2: np.ndarray = _unmeasured()
    function_second: np.ndarray = _unmeasured()
    function_max: np.ndarray = _unmeasured()
    function_nearest: np.ndarray = _unmeasured()
    disagreement: np.ndarray = _unmeasured()
    nearest_disagreement: np.ndarray = _unmeasured()
    ensemble_gain: np.ndarray = _unmeasured()
    barrier: np.ndarray = _unmeasured()
    aligned_barrier: np.ndarray = _unmeasured()
    training_row: np.ndarray = _unmeasured()

    def __len__(self) -> int:
        return len(self.min_l2)

    @property
    def defined(self) -> np.ndarray:
        """`[n]` bool, whether all outputs are finite; True where the networks were not evaluated."""
        return np.isfinite(self.loss) if len(self.loss) else np.ones(len(self), bool)

    @property
    def distance(self) -> np.ndarray:
        """The distance that the tests use: aligned where units can be reordered, else raw."""
        return self.aligned_min_l2 if self.aligned_min_l2.size else self.min_l2

    @property
    def second(self) -> np.ndarray:
        """The second distance to go with `distance`."""
        return self.aligned_second_l2 if self.aligned_second_l2.size else self.second_l2

    @property
    def nearest_row(self) -> np.ndarray:
        """The nearest training row to go with `distance`."""
        return (self.aligned_nearest if self.aligned_nearest.size else self.nearest)[:, 0]

    def places(self, training_rows: np.ndarray) -> np.ndarray:
        """Where training networks `[m]` are among these, which are training networks: `[m]` int64, -1 for others."""
        wanted = np.asarray(training_rows, np.int64)
        if not len(self.training_row):
            return wanted
        places = np.minimum(np.searchsorted(self.training_row, wanted), len(self) - 1)
        return np.where(self.training_row[places] == wanted, places, -1)

    def rows(self, rows: np.ndarray) -> Measured:
        """The measurements of some networks."""
        arrays = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Measured(**{k: v[rows] if len(v) else v for k, v in arrays.items()})


def save(path: pathlib.Path, measured: Measured) -> None:
    """Writes the measurements of a series; the file is whole or absent."""
    files.write_npz(path, {f.name: getattr(measured, f.name) for f in dataclasses.fields(Measured)})


def load(path: pathlib.Path, count: int | None = None) -> Measured:
    """Reads the measurements of a series.

    Args:
      path: the file.
      count: networks of the series, where they are known.

    Raises:
      UserError: missing, damaged, or of other networks.
    """
    # An audit that is done is repeated where its `metrics.json` is gone, and measures what has no file.
    cure = f"Remove it, if it is there, and {path.parent.with_name('metrics.json')}, and run launch.run again."
    found = files.read_npz(path, "table of measurements", cure)
    fields = dataclasses.fields(Measured)
    missing = [f.name for f in fields if f.default_factory is dataclasses.MISSING and f.name not in found]
    if missing:
        raise UserError(f"{path} is not a table of measurements: it has no {', '.join(missing)}. {cure}")
    measured = Measured(**{f.name: found[f.name] for f in fields if f.name in found})
    if count not in (None, len(measured)):
        raise UserError(f"{path} is of {len(measured)} networks, but there are {count} here. {cure}")
    return measured
