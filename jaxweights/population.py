"""Population: the one currency. Weight vectors `[N, P]`, what they mean, and one record per row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxweights import arrays
from jaxweights.errors import UserError
from jaxweights.spec import FIXED, Leaf, WeightSpec

if TYPE_CHECKING:
    from jaxweights.data import Dataset
    from jaxweights.nets import TaskNet

TRAIN, HELDOUT, DIVERGED, GENERATED = "train", "heldout", "diverged", "generated"

# Columns that every population has: dtype and the value where a creator gives none.
COLUMNS: dict[str, tuple[np.dtype, object]] = {
    "run": (np.dtype(np.int64), -1),  # which training run; all its checkpoints share it
    "step": (np.dtype(np.int64), -1),  # optimizer steps taken
    "seed": (np.dtype(np.int64), -1),  # the seed that the run's key was made from
    "split": (np.dtype("U16"), TRAIN),
    "loss": (np.dtype(np.float64), np.nan),  # mean test cross-entropy, nats
    "accuracy": (np.dtype(np.float64), np.nan),  # test accuracy, fraction
    "parent": (np.dtype(np.int64), -1),  # row of the population that a derived row was made from
    "transform": (np.dtype("U64"), ""),  # what made a derived row
}
_VARIANCE = "running_var"  # what batch normalisation calls the variances of a leaf
HYPER = "hyper/"  # prefix of the columns that hold a run's sampled hyper-parameters
PROPERTY = "property/"  # prefix of the columns that hold what else a source says of its networks
TAUGHT = "taught"
"""Column of the classes that a network was taught, one bit each, where that differs."""


class TaskExamples(NamedTuple):
    """What networks were trained for.

    Attributes:
      net: their function.
      dataset: the training examples of all of them, and the test examples, which no generator may look at.
    """

    net: TaskNet
    dataset: Dataset


@dataclasses.dataclass(frozen=True, repr=False)
class Population:
    """Weight vectors with a static spec and per-row records. Nothing here modifies the arrays that it is given.

    Attributes:
      weights: `[N, P]` float32.
      spec: what a row means.
      records: column name to `[N]` array; the columns of `COLUMNS` always, hyper-parameters under `hyper/...`.
      evaluator: evaluates weights `[n, P]` of such networks on their test set, where that is at hand; derived
        populations keep it.
      examples: what they were trained for, where that is at hand; for generators that look at it. Derived populations
        keep it.
    """

    weights: np.ndarray
    spec: WeightSpec
    records: Mapping[str, np.ndarray]
    evaluator: Callable[[Any], Any] | None = dataclasses.field(default=None, repr=False, compare=False, kw_only=True)
    examples: TaskExamples | None = dataclasses.field(default=None, repr=False, compare=False, kw_only=True)

    @classmethod
    def create(cls, weights: np.ndarray, spec: WeightSpec, **columns) -> Population:
        """Builds a population; columns may be scalars or `[N]`, and missing standard ones take their defaults.

        Raises:
          UserError: weights of another shape than `[N, P]`, or a column of another length or with values that its type
            cannot hold.
        """
        weights = arrays.as_array(weights, "The population")
        check_weights(weights, spec, "The population")
        weights = arrays.narrow(weights, "The population")
        n = len(weights)
        records = {}
        for name in list(COLUMNS) + [c for c in columns if c not in COLUMNS]:
            value = _column(columns[name], name) if name in columns else np.asarray(COLUMNS[name][1], COLUMNS[name][0])
            if value.ndim > 1 or (value.ndim == 1 and len(value) != n):
                raise UserError(
                    f"Column {name!r} of a population of {n} rows has shape {value.shape}; give a scalar or [{n}]."
                )
            records[name] = np.broadcast_to(value, (n,)) if value.ndim == 0 else value
        return cls(weights, spec, records)

    def __len__(self) -> int:
        return len(self.weights)

    def __repr__(self) -> str:
        splits, counts = np.unique(self.records["split"], return_counts=True)
        parts = ", ".join(f"{count:,} {split}" for split, count in zip(splits, counts, strict=True))
        known = self.records["accuracy"][np.isfinite(self.records["accuracy"])]
        accuracy = f"; mean accuracy {known.mean():.4f}" if len(known) else ""
        return f"Population({len(self):,} networks of {self.spec.num_params:,} parameters: {parts}{accuracy})"

    def select(self, rows: np.ndarray) -> Population:
        """The rows of a boolean mask or an index array, in that order."""
        records = {k: v[rows] for k, v in self.records.items()}
        return dataclasses.replace(self, weights=self.weights[rows], records=records)

    @property
    def train(self) -> Population:
        """The checkpoints of the training split."""
        return self.where(split=TRAIN)

    @property
    def heldout(self) -> Population:
        """The checkpoints of the held-out split: runs that no generator may see."""
        return self.where(split=HELDOUT)

    def last(self) -> Population:
        """The last checkpoint of every run."""
        return self.select(last_checkpoints(self.records))

    def first(self) -> Population:
        """The first kept checkpoint of every run."""
        return self.select(last_checkpoints({"run": self.records["run"], "step": -self.records["step"]}))

    def evaluated(self) -> Population:
        """These networks with their accuracy and loss on the test set in the records.

        Raises:
          UserError: no evaluator.
        """
        if self.evaluator is None:
            raise UserError(
                "These networks cannot be evaluated: the population has no evaluator. Train it with train_zoo, or set "
                "one: dataclasses.replace(population, evaluator=function)."
            )
        found = self.evaluator(self.weights)
        records = {**self.records, "accuracy": found.accuracy, "loss": found.loss}
        return dataclasses.replace(self, records=records)

    def where(self, **equal) -> Population:
        """The rows whose columns equal the given values, e.g. `where(split="train")`."""
        mask = np.ones(len(self), bool)
        for name, value in equal.items():
            mask &= self.records[name] == value
        return self.select(mask)

    def derive(self, weights: np.ndarray, parents: np.ndarray, transform: str) -> Population:
        """New rows made from this population: `parents` are rows here (or -1), whose run ids and seeds they inherit."""
        parents = np.asarray(parents, np.int64)
        known = parents >= 0
        inherited = {k: np.where(known, self.records[k][parents], -1) for k in ("run", "seed")}
        columns = {"parent": parents, "transform": transform, "split": GENERATED, **inherited}
        derived = Population.create(weights, self.spec, **columns)
        return dataclasses.replace(derived, evaluator=self.evaluator, examples=self.examples)

    def hyper(self) -> dict[str, np.ndarray]:
        """The hyper-parameter columns, without their prefix."""
        return {k.removeprefix(HYPER): v for k, v in self.records.items() if k.startswith(HYPER)}


def from_array(weights: Any, what: str = "The population", spec: WeightSpec | None = None) -> Population:
    """A population of weight vectors from anywhere.

    Args:
      weights: `[N, P]`, anything that NumPy takes for an array; or a population, which is returned as it is.
      what: its name in messages.
      spec: what the vectors mean; by default a single tensor without symmetries.

    Raises:
      UserError: another shape, no rows, or values that are no finite numbers.
    """
    if isinstance(weights, Population):
        return weights
    array = arrays.as_array(weights, what)
    spec = without_symmetries(array, what) if spec is None else spec
    check_weights(array, spec, what)
    array = arrays.float32(array, what, arrays.LARGEST_WEIGHT)
    return Population.create(array, spec, run=np.arange(len(array)))


def last_checkpoints(records: Mapping[str, np.ndarray]) -> np.ndarray:
    """`[N]` bool: whether a row is the latest step of its run."""
    run, step = records["run"], records["step"]
    order = np.lexsort((step, run))
    last = np.zeros(len(run), bool)
    if len(run):
        last[order[np.append(np.diff(run[order]) != 0, True)]] = True
    return last


def top_rows(scores: np.ndarray, top: float) -> np.ndarray:
    """The rows whose score is at least the (1 - top)-quantile, in order.

    The quantile interpolates linearly; ties at the threshold are all kept, so the share may be larger than `top`.

    Args:
      scores: `[N]` finite floats, larger is better.
      top: share above 0 and up to 1.
    """
    # 1 - top rounded in binary could lift the threshold above the very score that it interpolates.
    return np.flatnonzero(scores >= np.quantile(scores, round(1.0 - top, 12)))


def check_weights(weights: np.ndarray, spec: WeightSpec, what: str) -> None:
    """Raises `UserError` unless `weights` is a non-empty numeric `[N, P]` of the spec's P."""
    if weights.ndim != 2 or weights.shape[-1] != spec.num_params:
        raise UserError(
            f"{what} has weights of shape {weights.shape}, but this network needs [N, {spec.num_params}]: one flat "
            "vector of its parameters per row, in the order of `python -m launch.describe`. Check the network's "
            "settings or the file."
        )
    if not len(weights):
        raise UserError(f"{what} is empty: it has no rows. Give at least one weight vector.")
    arrays.real(weights, what)


