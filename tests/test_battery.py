"""The battery's statistics against their published implementations, closed forms and plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from jaxweights import nets
from jaxweights.auditing import shapes, statistics
from jaxweights.auditing.alignment import canonical
from jaxweights.auditing.battery import (
    copying,
    dimension,
    diversity,
    invariants,
    manifolds,
    pairwise,
    sampling,
    two_sample,
)
from jaxweights.auditing.battery.likelihood import Likelihood


def rng(seed=0):
    return np.random.default_rng(seed)


def resampling(seed=0):
    return sampling.Resampling(rng(seed), bootstrap=200)


def between(a, b):
    return pairwise.distances(a, b, np.zeros(a.shape[1]))


@functools.cache
def pair(n=60, m=45, d=4):
    """A training and a generated set with copies, and their distances."""
    train, generated = rng(1).normal(size=(n, d)), rng(2).normal(0.4, 1.2, size=(m, d))
    generated[:5] = train[:5]
    return train, generated


def test_distances_are_scipys_and_see_copies_through_rounding():
    a = rng().normal(5, 1, (20, 300)).astype(np.float32)
    b = rng(1).normal(5, 1, (30, 300)).astype(np.float32)
    scale = rng(2).uniform(0.5, 2, 300)
    np.testing.assert_allclose(pairwise.distances(a, b, a.mean(axis=0)), cdist(a, b), rtol=1e-6)
    np.testing.assert_allclose(pairwise.distances(a, b, b.mean(axis=0), scale), cdist(a * scale, b * scale), rtol=1e-6)
    rounded = a * np.float32(1 + 1e-7)
    assert not np.diag(pairwise.distances(a, rounded, a.mean(axis=0))).any()
    # A change of 1e-5 is none of rounding.
    assert np.diag(pairwise.distances(a, a * np.float32(1 + 1e-5), a.mean(axis=0))).all()


def test_neighbours_among_a_half_are_those_of_the_half():
    rows = rng().normal(size=(80, 3))
    within, half = between(rows, rows), rng(1).permutation(80) < 40
    lists = pairwise.nearest(within, pairwise.listed(5), within=True)
    expected = pairwise.nearest(within[np.ix_(half, half)], 5, within=True).distances
    np.testing.assert_array_equal(pairwise.among(lists, half, 5)[half], expected)
    assert pairwise.distinct(between(rows[[0, 1, 0, 2, 1]], rows[[0, 1, 0, 2, 1]])).tolist() == [0, 1, 3]


def test_random_halves_give_the_interval_of_a_mean():
    values = rng().normal(size=400)
    estimate = resampling(1).of_halves(lambda chosen: chosen @ values / 200, values.mean(), [400])
    half_width = 1.96 * values.std() / np.sqrt(400)
    # The standard error of a 2.5 % quantile of 100 draws is about a fifth of a deviation, and there are two.
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half_width, rel=0.25)
    assert estimate.low < estimate.value < estimate.high


def test_precision_recall_density_and_coverage_are_those_of_prdc():
    prdc = pytest.importorskip("prdc")
    train, generated = pair()
    expected = prdc.compute_prdc(train, generated, 5)
    distances, own = between(generated, train), between(generated, generated)
    radii = pairwise.nearest(between(train, train), 5, within=True).distances[:, -1]
    lists = pairwise.nearest(own, pairwise.listed(5), within=True)
    found = manifolds.estimates(distances, radii, lists, 5, resampling())
    for name, estimate in found.items():
        assert estimate.value == pytest.approx(expected[name], abs=1e-6), name
        assert estimate.low <= estimate.value <= estimate.high


def test_copies_of_all_training_networks_have_perfect_manifolds():
    train = pair()[0]
    within = between(train, train)
    lists = pairwise.nearest(within, pairwise.listed(5), within=True)
    found = manifolds.estimates(within, lists.distances[:, 4], lists, 5, resampling())
    assert [round(found[name].value, 12) for name in ("precision", "recall", "density", "coverage")] == [1, 1, 1, 1]


def test_expected_coverage():
    assert manifolds.expected_coverage(300, 300, 5) == pytest.approx(0.9695, abs=5e-5)
    values = []
    for seed in range(40):
        train, generated = rng(seed).normal(size=(2, 60, 3))
        radii = pairwise.nearest(between(train, train), 2, within=True).distances[:, -1]
        values.append(manifolds.coverage(between(generated, train), radii))
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values) - manifolds.expected_coverage(60, 60, 2)) < 4 * error


def test_vendi_score_in_closed_form():
    assert diversity.vendi(diversity.cosine_kernel(np.ones((7, 3)))) == pytest.approx(1)
    assert diversity.vendi(diversity.cosine_kernel(np.eye(6))) == pytest.approx(6)
    assert diversity.vendi(diversity.cosine_kernel(np.zeros((4, 3)))) == pytest.approx(1)
    groups = diversity.cosine_kernel(np.repeat(np.eye(3), [50, 30, 20], axis=0))
    estimate = diversity.estimate(groups, resampling())
    assert estimate.value == pytest.approx(np.exp(stats.entropy([0.5, 0.3, 0.2])))
    # The delta method on the entropy of shares: the deviation of -log p over the networks.
    error = np.repeat(-np.log([0.5, 0.3, 0.2]), [50, 30, 20]).std() / np.sqrt(100)
    assert np.log(estimate.high / estimate.low) == pytest.approx(2 * 1.96 * error, rel=0.3)


def test_vendi_score_is_that_of_vendi_score():
    vendi = pytest.importorskip("vendi_score.vendi")
    rows = rng().normal(size=(30, 8))
    assert diversity.vendi(diversity.cosine_kernel(rows)) == pytest.approx(vendi.score_dual(rows), rel=1e-6)


@pytest.mark.parametrize(
    "d, linear, likelihood, harmonic",
    [(2, 1.9286, 1.9547, 1.9308), (5, 4.8175, 4.8153, 4.3894), (10, 8.0254, 8.0108, 7.8412)],
)
def test_dimensions_of_a_cube(d, linear, likelihood, harmonic):
    """Numbers of scikit-dimension 0.5.0 for the same points."""
    rows = rng().uniform(size=(1000, d))
    nearest = pairwise.nearest(between(rows, rows), 20, within=True).distances
    assert dimension.twonn(nearest[:, :2]) == pytest.approx(linear, abs=1e-4)
    assert dimension.twonn_likelihood(nearest[:, :2]) == pytest.approx(likelihood, abs=1e-4)
    assert dimension.levina_bickel(nearest) == pytest.approx(harmonic, abs=1e-4)


def test_dimensions_are_those_of_scikit_dimension():
    skdim = pytest.importorskip("skdim")
    rows = rng(3).normal(size=(120, 3))
    found = dimension.estimates(between(rows, rows), resampling())
    assert found["twonn"].value == pytest.approx(skdim.id.TwoNN().fit_transform(rows), rel=1e-5)
    assert found["levina_bickel"].value == pytest.approx(skdim.id.MLE().fit(rows, n_neighbors=20).dimension_, rel=1e-5)


def test_duplicates_do_not_change_a_dimension():
    rows = rng(3).normal(size=(60, 3))
    twice = np.concatenate([rows, rows[:30]])
    one, other = (dimension.estimates(between(x, x), resampling()) for x in (rows, twice))
    assert one == other and one["twonn"].n == 60
    assert not dimension.estimates(between(twice[:1].repeat(20, 0), twice[:1].repeat(20, 0)), resampling())


def test_c_t_is_the_weighted_mean_of_cells():
    """By SciPy's Mann-Whitney test in every cell, as in dgm-eval; a cell of too few generated networks is left out."""
    q = copying.InCells(rng().gamma(2, 1, 130), np.repeat([0, 1, 2], [60, 50, 20]))
    p = copying.InCells(rng(1).gamma(3, 1, 80), np.repeat([0, 1, 2], [30, 10, 40]))
    z = [statistics.z_u(q.distances[q.cells == c], p.distances[p.cells == c]) for c in (0, 1)]
    found = copying.c_t(q, p, resampling())
    assert found is not None and found["value"] == pytest.approx((30 * z[0] + 10 * z[1]) / 40)
    assert [cell["n"] for cell in found["cells"]] == [60, 50] and found["cells"][1]["heldout"] == 10 / 80
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    assert copying.c_t(copying.InCells(q.distances[:20], q.cells[:20]), p, resampling()) is None


