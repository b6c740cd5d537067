"""Pruned alignment equals SciPy's assignment on every pair."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxweights import parallel
from jaxweights.auditing.alignment import hidden_layer, lower_bounds
from jaxweights.auditing.alignment.hidden_units import HiddenUnits, apply_permutation, unit_frame
from jaxweights.auditing.distances import euclidean, products
from jaxweights.errors import UserError

# Both sides are float64 sums of the same squares in another order.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def layout(inputs, hidden, outputs):
    """G.pt's order: first weights by unit, first biases, second weights by output, second biases."""
    first = hidden * inputs
    units = [
        [*range(u * inputs, (u + 1) * inputs), first + u, *(first + hidden + o * hidden + u for o in range(outputs))]
        for u in range(hidden)
    ]
    start = first + hidden + hidden * outputs
    return np.array(units), np.arange(start, start + outputs)


def networks(seed, count, units, rest):
    return np.random.default_rng(seed).standard_normal((count, units.size + rest.size)).astype(np.float32)


def by_scipy(queries, reference, units, rest, odd=False):
    """All pairs, one assignment each."""
    out = np.empty((len(queries), len(reference)))
    for i, a in enumerate(queries.astype(np.float64)):
        for j, b in enumerate(reference.astype(np.float64)):
            costs = ((a[units][:, None] - b[units][None]) ** 2).sum(axis=2)
            if odd:
                costs = np.minimum(costs, ((a[units][:, None] + b[units][None]) ** 2).sum(axis=2))
            out[i, j] = np.sqrt(costs[linear_sum_assignment(costs)].sum() + ((a[rest] - b[rest]) ** 2).sum())
    return out


def check(found, expected, queries, reference, units, k):
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :k], **EXACT)
    np.testing.assert_allclose(np.take_along_axis(expected, found.indices, axis=1), found.distances, **EXACT)
    aligned = apply_permutation(reference[found.indices], units, found.permutations).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(aligned - queries[:, None], axis=2), found.distances, **EXACT)


@pytest.fixture(autouse=True)
def as_many(monkeypatch):
    """The search for many networks, in tests of few."""
    monkeypatch.setattr(hidden_layer, "_FEW", 0)
    monkeypatch.setattr(euclidean, "_FEW", 0)


@pytest.mark.parametrize("odd", [False, True])
def test_few_networks_are_searched_alike(odd, monkeypatch):
    """All pairs are solved, with the same result, with groups or without."""
    units, rest = layout(5, 4, 3)
    vectors, runs = networks(0, 20, units, rest), np.arange(20) // 3
    for groups in ((), (runs, runs)):
        monkeypatch.setattr(hidden_layer, "_FEW", 0)
        many = hidden_layer.aligned_nearest(vectors, vectors, units, rest, 3, *groups, odd=odd)
        monkeypatch.setattr(hidden_layer, "_FEW", 1 << 20)
        few = hidden_layer.aligned_nearest(vectors, vectors, units, rest, 3, *groups, odd=odd)
        for name in ("distances", "indices", "permutations", "signs"):
            np.testing.assert_array_equal(getattr(few, name), getattr(many, name))
        assert few.solved_share == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("k", [1, 3])
def test_equals_scipy_on_every_pair(mesh, k, dtype, monkeypatch):
    monkeypatch.setattr(products, "fastest_product", lambda dtypes: dtype)
    units, rest = layout(20, 6, 4)
    queries, reference = networks(0, 19, units, rest), networks(1, 43, units, rest)
    found = hidden_layer.aligned_nearest(queries, reference, units, rest, k, mesh=mesh)
    check(found, by_scipy(queries, reference, units, rest), queries, reference, units, k)
    # Pruning is what the search is for: these random networks leave about a tenth to solve.
    assert k / 43 <= found.solved_share < 0.3


@pytest.mark.parametrize("hidden, outputs", [(1, 2), (20, 3), (64, 2)])
def test_any_number_of_units(hidden, outputs):
    """One, few, and more than minima alone bound."""
    units, rest = layout(5, hidden, outputs)
    queries, reference = networks(0, 5, units, rest), networks(1, 14, units, rest)
    found = hidden_layer.aligned_nearest(queries, reference, units, rest, 2)
    check(found, by_scipy(queries, reference, units, rest), queries, reference, units, 2)


def test_without_entries_that_stay():
    units = np.arange(30).reshape(5, 6)
    queries, reference = networks(0, 4, units, units[0, :0]), networks(1, 9, units, units[0, :0])
    found = hidden_layer.aligned_nearest(queries, reference, units, units[0, :0])
    check(found, by_scipy(queries, reference, units, units[0, :0]), queries, reference, units, 1)


def test_permuted_copies_are_found_at_distance_zero(mesh):
    units, rest = layout(20, 6, 4)
    reference, rng = networks(1, 43, units, rest), np.random.default_rng(2)
    shuffles = np.stack([rng.permutation(6) for _ in range(10)])
    queries = apply_permutation(reference[:10], units, shuffles)
    found = hidden_layer.aligned_nearest(queries, reference, units, rest, mesh=mesh)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(10))
    np.testing.assert_array_equal(found.permutations[:, 0], shuffles)
    assert (found.distances == 0).all()
    # The distance without alignment does not see them.
    assert euclidean.nearest(queries, reference, 1, mesh=mesh).distances.min() > 1


