"""Latent samplers: the published ones equal scikit-learn and UMAP's interface, the others have known moments."""

import sys
import types

import jax
import numpy as np
import pytest
from sklearn.neighbors import KernelDensity

from jaxweights.errors import UserError
from jaxweights.generators.hyperrep import latents as module
from jaxweights.generators.hyperrep.latents import LatentSampler, draw, top_rows

N, L = 40, 3


@pytest.fixture(scope="module")
def training():
    """Correlated latents, scores with ties, two steps per run."""
    rng = np.random.default_rng(0)
    latents = (rng.normal(size=(N, L)) @ rng.normal(size=(L, L)) + rng.normal(size=L)[None, :]).astype(np.float32)
    return latents, rng.integers(0, 20, N) / 20.0, np.tile([7, 9], N // 2)


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), 20_000)


@pytest.mark.parametrize("top", [1.0, 0.3])
def test_faithful_kde_is_the_published_loop_over_dimensions(training, keys, top):
    latents, scores, _ = training
    best = np.flatnonzero(scores >= np.quantile(scores, 1 - top))
    kde, columns = KernelDensity(kernel="gaussian", bandwidth=0.002), []
    for values in latents[best].T:
        columns.append(kde.fit(values[:, None]).sample(50, random_state=42))
    expected = np.concatenate(columns, axis=1)
    found = draw(LatentSampler("kde", top, mode="faithful"), latents, keys[:50], scores)
    # The same float64 numbers; a compiler may fuse the product and the sum on one side, which can move the rounding to
    # float32 by one unit.
    np.testing.assert_array_max_ulp(found.latents, expected.astype(np.float32), 1)
    nearest = np.square(expected[:, None, :] - latents[None, :, :]).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(found.parents, nearest)
    assert found.parents.dtype == np.int32 and set(found.parents) <= set(best)


def test_independent_kde_is_the_product_of_the_marginals(training, keys):
    """Every dimension has its own mixture's distribution; dimensions are uncorrelated though the data's are not."""
    latents, scores, _ = training
    best, bandwidth = latents[top_rows(scores, 0.3)].astype(np.float64), 0.4
    found = draw(LatentSampler("kde", 0.3, bandwidth), latents, keys, scores)
    assert (found.parents == -1).all()
    # Kolmogorov's distance to the mixture's distribution function: below 1.63 / sqrt(n) with probability 0.99, and the
    # draws are fixed.
    for dim in range(L):
        x = np.sort(found.latents[:, dim].astype(np.float64))
        cdf = module.special.ndtr((x[:, None] - best[None, :, dim]) / bandwidth).mean(axis=1)
        assert np.abs(cdf - (np.arange(len(x)) + 0.5) / len(x)).max() < 1.63 / np.sqrt(len(x))
    # A sample correlation of independent numbers has a standard deviation of 1 / sqrt(n).
    np.testing.assert_allclose(np.corrcoef(found.latents.T), np.eye(L), atol=4 / np.sqrt(len(keys)))
    assert np.abs(np.corrcoef(best.T) - np.eye(L)).max() > 0.3


@pytest.mark.parametrize("bandwidth", [0.25, 0.0])
def test_joint_kde_adds_the_kernel_to_a_random_latent(training, keys, bandwidth):
    latents, scores, _ = training
    rows = top_rows(scores, 0.5)
    found = draw(LatentSampler("joint_kde", 0.5, bandwidth), latents, keys, scores)
    expected = bandwidth if bandwidth else len(rows) ** (-1 / (L + 4)) * latents[rows].std(axis=0, ddof=1)
    noise = (found.latents - latents[found.parents]) / expected
    # Standard errors of covariances and of counts of n draws, four of them.
    np.testing.assert_allclose(np.cov(noise.T), np.eye(L), atol=4 * np.sqrt(2 / len(keys)))
    share = np.bincount(found.parents, minlength=N)[rows] / len(keys)
    np.testing.assert_allclose(share, 1 / len(rows), atol=4 / np.sqrt(len(rows) * len(keys)))
    assert set(found.parents) == set(rows)


