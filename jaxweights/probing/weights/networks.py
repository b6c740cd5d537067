"""Designed networks as what is probed, by the library's generators of weights."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import generators, settings
from jaxweights.errors import UserError
from jaxweights.generators import ClosedFormGenerator, LearnedGenerator, Prompted
from jaxweights.generators.base import Training
from jaxweights.population import Population
from jaxweights.probing.designs import everything
from jaxweights.probing.estimators import errors
from jaxweights.probing.features import Design, Feature
from jaxweights.probing.images import described
from jaxweights.probing.settings import ProbingSettings
from jaxweights.probing.subject import Made, Subject
from jaxweights.probing.weights.base import DesignedNetworks
from jaxweights.probing.weights.planted import Planted
from jaxweights.probing.weights.trained import Trained
from jaxweights.training import train_generator

NETWORKS: dict[str, type[DesignedNetworks]] = {kind.KIND: kind for kind in (Planted, Trained)}
_FEW = 8  # networks from which a generator's constants are known
_BYTES = 1 << 30  # of networks that are kept for the next model
_SAMPLING = 1  # number that a training's key is folded with for its samples


class Networks(Subject):
    """Designed networks and generators of networks.

    Raises:
      UserError: an estimator, which networks have none of; or a generator that needs checkpoints where there are none.
    """

    KIND = "networks"
    TOGETHER = False

    def __init__(self, options: ProbingSettings):
        if options.estimator:
            options.refuse("estimator", "networks are measured as their data says, so remove it")
        self.data = settings.make_kind(NETWORKS, options.data, "probing.data")
        self.models = {name: self._built(name, config) for name, config in sorted(options.models.items())}
        self._drawn: dict[tuple[bytes, int, int], Population] = {}
        for one in self.models.values():
            one.check(Training(options.num_train, 1 + self.data.TRAINED, self.data.spec))

    def _built(self, name: str, config: Any) -> ClosedFormGenerator | LearnedGenerator:
        made = generators.build(name, config)
        if (isinstance(made, Prompted) and not self.data.TRAINED) or generators.kind_of(made) == "file":
            raise UserError(
                f"probing.models.{name} is of the kind {generators.kind_of(made)!r}, which needs checkpoints of "
                "trained runs or files of samples. Give one that draws networks from networks, such as pdiff or "
                "pca_gaussian, or data of the kind 'trained' for one that needs checkpoints."
            )
        return made

    @property
    def features(self) -> tuple[Feature, ...]:
        """Of the data."""
        return self.data.features

    @property
    def facts(self) -> dict[str, Any]:
        """Settings of the data and the generators."""
        models = {k: {"kind": generators.kind_of(g), **settings.plain(g)} for k, g in self.models.items()}
        data = {"kind": self.data.KIND, **settings.plain(self.data)}
        return {"data": data, "estimator": {"kind": self.data.MEASURED}, "models": models}

    def check(self, design: Design) -> None:
        """As the data says."""
        self.data.check(design)

    def draw(self, design: Design, n: int, seed: int, mesh: Mesh) -> Population:
        """Plants or trains networks; those of former calls are kept, since every model learns from the same."""
        asked = design.values.tobytes(), n, seed
        if asked not in self._drawn:
            made = self.data.draw(design, n, seed, mesh=mesh)
            if sum(one.weights.nbytes for one in (*self._drawn.values(), made)) > _BYTES:
                return made
            self._drawn[asked] = made
        return self._drawn[asked]

    def measure(self, rows: np.ndarray, mesh: Mesh, folder: pathlib.Path) -> np.ndarray:
        """As the data says."""
        del folder
        return self.data.measure(rows, mesh)

    def accuracy(self, n: int, seed: int, mesh: Mesh, folder: pathlib.Path) -> dict[str, Any]:
        """Whether networks have what was asked for."""
        design = everything(self.features, n, seed)
        drawn = self.data.draw(design, n, seed, mesh=mesh)
        asked = design.values[drawn.records["combination"]]
        return errors(self.features, asked, self.measure(drawn.weights, mesh, folder))

    def describe(self, mesh: Mesh | None = None) -> dict[str, dict[str, Any]]:
        """Counted with a few random vectors."""
        del mesh
        weights = np.random.default_rng(0).normal(size=(_FEW, self.data.spec.num_params)).astype(np.float32)
        few = Population.create(weights, self.data.spec, run=np.arange(_FEW) // 2, step=np.arange(_FEW) % 2, loss=1.0)
        return {
            name: described(one, one.prepare(few)[1])
            for name, one in self.models.items()
            if isinstance(one, LearnedGenerator)
        }

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
        """One after the other, since generators of weights look at all their training networks before they learn; those
        that learn from checkpoints improve the weights that training runs began with."""
        generator, found = self.models[model], list[Made]()
        for i, one in enumerate(training):
            known, losses = one, list[float]()
            if isinstance(generator, ClosedFormGenerator):
                state = generator.fit(known)
            else:
                known = self.data.trajectories(one, mesh) if generator.TRAJECTORIES else one
                path = None if folders is None else folders[i]
                state = train_generator(
                    generator, known, mesh, key=keys[i], path=path, log=lambda row, to=losses: to.append(row["loss"])
                )
            drawn = jax.random.split(jax.random.fold_in(keys[i], _SAMPLING), count)
            starts = known.first() if isinstance(generator, Prompted) else known.select(np.arange(0))
            made = generators.draw(generator, state, drawn, starts, lambda w: self.data.evaluated(w, mesh), mesh)
            found.append(Made(np.asarray(made.weights), losses[-1] if losses else None))
            report(i + 1)
        return found
