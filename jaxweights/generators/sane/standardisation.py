"""Layers of mean 0 and standard deviation 1."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

from jaxweights.generators.sane.tokens import Layer, TokenSequence

Method = Literal["pooled", "published"]
"""Moments of all numbers of a layer, or as in the published code."""

_MIN_STD = 1e-4  # of layers that hardly vary
_BLOCK_ROWS = 1024


class Standardisation(NamedTuple):
    """Standardised numbers are `(weights - mean) / std`.

    Attributes:
      mean: `[P]` float32, the same for all numbers of a layer, 0 for numbers without tokens.
      std: `[P]` float32, at least 1e-4, 1 for numbers without tokens.
    """

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, sequence: TokenSequence, weights: Any, method: Method) -> Standardisation:
        """The moments of networks `[N, P]`, each layer's weights and bias together.

        The published mean is that of the networks' means, and its variance that of the networks' unbiased variances:
        how much means differ between networks is left out. Its running statistics are standardised twice, by the same
        numbers, of each of which the published code sees every number twice.
        """
        mean = np.zeros(sequence.spec.num_params, np.float64)
        std = np.ones(sequence.spec.num_params, np.float64)
        for layer in sequence.layers:
            centre, deviation = _published(weights, layer) if method == "published" else _pooled(weights, layer)
            deviation = max(deviation, _MIN_STD)
            if method == "published" and layer.statistics:
                centre, deviation = centre * (1 + deviation), deviation**2
            mean[layer.rows], std[layer.rows] = centre, deviation
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def apply(self, weights: np.ndarray) -> np.ndarray:
        """Standardised networks `[n, P]`, float32."""
        return (np.asarray(weights, np.float32) - self.mean[None, :]) / self.std[None, :]

    def undo(self, standardised: np.ndarray) -> np.ndarray:
        """Inverse of `apply`."""
        return standardised * self.std[None, :] + self.mean[None, :]


def _blocks(weights: Any, layer: Layer):
    places = layer.rows.reshape(-1)
    for start in range(0, len(weights), _BLOCK_ROWS):
        yield np.asarray(weights[start : start + _BLOCK_ROWS])[:, places].astype(np.float64)


def _pooled(weights: Any, layer: Layer) -> tuple[float, float]:
    count = len(weights) * layer.rows.size
    mean = sum(block.sum() for block in _blocks(weights, layer)) / count
    squares = sum(np.square(block - mean).sum() for block in _blocks(weights, layer))
    return mean, float(np.sqrt(squares / count))


def _published(weights: Any, layer: Layer) -> tuple[float, float]:
    copies = 2 if layer.statistics else 1
    size = copies * layer.rows.size
    means, variances = [], []
    for block in _blocks(weights, layer):
        means.append(block.mean(axis=1))
        variances.append(copies * np.square(block - means[-1][:, None]).sum(axis=1) / max(size - 1, 1))
    return float(np.concatenate(means).mean()), float(np.sqrt(np.concatenate(variances).mean()))
