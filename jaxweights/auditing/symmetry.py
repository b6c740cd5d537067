"""Does an autoencoder of weights know which changes of the weights leave the function alone?

Reordered, rescaled or sign-flipped hidden units make another weight vector of the same network. An autoencoder that
has learnt this reconstructs both vectors as the same function; one that stores weight vectors does not (Zeng et al.
2025, arXiv 2506.07998, the experiment on symmetries). Reconstructions of different networks give the scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, parallel
from jaxweights.auditing import statistics
from jaxweights.auditing.distances import similarity
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation, evaluate
from jaxweights.spec import WeightSpec

ORIGINAL = "original"
PERMUTED, RESCALED, SIGN_FLIPPED = "permuted", "rescaled", "sign_flipped"
MEASURES = ("accuracy_difference", "error_dissimilarity")
_SCALED = {"positive": RESCALED, "sign": SIGN_FLIPPED}
_MIN_NETWORKS = 2


def transformations(spec: WeightSpec) -> tuple[str, ...]:
    """The transformations that keep every function of a network: reorderings, and rescalings or sign flips if any."""
    found = {group.scaling for group in spec.groups}
    return (PERMUTED,) * bool(spec.groups) + tuple(name for kind, name in _SCALED.items() if kind in found)


def applicable(controls: Iterable[str], spec: WeightSpec) -> list[str]:
    """The controls that networks of a spec can have: `permuted_copy`, `rescaled_copy` and `sign_flipped_copy` need the
    symmetry that they show."""
    absent = {PERMUTED, *_SCALED.values()} - set(transformations(spec))
    return [name for name in controls if name.removesuffix("_copy") not in absent]


def transform(
    spec: WeightSpec, weights: np.ndarray, kind: str, mesh: Mesh, key: jax.Array, log_std: float = 0.5
) -> np.ndarray:
    """Transforms all hidden units of every network at random, each network in its own way.

    Args:
      spec: meaning of the vectors.
      weights: `[n, P]` float32.
      kind: one of `transformations(spec)`.
      mesh: networks are sharded over it.
      key: PRNG key of the draws; a network's draw depends on its row and n alone.
      log_std: standard deviation of the logarithm of a positive scale.

    Returns:
      `[n, P]` float32, the same functions up to rounding.
    """

    def one(row):
        own, vector = row
        if kind == PERMUTED:
            return spec.permute(vector, spec.random_permutation(own))
        return spec.rescale(vector, spec.random_scales(own, log_std))

    rows = jax.random.split(key, len(weights)), np.asarray(weights, np.float32)
    return np.asarray(parallel.map_rows(lambda _, rows: jax.lax.map(one, rows), mesh)((), rows))


def study(
    net: nets.TaskNet,
    weights: np.ndarray,
    reconstruct: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    mesh: Mesh,
    key: jax.Array,
    log_std: float = 0.5,
    resamples: int = statistics.RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Compares the reconstructions of networks with those of the same networks with transformed hidden units.

    The row "original" is the same comparison between reconstructions of different networks as they are. Its pairs are
    the neighbours on one random cycle through all networks, so that none is paired with itself and every one is the
    first of one pair and the second of another.

    Args:
      net: the task network.
      weights: `[n, P]` float32, at least two networks. Give one checkpoint per run, or some "original" pairs are
        checkpoints of one run.
      reconstruct: `[m, P]` to `[m, P]`.
      images: `[T, H, W, C]` float32, standardised.
      labels: `[T]` integers.
      mesh: networks are sharded over it.
      key: PRNG key of the transformations.
      log_std: standard deviation of the logarithm of a positive scale; of our choosing, the paper's is not public.
      resamples: number of bootstrap resamples.
      rng: random generator or seed of the pairs and of the bootstrap.

    Returns:
      The metrics, JSON data: `n`; `rows.<row>.accuracy_difference` (mean |difference| in percentage points) and
      `.error_dissimilarity` (1 - mean IoU of the two sets of misclassified examples), each `{"mean", "ci95", "n"}`;
      `function_change.<transformation>`, the largest |difference| in percentage points that the transformation makes
      to the accuracy of the networks themselves: 0 up to predictions that rounding decides. And the arrays:
      `symmetry/<row>/<measure>`, `[n]` float64, one value per network (or pair).

    Raises:
      UserError: there are fewer than two networks, or reconstructions of another shape.
    """
    weights = np.asarray(weights, np.float32)
    count = len(weights)
    if count < _MIN_NETWORKS:
        raise UserError(
            f"The symmetry study got {count} networks, but pairs of different ones need at least {_MIN_NETWORKS}. Give "
            "it more networks."
        )
    rng = np.random.default_rng(rng)

    def measure(vectors):
        return evaluate(net, vectors, images, labels, mesh)

    def measure_reconstructed(vectors):
        found = np.asarray(reconstruct(vectors), np.float32)
        if found.shape != vectors.shape:
            raise UserError(
                f"The autoencoder turned weights of shape {vectors.shape} into shape {found.shape}. Use it with "
                "networks of the kind that it was trained on."
            )
        return measure(found)

    itself, reconstructed = measure(weights), measure_reconstructed(weights)
    order = rng.permutation(count)
    partner = np.empty(count, np.int64)
    partner[order] = np.roll(order, -1)
    values = {ORIGINAL: _compare(reconstructed, Evaluation(*(x[partner] for x in reconstructed)), len(labels))}
    change = {}
    for number, kind in enumerate(transformations(net.spec)):
        transformed = transform(net.spec, weights, kind, mesh, jax.random.fold_in(key, number), log_std)
        change[kind] = float(np.max(_points(measure(transformed), itself)))
        values[kind] = _compare(reconstructed, measure_reconstructed(transformed), len(labels))
    rows = {
        row: {name: statistics.bootstrap_mean(x, resamples, rng).to_json("mean") for name, x in measured.items()}
        for row, measured in values.items()
    }
    arrays = {f"symmetry/{row}/{name}": x for row, measured in values.items() for name, x in measured.items()}
    return {"n": count, "rows": rows, "function_change": change}, arrays


def _points(a: Evaluation, b: Evaluation) -> np.ndarray:
    """`[n]` |difference| of accuracies in percentage points."""
    return 100.0 * np.abs(a.accuracy - b.accuracy)


def _compare(a: Evaluation, b: Evaluation, num_examples: int) -> dict[str, np.ndarray]:
    """The measures of every pair of rows, `[n]` each."""
    pairs = zip(a.errors, b.errors, strict=True)
    iou = [similarity.error_iou(x[None, :], y[None, :], num_examples)[0, 0] for x, y in pairs]
    return dict(zip(MEASURES, (_points(a, b), 1.0 - np.array(iou)), strict=True))
