"""Suite `sample`: drawing networks from P-diff, in samples per second, over a few timesteps that stand for all."""

from __future__ import annotations

import functools

import jax
import numpy as np

from configs import generators as settings
from jaxweights import generators, parallel
from jaxweights.population import Population
from launch.benchmarks import measure, networks
from launch.benchmarks.measure import Case, Work

SAMPLES, TIMESTEPS = 200, 20


def cases() -> list[Case]:
    """P-diff at the demo's and at the published size, on the digits MLP's weights."""
    return [
        Case(
            f"P-diff ({name}), {SAMPLES} samples, {TIMESTEPS} timesteps",
            "samples/s",
            None,
            {"ours": functools.partial(_ours, config), "plain_jax": functools.partial(_one_at_a_time, config)},
        )
        for name, config in (("demo size", settings.pdiff_small()), ("published size", settings.pdiff()))
    ]


def _state(config):
    """An untrained generator: the arithmetic is that of a trained one."""
    generator = generators.build("pdiff", {**config.to_dict(), "num_timesteps": TIMESTEPS})
    net = networks.DIGITS.net
    rows = np.random.default_rng(0).normal(size=(64, net.spec.num_params)).astype(np.float32)
    _, constants = generator.prepare(Population.create(rows, net.spec))
    state = {"constants": constants}
    for stage in generator.stages():
        params, model_state = stage.init(jax.random.key(0), state)
        state = {**state, stage.name: {"params": params, "model_state": model_state}}
    return generator, jax.tree.map(np.asarray, state)


def _ours(config) -> Work:
    generator, state = _state(config)
    mesh = parallel.make_mesh()
    keys = jax.random.split(jax.random.key(1), SAMPLES)
    _, seconds, mib = measure.compiled(jax.jit(generator.sample), state, keys)
    program = parallel.map_rows(generator.sample, mesh)

    def run(times):
        for _ in range(times):
            jax.block_until_ready(program(state, keys))

    return Work(run, lambda times: times * SAMPLES, seconds, mib)


def _one_at_a_time(config) -> Work:
    """The published way: one network after the other."""
    generator, state = _state(config)
    program = jax.jit(generator.sample)

    def run(times):
        for i in range(times):
            jax.block_until_ready(program(state, jax.random.split(jax.random.key(i), 1)))

    return Work(run, float)
