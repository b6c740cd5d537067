"""Statistics against SciPy and closed forms; the interpolation residual against closed forms and a general solver."""

import numpy as np
import pytest
from scipy import optimize, stats

from jaxweights.auditing import statistics
from jaxweights.auditing.distances import hull
from jaxweights.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("n, m, shift", [(30, 20, 0.0), (7, 50, -1.0), (40, 9, 2.0)])
def test_z_u_is_scipys_mann_whitney(n, m, shift):
    q, p = np.round(rng(n).normal(shift, 1, n), 1), np.round(rng(m).normal(0, 1, m), 1)  # rounding makes ties
    u = stats.mannwhitneyu(q, p, alternative="less").statistic
    assert statistics.z_u(q, p) == pytest.approx((u - (n * m / 2 - 0.5)) / np.sqrt(n * m * (n + m + 1) / 12))


def test_z_u_of_copies_and_of_strangers():
    p = rng().uniform(1, 2, 50)
    low, high = statistics.z_u(np.zeros(40), p), statistics.z_u(np.full(40, 9.0), p)
    assert low < -8 and high > 8
    # Under the null Z_U is standard normal: over 400 draws, mean and deviation within four standard errors.
    null = [statistics.z_u(rng(i).normal(size=40), rng(1000 + i).normal(size=50)) for i in range(400)]
    assert abs(np.mean(null)) < 4 / 20 and abs(np.std(null) - 1) < 4 / np.sqrt(800)


def test_auth_pct_by_hand():
    distances, nearest, train = np.array([1.0, 3.0, 2.0, 2.0]), np.array([0, 0, 1, 1]), np.array([2.0, 2.0])
    assert statistics.auth_pct(distances, nearest, train) == 25.0  # only 3 > 2; a tie is not authentic


def test_bootstrap_intervals_cover_at_their_level():
    """Of 300 samples of 40 normal draws, about 95 % of the intervals contain the true mean (a bit fewer, as known)."""
    hits = 0
    for i in range(300):
        e = statistics.bootstrap_mean(rng(i).normal(size=40), 400, rng(10_000 + i))
        hits += e.low <= 0 <= e.high
    assert 0.90 <= hits / 300 <= 0.98


def test_bootstrap_of_z_u_matches_a_plain_loop():
    q, p = rng(0).normal(-0.5, 1, 30), rng(1).normal(0, 1, 25)
    fast = statistics.bootstrap_z_u(q, p, 4000, rng(2))
    loop_rng = rng(3)
    loop = [statistics.z_u(loop_rng.choice(q, 30), loop_rng.choice(p, 25)) for _ in range(2000)]
    low, high = np.quantile(loop, [0.025, 0.975])
    assert fast.value == statistics.z_u(q, p)
    # Standard error of a 2.5 % quantile of 2,000 draws of deviation s is about 0.06 s; the deviation is near 1.3.
    assert abs(fast.low - low) < 0.35 and abs(fast.high - high) < 0.35


def test_bootstrap_is_seeded():
    values = rng().normal(size=20)
    a, b, c = (statistics.bootstrap_mean(values, 100, rng(s)) for s in (1, 1, 2))
    assert a == b and a != c


def test_shares_have_exact_intervals():
    e = statistics.share(np.array([True] * 3 + [False] * 97))
    # Clopper-Pearson by its definition through the beta distribution.
    assert (e.value, e.n) == (0.03, 100)
    assert e.low == pytest.approx(stats.beta.ppf(0.025, 3, 98))
    assert e.high == pytest.approx(stats.beta.ppf(0.975, 4, 97))
    assert statistics.share(np.zeros(10, bool)).low == 0


def test_nn_ratio_counts_copies_only():
    e = statistics.nn_ratio_share(np.array([0.0, 1.0, 1.0, 1.0]), np.array([5.0, 2.9, 3.1, np.nan]), 1 / 3)
    assert e.value == 0.5


