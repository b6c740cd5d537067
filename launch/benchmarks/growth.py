"""Suite `growth`: how the cost of comparisons grows with the number of networks, their parameters and their width."""

from __future__ import annotations

import functools

import jax
import numpy as np

from jaxweights import parallel, tasks
from jaxweights.auditing.alignment import hidden_layer, matching
from jaxweights.auditing.distances import euclidean
from jaxweights.nets import TaskNet
from launch.benchmarks.measure import Case, Work

MODELS, WIDTH, INPUTS = 2000, 16, (8, 8, 1)
PAIRS = 2048  # more numbers than are matched without a compiled program


def cases() -> list[Case]:
    """Nearest networks, aligned ones and matching; one number changes at a time."""
    raw = [(n, p) for n in (1000, 4000, 16_000) for p in (1210,)] + [(MODELS, p) for p in (300, 5000, 80_000)]
    aligned = [(n, WIDTH, 8) for n in (1000, 4000)]
    aligned += [(MODELS // 2, width, 8) for width in (8, 32, 64)] + [(MODELS // 2, WIDTH, side) for side in (16, 28)]
    return [
        *(Case(f"nearest L2, {n} x {n}, {p} parameters", "pairs/s", 2.0 * p, _ours(_nearest, n, p)) for n, p in raw),
        *(
            Case(
                f"aligned nearest, {n} x {n}, MLP {side**2}-{width}-10",
                "pairs/s",
                None,
                _ours(_aligned, n, width, side),
            )
            for n, width, side in aligned
        ),
        *(
            Case(f"weight matching, MLP 64-{width}-{width}-10", "pairs/s", None, _ours(_match, width))
            for width in (8, 16, 32, 64, 128)
        ),
    ]


def _ours(build, *arguments):
    return {"ours": functools.partial(build, *arguments)}


def _networks(net: TaskNet, count: int) -> np.ndarray:
    """`[count, P]` independent initialisations."""
    return np.asarray(jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), count)))


def _nearest(models: int, parameters: int) -> Work:
    vectors = np.random.default_rng(0).normal(size=(models, parameters)).astype(np.float32)
    mesh, ids = parallel.make_mesh(), np.arange(models)

    def run(times):
        for _ in range(times):
            euclidean.nearest(vectors, vectors, 1, ids, ids, mesh=mesh)

    return Work(run, lambda times: times * float(models**2))


def _aligned(models: int, width: int, side: int) -> Work:
    net = tasks.build({"name": "mlp", "hidden": (width,)}, (side, side, 1), 10)
    vectors, (units, rest) = _networks(net, models), net.spec.units(0)
    mesh, ids = parallel.make_mesh(), np.arange(models)

    def run(times):
        for _ in range(times):
            hidden_layer.aligned_nearest(vectors, vectors, units, rest, 1, ids, ids, mesh=mesh)

    return Work(run, lambda times: times * float(models**2))


def _match(width: int) -> Work:
    net = tasks.build({"name": "mlp", "hidden": (width, width)}, INPUTS, 10)
    vectors = _networks(net, 2 * PAIRS)

    def run(times):
        for _ in range(times):
            matching.match(net.spec, vectors[:PAIRS], vectors[PAIRS:])

    return Work(run, lambda times: times * float(PAIRS))
