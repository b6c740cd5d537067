"""Suite `probing`: sampling of PixelCNN++ at 32 pixels, with cached activations and by the published loop.

In the column of plain JAX is a pass of the whole network per pixel. All passes cost the same, so some of them are timed
and counted as parts of an image.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights.probing.models.pixelcnn import PixelCNN, logistics, network
from jaxweights.probing.models.pixelcnn.generator import FIRST, STAGE
from launch.benchmarks.measure import Case, Work

SHAPE = (32, 32, 3)
SMALL: dict[str, Any] = {"resnets": 1, "filters": 16, "mixtures": 5}


def cases() -> list[Case]:
    """The size that trains on two cores, and the published one."""
    listed = (("16 filters", PixelCNN(**SMALL), 64), ("published size", PixelCNN(), 4))
    return [
        Case(
            f"PixelCNN++, {name}, {count} images of 32 px",
            "images/s",
            None,
            {"ours": functools.partial(_ours, model, count), "plain_jax": functools.partial(_naive, model, count)},
        )
        for name, model, count in listed
    ]


def _state(model: PixelCNN) -> dict:
    images = np.random.default_rng(0).uniform(size=(model.init_batch_size, *SHAPE)).astype(np.float32)
    constants = {FIRST: images}
    (stage,) = model.stages()
    params, model_state = jax.jit(stage.init)(jax.random.key(0), {"constants": constants})
    return {"constants": constants, STAGE: {"params": params, "model_state": model_state}}


def _ours(model: PixelCNN, count: int) -> Work:
    state, draw = _state(model), jax.jit(lambda state, keys: model.draw(state, keys, SHAPE))

    def run(times: int) -> None:
        for time in range(times):
            jax.block_until_ready(draw(state, jax.random.split(jax.random.key(time), count)))

    return Work(run, lambda times: times * count)


def _naive(model: PixelCNN, count: int) -> Work:
    height, width, _ = SHAPE
    params = _state(model)[STAGE]["params"]
    noise = logistics.noise(jax.random.split(jax.random.key(0), count), SHAPE, model.mixtures)

    @jax.jit
    def draw(params, images, noise, passes):
        def one(place, images):
            row, column = place // width % height, place % width
            outputs = network.network(model.architecture, params, images)[0][:, row, column]
            pixel = logistics.draw(outputs, jax.tree.map(lambda x: x[row, column], noise))
            return images.at[:, row, column].set(pixel)

        return lax.fori_loop(0, passes, one, images)

    def run(times: int) -> None:
        jax.block_until_ready(draw(params, jnp.zeros((count, *SHAPE)), noise, times))

    return Work(run, lambda times: times * count / (height * width))
