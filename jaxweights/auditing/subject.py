"""What is audited: training networks, held-out networks, generated ones, and how to evaluate them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxweights import tasks
from jaxweights.auditing.alignment import twins
from jaxweights.auditing.battery import BatterySettings
from jaxweights.data.probe import ProbeSettings
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation
from jaxweights.population import Population
from jaxweights.settings import Settings, setting
from jaxweights.tasks import Task

MIN_HELDOUT = 8
"""Fewest held-out networks: the negative control is half of them, judged against the other half."""
MOST_MIXED = 512
"""Most networks in mixtures of all of them: a query's systems of equations grow with their cube."""


@dataclasses.dataclass(frozen=True)
class AuditSettings(Settings):
    """How an audit measures.

    Attributes:
      bootstrap: resamples of every interval.
      hull_neighbours: nearest training networks that a mixture may combine, 0 for all (up to 512).
      hull_aligned_neighbours: likewise, after alignment of the hidden units.
      barriers: networks of a series whose loss barrier to the nearest training network is measured, 0 for none.
      training_queries: most training networks that are compared with the others of other runs, for the distances of
        training networks and for AuthPct; of more a random part is taken. All other series are compared with all
        training networks, however many. Checkpoints of a single run are all compared.
      probe: images on which errors and outputs are compared.
      battery: how whole series are compared.
    """

    SECTION = "audit"

    bootstrap: int = setting(1000, at_least=1, at_most=1_000_000)
    hull_neighbours: int = setting(32, at_least=0, at_most=MOST_MIXED)
    hull_aligned_neighbours: int = setting(8, at_least=0, at_most=MOST_MIXED)
    barriers: int = setting(32, at_least=0, at_most=1_000_000)
    training_queries: int = setting(20_000, at_least=8)
    probe: ProbeSettings = ProbeSettings()
    battery: BatterySettings = BatterySettings()


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is audited. Symmetries are those of the training networks' spec.

    Attributes:
      train: training networks that the generators saw. Rows of one run are its checkpoints.
      heldout: one checkpoint of every run that no generator saw, the last or one `at_training_steps`.
      generated: samples by series name, in the order of the report; `run` is that of the parent, or -1.
      controls: names in `generated` that are positive controls.
      baselines: names in `generated` that a generator has to beat.
      heldout_checkpoints: all checkpoints of the held-out runs, if they are at hand.
      duplicates: rows that `train` was without when it was given, since they were networks that it has, see
        `distinct`; they say nothing of how far apart networks of separate training are.
      evaluate: `weights [n, P] -> Evaluation` on a test set, or None for an audit of weights alone. A series that it
        gives None of is audited by its weights alone; training and held-out networks are evaluated.
      task: what the networks are for; the verdicts are in its terms.
    """

    train: Population
    heldout: Population
    generated: Mapping[str, Population]
    controls: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    heldout_checkpoints: Population | None = None
    duplicates: tuple[int, ...] = ()
    evaluate: Callable[[Any], Evaluation | None] | None = None
    task: Task = dataclasses.field(default_factory=tasks.get)

    @property
    def one_run(self) -> bool:
        """Whether all training networks are checkpoints of a single run."""
        return len(np.unique(self.train.records["run"])) == 1


def distinct(train: Population) -> tuple[np.ndarray, tuple[int, ...]]:
    """Rows of training networks without duplicates, and the rows of these: networks with the weights of one before
    them, whatever the order, scale and signs of their hidden units."""
    rows = twins.first_of_each(train)
    return rows, tuple(np.setdiff1d(np.arange(len(train)), rows).tolist())


def queried(subject: Subject, settings: AuditSettings) -> np.ndarray:
    """Rows of the training networks that are measured as a series, ascending, see `AuditSettings.training_queries`."""
    count = len(subject.train)
    if count <= settings.training_queries or subject.one_run:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).permutation(count)[: settings.training_queries])


def check(subject: Subject, settings: AuditSettings) -> None:
    """Refuses what cannot be audited before anything is computed.

    Raises:
      UserError: too few training networks to be compared with one another, too many to be mixed, or too few held-out
        ones.
    """
    check_counts(len(subject.train), len(subject.heldout), settings)


def check_counts(count: int, heldout: int, settings: AuditSettings) -> None:
    """Refuses what cannot be audited; see `check`.

    Args:
      count: training networks.
      heldout: networks of held-out runs.
      settings: how the audit measures.
    """
    if count < 2:
        raise UserError(
            "The audit compares training networks with one another, but there is only one. Train more runs "
            "(zoo.num_runs) or keep more checkpoints of the run (zoo.snapshots)."
        )
    if settings.hull_neighbours == 0 and count > MOST_MIXED:
        raise UserError(
            f"audit.hull_neighbours = 0 mixes all training networks, which is meant for up to {MOST_MIXED}, but there "
            f"are {count:,}. Set it to the number of nearest ones to mix, e.g. 32."
        )
    if heldout < MIN_HELDOUT:
        raise UserError(
            f"There are {heldout} held-out networks, but an audit needs at least {MIN_HELDOUT}: without "
            "networks that no generator has seen there is nothing to compare a distance with."
        )


def at_training_steps(
    records: Mapping[str, np.ndarray], train_steps: np.ndarray, rng: np.random.Generator | int = 0
) -> np.ndarray:
    """Chooses one checkpoint per run, at steps that are distributed as those of the training networks.

    Where training networks are checkpoints of all steps, last checkpoints are no fair null: runs part with every step,
    so that samples which were as new as another run would still lie closer to the training networks than they do.

    Args:
      records: `run` and `step` of all checkpoints of the held-out runs, `[N]` each.
      train_steps: `[T]` steps of the training networks; every run draws one of them.
      rng: generator or seed.

    Returns:
      `[runs]` rows, in the order of the runs; of each run the checkpoint whose step is nearest to the one drawn.
    """
    rng = np.random.default_rng(rng)
    runs, place = np.unique(records["run"], return_inverse=True)
    wanted = rng.choice(np.asarray(train_steps), len(runs))
    order = np.lexsort((np.abs(records["step"] - wanted[place]), place))
    return order[np.searchsorted(place[order], np.arange(len(runs)))]
