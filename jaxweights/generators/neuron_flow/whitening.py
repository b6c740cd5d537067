"""Whitening of populations: coordinates in which their covariance is the identity (ZCA; Bell and Sejnowski, 1997)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators import rows
from jaxweights.spec import WeightSpec

_SMALLEST = 1e-9  # variance over the largest one below which a direction counts as constant


class Whitening(NamedTuple):
    """A symmetric linear map to whitened coordinates, and back.

    Attributes:
      mean: `[P]` float32.
      root: `[P, P]` float32, square root of the covariance; directions of no variance stay at the mean.
      inverse: `[P, P]` float32, its pseudo-inverse.
    """

    mean: np.ndarray
    root: np.ndarray
    inverse: np.ndarray

    def whiten(self, weights: Any) -> np.ndarray:
        """Networks `[N, P]` in whitened coordinates, float32, block by block."""
        found = np.empty(weights.shape, np.float32)
        start = 0
        for block in rows.blocks(weights):
            found[start : start + len(block)] = (block - self.mean).astype(np.float32) @ self.inverse
            start += len(block)
        return found

    def constants(self) -> dict[str, np.ndarray]:
        """What `unwhitened` needs."""
        return {"mean": self.mean, "root": self.root}

    @property
    def variance(self) -> float:
        """Of all parameters together."""
        return float(np.square(self.root).sum())


class LowRank(NamedTuple):
    """The whitening of a covariance of few components and a variance of each parameter, for networks of which the whole
    covariance does not fit, or is not known from so few.

    In units of the standard deviation of each parameter, the covariance is `gains`^2 along the rows of `basis`, and
    `rest`^2 in all directions beside them.

    Attributes:
      mean: `[P]` float32.
      std: `[P]` float32, of every parameter.
      basis: `[k, P]` float32, orthonormal.
      gains: `[k]` float32.
      rest: float32.
    """

    mean: np.ndarray
    std: np.ndarray
    basis: np.ndarray
    gains: np.ndarray
    rest: np.float32

    def whiten(self, weights: Any) -> np.ndarray:
        """See `Whitening.whiten`; parameters that do not vary are 0."""
        found = np.empty(weights.shape, np.float32)
        start = 0
        inverse = np.where(self.std > 0, 1 / np.where(self.std > 0, self.std, 1), 0)
        for block in rows.blocks(weights):
            units = ((block - self.mean) * inverse).astype(np.float32)
            along = (units @ self.basis.T) * (1 / self.gains - 1 / self.rest)
            found[start : start + len(block)] = units / self.rest + along @ self.basis
            start += len(block)
        return found

    def constants(self) -> dict[str, np.ndarray]:
        """What `unwhitened` needs."""
        return {**self._asdict(), "rest": np.asarray(self.rest)}

    @property
    def variance(self) -> float:
        """Of all parameters together."""
        return float(np.square(self.std).sum())


def unwhitened(constants: Mapping[str, Any], whitened: jax.Array) -> jax.Array:
    """Networks `[n, P]` of whitened ones, by the `constants` of either kind."""
    if "root" in constants:
        return jnp.matmul(whitened, constants["root"]) + constants["mean"][None, :]
    basis, rest = constants["basis"], constants["rest"]
    along = jnp.matmul(whitened, basis.T) * (constants["gains"] - rest)[None, :]
    return (rest * whitened + jnp.matmul(along, basis)) * constants["std"][None, :] + constants["mean"][None, :]


def fit_low_rank(weights: Any, components: int) -> LowRank:
    """The whitening of networks `[N, P]` by their leading components and the variances of their parameters.

    The covariance in units of the parameters' standard deviations is shrunk towards the identity as Ledoit and Wolf
    (2004) have it: components of few networks are longer than those of the population, and the rest is shorter.

    Args:
      weights: `[N, P]` finite.
      components: number of components, below N.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage  # a second to import
    from sklearn.utils.extmath import randomized_svd

    mean = rows.mean(weights)
    squares = sum(np.square(block - mean).sum(axis=0) for block in rows.blocks(weights))
    std = np.sqrt(squares / len(weights))
    varies = std > np.sqrt(_SMALLEST) * max(std.max(initial=0.0), np.finfo(np.float32).tiny)
    inverse = np.where(varies, 1 / np.where(varies, std, 1), 0)
    units = np.concatenate([((block - mean) * inverse).astype(np.float32) for block in rows.blocks(weights)])
    count = int(varies.sum())
    kept = min(components, count, len(weights))
    basis, variances = np.zeros((components, weights.shape[1])), np.ones(components)
    if kept:
        shrinkage = float(ledoit_wolf_shrinkage(units[:, varies], assume_centered=True))
        _, lengths, basis[:kept] = randomized_svd(units, kept, random_state=0)
        variances[:kept] = np.maximum((1 - shrinkage) * np.square(lengths) / len(units) + shrinkage, _SMALLEST)
    # Where nothing is left beside the components, any number does that rounding is not magnified by.
    known = variances[:kept]
    rest = max((count - known.sum()) / (count - kept), _SMALLEST) if count > kept else known.min(initial=1.0)
    return LowRank(
        mean.astype(np.float32),
        np.where(varies, std, 0).astype(np.float32),
        np.asarray(basis, np.float32),
        np.sqrt(variances).astype(np.float32),
        np.float32(np.sqrt(rest)),
    )