def test_z_u_of_a_hundred_copies():
    assert statistics.z_u(np.zeros(100), np.ones(100)) == pytest.approx(-12.216, abs=5e-4)


@pytest.mark.parametrize("d, mean", [(2, 0.38), (10, 1.32), (50, 1.74)])
def test_calibrated_distances_of_new_networks_depend_on_the_dimension(d, mean):
    """So their limit is a quantile of held-out networks' own."""
    train, heldout, generated = (rng(seed).normal(size=(300, d)) for seed in range(3))
    values = [
        copying.calibrated_distance(pairwise.nearest(between(x, train), 50).distances) for x in (generated, heldout)
    ]
    assert values[0].mean() == pytest.approx(mean, abs=0.04)
    found = copying.share_below_heldout(values[0], values[1], resampling())
    assert found["ci95"][0] <= 0.06 and found["limit"] == np.quantile(values[1], 0.05)


def pooled(a, b):
    return two_sample.Pooled(between(a, a), between(b, b), between(a, b))


def test_mmd_is_the_unbiased_estimate():
    a, b = pair(12, 9)
    joined = np.concatenate([a, b])
    d = cdist(joined, joined)
    k = np.exp(-(d**2) / (2 * np.median(d[np.triu_indices(21, 1)]) ** 2))
    plain = (k[:12, :12].sum() - 12) / (12 * 11) + (k[12:, 12:].sum() - 9) / (9 * 8) - 2 * k[:12, 12:].mean()
    kernel = two_sample.mmd_kernel(pooled(a, b))
    assert kernel is not None
    estimate, _ = two_sample.mmd_test(kernel, 12, 10, resampling())
    assert estimate.value == pytest.approx(plain, rel=1e-4)
    assert two_sample.mmd_kernel(pooled(np.ones((3, 2)), np.ones((3, 2)))) is None


