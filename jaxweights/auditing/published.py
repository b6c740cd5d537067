"""The evaluation of arXiv 2506.07998 for autoencoders of weights (Hyper-Representations), as published.

It differs from the audit of this package in what stands for the training networks: their *reconstructions* by the
autoencoder, at every checkpoint for the error similarity and at the last one for the distances; other checkpoints of
the same run stay in the reference, so training networks look similar to one another. Nothing here is aligned, and there
are no held-out runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets
from jaxweights.auditing import statistics
from jaxweights.auditing.distances import euclidean, similarity
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation, evaluate
from jaxweights.population import Population, last_checkpoints, top_rows

TRAINING, GENERATED, NOISE = "training", "generated", "noise"
"""Kinds of series; the first is also the name of the one series of that kind."""
AMPLITUDES = (0.02, 0.04)
"""Published standard deviations of the noise series, in the units of the weights."""
TOP = 0.3
"""Published share of the networks that noise is added to."""


def noise_name(amplitude: float) -> str:
    """Returns the name of the noise series of that amplitude."""
    return f"noise_{amplitude:g}"


def run(
    net: nets.TaskNet,
    images: np.ndarray,
    labels: np.ndarray,
    mesh: Mesh,
    reconstructed: Population,
    generated: Mapping[str, Population],
    *,
    key: jax.Array,
    evaluated: Evaluation | None = None,
    noise: tuple[float, ...] = AMPLITUDES,
    top: float = TOP,
    faithful: bool = False,
    resamples: int = statistics.RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Measures accuracy, distance and error similarity of reconstructions, noisy ones and generated networks.

    The series are "training" (all reconstructions), the generated ones, and one per amplitude of `noise`: the
    reconstructions of the networks with the best recorded accuracies plus normal noise.

    Per series:
      accuracy: test accuracy of every network.
      min_l2: Euclidean distance to the nearest reconstruction of a run's last checkpoint. The series "training" holds
        the distances of these reconstructions among themselves, each without itself, so it is shorter.
      max_error_iou: largest overlap of the misclassified examples with any reconstruction, of all checkpoints; a
        reconstruction is not compared with itself, but with other checkpoints of its run. Two networks without errors
        have overlap 1.

    Args:
      net: task network.
      images: `[T, H, W, C]` float32, standardised.
      labels: `[T]` integers.
      mesh: devices.
      reconstructed: reconstruction of every training row, with run, step and accuracy of the *original* checkpoint.
      generated: generated networks by series name.
      key: PRNG key of the noise; that of a row depends on its place among the reconstructions and on nothing else.
      evaluated: what `evaluate` finds for `reconstructed`, where it is known already.
      noise: amplitudes, absolute.
      top: share of the networks that noise is added to, ties at the quantile included.
      faithful: two networks without errors have overlap 0, as the published formula has it, and the last checkpoints
        are those of the last step of the whole population, without the runs that lack it.
      resamples: number of bootstrap resamples.
      rng: random generator or seed of the bootstrap.

    Returns:
      `{"series": {name: {"kind", "accuracy", "min_l2", "max_error_iou"}}}`: the kind of series, and means with their
      95 % intervals and counts as JSON data; and the numbers behind them as float64 arrays
      `published/<series>/<measure>`.

    Raises:
      UserError: if a generated series has the name of another one, a recorded accuracy is missing, or there are fewer
        than two last checkpoints.
    """
    names = [TRAINING, *(noise_name(amplitude) for amplitude in noise)]
    clash = sorted(set(names) & set(generated))
    if clash or len(set(names)) < len(names):
        raise UserError(
            "The series of the published protocol must have different names, but "
            f"{', '.join(clash) or 'a noise amplitude'} stands twice. Rename the generator or remove the amplitude."
        )
    weights, records = reconstructed.weights, reconstructed.records
    last = records["step"] == records["step"].max() if faithful else last_checkpoints(records)
    if last.sum() < 2:
        raise UserError(
            "The published protocol compares the reconstructions of the runs' last checkpoints with one another, but "
            f"there is {last.sum()}. Train the generator on at least two runs."
        )
    noisy = _noisy(reconstructed, _best(records["accuracy"], top), noise, key)
    reference = evaluate(net, weights, images, labels, mesh) if evaluated is None else evaluated
    rows, last_rows = np.arange(len(weights)), np.flatnonzero(last)
    settings = {"mesh": mesh, "faithful": faithful}
    arrays = {
        f"{TRAINING}/accuracy": reference.accuracy,
        f"{TRAINING}/min_l2": _min_l2(weights[last], weights[last], mesh, (last_rows, last_rows)),
        f"{TRAINING}/max_error_iou": _overlap(reference.errors, reference.errors, len(labels), settings, (rows, rows)),
    }
    series = {name: population.weights for name, population in generated.items()} | noisy
    for name, networks in series.items():
        result = evaluate(net, networks, images, labels, mesh)
        arrays[f"{name}/accuracy"] = result.accuracy
        arrays[f"{name}/min_l2"] = _min_l2(networks, weights[last], mesh)
        arrays[f"{name}/max_error_iou"] = _overlap(result.errors, reference.errors, len(labels), settings)
    rng = np.random.default_rng(rng)
    kinds = {TRAINING: TRAINING} | dict.fromkeys(generated, GENERATED) | dict.fromkeys(noisy, NOISE)
    metrics: dict[str, Any] = {name: {"kind": kind} for name, kind in kinds.items()}
    for name, values in arrays.items():
        one, measure = name.rsplit("/", 1)
        metrics[one][measure] = statistics.bootstrap_mean(values, resamples, rng).to_json("mean")
    return {"series": metrics}, {f"published/{name}": values for name, values in arrays.items()}


