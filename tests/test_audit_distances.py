"""The fast search finds what a float64 search over all pairs finds, and proves it."""

import numpy as np
import pytest

from jaxweights import parallel
from jaxweights.auditing.distances import euclidean, products
from jaxweights.auditing.distances.groups import ExclusionGroups
from jaxweights.errors import UserError

# Both sides are float64 sums of the same squares in another order.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def all_pairs(queries, reference, own=None, groups=None):
    squares = (queries[:, None].astype(np.float64) - reference[None]) ** 2
    found = np.sqrt(squares.sum(axis=2))
    if own is not None:
        found[own[:, None] == groups[None, :]] = np.inf
    return found


def check(found, expected, k):
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :k], **EXACT)
    np.testing.assert_allclose(np.take_along_axis(expected, found.indices, axis=1), found.distances, **EXACT)
    assert all(len(set(row)) == k for row in found.indices)


@pytest.fixture(autouse=True)
def as_many(monkeypatch):
    """The search for many networks, in tests of few."""
    monkeypatch.setattr(euclidean, "_FEW", 0)


@pytest.mark.parametrize("k", [1, 3])
def test_equals_a_search_over_all_pairs(mesh, k):
    queries, reference = normal(0, 37, 50), normal(1, 85, 50)
    queries[5] = reference[7]  # an exact copy
    found = euclidean.nearest(queries, reference, k, mesh=mesh)
    check(found, all_pairs(queries, reference), k)
    assert found.distances[5, 0] == 0 and found.searched_again == 0


def test_groups_are_left_out(mesh):
    vectors, runs = normal(0, 60, 20), np.arange(60) // 7
    found = euclidean.nearest(vectors, vectors, 2, runs, runs, mesh=mesh)
    check(found, all_pairs(vectors, vectors, runs, runs), 2)
    assert (runs[found.indices] != runs[:, None]).all()


def test_few_networks_are_searched_alike(mesh, monkeypatch):
    """On the host, to the bit, with groups or without."""
    vectors, runs, steps = normal(0, 30, 20), np.arange(30) // 7, []
    vectors[8:10] = vectors[2]
    for groups in ((), (runs, runs)):
        monkeypatch.setattr(euclidean, "_FEW", 0)
        many = euclidean.nearest(vectors, vectors, 4, *groups, mesh=mesh)
        for most in (1 << 20, 1 << 12):  # all pairs in float64, and candidates
            monkeypatch.setattr(euclidean, "_FEW", most)
            few = euclidean.nearest(vectors, vectors, 4, *groups, progress=lambda *done: steps.append(done))
            np.testing.assert_array_equal(few.distances, many.distances)
            np.testing.assert_array_equal(few.indices, many.indices)
    assert steps == [(1, 1)] * 4


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_near_duplicates_of_one_another_are_told_apart(mesh, offset):
    """Forty references within 1e-5 of the query: the float32 product cannot rank them, so float64 has to."""
    reference = normal(0, 90, 300) + np.float32(offset)
    reference[20:60] = reference[20] + 1e-5 * normal(1, 40, 300)
    queries = reference[20:22] + 1e-5 * normal(2, 2, 300)
    found = euclidean.nearest(queries, reference, 2, mesh=mesh)
    check(found, all_pairs(queries, reference), 2)
    assert found.searched_again == 2
    # The law needs the second search: what the product alone ranks first is wrong here.
    products = queries.astype(np.float32) @ reference.T
    naive = (queries**2).sum(1)[:, None] + (reference**2).sum(1)[None] - 2 * products
    assert (naive.argmin(axis=1) != found.indices[:, 0]).any()


def test_bounds_lie_below_the_distances_and_close_to_them():
    """The certificate rests on this; chunks keep the charge small for vectors of any length."""
    for width in (7, 3000):
        queries, reference = normal(0, 9, width), normal(1, 30, width)
        frame = products.reference_frame(queries, reference, 1 << 20)
        groups, mesh = ExclusionGroups(None, None), parallel.make_mesh(1)
        bounds, indices = euclidean._candidates(queries, reference, groups, frame, 30, 30, mesh, lambda: None)
        squared = np.take_along_axis(all_pairs(queries, reference) ** 2, indices, axis=1)
        assert (bounds <= squared).all()
        # The charge is twice (1024 + 8) roundings of both squared lengths, each about half the squared distance.
        assert (squared - bounds <= 2.2e-4 * squared.max()).all()


def test_blocks_and_maps_change_nothing(tmp_path, mesh):
    """Streaming a memory map in blocks of a few rows gives what one block gives."""
    np.save(tmp_path / "reference.npy", normal(1, 70, 40))
    reference = np.load(tmp_path / "reference.npy", mmap_mode="r")
    queries, steps = normal(0, 23, 40), []
    whole = euclidean.nearest(queries, np.asarray(reference), 3, mesh=mesh)

    def progress(done, total):
        steps.append((done, total))

    parts = euclidean.nearest(queries, reference, 3, mesh=mesh, memory_bytes=16 << 10, progress=progress)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_array_equal(parts.distances, whole.distances)
    assert len(steps) > 5 and steps[-1][0] == steps[-1][1] and [s[0] for s in steps] == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scale_and_precision_of_the_input_do_not_matter(scale):
    queries, reference = normal(0, 11, 30).astype(np.float64) * scale, normal(1, 40, 30) * np.float64(scale)
    found = euclidean.nearest(queries, reference, 2)
    expected = all_pairs(queries, reference)
    np.testing.assert_allclose(found.distances, np.sort(expected, axis=1)[:, :2], rtol=1e-12)
    assert found.searched_again == 0


def test_products_in_chunks_keep_their_bound():
    """Random numbers against the classical bound, which for one sum of all of them would be 50 times as large."""
    width = 100_000
    a, b = normal(0, 3, width), normal(1, 4, width)
    product = np.asarray(products.chunked_product(products.in_chunks(a), products.in_chunks(b)))
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
    assert (np.abs(product - exact) <= products.product_error(width) * lengths).all()
    assert products.product_error(width) < 2 * width * 2.0**-24 / 50


def test_a_chosen_product_type_is_one_of_those_offered():
    assert products.fastest_product(("float32",)) == "float32"
    assert products.fastest_product(("bfloat16", "float32")) in ("bfloat16", "float32")


def test_mistakes_are_named():
    good = normal(0, 5, 4)
    bad = good.copy()
    bad[3, 1] = np.nan
    same = np.zeros(5, int)
    for queries, reference, k, groups, message in [
        (good[:0], good, 1, None, "query set has shape"),
        (good, normal(0, 5, 3), 1, None, "4 numbers and the reference vectors 3"),
        (good, bad, 1, None, "Row 3 of the reference set"),
        (good, good, 6, None, "5 of the 5 reference vectors, but 6"),
        (good, good, 1, same, "0 of the 5 reference vectors"),
    ]:
        with pytest.raises(UserError, match=message):
            euclidean.nearest(queries, reference, k, groups, groups)
    with pytest.raises(ValueError, match="together"):
        euclidean.nearest(good, good, 1, same)