def test_mmd_under_the_null_and_beyond():
    values, ps = [], []
    for seed in range(60):
        a, b = rng(seed).normal(size=(2, 20, 3))
        kernel = two_sample.mmd_kernel(pooled(a, b))
        assert kernel is not None
        estimate, p = two_sample.mmd_test(kernel, 20, 99, resampling(seed))
        values.append(estimate.value)
        ps.append(p)
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(60)
    assert stats.kstest(ps, "uniform").pvalue > 1e-3
    far = two_sample.mmd_kernel(pooled(a, b + 3))
    assert far is not None and two_sample.mmd_test(far, 20, 99, resampling())[1] == 0.01


def nearest_neighbour_accuracy(a, b):
    """`one_nna` of generated networks `a` and training networks `b`."""
    own = [pairwise.nearest(between(x, x), pairwise.listed(1), within=True) for x in (a, b)]
    across = [pairwise.nearest(between(x, y), pairwise.listed(1)) for x, y in ((a, b), (b, a))]
    return two_sample.one_nna(own[0], across[0], own[1], across[1], resampling())


def test_nearest_neighbour_accuracy():
    a, b = rng().normal(size=(2, 40, 3))
    estimate, share = nearest_neighbour_accuracy(a, b)
    expected = shapes.set_metrics(between(a, b), between(a, a), between(b, b))["one_nna"]
    assert estimate.value == pytest.approx(expected) and estimate.low < 0.5 < estimate.high and 0.2 < share < 0.8
    assert nearest_neighbour_accuracy(b, b)[0].value == 0
    assert nearest_neighbour_accuracy(a + 9, b)[0].value == 1


