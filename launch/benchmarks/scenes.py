"""Scenes of the suite `probing`: images rendered per second.

The published ones were rendered by Blender, with 512 samples per pixel, which is not timed here. In the column of plain
JAX are the same functions under `vmap`: whole images side by side, of which each waits for the one with most objects.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxweights import parallel
from jaxweights.probing.data import ScenePairs, Scenes
from launch.benchmarks.measure import Case, Work

_PIXELS = 1 << 18  # of a batch


def cases() -> list[Case]:
    """Scenes of one to six objects and pairs."""
    listed = [
        ("scenes of 1 to 6 objects, 32 px", Scenes(side=32)),
        ("scenes of 1 to 6 objects, 128 px", Scenes(side=128)),
        ("scenes of two objects, 32 px", ScenePairs(side=32)),
    ]
    return [
        Case(
            name,
            "images/s",
            None,
            {"ours": functools.partial(_ours, data), "plain_jax": functools.partial(_side_by_side, data)},
        )
        for name, data in listed
    ]


def _inputs(data: Scenes | ScenePairs, seed: int) -> tuple[jax.Array, jax.Array]:
    count = _PIXELS // data.side**2
    return jnp.full((count, len(data.features)), jnp.nan), jax.random.split(jax.random.key(seed), count)


def _ours(data: Scenes | ScenePairs) -> Work:
    return _work(data, lambda values, keys: data.render(values, keys))


def _side_by_side(data: Scenes | ScenePairs) -> Work:
    one = jax.vmap(lambda value, key: data.render(value[None], key[None]))
    return _work(data, lambda values, keys: one(values, keys))


def _work(data: Scenes | ScenePairs, render) -> Work:
    program = parallel.map_rows(lambda _, rows: render(*rows), parallel.make_mesh())
    batch = len(_inputs(data, 0)[0])

    def run(times: int) -> None:
        for time in range(times):
            jax.block_until_ready(program((), _inputs(data, time)))

    return Work(run, lambda times: times * batch)