@pytest.mark.parametrize("rows", [N, 3], ids=["more rows than dimensions", "fewer"])
def test_gaussian_has_the_mean_and_covariance_of_the_latents(training, keys, rows):
    latents = np.tile(training[0], 2)[:rows] * np.array([1, 2, 0.5, -1, 1, 1], np.float32)[None, :]
    found = draw(LatentSampler("gaussian", 1.0), latents, keys)
    covariance, scale = np.cov(latents.T.astype(np.float64)), latents.std(axis=0, ddof=1)
    limit = 5 * np.sqrt(2 / len(keys))  # five standard errors
    np.testing.assert_allclose(
        np.cov(found.latents.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=limit
    )
    np.testing.assert_allclose((found.latents.mean(axis=0) - latents.mean(axis=0)) / scale, 0, atol=limit)
    # Samples stay in the affine hull of the latents, up to rounding to float32.
    spanned = np.linalg.qr((latents[1:] - latents[:1]).T.astype(np.float64))[0][:, : np.linalg.matrix_rank(covariance)]
    off = found.latents.astype(np.float64) - latents.mean(axis=0, dtype=np.float64)[None, :]
    off -= off @ spanned @ spanned.T
    assert np.abs(off).max() < 1e-5


def test_uniform_fills_the_cube(training, keys):
    found = draw(LatentSampler("uniform"), training[0], keys)
    assert np.abs(found.latents).max() <= 1 and (found.parents == -1).all()
    # Moments of a uniform number: 0 and 1/3, with standard errors below 0.6 / sqrt(n).
    np.testing.assert_allclose(found.latents.mean(axis=0), 0, atol=2.4 / np.sqrt(len(keys)))
    np.testing.assert_allclose(np.cov(found.latents.T), np.eye(L) / 3, atol=2.4 / np.sqrt(len(keys)))


def test_direct_and_reconstruct_return_rows_as_they_are(training, keys):
    latents, scores, steps = training
    direct = draw(LatentSampler("direct"), latents, keys[:7], steps=steps)
    np.testing.assert_array_equal(direct.parents, np.flatnonzero(steps == 9)[:7])
    every = draw(LatentSampler("reconstruct", 1.0), latents, keys[:N])
    np.testing.assert_array_equal(every.parents, np.arange(N))
    best = draw(LatentSampler("reconstruct", 0.3), latents, keys[:5], scores)
    np.testing.assert_array_equal(best.parents, np.flatnonzero(scores >= np.quantile(scores, 0.7))[:5])
    random = draw(LatentSampler("reconstruct", 0.3, mode="random"), latents, keys, scores)
    assert set(random.parents) == set(top_rows(scores, 0.3))
    for found in (direct, every, best, random):
        np.testing.assert_array_equal(found.latents, latents[found.parents])


@pytest.mark.parametrize("kind", ["kde", "joint_kde", "gaussian", "uniform", "reconstruct"])
def test_a_sample_depends_on_its_own_key_alone(training, keys, kind):
    latents, scores, _ = training
    sampler = LatentSampler(kind, 0.5, mode="random" if kind == "reconstruct" else "")
    found = draw(sampler, latents, keys[:50], scores)
    some = np.array([31, 4, 4, 17])
    alone = draw(sampler, latents, keys[some], scores)
    np.testing.assert_array_equal(alone.latents, found.latents[some])
    np.testing.assert_array_equal(alone.parents, found.parents[some])
    assert len(np.unique(found.latents, axis=0)) > 10
    assert found.latents.dtype == np.float32 and found.parents.dtype == np.int32


@pytest.mark.parametrize("n,top", [(11, 0.7), (11, 0.1), (21, 0.35), (101, 0.29), (101, 0.57)])
def test_the_score_that_the_quantile_falls_on_is_kept(n, top):
    """At these sizes the quantile is an order statistic exactly, whatever 1 - top is in binary."""
    scores = np.random.default_rng(n).permutation(n) / 7
    kept = top_rows(scores, top)
    np.testing.assert_array_equal(np.sort(scores[kept]), np.sort(scores)[-(round(top * (n - 1)) + 1) :])


def test_neighbourhood_samples_the_cube_around_the_whole_embedding(training, keys, monkeypatch):
    """A linear stand-in for UMAP shows what is asked of it: published settings, one range for all axes, the inverse."""
    latents, scores, _ = training
    seen = {}

    class Reducer:
        def __init__(self, **settings):
            seen.update(settings)

        def fit_transform(self, rows):
            seen["rows"] = rows
            return rows * np.array([[1.0, 2.0, 3.0]], np.float32)

        def inverse_transform(self, points):
            seen["points"] = points
            return points / np.array([[1.0, 2.0, 3.0]], np.float32)

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Reducer))
    found = draw(LatentSampler("neighbourhood", 0.5), latents, keys, scores)
    published = {"n_neighbors": 15, "min_dist": 0.01, "n_components": 3, "metric": "euclidean", "random_state": 42}
    assert published.items() <= seen.items()
    np.testing.assert_array_equal(seen["rows"], latents[top_rows(scores, 0.5)])
    embedding, width = seen["rows"] * np.array([[1.0, 2.0, 3.0]], np.float32), np.ptp(seen["points"], axis=0)
    # The extremes of n uniform numbers lie within 10 / n of the ends but for a chance of e^-10.
    np.testing.assert_allclose(width, np.ptp(embedding), rtol=20 / len(keys))
    np.testing.assert_allclose(seen["points"].min(axis=0), embedding.min(), atol=20 / len(keys) * np.ptp(embedding))
    np.testing.assert_array_equal(found.latents, seen["points"] / np.array([[1.0, 2.0, 3.0]], np.float32))
    assert (found.parents == -1).all()
    monkeypatch.setitem(sys.modules, "umap", None)  # as if it were not installed
    with pytest.raises(UserError, match="pip install umap-learn"):
        draw(LatentSampler("neighbourhood", 0.5), latents, keys, scores)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "gan"},
        {"kind": "kde", "mode": "ordered"},
        {"kind": "uniform", "mode": "faithful"},
        {"top": 0.0},
        {"top": 1.1},
        {"top": float("nan")},
        {"bandwidth": 0.0},
        {"kind": "joint_kde", "bandwidth": -1.0},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UserError):
        LatentSampler(**settings)


def test_what_does_not_fit_is_refused(training, keys):
    latents, scores, steps = training
    broken = np.where(np.arange(N)[:, None] == 3, np.nan, latents)
    unknown = np.where(np.arange(N) == 3, np.nan, scores)
    for sampler, rows, columns, message in [
        (LatentSampler(), latents, {}, "needs the scores"),
        (LatentSampler(), latents, {"scores": scores[1:]}, "one number per latent"),
        (LatentSampler(), latents, {"scores": unknown}, "not finite in 1 of 40"),
        (LatentSampler(), broken, {"scores": scores}, "first in row 3"),
        (LatentSampler(), latents[0], {"scores": scores}, r"\[N, L\]"),
        (LatentSampler("direct"), latents, {"scores": scores}, "needs the steps"),
        (LatentSampler("direct"), latents, {"steps": steps}, "20 at most"),
        (LatentSampler("reconstruct", 1.0), latents, {}, "40 at most"),
        (LatentSampler("gaussian", 1.0), latents[:1], {}, "needs 2 latents"),
    ]:
        with pytest.raises(UserError, match=message):
            draw(sampler, rows, keys[:50], **columns)
