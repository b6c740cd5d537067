"""Runs that continue from a base network and train some of its leaves: P-diff's populations.

Published (arXiv 2402.13144, `finetune.py` of each tag): a base is trained, a few of its tensors are trained on with all
others frozen, and these are kept after every step. What batch normalisation does meanwhile depends on whether a script
tests inside its loop, which switches the network to evaluation for good: `Recipe.statistics`.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel
from jaxweights.data import Dataset, standardise
from jaxweights.errors import UserError
from jaxweights.nn import normalization
from jaxweights.zoo.recipe import Distribution, Recipe
from jaxweights.zoo.trainer import RunState, TrainData, Trainer

_TRUNK_BYTES = 2 << 30  # of what is kept of a training set, over all devices of a CPU or on each accelerator
_TRUNK_TILE = 64  # images prepared together on a device


class PartialData(NamedTuple):
    """What runs read besides their state; `examples` or `trunk` is None.

    Attributes:
      frozen: the base's leaves (`TaskNet.frozen`), an argument of programs and not a constant in them.
      labels: `[n]` int32.
      examples: the training set.
      trunk: what the frozen layers before the first trained one make of it, arrays `[n, ...]`.
    """

    frozen: Any
    labels: jax.Array
    examples: TrainData | None
    trunk: Any


@dataclasses.dataclass(frozen=True)
class PartialTrainer(Trainer):
    """Trains chunks of runs of a `nets.PartialNet`; the interface is `Trainer`'s. Parameters are the flat vector.

    Running statistics are part of a run's state, and of its vectors only where the network's chosen leaves are.
    """

    net: nets.PartialNet

    def init(self, seed: int, run_ids: np.ndarray, first: Any = None) -> RunState:
        """Initial states: the base's own values."""
        del first
        net = self.net
        statistics = {
            leaf.name: np.asarray(leaf.from_flat(net.base[span]))
            for leaf, span in net.whole.spec.spans()
            if normalization.is_statistic(leaf.name)
        }
        return super().init(seed, run_ids, (net.start, statistics))

    def _start(self, key: jax.Array, hyper: dict[str, jax.Array], first: Any) -> tuple[Any, Any]:
        del key
        vector, statistics = first
        return vector, (self.recipe.transformation(hyper, jnp.float32(0.0)).init(vector), statistics)

    def _vector(self, params: jax.Array) -> jax.Array:
        return params

    @functools.cached_property
    def _has_statistics(self) -> bool:
        return not normalization.trainable(self.net.whole.spec).all()

    @functools.cached_property
    def keeps_trunk(self) -> bool:
        """Whether the frozen layers before the first trained one run once per training image, and not at every step.

        They can where they give the same at every step: images are not augmented, and statistics do not move.
        """
        if not self.net.frozen or self.recipe.augment != "none":
            return False
        if self._has_statistics and self.recipe.statistics != "frozen":
            return False
        copies = self.mesh.size if jax.default_backend() == "cpu" else 1
        return 4 * self.num_examples * self.net.prepared_size * copies <= _TRUNK_BYTES

    def load(self, dataset: Dataset) -> PartialData:
        """The training set, or what the frozen layers make of it, on every device."""
        labels = np.asarray(dataset.train_labels, np.int32)
        frozen, labels = jax.device_put((self.net.frozen, labels), parallel.replicated(self.mesh))
        if self.keeps_trunk:
            return PartialData(frozen, labels, None, self._trunk(dataset))
        return PartialData(frozen, labels, super().load(dataset), None)

    def _trunk(self, dataset: Dataset) -> Any:
        program = parallel.map_rows(lambda frozen, images: self.net.bind(frozen).prepare(images), self.mesh)
        step, count = _TRUNK_TILE * self.mesh.size, len(dataset.train_images)
        parts = []
        for start in range(0, count, step):
            tile = parallel.pad_rows(dataset.train_images[start : start + step], min(step, count))
            images = standardise(tile, dataset.scale, dataset.shift)
            parts.append(jax.tree.map(np.asarray, program(self.net.frozen, images)))
        whole = jax.tree.map(lambda *tiles: np.concatenate(tiles)[:count], *parts)
        return jax.device_put(whole, parallel.replicated(self.mesh))

    def _update(self, state: RunState, data: PartialData, step: jax.Array, carry):
        vector, (opt_state, statistics) = carry
        inputs, labels = self.batch(data, state.words, step)
        forward = functools.partial(self._outputs, self.net.bind(data.frozen), statistics, inputs)
        (loss, statistics), gradient = self._gradient(forward, vector, labels, step)
        vector, opt_state = self._descend(state, step, gradient, vector, opt_state)
        if not normalization.trainable(self.net.spec).all():
            parts = [
                leaf.to_flat(statistics[leaf.name]) if leaf.name in statistics else vector[span]
                for leaf, span in self.net.spec.spans()
            ]
            vector = jnp.concatenate(parts)
        return loss, (vector, (opt_state, statistics))

    def _outputs(self, net: nets.PartialNet, statistics: dict[str, jax.Array], inputs: Any, vector, training: bool):
        """Logits, and the statistics after the batch."""
        if self.keeps_trunk:
            return net.apply(vector, inputs), statistics
        params = net.params(vector)
        for name, value in statistics.items():
            *path, last = name.split("/")
            functools.reduce(operator.getitem, path, params)[last] = value
        logits, moved = super()._forward(params, inputs, training)
        return logits, {name: functools.reduce(operator.getitem, name.split("/"), moved) for name in statistics}

    def batch(self, data: PartialData, words: jax.Array, step: jax.Array) -> tuple[Any, jax.Array]:
        """Standardised images `[B, H, W, C]`, or what the frozen layers make of them, and labels `[B]` of a step."""
        if not self.keeps_trunk:
            return super().batch(data.examples, words, step)
        rows = self._rows(words, step)
        return jax.tree.map(lambda x: x[rows], data.trunk), data.labels[rows]


def check_start(net: nets.TaskNet, recipe: Recipe) -> None:
    """Raises `UserError` unless runs of this recipe can start where the network says: at a base if there is one."""
    base = isinstance(net, nets.PartialNet)
    if base and recipe.start != "base":
        raise UserError(
            f"There is a base network, but zoo.start is {recipe.start!r}. Set it to base, or zoo.base.epochs to 0 and "
            "zoo.base.import_npz and zoo.subset to nothing."
        )
    if not base and recipe.start == "base":
        raise UserError("zoo.start is 'base', but there is none. Set zoo.base.epochs, or zoo.base.import_npz.")
    if base and dict(recipe.hyper)["init_scale"] != Distribution("constant", (1.0,)):
        raise UserError("zoo.init_scale scales initialisations, but the runs start from a base. Leave it at 1.")