def check_finite(weights: np.ndarray, what: str) -> None:
    """Raises `UserError` that names the first rows with NaN or infinite entries."""
    arrays.float32(weights[:], what)


def check_variances(weights: np.ndarray, spec: WeightSpec, what: str) -> None:
    """Raises `UserError` that names the first rows `[N, P]` with a negative running variance."""
    for leaf, span in spec.spans():
        if _is_variance(leaf):
            bad = np.flatnonzero((weights[:, span] < 0).any(axis=1))
            if bad.size:
                raise UserError(
                    f"{what} has negative variances in {leaf.name} of {bad.size} of {len(weights)} rows (first: "
                    f"{bad[:5].tolist()}), so these networks have no outputs. Remove these rows, or check that the "
                    "order of the parameters is that of `python -m launch.describe`."
                )


def variance_spans(spec: WeightSpec) -> list[slice]:
    """Where flat vectors hold running variances."""
    return [span for leaf, span in spec.spans() if _is_variance(leaf)]


def _is_variance(leaf: Leaf) -> bool:
    return leaf.name.rpartition("/")[2] == _VARIANCE


def _column(value: Any, name: str) -> np.ndarray:
    """A column of records in its type."""
    what = f"Column {name!r} of the population"
    dtype = COLUMNS[name][0] if name in COLUMNS else None
    if dtype is None:
        return np.asarray(value)
    if dtype.kind == "i":
        return arrays.whole(value, what)
    return arrays.text(value, what, dtype) if dtype.kind == "U" else arrays.real(value, what).astype(dtype)


def without_symmetries(weights: np.ndarray, what: str) -> WeightSpec:
    """The spec of vectors of which nothing is known but their size."""
    if weights.ndim != 2 or not weights.shape[1]:
        raise UserError(f"{what} has shape {weights.shape}; give [N, P]: one flat weight vector per row.")
    size = weights.shape[1]
    return WeightSpec((Leaf("weights", (size,), (size,), (FIXED,), (0,), (0,)),))
