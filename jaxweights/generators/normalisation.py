"""How P-diff and RPG normalise training networks, tensor by tensor, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators import rows as rows_lib
from jaxweights.population import Population

# Relative spread below which a tensor is constant in float32.
_CONSTANT = 1e-7
# Running variances are modelled as log(v / (0.95 m) + 0.05), m their mean; decoded, at least 0.001 of that unit is left
# (published code).
_RUNNING_VARIANCE = "running_var"
_VARIANCE_UNIT, _VARIANCE_OFFSET, _VARIANCE_FLOOR = 0.95, 0.05, 0.001
_BLOCK_ROWS = 4096


class Normalised:
    """Training rows `[N, D]` float32, normalised and padded when they are read.

    Attributes:
      shape: of the whole.
      dtype: float32.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, weights: Any, length: int, mean: np.ndarray, std: np.ndarray, unit: np.ndarray, copies: int):
        """Takes what each of P parameters is normalised by.

        Args:
          weights: `[M, P]`, in memory or on disk.
          length: D.
          mean: `[P]` float64.
          std: `[P]` float64; 0 where a parameter is left out and 0.
          unit: `[P]` float64, of running variances; 0 for all other parameters.
          copies: how often the rows stand one behind the other.
        """
        self.shape = copies * len(weights), length
        self._weights, self._mean, self._std, self._unit = weights, mean, std, unit

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        wanted = np.arange(len(self))[rows] % len(self._weights)
        out = np.zeros((len(wanted), self.shape[1]), np.float32)
        shown, variances = self._std > 0, self._unit > 0
        for start in range(0, len(wanted), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            block = np.asarray(self._weights[wanted[part]]).astype(np.float64)
            if variances.any():
                block[:, variances] = _log_variance(block[:, variances], self._unit[variances])
            block -= self._mean[None, :]
            np.divide(block, self._std[None, :], out=block, where=shown[None, :])
            out[part, : block.shape[1]] = np.where(shown[None, :], block, 0.0)
        return out


def normalise(
    training: Population, length: int, fewest: int, copy_scalars: bool
) -> tuple[np.ndarray | Normalised, dict[str, np.ndarray]]:
    """Normalises each tensor by two scalars.

    These are the averages over rows of the tensor's mean and of its unbiased standard deviation. A tensor with a single
    entry is divided by its standard deviation over rows instead, and a constant tensor is only centred. Running
    variances are normalised on a logarithmic scale, so that decoded ones are positive.

    Args:
      training: training rows `[N, P]`.
      length: of the padded vectors, D.
      fewest: rows that there are at least; fewer are repeated.
      copy_scalars: whether tensors with a single entry are those of the first row.

    Returns:
      `[n, D]` float32, normalised as it is read where the weights are on disk, and `{"mean": [P], "std": [P]}` float32;
      with running variances also `"variance_unit"` `[P]`, which is 0 for all other parameters.
    """
    weights, num_params = training.weights, training.spec.num_params
    mean, std, unit = (np.zeros(num_params) for _ in range(3))
    for leaf, span in training.spec.spans():
        if leaf.size == 1 and copy_scalars:
            mean[span] = np.asarray(weights[:1])[0, span]
            continue
        own = None
        if leaf.name.endswith(_RUNNING_VARIANCE) and any(block.any() for block in rows_lib.blocks(weights, span)):
            # The two scalars come from rows in units of their own, the data from rows in the mean unit.
            own = _VARIANCE_UNIT * _row_means(weights, span)
            unit[span] = own.mean()
        mean[span], std[span] = _scalars(weights, span, own)
    constants = {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
    if unit.any():
        constants["variance_unit"] = unit.astype(np.float32)
    copies = -(-fewest // len(weights)) if len(weights) < fewest else 1
    found = Normalised(weights, length, mean, std, unit, copies)
    return found[:] if isinstance(weights, (np.ndarray, jax.Array)) else found, constants


def restore(vectors: jax.Array, constants: Mapping[str, jax.Array]) -> jax.Array:
    """Weights `[n, P]` of normalised vectors `[n, D]`: the inverse of `normalise`, whose constants these are."""
    weights = vectors[:, : constants["mean"].shape[-1]] * constants["std"][None, :] + constants["mean"][None, :]
    if "variance_unit" not in constants:
        return weights
    unit = constants["variance_unit"][None, :]
    variances = unit * jnp.maximum(jnp.exp(weights) - _VARIANCE_OFFSET, _VARIANCE_FLOOR)
    return jnp.where(unit > 0, variances, weights)


def _row_means(weights: Any, span: slice) -> np.ndarray:
    return np.concatenate([block.mean(axis=1, keepdims=True) for block in rows_lib.blocks(weights, span)])


def _scalars(weights: Any, span: slice, units: np.ndarray | None) -> tuple[float, float]:
    """The mean of a tensor, and what to divide it by: the mean over rows of its unbiased deviation, 1 where it is
    constant; of running variances with units `[N, 1]`, on the logarithmic scale."""
    total, deviations, done, single = 0.0, 0.0, 0, []
    for block in rows_lib.blocks(weights, span):
        count, size = block.shape
        if units is not None:
            block = _log_variance(block, units[done : done + count])
        total, done = total + block.sum(), done + count
        if size > 1:
            deviations += block.std(axis=1, ddof=1).sum()
        else:
            single.append(block)
    mean = total / (done * size)
    if single:
        spread = np.concatenate(single).std(ddof=1) if done > 1 else 0.0
    else:
        spread = deviations / done
    return mean, spread if spread > _CONSTANT * abs(mean) else 1.0


def _log_variance(variance: np.ndarray, unit: np.ndarray | np.floating) -> np.ndarray:
    """Running variances on a logarithmic scale; rows whose variances are all 0 have no unit."""
    return np.log(variance / np.where(unit > 0, unit, 1.0) + _VARIANCE_OFFSET)
