"""Suite `audit`: all-pairs comparisons of populations, in pairs per second."""

from __future__ import annotations

import functools

import numpy as np

from jaxweights import parallel
from jaxweights.auditing import distances, similarity
from launch.benchmarks import measure
from launch.benchmarks.measure import Case, Work

MODELS, EXAMPLES, PARAMETERS = 5000, 10_000, 3000


def cases() -> list[Case]:
    """Error IoU and nearest neighbours; the suite `gpt` has aligned ones."""
    return [
        Case(
            f"error IoU, {MODELS} x {MODELS}, {EXAMPLES} examples",
            "pairs/s",
            2.0 * EXAMPLES,
            {"ours": _iou, "plain_jax": _iou_broadcast_numpy, "torch_loop": _iou_broadcast_torch},
        ),
        Case(
            f"nearest L2, {MODELS} x {MODELS}, {PARAMETERS} parameters",
            "pairs/s",
            2.0 * PARAMETERS,
            {"ours": _nearest, "plain_jax": _nearest_numpy, "torch_loop": _nearest_torch},
        ),
    ]


@functools.cache
def _masks() -> np.ndarray:
    """`[MODELS, EXAMPLES / 8]` packed error masks with 6 % errors."""
    rng = np.random.default_rng(0)
    return np.packbits(rng.random((MODELS, EXAMPLES), np.float32) < 0.06, axis=1)


def _iou() -> Work:
    mesh = parallel.make_mesh()
    ids = np.arange(MODELS)

    def run(times):
        for _ in range(times):
            similarity.max_error_iou(_masks(), _masks(), EXAMPLES, ids, ids, mesh=mesh)

    return Work(run, lambda times: times * float(MODELS**2))


def _iou_broadcast_numpy() -> Work:
    """A row of models against all, as boolean arrays; the rate of a few rows stands for all."""
    masks = np.unpackbits(_masks(), axis=1).astype(bool)

    def run(rows):
        for i in range(rows):
            i %= MODELS
            inter = (masks[i][None] & masks).sum(axis=1)
            union = (masks[i][None] | masks).sum(axis=1)
            (inter / (union + 1e-8)).max()

    return Work(run, lambda rows: rows * float(MODELS))


def _iou_broadcast_torch() -> Work | None:
    """The published form: blocks of models broadcast against all."""
    torch = measure.torch()
    if torch is None:
        return None
    masks = torch.from_numpy(np.unpackbits(_masks(), axis=1).astype(bool))

    def run(rows):
        for i in range(rows):
            i %= MODELS
            inter = (masks[i : i + 1, None] & masks[None]).sum(dim=2)
            union = (masks[i : i + 1, None] | masks[None]).sum(dim=2)
            (inter / (union + 1e-8)).amax(dim=1)

    return Work(run, lambda rows: rows * float(MODELS))


@functools.cache
def _vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(MODELS, PARAMETERS)).astype(np.float32)


def _nearest() -> Work:
    mesh = parallel.make_mesh()
    ids = np.arange(MODELS)

    def run(times):
        for _ in range(times):
            distances.nearest(_vectors(), _vectors(), 1, query_groups=ids, reference_groups=ids, mesh=mesh)

    return Work(run, lambda times: times * float(MODELS**2))


def _nearest_numpy() -> Work:
    """Differences of one query with all, row by row: exact, as ours is."""
    vectors = _vectors()

    def run(rows):
        for i in range(rows):
            i %= MODELS
            gap = vectors - vectors[i]
            squared = np.einsum("ij,ij->i", gap, gap)
            squared[i] = np.inf
            squared.argmin()

    return Work(run, lambda rows: rows * float(MODELS))


def _nearest_torch() -> Work | None:
    """`torch.cdist` in blocks with its default, which is not exact for near duplicates."""
    torch = measure.torch()
    if torch is None:
        return None
    vectors = torch.from_numpy(_vectors())

    def run(times):
        for _ in range(times):
            for start in range(0, MODELS, 1000):
                torch.cdist(vectors[start : start + 1000], vectors).topk(2, largest=False)

    return Work(run, lambda times: times * float(MODELS**2))