def fit(weights: Any, spec: WeightSpec | None = None) -> Whitening:
    """The whitening of networks `[N, P]`.

    Of at most P networks the covariance has as many directions as there are networks, less one.

    Args:
      weights: `[N, P]` finite.
      spec: where it is given, the mean and the covariance are those of all networks in all orders of their hidden
        units, so that the map does not depend on these.
    """
    centre = rows.mean(weights)
    if spec is not None:
        centre = _exchanged(spec, centre[None, :])[0]
    count, width = weights.shape
    if spec is None and count <= width:
        values, vectors = _of_few(np.concatenate(list(rows.blocks(weights))) - centre)
    else:
        covariance = np.zeros((width, width))
        for block in rows.blocks(weights):
            block = (block - centre).astype(np.float32)
            covariance += block.T @ block
        covariance /= count
        if spec is not None:
            covariance = symmetrised(spec, covariance)
        values, vectors = np.linalg.eigh(covariance)
    kept = values > _SMALLEST * max(values.max(initial=0.0), np.finfo(np.float32).tiny)
    std, vectors = np.sqrt(values[kept]), vectors[:, kept]
    root, inverse = ((vectors * scale) @ vectors.T for scale in (std, 1 / std))
    return Whitening(*(x.astype(np.float32) for x in (centre, root, inverse)))


def _of_few(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues `[N]` and vectors `[P, N]` of the covariance of few centred networks `[N, P]`."""
    values, left = np.linalg.eigh(centred @ centred.T)
    scale = np.sqrt(np.where(values > 0, values, 1.0))
    return values / len(centred), centred.T @ left / scale


def symmetrised(spec: WeightSpec, covariance: np.ndarray) -> np.ndarray:
    """The mean of a matrix `[P, P]` over all orders of the hidden units of both its axes together.

    Orders of several groups are independent, so the means over one group after another are the mean over all.
    """
    for group in range(len(spec.groups)):
        covariance = _over_group(spec, group, covariance)
    return covariance


def _over_group(spec: WeightSpec, group: int, matrix: np.ndarray) -> np.ndarray:
    """The mean over all orders of one group: units are alike, and so are pairs of different units."""
    units, rest = spec.units(group)
    size, width = units.shape
    found = matrix.copy()
    inside = matrix[np.ix_(units.ravel(), units.ravel())].reshape(size, width, size, width)
    same = np.einsum("uaub->ab", inside) / size
    other = (inside.sum(axis=(0, 2)) - size * same) / max(size * (size - 1), 1)
    eye = np.eye(size)[:, None, :, None]
    mean = eye * same[None, :, None, :] + (1 - eye) * other[None, :, None, :]
    found[np.ix_(units.ravel(), units.ravel())] = mean.reshape(size * width, size * width)
    across = matrix[np.ix_(units.ravel(), rest)].reshape(size, width, len(rest)).mean(axis=0)
    across = np.tile(across, (size, 1))
    found[np.ix_(units.ravel(), rest)], found[np.ix_(rest, units.ravel())] = across, across.T
    return found


def _exchanged(spec: WeightSpec, vectors: np.ndarray) -> np.ndarray:
    """The means of vectors `[n, P]` over all orders of their hidden units."""
    found = vectors.copy()
    for group in range(len(spec.groups)):
        units, _ = spec.units(group)
        found[:, units] = found[:, units].mean(axis=1, keepdims=True)
    return found
