"""Pools of trained networks, and the disjoint random parts of them that stand in for one experiment."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import auditing, nets
from jaxweights.api.zoo import train_zoo
from jaxweights.calibration.kinds import Kind
from jaxweights.errors import UserError
from jaxweights.population import HYPER, Population
from jaxweights.settings import Settings, setting
from jaxweights.tasks import Task

_RATE = f"{HYPER}learning_rate"


@dataclasses.dataclass(frozen=True)
class Sizes(Settings):
    """Networks of one experiment.

    Attributes:
      train: training networks.
      heldout: held-out networks.
      samples: networks of every series.
    """

    SECTION = "calibration"

    train: int = setting(48, at_least=16)
    heldout: int = setting(24, at_least=auditing.MIN_HELDOUT)
    samples: int = setting(32, at_least=4)


@dataclasses.dataclass(frozen=True)
class Parts:
    """Disjoint parts of a pool: what one experiment would train.

    Attributes:
      train, heldout: training networks and the null.
      new: further runs of the same recipe: what a perfect generator would give.
      other: runs with another learning rate.
      untrained: networks at their initialisation, all different.
    """

    train: Population
    heldout: Population
    new: Population
    other: Population
    untrained: Population

    @property
    def task(self) -> Task:
        """What the networks are for."""
        return self.train.evaluator.net.task  # type: ignore[union-attr]


def pool(kind: Kind, part: str, folder: pathlib.Path | None = None, mesh: Mesh | None = None, **changes: Any):
    """Trains the pool of a kind, or what is missing of it.

    Args:
      kind: what to train.
      part: one of `PARTS`; each has a seed and a recipe of its own.
      folder: folder of the store; None for memory.
      mesh: devices; None for all.
      **changes: further arguments of `train_zoo`, for miniatures.

    Returns:
      The population of all runs that did not diverge, with its evaluator.
    """
    arguments = {"runs": kind.runs, "heldout": 0, **kind.arguments(part), **changes}
    return train_zoo(kind.source, path=folder, mesh=mesh, **arguments).train


def divide(kind: Kind, networks: Population, sizes: Sizes, seed: int) -> Parts:
    """Draws disjoint parts of a pool.

    Args:
      kind: of the pool.
      networks: the pool.
      sizes: networks of every part.
      seed: random seed of the parts.

    Raises:
      UserError: a pool with too few runs.
    """
    rng = np.random.default_rng(seed)
    rates = networks.records[_RATE]
    values, counts = np.unique(rates, return_counts=True)
    usual = rates == values[counts.argmax()]
    runs, others = (rng.permutation(np.unique(networks.records["run"][chosen])) for chosen in (usual, ~usual))
    wanted = (1 if kind.one_run else sizes.train, sizes.heldout, sizes.samples)
    if len(runs) < sum(wanted) or len(others) < sizes.samples:
        raise UserError(
            f"The pool has {len(runs)} runs of the usual learning rate and {len(others)} of the other one, but "
            f"{sum(wanted)} and {sizes.samples} are needed. Train more runs, or lower the sizes."
        )
    train, heldout, new = np.split(runs[: sum(wanted)], np.cumsum(wanted)[:-1])
    trained = _of_runs(networks, train)
    if kind.one_run:
        trained = trained.select(np.sort(rng.permutation(len(trained))[: sizes.train]))
    steps = trained.records["step"]

    def single(chosen: np.ndarray) -> Population:
        every = _of_runs(networks, chosen)
        return every.select(auditing.at_training_steps(every.records, steps, rng))

    init = _initialisation(networks.evaluator.net)  # type: ignore[union-attr]
    untrained = np.asarray(init(jax.random.split(jax.random.key(seed), sizes.samples)))
    return Parts(
        train=trained,
        heldout=single(heldout),
        new=single(new),
        other=single(others[: sizes.samples]),
        untrained=networks.derive(untrained, np.full(len(untrained), -1), "untrained"),
    )


@functools.lru_cache(maxsize=8)
def _initialisation(net: nets.TaskNet) -> Callable[[jax.Array], jax.Array]:
    return jax.jit(jax.vmap(net.init))


def _of_runs(networks: Population, runs: np.ndarray) -> Population:
    """All checkpoints of some runs, ordered by run and step."""
    return networks.select(np.isin(networks.records["run"], runs))
