"""Error similarity by matrix products equals the set definition, in any tiling, on any mesh."""

import numpy as np
import pytest

from jaxweights import parallel
from jaxweights.auditing.distances import products, similarity
from jaxweights.errors import UserError


def masks(seed, n, t, rate=0.3):
    return np.random.default_rng(seed).random((n, t)) < rate


def by_sets(queries, references, faithful):
    """The definition, pair by pair, from Python sets."""
    out = np.zeros((len(queries), len(references)))
    sets = [[set(np.flatnonzero(m)) for m in many] for many in (queries, references)]
    for i, a in enumerate(sets[0]):
        for j, b in enumerate(sets[1]):
            union = len(a | b)
            out[i, j] = len(a & b) / (union + 1e-8) if faithful else (len(a & b) / union if union else 1.0)
    return out


def pack(m):
    return np.packbits(m, axis=1)


@pytest.fixture(autouse=True)
def as_many(monkeypatch):
    """The search for many networks, in tests of few."""
    monkeypatch.setattr(similarity, "_FEW", 0)


@pytest.mark.parametrize("faithful", [False, True])
def test_maximum_over_tiles_is_that_of_sets(mesh, faithful, monkeypatch):
    monkeypatch.setattr(similarity, "_TILE", 16)
    similarity._program.cache_clear()
    queries, references = masks(0, 13, 37), masks(1, 35, 37)
    queries[3], references[7] = False, False  # two perfect networks
    expected = by_sets(queries, references, faithful)
    found = similarity.max_error_iou(pack(queries), pack(references), 37, mesh=mesh, faithful=faithful)
    # The integers are exact; the quotient is rounded to float32.
    np.testing.assert_allclose(found.values, expected.max(axis=1), rtol=1e-7)
    np.testing.assert_allclose(expected[np.arange(13), found.indices], expected.max(axis=1), rtol=1e-7)
    assert found.values[3] == (0.0 if faithful else 1.0)
    own, groups = np.arange(13) % 4, np.arange(35) % 4
    left = np.where(own[:, None] == groups[None, :], -1, expected)
    found = similarity.max_error_iou(pack(queries), pack(references), 37, own, groups, mesh=mesh, faithful=faithful)
    np.testing.assert_allclose(found.values, left.max(axis=1), rtol=1e-7)
    assert (own != groups[found.indices]).all()
    similarity._program.cache_clear()


def test_counts_are_exact_where_bfloat16_sums_would_not_be():
    """Bfloat16 has eight bits of mantissa: sums of thousands of ones must be accumulated in something wider."""
    t = 5000
    a = masks(0, 4, t, 0.9)
    ids, mesh = np.arange(4), parallel.make_mesh(1)
    found = similarity.max_error_iou(pack(a), pack(a[::-1]), t, ids, ids[::-1].copy(), mesh=mesh)
    inter = a.astype(np.int64) @ a.T.astype(np.int64)
    sizes = a.sum(axis=1)
    iou = inter / (sizes[:, None] + sizes[None, :] - inter)
    np.fill_diagonal(iou, -1)
    np.testing.assert_allclose(found.values, iou.max(axis=1), rtol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "float32"])
def test_every_product_type_counts_exactly(mesh, dtype, monkeypatch):
    monkeypatch.setattr(products, "fastest_product", lambda dtypes: dtype)
    queries, references = masks(0, 9, 4999, 0.4), masks(1, 21, 4999, 0.4)
    found = similarity.max_error_iou(pack(queries), pack(references), 4999, mesh=mesh)
    expected = similarity.error_iou(pack(queries), pack(references), 4999)
    np.testing.assert_array_equal(expected, by_sets(queries, references, False))
    np.testing.assert_array_equal(found.values, expected.max(axis=1))
    np.testing.assert_array_equal(found.indices, expected.argmax(axis=1))


@pytest.mark.parametrize("faithful", [False, True])
def test_few_networks_are_compared_alike(faithful, monkeypatch):
    monkeypatch.setattr(similarity, "_FEW", 1 << 20)
    queries, references = masks(0, 13, 37), masks(1, 35, 37)
    queries[3], references[7] = False, False
    expected = by_sets(queries, references, faithful)
    found = similarity.max_error_iou(pack(queries), pack(references), 37, faithful=faithful)
    np.testing.assert_allclose(found.values, expected.max(axis=1), rtol=1e-12)
    np.testing.assert_array_equal(found.indices, expected.argmax(axis=1))
    own, groups = np.arange(13) % 4, np.arange(35) % 4
    found = similarity.max_error_iou(pack(queries), pack(references), 37, own, groups, faithful=faithful)
    left = np.where(own[:, None] == groups[None, :], -1, expected)
    np.testing.assert_allclose(found.values, left.max(axis=1), rtol=1e-12)


def test_quotients_that_float32_cannot_tell_apart():
    """Two quotients 1e-12 apart, the larger behind more repeats of the smaller than candidates are kept."""
    t, size = 1 << 21, 1_000_000
    query = np.arange(t) < size
    worse, better = np.zeros(t, bool), np.zeros(t, bool)
    worse[: size // 2], worse[size : size + 1] = True, True
    better[: size // 2 + 1], better[size : size + 3] = True, True
    references = pack(np.stack([worse] * 6 + [better]))
    found = similarity.max_error_iou(pack(query[None]), references, t)
    assert np.float32((size // 2) / (size + 1)) == np.float32((size // 2 + 1) / (size + 3))
    assert found.indices[0] == 6 and found.values[0] == (size // 2 + 1) / (size + 3)


def test_bad_masks_are_refused():
    good = pack(masks(0, 3, 20))
    for queries, groups, message in [
        (good[:, :2], None, r"\[N, 3\] uint8"),
        (good[:0], None, "at least one row"),
        (good, (np.zeros(3, int), np.zeros(3, int)), "own group"),
    ]:
        with pytest.raises(UserError, match=message):
            similarity.max_error_iou(queries, good, 20, *(groups or (None, None)))