def _best(accuracy: np.ndarray, top: float) -> np.ndarray:
    """Rows whose accuracy is at least the (1 - top)-quantile with linear interpolation."""
    if not 0.0 < top <= 1.0:
        raise UserError(f"The share of networks that noise is added to is {top}; it must be above 0 and at most 1.")
    if np.isnan(accuracy).any():
        raise UserError(
            f"{int(np.isnan(accuracy).sum())} of {len(accuracy)} reconstructions have no recorded accuracy of the "
            "original network, so the best cannot be chosen. Evaluate the training population first."
        )
    return top_rows(accuracy, top)


def _noisy(
    reconstructed: Population, rows: np.ndarray, amplitudes: tuple[float, ...], key: jax.Array
) -> dict[str, np.ndarray]:
    """Adds fresh noise of every amplitude to some rows; by series name `[R, P]` float32."""
    width = reconstructed.weights.shape[1]
    draw = jax.jit(jax.vmap(lambda key, row: jax.random.normal(jax.random.fold_in(key, row), (width,)), (None, 0)))
    noisy = {}
    for number, amplitude in enumerate(amplitudes):
        normals = np.asarray(draw(jax.random.fold_in(key, number), rows.astype(np.uint32)))
        noisy[noise_name(amplitude)] = reconstructed.weights[rows] + np.float32(amplitude) * normals
    return noisy


_Identities = tuple[np.ndarray | None, np.ndarray | None]


def _min_l2(
    queries: np.ndarray, reference: np.ndarray, mesh: Mesh, identities: tuple[np.ndarray | None, ...] = (None, None)
) -> np.ndarray:
    return euclidean.nearest(queries, reference, 1, *identities, mesh=mesh).distances[:, 0]


def _overlap(
    queries: np.ndarray,
    reference: np.ndarray,
    num_examples: int,
    settings: Mapping[str, Any],
    identities: tuple[np.ndarray | None, ...] = (None, None),
) -> np.ndarray:
    return similarity.max_error_iou(queries, reference, num_examples, *identities, **settings).values
