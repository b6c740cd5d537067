"""Densities of training networks in closed form, on principal components of networks in one form.

Hidden units are brought to one order and scale first (`canonical`), then to components of variance 1. Samples are
networks in that form. Densities of the latents of autoencoders are samplers of these, see `hyperrep.latents`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from jaxweights.generators import canonical, domain, principal
from jaxweights.generators.base import Samples, Training, keys_for
from jaxweights.generators.baselines import Baseline
from jaxweights.population import Population
from jaxweights.settings import setting

_BANDWIDTHS = np.geomspace(0.01, 2, 60)
_COMPARED = 2048  # networks that choose the bandwidth, at most


@dataclasses.dataclass(frozen=True)
class Density(Baseline):
    """What densities of components share.

    Attributes:
      order: order of hidden units, see `Flow`.
      scale: scale of hidden units.
      components: principal components, 0 for all that the training networks span.
      variances: see `Noise`.
    """

    least: ClassVar[int] = 2

    order: canonical.Order = "mean"
    scale: Literal["none", "balanced"] = "balanced"
    components: int = setting(0, at_least=0)
    variances: domain.Variances = "clip"

    def check(self, training: Training) -> None:
        """Refuses fewer networks than two, and than the components need."""
        super().check(training)
        most = min(training.rows - 1, training.spec.num_params)
        if self.components > most:
            self.refuse("components", f"{training.rows} training networks span {most}; lower it or train more runs")

    def whitened(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Training networks as components of variance 1 `[N, k]` float64, and what leads back: the state so far."""
        self.check(Training.of(training))
        _, rows = canonical.Form.of(training, self.order, self.scale)
        found = principal.components(rows, self.components or min(len(rows) - 1, rows.shape[1]))
        scores = (rows - found.mean) @ found.basis.T / np.where(found.std > 0, found.std, 1)
        back = {"mean": jnp.asarray(found.mean, jnp.float32), "basis": jnp.asarray(found.directions, jnp.float32)}
        return scores, back | domain.floors(training, by_tensor=True)

    def unwhitened(self, state: Mapping[str, Any], scores: jax.Array) -> jax.Array:
        """Weights `[n, P]` of components `[n, k]`."""
        product = jnp.matmul(scores, state["basis"], precision=jax.lax.Precision.HIGHEST)
        return domain.inside(state["mean"][None] + product, state, self.variances)


@dataclasses.dataclass(frozen=True)
class KDE(Density):
    """A Gaussian kernel on every training network.

    Attributes:
      bandwidth: standard deviation of the kernel in units of that of each component; 0 for the one under which training
        networks are likeliest given all others.
    """

    name: str = "kde"
    bandwidth: float = setting(0.0, at_least=0)

    def fit(self, training: Population) -> dict[str, Any]:
        """Components of the networks, and the bandwidth."""
        scores, state = self.whitened(training)
        bandwidth = self.bandwidth or likeliest_bandwidth(scores)
        return {**state, "scores": jnp.asarray(scores, jnp.float32), "bandwidth": jnp.float32(bandwidth)}

    def sample(self, state: Mapping[str, Any], keys: jax.Array) -> Samples:
        """Random training networks with noise of the kernel."""
        scores = state["scores"]
        parents = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(scores)))(keys_for(keys, 0))
        noise = jax.vmap(lambda key: jax.random.normal(key, scores.shape[1:]))(keys_for(keys, 1))
        drawn = scores[parents] + state["bandwidth"] * noise
        return Samples(self.unwhitened(state, drawn), parents.astype(jnp.int32))


def likeliest_bandwidth(rows: np.ndarray) -> float:
    """The bandwidth between 0.01 and 2 of isotropic Gaussian kernels under which rows `[N, k]` are likeliest, each
    given all others; of more than 2,048, of evenly spaced ones."""
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(_COMPARED, len(rows))).round().astype(np.int64))]
    squared = cdist(rows, rows, "sqeuclidean")
    np.fill_diagonal(squared, np.inf)
    sums = [np.asarray(logsumexp(-0.5 * squared / h**2, axis=1)) for h in _BANDWIDTHS]
    likelihoods = [found.mean() - rows.shape[1] * np.log(h) for found, h in zip(sums, _BANDWIDTHS, strict=True)]
    return float(_BANDWIDTHS[int(np.argmax(likelihoods))])


class Clusters(NamedTuple):
    """A mixture of normal distributions.

    Attributes:
      shares: `[K]`.
      means: `[K, k]`.
      factors: `[K, k, k]`, or of diagonal covariances `[K, k]`; a factor times its transpose is the covariance.
    """

    shares: np.ndarray
    means: np.ndarray
    factors: np.ndarray


Covariance = Literal["full", "diag"]


def fit_clusters(rows: np.ndarray, clusters: int, covariance: Covariance, seed: int) -> Clusters:
    """A mixture fitted to rows `[N, k]` by expectation maximisation (scikit-learn), from k-means."""
    from sklearn.mixture import GaussianMixture  # a second to import

    found = GaussianMixture(clusters, covariance_type=covariance, reg_covar=1e-4, random_state=seed).fit(rows)
    covariances = np.asarray(found.covariances_)
    factors = np.sqrt(covariances) if covariance == "diag" else np.linalg.cholesky(covariances)
    return Clusters(np.asarray(found.weights_), np.asarray(found.means_), factors)


@dataclasses.dataclass(frozen=True)
class Mixture(Density):
    """A mixture of normal distributions.

    Attributes:
      clusters: normal distributions.
      covariance: "full", or "diag" for independent components within each.
      seed: random seed of the clusters that the fit starts from.
    """

    TINY: ClassVar[Mapping[str, Any]] = {"clusters": 2, "components": 3}

    name: str = "mixture"
    components: int = setting(32, at_least=0)
    clusters: int = setting(4, at_least=1)
    covariance: Covariance = "full"
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)

    @property
    def least(self) -> int:  # type: ignore[override]
        """Two networks for each."""
        return 2 * self.clusters

    def fit(self, training: Population) -> dict[str, Any]:
        """Shares, means and factors of the clusters."""
        scores, state = self.whitened(training)
        found = fit_clusters(scores, self.clusters, self.covariance, self.seed)
        return state | {key: jnp.asarray(value, jnp.float32) for key, value in found._asdict().items()}

    def sample(self, state: Mapping[str, Any], keys: jax.Array) -> Samples:
        """Fresh vectors; no parents."""
        means, factors = state["means"], state["factors"]
        which = jax.vmap(lambda key: jax.random.categorical(key, jnp.log(state["shares"])))(keys_for(keys, 0))
        noise = jax.vmap(lambda key: jax.random.normal(key, means.shape[1:]))(keys_for(keys, 1))

        def spread(row: tuple[jax.Array, jax.Array]) -> jax.Array:
            cluster, noise = row
            return factors[cluster] * noise if factors.ndim == 2 else factors[cluster] @ noise

        drawn = means[which] + jax.lax.map(spread, (which, noise))
        return Samples.new(self.unwhitened(state, drawn))
