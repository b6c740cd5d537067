"""Training of one small model per collection, all of them together: one program, one loop, the generators' own."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.errors import UserError
from jaxweights.generators.base import Stage, keys_for
from jaxweights.settings import Settings, setting
from jaxweights.training import StageTrainer

_WARM_UP = 0.05  # share of the steps over which the learning rate rises


@dataclasses.dataclass(frozen=True)
class FittingSettings(Settings):
    """How a model of a collection is trained: AdamW, a linear warm-up and a cosine.

    Attributes:
      steps: optimizer steps.
      batch_size: images of a collection per step.
      learning_rate: its largest value.
      ema_decay: decay of the averaged parameters, which are used, or None for no average.
    """

    steps: int = setting(2000, at_least=1)
    batch_size: int = setting(64, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    ema_decay: float | None = setting(None, at_least=0, below=1)


def fit_each(
    name: str,
    settings: FittingSettings,
    init: Callable[[jax.Array], Any],
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array],
    examples: Sequence[np.ndarray],
    key: jax.Array,
    mesh: Mesh | None = None,
    folder: pathlib.Path | None = None,
) -> list[Any]:
    """Trains a model of the same kind on every collection.

    Args:
      name: for progress, messages and the folder of checkpoints.
      settings: length and rates.
      init: of a key, the parameters.
      loss: of parameters, examples `[b, ...]` and their keys `[b]`, the mean over the examples.
      examples: `[n, ...]` of every collection; as many of each as the smallest has are used.
      key: PRNG key.
      mesh: devices, all by default.
      folder: folder of checkpoints, from which an interrupted training goes on; None for none.

    Returns:
      The parameters of each model.

    Raises:
      UserError: fewer examples than a batch, or a loss that is not finite.
    """
    models, size = len(examples), min(map(len, examples))
    if size < settings.batch_size:
        raise UserError(
            f"{name} is trained with batches of {settings.batch_size}, but a collection has {size} images. Lower its "
            "batch_size, or give more images."
        )

    def of_all(params, model_state, done, batch, keys, axis_name):
        del done, axis_name
        columns = jnp.swapaxes(batch, 0, 1)
        drawn = jnp.stack([keys_for(keys, model) for model in range(models)])
        # One after the other: on CPU, convolutions with an axis of models are slow grouped ones.
        losses = jax.lax.map(lambda each: loss(*each), (params, columns, drawn))
        return jnp.sum(losses), (model_state, {})

    rate = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, max(1, round(_WARM_UP * settings.steps)), settings.steps + 1
    )
    stage = Stage(
        name=name,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer=optax.adamw(rate, weight_decay=0.0),
        init=lambda key, done: (jax.vmap(init)(jax.random.split(key, models)), {}),
        loss=of_all,
        ema_decay=settings.ema_decay,
    )
    data = np.stack([of[:size] for of in examples], axis=1)
    trainer = StageTrainer(stage, data, {}, parallel.resolve(mesh), key, name)
    params = trainer.run(None if folder is None else folder / name, lambda row: None)["params"]
    return [jax.tree.map(lambda leaf, model=model: leaf[model], params) for model in range(models)]