def test_networks_too_close_for_rough_products(mesh):
    """A cluster whose differences drown in bfloat16: the bounds must not rule out the nearest."""
    units, rest = layout(20, 6, 4)
    reference = networks(1, 1, units, rest) + 1e-2 * networks(2, 40, units, rest)
    ids = np.arange(40)
    found = hidden_layer.aligned_nearest(reference, reference, units, rest, 2, ids, ids, mesh=mesh)
    expected = by_scipy(reference, reference, units, rest)
    np.fill_diagonal(expected, np.inf)
    check(found, expected, reference, reference, units, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bounds_lie_below_the_distances(dtype, monkeypatch):
    """The search rests on this; units of very different lengths are the hard case for a shared charge."""
    monkeypatch.setattr(products, "fastest_product", lambda dtypes: dtype)
    units, rest = layout(20, 6, 4)
    lengths = 10.0 ** np.random.default_rng(3).uniform(-4, 2, (30, 1)).astype(np.float32)
    reference = lengths * networks(1, 30, units, rest)
    reference[20:] = reference[:10] * np.float32(1.0001)
    shape = HiddenUnits(units, rest)
    frame = unit_frame(products.reference_frame(reference, reference, 1 << 20), shape)
    screen = lower_bounds.LowerBounds(shape, frame, parallel.make_mesh(1), 30, 1 << 20)
    screen.load_queries(reference)
    bounds = screen.lower_bounds(reference, slice(0, 30), None) / frame.scale**2
    assert (bounds <= by_scipy(reference, reference, units, rest) ** 2).all()


def test_units_that_may_change_sign(monkeypatch):
    monkeypatch.setattr(products, "fastest_product", lambda dtypes: "bfloat16")
    units, rest = layout(20, 6, 4)
    queries, reference = networks(0, 19, units, rest), networks(1, 43, units, rest) + 1
    found = hidden_layer.aligned_nearest(queries, reference, units, rest, 2, odd=True, mesh=parallel.make_mesh(1))
    expected = by_scipy(queries, reference, units, rest, odd=True)
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :2], **EXACT)
    aligned = apply_permutation(reference[found.indices], units, found.permutations).astype(np.float64)
    aligned[..., units] *= found.signs[..., None]
    np.testing.assert_allclose(np.linalg.norm(aligned - queries[:, None], axis=2), found.distances, **EXACT)
    assert (found.signs < 0).any() and found.solved_share < 1


@pytest.mark.parametrize("odd", [False, True])
def test_sharper_bounds_lie_right_below_the_distances(odd, monkeypatch):
    """And the search that asks for them is exact; where two networks are the same, too."""
    monkeypatch.setattr(hidden_layer, "_FEW_PAIRS", 0)
    monkeypatch.setattr(lower_bounds, "_SHARPENED_PAIRS", 64)
    units, rest = layout(5, 4, 2)
    queries, reference = networks(0, 9, units, rest), networks(1, 12, units, rest)
    reference[5] = queries[0]
    expected = by_scipy(queries, reference, units, rest, odd)
    found = hidden_layer.aligned_nearest(queries, reference, units, rest, 2, odd=odd)
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :2], **EXACT)
    hidden = HiddenUnits(units, rest)
    frame = unit_frame(products.reference_frame(queries, reference, 1 << 20), hidden, odd)
    screen = lower_bounds.LowerBounds(hidden, frame, parallel.make_mesh(), len(reference), 1 << 20, odd)
    rows, columns = (x.reshape(-1) for x in np.indices(expected.shape))
    bounds = screen.sharper(queries, reference, rows, columns)
    squared = np.square(frame.scale * expected).reshape(-1)
    assert (bounds <= squared).all()
    np.testing.assert_allclose(bounds, squared, rtol=1e-4, atol=1e-5)


def test_groups_blocks_and_panels(mesh, monkeypatch):
    """Leaving out runs, tiny memory and panels narrower than the reference change nothing else."""
    units, rest = layout(20, 6, 4)
    reference, runs, steps = networks(1, 37, units, rest), np.arange(37) // 3, []
    expected = by_scipy(reference, reference, units, rest)
    expected[runs[:, None] == runs[None, :]] = np.inf
    monkeypatch.setattr(lower_bounds, "_PANEL_COLUMNS", 1)
    found = hidden_layer.aligned_nearest(
        reference, reference, units, rest, 3, runs, runs, mesh=mesh, memory_bytes=64 << 10,
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    check(found, expected, reference, reference, units, 3)
    assert len(steps) > 3 and steps[-1][0] == steps[-1][1]


def test_single_pairs():
    units, rest = layout(20, 6, 4)
    a, b = networks(0, 2, units, rest)
    distance, permutation = hidden_layer.aligned_distance(a, b, units, rest)
    assert distance == pytest.approx(by_scipy(a[None], b[None], units, rest)[0, 0], rel=1e-12)
    before = b.copy()
    moved = apply_permutation(b, units, permutation)
    assert np.linalg.norm(a - moved.astype(np.float64)) == pytest.approx(distance, rel=1e-6)  # a float32 difference
    np.testing.assert_array_equal(b, before)
    inverse = np.argsort(permutation)
    np.testing.assert_array_equal(apply_permutation(moved, units, inverse), b)


def test_mistakes_are_named():
    units, rest = layout(3, 2, 2)
    good = networks(0, 4, units, rest)
    same = np.zeros(4, int)
    with pytest.raises(UserError, match="0 of the 4 reference vectors"):
        hidden_layer.aligned_nearest(good, good, units, rest, 1, same, same)
    with pytest.raises(UserError, match="numbers and the reference vectors"):
        hidden_layer.aligned_nearest(good[:, :-1], good, units, rest)
    with pytest.raises(ValueError, match="exactly once"):
        hidden_layer.aligned_nearest(good, good, units, rest[:-1])
