"""Runs that continue from a base network and train some of its leaves: P-diff's populations.

Published (arXiv 2402.13144, `finetune.py` of each tag): a base is trained, a few of its tensors are trained on with all
others frozen, and these are kept after every step. What batch normalisation does meanwhile depends on whether a script
tests inside its loop, which switches the network to evaluation for good: `Supervised.statistics`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, parallel
from jaxweights.data import Dataset, standardise
from jaxweights.errors import UserError
from jaxweights.nn import normalization
from jaxweights.zoo.program import RunData, RunState
from jaxweights.zoo.recipe import Distribution
from jaxweights.zoo.supervised import Supervised, TrainData

_PREPARED_BYTES = 2 << 30  # frozen layers' outputs of a training set, over all devices of a CPU or on each accelerator
_PREPARED_TILE = 64  # images prepared together on a device


class PartialData(NamedTuple):
    """What all runs read besides their state; `examples` or `prepared` is None.

    Attributes:
      frozen: the base's leaves (`TaskNet.frozen`), an argument of programs and not a constant in them.
      labels: `[n]` int32.
      examples: the training set.
      prepared: the frozen layers' outputs before the first trained layer, arrays `[n, ...]`.
    """

    frozen: Any
    labels: jax.Array
    examples: TrainData | None
    prepared: Any


@dataclasses.dataclass(frozen=True)
class PartialProgram(Supervised):
    """Training of a `nets.PartialNet` from its base. Parameters are the flat vector.

    Running statistics are part of a run's state, and of its vectors only where the network's chosen leaves are.
    """

    net: nets.PartialNet

    def check_recipe(self) -> None:
        if self.recipe.start != "base":
            raise UserError(
                f"There is a base network, but zoo.start is {self.recipe.start!r}. Set it to base, or zoo.base.epochs "
                "to 0 and zoo.base.import_npz and zoo.subset to nothing."
            )
        if self.recipe.settings.init_scale != Distribution.constant(1.0):
            raise UserError("zoo.init_scale scales initialisations, but the runs start from a base. Leave it at 1.")

    def default_lanes(self, backend: str) -> int:
        return 1 if backend == "cpu" else self._lanes_in_memory(self.net.whole)

    def widths(self, backend: str) -> tuple[int, ...]:
        return (self.default_lanes(backend),)  # others would take minutes to compile

    def given(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The base's own values: those of the leaves that vary, and running statistics."""
        net = self.net
        statistics = {
            leaf.name: np.asarray(leaf.from_flat(net.base[span]))
            for leaf, span in net.whole.spec.spans()
            if normalization.is_statistic(leaf.name)
        }
        return net.start, statistics

    def start(self, key: jax.Array, hyper: dict[str, jax.Array], given: Any) -> tuple[Any, Any]:
        del key
        vector, statistics = given
        return vector, (self.recipe.transformation(hyper, jnp.float32(0.0)).init(vector), statistics)

    def vector(self, params: jax.Array) -> jax.Array:
        return params

    @functools.cached_property
    def _has_statistics(self) -> bool:
        return not normalization.trainable(self.net.whole.spec).all()

    @functools.cached_property
    def prepares(self) -> bool:
        """Whether the frozen layers before the first trained one run once per training image, and not at every step.

        They can where they give the same at every step: images are not augmented, and statistics do not move.
        """
        if not self.net.frozen or self.augment != "none":
            return False
        if self._has_statistics and self.statistics != "frozen":
            return False
        copies = len(jax.devices()) if jax.default_backend() == "cpu" else 1
        return 4 * self.num_examples * self.net.prepared_size * copies <= _PREPARED_BYTES

    def load(self, dataset: Dataset, mesh: Mesh) -> RunData:
        """The training set, or the frozen layers' outputs, on every device."""
        labels = np.asarray(dataset.train_labels, np.int32)
        frozen, labels = jax.device_put((self.net.frozen, labels), parallel.replicated(mesh))
        if self.prepares:
            return RunData(PartialData(frozen, labels, None, self._prepared(dataset, mesh)))
        return RunData(PartialData(frozen, labels, super().load(dataset, mesh).shared, None))

    def _prepared(self, dataset: Dataset, mesh: Mesh) -> Any:
        program = parallel.map_rows(lambda frozen, images: self.net.bind(frozen).prepare(images), mesh)
        step, count = _PREPARED_TILE * mesh.size, len(dataset.train_images)
        parts = []
        for start in range(0, count, step):
            tile = parallel.pad_rows(dataset.train_images[start : start + step], min(step, count))
            images = standardise(tile, dataset.scale, dataset.shift)
            parts.append(jax.tree.map(np.asarray, program(self.net.frozen, images)))
        whole = jax.tree.map(lambda *tiles: np.concatenate(tiles)[:count], *parts)
        return jax.device_put(whole, parallel.replicated(mesh))

    def update(self, state: RunState, data: RunData, step: jax.Array, carry: tuple[Any, Any]):
        vector, (opt_state, statistics) = carry
        inputs, labels = self.batch(data, state.words, step)
        forward = functools.partial(self._outputs, self.net.bind(data.shared.frozen), statistics, inputs)
        (loss, statistics), gradient = self._gradient(forward, vector, labels, step, state.hyper)
        vector, opt_state = self._optimized(state, step, gradient, vector, opt_state)
        if not normalization.trainable(self.net.spec).all():
            parts: list[Any] = [
                leaf.to_flat(statistics[leaf.name]) if leaf.name in statistics else vector[span]
                for leaf, span in self.net.spec.spans()
            ]
            vector = jnp.concatenate(parts)
        return loss, (vector, (opt_state, statistics))

    def _outputs(self, net: nets.PartialNet, statistics: dict[str, jax.Array], inputs: Any, vector, training: bool):
        """Logits, and the statistics after the batch."""
        if self.prepares:
            return net.apply(vector, inputs), statistics
        params: Any = net.params(vector)
        for name, value in statistics.items():
            *path, last = name.split("/")
            functools.reduce(operator.getitem, path, params)[last] = value
        logits, moved = self._forward(params, inputs, training)
        return logits, {name: functools.reduce(operator.getitem, name.split("/"), moved) for name in statistics}

    def batch(self, data: RunData, words: jax.Array, step: jax.Array) -> tuple[Any, jax.Array]:
        """Standardised images `[B, H, W, C]`, or the frozen layers' outputs, and labels `[B]` of a step."""
        if not self.prepares:
            return super().batch(RunData(data.shared.examples), words, step)
        rows = self.rows(data, words, step)
        return jax.tree.map(lambda x: x[rows], data.shared.prepared), data.shared.labels[rows]