def test_empty_and_non_finite_samples_are_refused():
    with pytest.raises(UserError, match="empty"):
        statistics.z_u(np.zeros(0), np.ones(3))
    with pytest.raises(UserError, match="non-finite"):
        statistics.bootstrap_mean(np.array([1.0, np.nan]), 10, rng())


def test_residual_of_points_in_the_hull_is_zero():
    neighbours = rng().normal(size=(6, 8, 50))
    mixtures = rng(1).dirichlet(np.ones(8), 6)
    queries = np.einsum("mk,mkp->mp", mixtures, neighbours)
    residual, weights = hull.interpolation_residual(queries, neighbours)
    # The gap bound of 1e-5 relative to the squared spread allows a relative distance of sqrt(2e-5).
    assert (residual < 5e-3 * np.linalg.norm(neighbours - queries[:, None], axis=2).mean(axis=1)).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-9)
    assert (weights >= 0).all()


def test_residual_closed_forms():
    one = rng().normal(size=(3, 1, 20))
    query = rng(1).normal(size=(3, 20))
    np.testing.assert_allclose(hull.interpolation_residual(query, one)[0], np.linalg.norm(one[:, 0] - query, axis=1))
    # Orthonormal vertices seen from the origin: the centroid, at distance 1 / sqrt(k).
    residual, weights = hull.interpolation_residual(np.zeros((1, 9)), np.eye(9)[None])
    np.testing.assert_allclose(residual, 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(weights, 1 / 9, atol=1e-4)
    # A copy of a vertex: exactly zero, whatever the others are.
    vertex = rng().normal(size=(1, 5, 30))
    assert hull.interpolation_residual(vertex[:, 2], vertex)[0] == 0


def test_residual_gap_bounds_the_excess():
    """The gap of the solver's weights is at rounding; that of other weights covers what they are too long by."""
    neighbours, queries = rng(0).normal(size=(7, 6, 10)), 0.3 * rng(1).normal(size=(7, 10))
    best, weights = hull.interpolation_residual(queries, neighbours, memory_bytes=1 << 12)
    assert (hull.residual_gap(queries, neighbours, weights) <= 1e-9 * best).all()
    even = np.full((7, 6), 1 / 6)
    excess = np.linalg.norm(neighbours.mean(axis=1) - queries, axis=1) - best
    gap = hull.residual_gap(queries, neighbours, even)
    assert (excess > 0).all() and (excess <= gap).all()


def test_residual_with_coinciding_and_redundant_neighbours():
    """More neighbours than dimensions and exact repeats make the Gram matrix singular; the optimum stays what it is."""
    neighbours, queries = rng(0).normal(size=(20, 12, 3)), 2 * rng(1).normal(size=(20, 3))
    neighbours[:, 5] = neighbours[:, 0]
    residual, weights = hull.interpolation_residual(queries, neighbours)
    # Singular systems leave a gap of the square root of the rounding inside the hull.
    spread = np.linalg.norm(neighbours - queries[:, None], axis=2).max(axis=1)
    assert (hull.residual_gap(queries, neighbours, weights) <= 2e-6 * spread).all()
    with pytest.raises(UserError, match="do not fit"):
        hull.interpolation_residual(queries[:3], neighbours)


def test_residual_matches_a_general_solver():
    neighbours, queries = rng(0).normal(size=(5, 6, 10)), 0.3 * rng(1).normal(size=(5, 10))
    residual, _ = hull.interpolation_residual(queries, neighbours)
    for q, many, r in zip(queries, neighbours, residual, strict=True):
        # Nonnegative least squares with the sum constraint as a heavy row.
        heavy = 1e4
        w, _ = optimize.nnls(np.vstack([many.T, heavy * np.ones(6)]), np.append(q, heavy))
        assert r == pytest.approx(np.linalg.norm(many.T @ w - q), rel=1e-3)
