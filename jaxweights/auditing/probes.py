"""Linear probes: how well a network's accuracy and the like can be read off a vector of features.

The ridge regression follows the probes of Hyper-Representations (Schürholt et al. 2022, arXiv 2209.14733): a constant
feature that is penalised like the others, the strengths of `STRENGTHS`, and R^2 against the mean of the split that is
predicted. The published code chooses the strength on a validation split, or, where the data set has none, by the
training R^2 itself. The baseline features are the weight statistics of Unterthiner et al. 2020 (arXiv 2002.11448).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.auditing.rows import row_blocks
from jaxweights.errors import UserError
from jaxweights.spec import WeightSpec

STRENGTHS = (1e3, 3e2, 1e2, 3e1, 1e1, 3e0, 1e0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Published penalties of the squared coefficients, added to the features' scatter matrix as they are."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)

FOLDS = 5
_SELECTIONS = ("validation", "training")
_BLOCK_BYTES = 1 << 22  # weights at a time, so that their sorted copies stay in cache


def probe(
    features_train: np.ndarray,
    target_train: np.ndarray,
    features_test: np.ndarray,
    target_test: np.ndarray,
    runs_train: np.ndarray,
    *,
    select: str = "validation",
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    folds: int = FOLDS,
) -> dict[str, Any]:
    """Fits a ridge regression in float64 and reports how much of the target it explains.

    Rows whose target is NaN are left out. The test rows never choose anything.

    Args:
      features_train: `[N, F]` floats.
      target_train: `[N]` floats.
      features_test: `[M, F]` floats.
      target_test: `[M]` floats.
      runs_train: `[N]` run of every training row; checkpoints of one run stay on one side of every fold.
      select: "validation" chooses the strength by the R^2 of predictions for rows of runs that the fit has not seen;
        "training" by the training R^2, as the published code does without a validation split; that is the weakest one.
      validation: `(features [V, F], target [V])` of other runs to choose by, as the published code does where there is
        such a split; `None` predicts every training row from the other folds instead. Not used by "training".
      folds: parts that the runs are dealt into; no more than there are runs.

    Returns:
      `{"r2_train", "r2_test", "r2_validation", "strength", "n_train", "n_test"}`; the fit is one on all training rows,
      and `r2_validation` is None for "training". R^2 is 1 for a perfect prediction and 0 for the mean of the split; it
      may be negative.

    Raises:
      UserError: if shapes do not fit, a feature is not finite, the targets of a split are fewer than two or all equal,
        or all training rows are of one run and there is no validation split.
      ValueError: if `select` is unknown.
    """
    if select not in _SELECTIONS:
        raise ValueError(f"select must be one of {_SELECTIONS}, got {select!r}")
    runs = np.asarray(runs_train)
    if runs.shape != np.shape(target_train):
        raise UserError(f"There are {runs.shape} runs for {np.shape(target_train)} training targets. Give one per row.")
    runs = runs[~np.isnan(np.asarray(target_train, np.float64))]
    x, y = _checked(features_train, target_train, "training")
    x_test, y_test = _checked(features_test, target_test, "test", x.shape[1])
    predict = _fit(x, y)
    r2_train = r_squared(predict(x), y)
    r2_validation = None
    if select == "training":
        best = int(np.argmax(r2_train))
    else:
        if validation is None:
            scores = r_squared(_out_of_fold(x, y, runs, folds), y)
        else:
            x_validation, y_validation = _checked(*validation, "validation", x.shape[1])
            scores = r_squared(predict(x_validation), y_validation)
        best = int(np.argmax(scores))
        r2_validation = float(scores[best])
    return {
        "r2_train": float(r2_train[best]),
        "r2_test": float(r_squared(predict(x_test), y_test)[best]),
        "r2_validation": r2_validation,
        "strength": STRENGTHS[best],
        "n_train": len(y),
        "n_test": len(y_test),
    }


def r_squared(predictions: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns `1 - mean squared error / variance of the target` for every column of predictions.

    Args:
      predictions: `[N, S]`.
      target: `[N]`, not all equal.
    """
    error = np.square(target[:, None] - predictions).mean(axis=0)
    return 1.0 - error / np.square(target - target.mean()).mean()


