"""Densities and sparse codes in closed form: bandwidths, planted clusters and planted dictionaries are found."""

import jax
import numpy as np
import pytest

from jaxweights import generators, tasks
from jaxweights.errors import UserError
from jaxweights.generators import densities
from jaxweights.generators.hyperrep.latents import LatentSampler, draw
from jaxweights.population import Population

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
AS_THEY_ARE = {"order": "none", "scale": "none"}


def drawn(kind, weights, count, **settings):
    networks = Population.create(weights.astype(np.float32), NET.spec, run=np.arange(len(weights)), step=0)
    generator = generators.build("x", {"kind": kind, **AS_THEY_ARE, **settings})
    assert isinstance(generator, generators.ClosedFormGenerator)
    state = generator.fit(networks)
    return state, generator.sample(state, jax.random.split(jax.random.key(0), count))


@pytest.mark.parametrize("size", [1, 4])
def test_the_likeliest_bandwidth_is_that_of_the_best_density(size):
    """Near what is best for a known normal law: the rule of thumb (4 / (k + 2) / n) ** (1 / (k + 4)) within a third."""
    rows = np.random.default_rng(0).normal(size=(600, size))
    best = (4 / (size + 2) / len(rows)) ** (1 / (size + 4))
    assert densities.likeliest_bandwidth(rows) == pytest.approx(best, rel=0.35)


def test_kernels_add_the_bandwidth_to_every_component():
    weights = np.random.default_rng(1).normal(size=(40, P)) * np.linspace(0.1, 2, P)
    state, samples = drawn("kde", weights, 3000, bandwidth=0.5)
    residual = np.asarray(samples.weights) - weights[samples.parents]
    covariance = 0.25 * np.cov(weights.T)
    np.testing.assert_allclose(np.cov(residual.T), covariance, atol=0.1 * covariance.max())
    with pytest.raises(UserError, match="span 23"):
        drawn("kde", weights, 1, components=40)


def test_a_mixture_finds_planted_clusters_in_weights_and_latents():
    """One network in four belongs to the second cluster, ten deviations away."""
    rng = np.random.default_rng(2)
    second = np.arange(80) % 4 == 0
    weights = 0.1 * rng.normal(size=(80, P)) + np.where(second, 1.0, 0.0)[:, None]
    _, samples = drawn("mixture", weights, 400, clusters=2, components=5)
    means = np.asarray(samples.weights).mean(axis=1)
    assert ((means < 0.2) | (means > 0.8)).all()
    assert (means > 0.5).mean() == pytest.approx(0.25, abs=0.08)  # four standard errors
    for mode in ("full", "diag"):
        found = draw(
            LatentSampler("mixture", 1.0, 0.0, mode),
            weights[:, :3].astype(np.float32),
            jax.random.split(jax.random.key(1), 400),
        )
        assert (found.latents.mean(axis=1) > 0.5).mean() == pytest.approx(0.25, abs=0.08)


def test_sparse_codes_of_a_planted_dictionary():
    """Networks of two of five directions have codes of three atoms, whose values are those of samples."""
    rng = np.random.default_rng(3)
    atoms, codes = np.linalg.qr(rng.normal(size=(P, 5)))[0].T, np.zeros((200, 5))
    for row in codes:
        row[rng.choice(5, 2, replace=False)] = rng.choice([-3.0, 3.0], 2)
    weights = codes @ atoms
    state, samples = drawn("sparse_coding", weights, 50, atoms=5, nonzero=3, penalty=0.1, components=5)
    found = {key: np.asarray(value, np.float64) for key, value in state.items()}
    rebuilt = found["mean"] + found["codes"] @ found["atoms"] @ found["basis"]
    explained = 1 - np.square(rebuilt - weights).sum() / np.square(weights - weights.mean(axis=0)).sum()
    assert explained > 0.9 and ((found["codes"] != 0).sum(axis=1) <= 3).all()
    own = (np.asarray(samples.weights) - found["mean"]) @ np.linalg.pinv(found["atoms"] @ found["basis"])
    nearest = np.abs(own[:, None, :] - found["codes"][None]).min(axis=1)
    assert nearest.max() < 1e-2
