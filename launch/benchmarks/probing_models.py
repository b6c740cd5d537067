"""Cases of the suite `probing`: trainings of an image model on training sets of their own, all together.

In the column of plain JAX are the same model, loss and optimizer in the usual loop over compiled steps, one training
after the other.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
import optax

from jaxweights import parallel
from jaxweights.generators.base import LearnedGenerator
from jaxweights.lanes import LaneTrainer
from jaxweights.population import Population
from jaxweights.probing import models
from jaxweights.probing.data import pixels
from launch.benchmarks.measure import Case, Work

SIDE, TRIALS, ROWS, STEPS = 16, 4, 400, 30
MODELS: dict[str, dict[str, Any]] = {
    "VAE, dense": {"kind": "vae", "size": "fc_tiny", "latents": 16, "batch_size": 32},
    "VAE, convolutions": {"kind": "vae", "size": "tiny", "latents": 16, "batch_size": 32},
    "WGAN, convolutions": {"kind": "wgan", "size": "tiny", "latents": 16, "batch_size": 32, "critic_steps": 1},
}


def cases() -> list[Case]:
    """Four trainings of every model."""
    return [Case(f"{TRIALS} trainings of a {name}, {SIDE} px", "steps/s", None, _builders(name)) for name in MODELS]


def _builders(name: str) -> dict[str, Any]:
    return {"ours": functools.partial(_ours, name), "plain_jax": functools.partial(_plain, name)}


def _model(name: str) -> LearnedGenerator:
    return models.make("model", {**MODELS[name], "steps": STEPS})


@functools.cache
def _pool() -> Population:
    images = np.random.default_rng(0).random((TRIALS * ROWS, SIDE * SIDE * 3), np.float32)
    return Population.create(images, pixels((SIDE, SIDE, 3)), run=np.arange(len(images)))


def _rows() -> np.ndarray:
    return np.arange(TRIALS * ROWS).reshape(TRIALS, ROWS)


def _keys() -> jax.Array:
    return jax.random.split(jax.random.key(0), TRIALS)


def _work(run: Any) -> Work:
    return Work(run, lambda times: times * TRIALS * STEPS)


def _ours(name: str) -> Work:
    trainer = LaneTrainer(_model(name), parallel.make_mesh())

    def run(times: int) -> None:
        for _ in range(times):
            trainer.run(_pool(), _keys(), {}, rows=_rows())

    return _work(run)


def _plain(name: str) -> Work:
    model = _model(name)
    stage, (images, constants) = model.stages()[0], model.prepare(_pool())
    done = {"constants": constants}

    @jax.jit
    def step(params: Any, state: Any, opt_state: Any, batch: jax.Array, key: jax.Array) -> tuple[Any, Any, Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            value, (changed, _) = stage.loss(params, state, done, batch, jax.random.split(key, len(batch)), None)
            return value, changed

        gradient, changed = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = stage.optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), changed, opt_state

    init = jax.jit(lambda key: stage.init(key, done))

    def run(times: int) -> None:
        for own, key in [pair for _ in range(times) for pair in zip(_rows(), _keys(), strict=True)]:
            (params, state), rng = init(key), np.random.default_rng(0)
            opt_state = stage.optimizer.init(params)
            for number in range(stage.steps):
                batch = images[rng.choice(own, stage.batch_size, replace=False)]
                params, state, opt_state = step(params, state, opt_state, batch, jax.random.fold_in(key, number))
            jax.block_until_ready(params)

    return _work(run)
