"""Canonical coordinates do not see symmetries, and spans are measured as definitions say."""

import numpy as np
import pytest
from test_matching import ONE, dense, draw, shuffles

from jaxweights.auditing.alignment import canonical, coordinates, quotient, reordering
from jaxweights.auditing.alignment.aligners import aligner, onto
from jaxweights.auditing.alignment.coordinates import Coordinates
from jaxweights.auditing.distances.affine import AffineHull
from jaxweights.auditing.measure import siblings
from jaxweights.nn.leaves import Leaves
from jaxweights.population import Population


def disguised(spec, rows, seed=3):
    """The same functions with units in another order, scale and sign."""
    scales = [
        np.exp(np.random.default_rng(seed).normal(size=(len(rows), g.size)) * (g.scaling == "positive"))
        for g in spec.groups
    ]
    rescaled = canonical.rescaled(spec, rows, np.concatenate(scales, axis=1))
    return reordering.reordered(spec, rescaled, *shuffles(spec, len(rows), seed)).astype(np.float32)


def normalised():
    """One group of units with running statistics."""
    leaves = Leaves()
    units = leaves.group(6, "positive")
    leaves.dense("fc1", 4, 6, writes=units)
    leaves.vector("norm/running_mean", 6, units)
    leaves.dense("fc2", 6, 3, units)
    return leaves.spec()


@pytest.mark.parametrize("spec", [dense((4, 6, 3), "positive"), dense((4, 6, 3), "sign"), normalised()])
def test_distances_of_one_group_are_those_of_several(spec):
    """Exact over permutations and signs of balanced networks, without statistics; and zero for copies under all of
    these, which come back to the network they were made of."""
    rows = draw(spec, 24)
    rows, others = np.concatenate([rows[:6], disguised(spec, rows[6:12])]), rows[6:]
    aligned = aligner(spec, ONE)
    assert aligned is not None
    found = aligned.nearest(rows, others, 2)
    expected = quotient.quotient_nearest(rows, others, spec, 2, proposals=18, mesh=ONE)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-6, atol=1e-5)
    norms = np.linalg.norm(canonical.balance(spec, others[:6]), axis=1)
    assert (found.distances[6:, 0] < canonical.COPY_TOLERANCE * norms).all() and found.distances[:6].min() > 1
    moved = onto(spec, others[found.indices], found.permutations, found.signs, rows)
    np.testing.assert_allclose(moved[6:, 0], rows[6:], rtol=1e-5, atol=1e-5)
    ours, theirs = aligned.brought(rows, others[found.indices], found)
    np.testing.assert_allclose(np.linalg.norm(theirs - ours[:, None], axis=2), found.distances, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("scaling", ["positive", "sign"])
def test_coordinates_do_not_see_symmetries(scaling):
    spec = dense((4, 6, 3), scaling)
    rows = draw(spec, 20)
    found = Coordinates(spec, rows, ONE)
    expected = found(rows)
    assert expected.dtype == np.float32 and expected.shape == rows.shape
    np.testing.assert_allclose(found(disguised(spec, rows)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(Coordinates(spec, rows, ONE)(rows[::-1])[::-1], expected)
    spread = [np.square(x - x.mean(axis=0)).sum(axis=1).mean() for x in (expected, canonical.balance(spec, rows))]
    assert spread[0] < 0.9 * spread[1]


def test_networks_of_one_start_keep_their_order():
    """Coordinates are the balanced weights then, of reordered copies, too; the last checkpoints give the reference."""
    spec = dense((4, 6, 3), "positive")
    rows = draw(spec, 1) + 0.2 * draw(spec, 24, 1)
    train = Population.create(rows, spec, run=np.arange(24) // 2, step=np.arange(24) % 2)
    found, balanced = Coordinates.of(train, ONE), canonical.balance(spec, rows)
    np.testing.assert_allclose(found(rows), balanced, rtol=1e-6)
    np.testing.assert_allclose(found(disguised(spec, rows)), balanced, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found._reference, balanced[1::2].mean(axis=0), rtol=1e-12)


def test_coordinates_without_groups_are_the_weights(monkeypatch):
    spec = dense((4, 3))
    rows = draw(spec, 5)
    monkeypatch.setattr(coordinates, "_HELD_BYTES", 0)  # so that they are in a file
    found = Coordinates(spec, rows, ONE)(rows)
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, rows)


def test_affine_residual_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    points, queries = rng.normal(size=(12, 30)) + 5, rng.normal(size=(4, 30)) + 5
    mixed = (lambda w: w / w.sum(axis=1, keepdims=True))(rng.normal(size=(4, 12)) + 0.5) @ points

    def distance(query, others):
        edges = (others[1:] - others[0]).T
        return np.linalg.norm(query - others[0] - edges @ np.linalg.lstsq(edges, query - others[0], rcond=None)[0])

    hull = AffineHull(points, memory_bytes=10_000)
    assert hull.dimensions == 11 and not hull.filled
    np.testing.assert_allclose(hull.residual(queries), [distance(q, points) for q in queries], rtol=1e-10)
    np.testing.assert_allclose(hull.residual(mixed), 0, atol=1e-10)
    runs = np.arange(12) // 3
    expected = [distance(p, points[runs != run]) for p, run in zip(points, runs, strict=True)]
    np.testing.assert_allclose(hull.residual_of_points(runs), expected, rtol=1e-10)
    assert np.isnan(hull.residual_of_points(np.zeros(12))).all()
    twice = AffineHull(np.concatenate([points, points[:1]]))
    assert twice.residual_of_points(np.arange(13))[[0, 12]] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(("count", "width", "rank"), [(40, 30, 30), (30, 30, 30), (1, 30, 30), (20, 30, 10)])
def test_hulls_that_fill_the_space_have_no_outside(count, width, rank):
    rng = np.random.default_rng(1)
    hull = AffineHull(rng.normal(size=(count, rank)) @ rng.normal(size=(rank, width)))
    assert hull.filled and np.isnan(hull.residual(rng.normal(size=(3, width)))).all()
    assert np.isnan(hull.residual_of_points(np.arange(count))).all()


def test_siblings_are_near_in_one_space_or_another():
    """By brute force over all pairs of different groups; networks that are alike as stored are, whatever the chart."""
    stored, chart, groups = draw(dense((2, 2)), 8), draw(dense((3, 2)), 8), np.repeat(np.arange(4), 2)
    stored[2] = stored[0]
    pairs = np.minimum(*(np.linalg.norm(x[:, None] - x[None, :], axis=2) for x in (stored, chart)))
    pairs[groups[:, None] == groups[None, :]] = np.inf
    found = siblings([stored, chart], groups, ONE)
    np.testing.assert_allclose(found, pairs.min(axis=1), atol=1e-5)
    assert found[0] == found[2] == 0
    assert np.isnan(siblings([stored], np.zeros(8, int), ONE)).all()
