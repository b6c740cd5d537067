"""Suite `audit`: all-pairs comparisons of populations, in pairs per second."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from jaxweights import nets, parallel, tasks
from jaxweights.auditing.alignment import matching
from jaxweights.auditing.alignment.canonical import stored_groups
from jaxweights.auditing.distances import euclidean, similarity
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, WeightSpec
from launch.benchmarks import measure, networks
from launch.benchmarks.measure import Case, Work

MODELS, EXAMPLES, PARAMETERS = 5000, 10_000, 3000
PAIRS = 512


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
        *(_matching_case(name, net) for name, net in _matched().items()),
    ]


def _matched() -> dict[str, nets.TaskNet]:
    """Networks whose pairs are matched, by name."""
    resnet = {"name": "resnet18", "widths": (16, 32), "depths": (1, 1), "stem": "cifar"}
    return {
        "MLP 64-64-64-10": tasks.build({"name": "mlp", "hidden": (64, 64)}, (8, 8, 1), 10),
        "CNN": networks.CNN.net,
        "ResNet of widths 16, 32": tasks.build(resnet, (16, 16, 3), 10),
    }


def _matching_case(name: str, net: nets.TaskNet) -> Case:
    """Pairs of independent initialisations, the harder case: copies need fewer sweeps."""
    build = {"ours": functools.partial(_match, net), "plain_jax": functools.partial(_match_on_host, net)}
    return Case(f"weight matching, {name}", "pairs/s", None, build)


def _pairs(net: nets.TaskNet) -> tuple[np.ndarray, np.ndarray]:
    vectors = np.asarray(jax.vmap(net.init)(jax.random.split(jax.random.key(0), 2 * PAIRS)))
    return vectors[:PAIRS], vectors[PAIRS:]


def _match(net: nets.TaskNet) -> Work:
    ours, theirs = _pairs(net)

    def run(times):
        for _ in range(times):
            matching.match(net.spec, ours, theirs)

    return Work(run, lambda times: times * float(PAIRS))


def _match_on_host(net: nets.TaskNet) -> Work:
    """git-re-basin's algorithm, pair by pair, with NumPy and SciPy."""
    ours, theirs = (x.astype(np.float64) for x in _pairs(net))
    rng = np.random.default_rng(0)

    def run(rows):
        for i in range(rows):
            rebasin(net.spec, ours[i % PAIRS], theirs[i % PAIRS], rng)

    return Work(run, float)


def rebasin(spec: WeightSpec, ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The orders `[U]` of git-re-basin's weight matching (`src/weight_matching.py`) of two vectors `[P]`."""
    leaves = [
        (ours[span].reshape(leaf.stored_axes), theirs[span].reshape(leaf.stored_axes), stored_groups(leaf))
        for leaf, span in spec.spans()
        if not is_statistic(leaf.name)
    ]
    places = [(i, p, g) for i, (_, _, groups) in enumerate(leaves) for p, g in enumerate(groups) if g != FIXED]
    uses = {g: [(i, p) for i, p, own in places if own == g] for g in range(len(spec.groups))}
    orders, progress = [np.arange(group.size) for group in spec.groups], True
    while progress:
        progress = False
        for group in rng.permutation(len(orders)):
            size = spec.groups[group].size
            score = np.zeros((size, size))
            for leaf, place in uses[group]:
                a, b, groups = leaves[leaf]
                for axis in itertools.chain(range(place), range(place + 1, len(groups))):
                    b = b if groups[axis] == FIXED else np.take(b, orders[groups[axis]], axis=axis)
                a, b = (np.moveaxis(x, place, 0).reshape(size, -1) for x in (a, b))
                score += a @ b.T
            rows, order = linear_sum_assignment(score, maximize=True)
            progress |= bool(score[rows, order].sum() > score[rows, orders[group]].sum() + 1e-12)
            orders[group] = order
    return np.concatenate(orders)


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
    masks = torch.as_tensor(np.unpackbits(_masks(), axis=1).astype(bool))

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
            euclidean.nearest(_vectors(), _vectors(), 1, query_groups=ids, reference_groups=ids, mesh=mesh)

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
    vectors = torch.as_tensor(_vectors())

    def run(times):
        for _ in range(times):
            for start in range(0, MODELS, 1000):
                torch.cdist(vectors[start : start + 1000], vectors).topk(2, largest=False)

    return Work(run, lambda times: times * float(MODELS**2))
