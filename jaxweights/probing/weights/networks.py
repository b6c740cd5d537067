"""Designed networks as what is probed, by the library's generators of weights."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import generators, parallel, settings
from jaxweights.auditing.statistics import share
from jaxweights.errors import UserError
from jaxweights.generators import ClosedFormGenerator, LearnedGenerator, Prompted
from jaxweights.generators.base import Training
from jaxweights.population import Population
from jaxweights.probing.features import Design, Feature
from jaxweights.probing.images import described
from jaxweights.probing.settings import ProbingSettings
from jaxweights.probing.subject import Made, Subject
from jaxweights.probing.weights.base import DesignedNetworks
from jaxweights.probing.weights.planted import Planted
from jaxweights.training import train_generator

NETWORKS: dict[str, type[DesignedNetworks]] = {kind.KIND: kind for kind in (Planted,)}
_FEW = 8  # networks from which a generator's constants are known
_SAMPLING = 1  # number that a training's key is folded with for its samples


class Networks(Subject):
    """Designed networks and generators of networks.

    Raises:
      UserError: an estimator, which networks have none of; or a generator that changes given networks.
    """

    KIND = "networks"

    def __init__(self, options: ProbingSettings):
        if options.estimator:
            options.refuse("estimator", "features of networks are exact, so remove it")
        self.data = settings.make_kind(NETWORKS, options.data, "probing.data")
        self.models = {name: _built(name, config) for name, config in sorted(options.models.items())}
        for one in self.models.values():
            one.check(Training(options.num_train, 1, self.data.draw(self._open, 1, 0).spec))

    @property
    def _open(self) -> Design:
        """All features left open."""
        return Design(self.features, np.full((1, len(self.features)), np.nan, np.float32))

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of the data."""
        return self.data.features

    @property
    def facts(self) -> dict[str, Any]:
        """Settings of the data and the generators."""
        models = {k: {"kind": generators.kind_of(g), **settings.plain(g)} for k, g in self.models.items()}
        return {"data": {"kind": self.data.KIND, **settings.plain(self.data)}, "models": models}

    def check(self, design: Design) -> None:
        """As the data says."""
        self.data.check(design)

    def draw(self, design: Design, n: int, seed: int, mesh: Mesh) -> Population:
        """Plants networks."""
        del mesh
        return self.data.draw(design, n, seed)

    def measure(self, rows: np.ndarray, mesh: Mesh, folder: pathlib.Path) -> np.ndarray:
        """Exactly."""
        del mesh, folder
        return self.data.measure(rows)

    def accuracy(self, n: int, seed: int, mesh: Mesh, folder: pathlib.Path) -> dict[str, Any]:
        """Whether planted networks have what was asked for."""
        del mesh, folder
        rng, found = np.random.default_rng(seed), {}
        design = Design(self.features, np.stack([rng.choice(f.values, n) for f in self.features], axis=1))
        drawn = self.data.draw(design, n, seed)
        asked, measured = design.values[drawn.records["combination"]], self.data.measure(drawn.weights)
        for i, feature in enumerate(self.features):
            right, off = feature.bin(measured[:, i]) == feature.bin(asked[:, i]), measured[:, i] - asked[:, i]
            found[feature.name] = {**share(right).to_json(), "bias": float(off.mean()), "sd": float(off.std())}
        return found

    def describe(self, mesh: Mesh | None = None) -> dict[str, dict[str, Any]]:
        """Counted with a few networks."""
        del mesh
        few, found = self.draw(self._open, _FEW, 0, parallel.make_mesh()), {}
        for name, one in self.models.items():
            if isinstance(one, LearnedGenerator):
                found[name] = described(one, one.prepare(few)[1])
        return found

    def train(
        self,
        model: str,
        training: Sequence[Population],
        keys: jax.Array,
        count: int,
        mesh: Mesh,
        *,
        folders: Sequence[pathlib.Path] | None,
        report: Callable[[float], None],
    ) -> list[Made]:
        """One after the other, since generators of weights look at all their training networks before they learn."""
        generator, found = self.models[model], list[Made]()
        for i, one in enumerate(training):
            losses = list[float]()
            if isinstance(generator, ClosedFormGenerator):
                state = generator.fit(one)
            else:
                path = None if folders is None else folders[i]
                state = train_generator(
                    generator, one, mesh, key=keys[i], path=path, log=lambda row, to=losses: to.append(row["loss"])
                )
            drawn = jax.random.split(jax.random.fold_in(keys[i], _SAMPLING), count)
            made = generators.draw(generator, state, drawn, one.select(np.arange(0)), _unmeasured, mesh)
            found.append(Made(np.asarray(made.weights), losses[-1] if losses else None))
            report(i + 1)
        return found


def _built(name: str, config: Any) -> ClosedFormGenerator | LearnedGenerator:
    made = generators.build(name, config)
    if isinstance(made, Prompted) or generators.kind_of(made) == "file":
        raise UserError(
            f"probing.models.{name} is of the kind {generators.kind_of(made)!r}, which needs checkpoints of trained "
            "runs or files of samples. Give one that draws networks from networks, such as pdiff or pca_gaussian."
        )
    return made


def _unmeasured(weights: np.ndarray) -> Population:
    """Planted networks have no task, so no generator can ask for their accuracy."""
    raise UserError(f"{len(weights)} planted networks were to be evaluated, but they have no task.")
