"""Distances of clouds and sets: Chamfer equals a search tree's in float64 and the published code's; symmetry, near
duplicates and devices; exact assignment in one dimension; set metrics by hand, and the published code's.

Golden values: tests/golden/README.md.
"""

import pathlib

import numpy as np
import pytest
from scipy.spatial import cKDTree

from jaxweights import parallel
from jaxweights.auditing import shapes
from jaxweights.errors import UserError

GOLDEN = pathlib.Path(__file__).parent / "golden" / "shape_metrics_reference.npz"
_SAMPLES = 9  # the golden clouds begin with so many samples; the others are the reference


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def _clouds(seed: int, count: int, points: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    clouds = rng.normal(size=(count, points, 3)) * rng.uniform(0.5, 2, (count, 1, 3)) + rng.normal(size=(count, 1, 3))
    return clouds.astype(np.float32)


def _chamfer_float64(a, b) -> np.ndarray:
    trees = [[cKDTree(x.astype(np.float64)) for x in clouds] for clouds in (a, b)]
    return np.array(
        [[np.square(s.query(t.data)[0]).mean() + np.square(t.query(s.data)[0]).mean() for t in trees[1]]
         for s in trees[0]]
    )  # fmt: skip


@pytest.mark.parametrize("sizes", [(37, 37), (64, 21), (5, 700), (600, 1)])
def test_chamfer_equals_a_search_tree(sizes, mesh):
    a, b = _clouds(0, 3, sizes[0]), _clouds(1, 4, sizes[1])
    found = shapes.chamfer(a, b, mesh)
    assert found.shape == (3, 4) and found.dtype == np.float32
    # A square of differences has three roundings, a mean of m about log2(m) in XLA's order.
    np.testing.assert_allclose(found, _chamfer_float64(a, b), rtol=2e-6)


@pytest.mark.parametrize("entries", [1, 100, 300])
def test_tiles_change_nothing(mesh, monkeypatch, entries):
    a, b = _clouds(0, 2, 10), _clouds(1, 2, 23)  # tiles of 1, 8 (one point is padding) and all 23 points
    whole = shapes.chamfer(a, b, mesh)
    monkeypatch.setattr(shapes, "_TILE_ENTRIES", entries)
    shapes._plan.cache_clear()
    found = shapes.chamfer(a, b, mesh)
    shapes._plan.cache_clear()
    assert shapes.pair_shape("cpu", 10, 23).points == {1: 1, 100: 8, 300: 23}[entries]
    np.testing.assert_allclose(found, whole, rtol=2e-6)


def test_chamfer_of_a_set_with_itself(mesh):
    clouds = _clouds(0, 13, 40)
    found = shapes.chamfer(clouds, None, mesh)
    np.testing.assert_allclose(found, shapes.chamfer(clouds, clouds, mesh), rtol=2e-6)
    np.testing.assert_array_equal(found, found.T)
    assert not np.diagonal(found).any()
    np.testing.assert_array_equal(shapes.chamfer(clouds, None, parallel.make_mesh(1)), found)


def test_chamfer_tells_near_duplicates_apart(mesh):
    """Far from the origin, where |x|^2 + |y|^2 - 2 x.y would have no digit left."""
    cloud = _clouds(0, 1, 50) + np.float32(100)
    moved = cloud + np.float32(2**-10)
    assert shapes.chamfer(cloud, cloud, mesh)[0, 0] == 0
    assert shapes.chamfer(cloud, moved, mesh)[0, 0] == pytest.approx(6 * 2**-20, rel=1e-5)


def test_chamfer_counts_pairs(mesh):
    seen = []
    shapes.chamfer(_clouds(0, 3, 5), _clouds(1, 2, 5), mesh, progress=lambda *x: seen.append(x))
    assert seen[-1] == (6, 6)


def test_nearest_equals_all_distances(mesh, monkeypatch):
    a, b = _clouds(0, 7, 20), _clouds(1, 5, 30)
    across, within = shapes.chamfer(a, b, mesh), shapes.chamfer(a, None, mesh)
    np.fill_diagonal(within, np.inf)
    for entries in (1 << 26, 11):  # whole matrices, and two rows or one at a time
        monkeypatch.setattr(shapes, "_MATRIX_ENTRIES", entries)
        for others, distances in ((b, across), (None, within)):
            found = shapes.nearest_chamfer(a, others, mesh)
            np.testing.assert_array_equal(found.indices, distances.argmin(axis=1))
            np.testing.assert_allclose(found.distances, distances.min(axis=1), rtol=2e-6)


def test_normalise(golden):
    clouds = _clouds(0, 4, 30)
    plain = shapes.normalise(clouds)
    np.testing.assert_allclose(plain.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(plain.reshape(4, -1).std(axis=1, ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(shapes.normalise(3 * clouds - 5), plain, atol=1e-5)
    shifted = golden["clouds"] + np.array([0.5, -1, 2], np.float32)
    np.testing.assert_allclose(shapes.normalise(shifted, faithful=True), golden["normalised"], atol=2e-6)
    assert np.abs(shapes.normalise(shifted) - golden["normalised"]).max() > 0.1
    assert not shapes.normalise(np.full((1, 5, 3), 0.1)).any()


def test_distances_are_the_published(golden, mesh):
    samples, reference = golden["clouds"][:_SAMPLES], golden["clouds"][_SAMPLES:]
    # The published product form cancels: coordinates of up to 5 leave it an absolute error of a few 25 * 2^-23.
    for name, a, b in (
        ("sample_to_reference", samples, reference),
        ("sample_to_sample", samples, None),
        ("reference_to_reference", reference, None),
    ):
        np.testing.assert_allclose(shapes.chamfer(a, b, mesh), golden[name], atol=2e-5)


def test_set_metrics_are_the_published(golden):
    names = ("sample_to_reference", "sample_to_sample", "reference_to_reference")
    found = shapes.set_metrics(*(golden[name] for name in names))
    assert 0 < golden["cov"] < 1 and 0 < golden["one_nna"] < 1
    for name, value in found.items():
        assert value == pytest.approx(float(golden[name]), rel=1e-6)


def test_set_metrics_by_hand():
    """Points on a line: samples at 0 and 10, reference at 1, 2 and 30."""
    samples, reference = np.array([0.0, 10.0]), np.array([1.0, 2.0, 30.0])
    matrices = [np.abs(x[:, None] - y[None]) for x, y in ((samples, reference), (samples,) * 2, (reference,) * 2)]
    found = shapes.set_metrics(*matrices)
    # Nearest of 0, 10: 1 and 2. Nearest of 1, 2, 30: 0 (or 2, which comes first and is reference), 1 and 10.
    assert found == {"mmd": (1 + 2 + 20) / 3, "mmd_smp": (1 + 8) / 2, "cov": 2 / 3, "one_nna": 2 / 5}
    intervals = shapes.set_metric_intervals(*matrices)
    for name, estimate in intervals.items():
        assert estimate.value == pytest.approx(found[name]) and estimate.low <= estimate.value <= estimate.high
    assert intervals["mmd"].n == 3 and intervals["mmd_smp"].n == 2 and intervals["one_nna"].n == 5


def test_set_metrics_tell_copies_and_strangers_apart(mesh):
    rng = np.random.default_rng(0)

    def metrics(samples, reference):
        pairs = ((samples, reference), (samples, None), (reference, None))
        return shapes.set_metrics(*(shapes.chamfer(*pair, mesh) for pair in pairs))

    reference = _clouds(0, 24, 30)
    copies = metrics(reference + rng.normal(size=reference.shape).astype(np.float32) * 1e-3, reference)
    strangers = metrics(reference + 50, reference)
    alike = metrics(_clouds(5, 24, 30), reference)
    assert copies["one_nna"] == 0 and copies["cov"] == 1 and copies["mmd"] < 1e-4
    assert strangers["one_nna"] == 1 and strangers["cov"] < 0.3 and strangers["mmd"] > 1000
    assert 0.25 < alike["one_nna"] < 0.75 and copies["mmd"] < alike["mmd"] < strangers["mmd"]


def test_emd_on_a_line_matches_in_order():
    a, b = (np.random.default_rng(i).normal(size=(3, 40, 1)).astype(np.float32) for i in (0, 1))
    flat = [np.concatenate([x, np.zeros_like(x), np.zeros_like(x)], axis=2) for x in (a, b)]
    expected = np.abs(np.sort(a[:, None, :, 0]) - np.sort(b[None, :, :, 0])).mean(axis=2)
    np.testing.assert_allclose(shapes.emd(*flat), expected, rtol=1e-6)
    within = shapes.emd(flat[0])
    np.testing.assert_allclose(within, np.abs(np.sort(a[:, None, :, 0]) - np.sort(a[None, :, :, 0])).mean(axis=2))
    np.testing.assert_array_equal(within, within.T)


def test_emd_of_moved_and_thinned_clouds():
    cloud = _clouds(0, 1, 60)
    moved = cloud[:, ::-1] + np.array([0, 0.25, 0], np.float32)
    assert shapes.emd(cloud, moved)[0, 0] == pytest.approx(0.25, rel=1e-6)
    others = _clouds(1, 2, 60)
    thinned = shapes.emd(cloud, others, points=20)
    assert (shapes.emd(cloud, others, points=20) == thinned).all()
    assert (shapes.emd(cloud, others, points=20, seed=1) != thinned).any()
    assert (shapes.emd(cloud, others, points=20) > 0.5 * shapes.emd(cloud, others)).all()
    assert shapes.emd(cloud, cloud, points=20)[0, 0] == 0


def test_emd_processes_change_nothing():
    a, b = _clouds(0, 2, 15), _clouds(1, 3, 15)
    np.testing.assert_array_equal(shapes.emd(a, b, processes=2), shapes.emd(a, b))


def test_refuses_what_are_no_clouds(mesh):
    good, bad = _clouds(0, 2, 5), _clouds(0, 3, 5)
    bad[1, 2, 0] = np.nan
    with pytest.raises(UserError, match="row 1"):
        shapes.chamfer(good, bad, mesh)
    with pytest.raises(UserError, match=r"\[shapes, points, 3\]"):
        shapes.chamfer(good[:0], good, mesh)
    with pytest.raises(UserError, match="single cloud"):
        shapes.nearest_chamfer(good[:1], None, mesh)
    with pytest.raises(UserError, match="one to one"):
        shapes.emd(good, _clouds(0, 2, 6))
    with pytest.raises(UserError, match="do not fit"):
        shapes.set_metrics(np.zeros((2, 3)), np.zeros((3, 3)), np.zeros((3, 3)))
    with pytest.raises(UserError, match="not all finite"):
        shapes.set_metrics(np.full((2, 3), np.inf), np.zeros((2, 2)), np.zeros((3, 3)))