def weight_statistics(weights: Any, spec: WeightSpec) -> np.ndarray:
    """Summarises every parameter tensor of every network by seven numbers (arXiv 2002.11448, section 3).

    Args:
      weights: `[N, P]` floats, an array or anything that slices to one.
      spec: which entries belong to which tensor.

    Returns:
      `[N, 7 * tensors]` float64: for each tensor in flat order its mean, variance, and the quantiles `QUANTILES`.
    """
    spans = [span for _, span in spec.spans()]
    width = 2 + len(QUANTILES)
    out = np.empty((len(weights), width * len(spans)))
    for rows in row_blocks(len(weights), max(1, _BLOCK_BYTES // (8 * spec.num_params))):
        block = np.asarray(weights[rows], np.float64)
        for i, span in enumerate(spans):
            columns = slice(width * i, width * (i + 1))
            values = block[:, span]
            quantiles = np.quantile(values, QUANTILES, axis=1)
            out[rows, columns] = np.stack([values.mean(axis=1), values.var(axis=1), *quantiles], axis=1)
    return out


def _fit(x: np.ndarray, y: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Fits all strengths through one eigendecomposition of the smaller Gram matrix.

    Args:
      x: `[N, F]` features, without the constant one.
      y: `[N]`.

    Returns:
      Maps features `[M, F]` to predictions `[M, strengths]`.
    """
    x = _with_constant(x)
    strengths = np.array(STRENGTHS)
    if x.shape[0] >= x.shape[1]:
        values, vectors = np.linalg.eigh(x.T @ x)
        moments = vectors.T @ (x.T @ y)
    else:
        values, vectors = np.linalg.eigh(x @ x.T)
        moments = vectors.T @ y
    # Rounding makes eigenvalues of a singular matrix slightly negative.
    shrunk = moments[:, None] / (np.maximum(values, 0.0)[:, None] + strengths[None, :])
    solution = vectors @ shrunk
    coefficients = solution if x.shape[0] >= x.shape[1] else x.T @ solution
    return lambda features: _with_constant(features) @ coefficients


def _out_of_fold(x: np.ndarray, y: np.ndarray, runs: np.ndarray, folds: int) -> np.ndarray:
    """Predicts every row `[N, strengths]` from the folds that do not hold its run; runs are dealt out in turn."""
    unique, codes = np.unique(runs, return_inverse=True)
    folds = min(folds, len(unique))
    if folds < 2:
        raise UserError(
            f"The strength of a probe is chosen on runs that were left out, but the training rows are of {len(unique)} "
            f"run(s) and the folds are {folds}. Use a population of at least two runs, or give a validation split."
        )
    fold = codes.reshape(-1) % folds
    out = np.empty((len(y), len(STRENGTHS)))
    for number in range(folds):
        held = fold == number
        out[held] = _fit(x[~held], y[~held])(x[held])
    return out


def _with_constant(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


def _checked(
    features: np.ndarray, target: np.ndarray, name: str, width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows with a target as float64."""
    x, y = np.asarray(features, np.float64), np.asarray(target, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or (width is not None and x.shape[1] != width):
        raise UserError(
            f"The {name} features of the probe have shape {x.shape} and the targets {y.shape}; they must be "
            f"[N, {'F' if width is None else width}] and [N]. Take both from the same population."
        )
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise UserError(
            f"The {name} rows of the probe hold numbers that are not finite. Remove such networks from the "
            "population first."
        )
    if len(y) < 2 or np.ptp(y) == 0.0:
        raise UserError(
            f"The {name} rows of the probe have {len(y)} known target(s), not two different ones, so R^2 is undefined. "
            "Probe for something that differs between networks, or use more of them."
        )
    return x, y