def test_classifier_tells_sets_apart_that_are():
    a, b, c = rng().normal(size=(3, 200, 5))
    same, p = two_sample.c2st(a, b, 0)
    assert same.low <= 0.5 <= same.high and p > 0.01 and same.n == 200
    apart, p = two_sample.c2st(1.5 * c, b, 0)
    assert apart.low > 0.5 and p < 1e-3


def test_features_tell_sets_apart_that_are():
    a, b, c = rng().normal(size=(3, 100, 30))
    same, p = two_sample.c2st_of_features(a, b, 0)
    assert same.low <= 0.5 <= same.high and p > 0.01 and same.n == 200
    apart, p = two_sample.c2st_of_features(c + 1.5 * (np.arange(30) == 3), b, 0)
    assert apart.low > 0.5 and p < 1e-3
    # Rows of a set are judged by a classifier that did not see them: networks that occur once cannot be learnt.
    assert two_sample.c2st_of_features(a[:8], b[:8], 0)[0].value < 1


def test_distances_of_pairs_are_in_units_of_the_others():
    a, b = rng().normal(size=(2, 80, 6))
    ratio = two_sample.pairs_ratio(2 * between(a, a), between(b, b), resampling())
    assert ratio.low < ratio.value < ratio.high < 2.6
    assert ratio.value == pytest.approx(2 * pdist(a).mean() / pdist(b).mean())


def test_invariants_are_of_the_function():
    """Networks whose units were reordered and rescaled have the same numbers, other networks others."""
    spec = nets.build({"name": "mlp", "hidden": (4, 3)}, (5,), 2).spec
    networks = rng().normal(size=(6, spec.num_params))
    keys = jax.random.split(jax.random.key(0), 2)
    scales = [jnp.exp(jax.random.normal(keys[1], (group.size,))) for group in spec.groups]
    copies = spec.rescale(spec.permute(jnp.asarray(networks), spec.random_permutation(keys[0])), scales)
    found = [invariants.describe(spec, canonical.balance(spec, np.asarray(x))) for x in (networks, copies)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert np.abs(found[0][1:] - found[0][:-1]).max(axis=0).min() > 0.01
    first = canonical.balance(spec, networks)[:, :20].reshape(6, 4, 5)
    np.testing.assert_allclose(found[0][:, 0], 0.5 * np.log(np.square(first).mean(axis=(1, 2))))
    np.testing.assert_allclose(found[0][:, 4:8], np.log(np.linalg.svd(first, compute_uv=False)))


def test_likelihoods_are_those_of_the_published_code():
    """Numbers of marcojira/fld at ffbbf20 on the same sets, the base around the first half of the training networks."""
    draws = rng()
    mix = draws.normal(size=(12, 12))

    def drawn(count):
        return (draws.normal(size=(count, 12)) @ mix + 3).astype(np.float32)

    train, test, law = drawn(200), drawn(100), drawn(80)
    noised = train[:80] + 0.1 * draws.normal(size=(80, 12)).astype(np.float32)
    wide = 2 * drawn(80) - 3
    likelihood = Likelihood(train, test)
    golden = {"law": (2.7495, -0.4585), "noised": (16294.6, -6817.0), "wide": (43.3600, 1.3849)}
    for (name, expected), generated in zip(golden.items(), (law, noised, wide), strict=True):
        found = likelihood(generated, resampling())
        assert (found["fld"].value, found["fld_gap"].value) == pytest.approx(expected, rel=1e-4), name
    copies = likelihood(train[:80], resampling())
    assert copies["fld_gap"].high < -1000 and copies["fld"].low > 1000
