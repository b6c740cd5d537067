"""Baselines draw from the distribution that they name, one sample per key, and never touch their input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from test_coordinates import disguised
from test_matching import dense, shuffles
from test_matching import draw as random_networks

from jaxweights import generators, parallel, tasks
from jaxweights.auditing.alignment import canonical, matching, reordering
from jaxweights.errors import UserError
from jaxweights.generators import aligned
from jaxweights.nn.leaves import Leaves
from jaxweights.population import Population

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
BASELINES = {
    "copy": {"kind": "copy"},
    "permuted": {"kind": "copy", "permute": True},
    "rescaled": {"kind": "copy", "rescale": True},
    "noise": {"kind": "noise", "sigma": 0.3},
    "average": {"kind": "average", "k": 4},
    "gaussian": {"kind": "gaussian"},
    "pca": {"kind": "pca_gaussian", "components": 3},
    "interpolation": {"kind": "interpolation"},
}


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(20, P)) * np.linspace(0.5, 2, P) + np.arange(P) / P).astype(np.float32)


def draw(config, rows, n=400, seed=0):
    generator = generators.build("x", config)
    state = generator.fit(Population.create(rows, NET.spec))
    samples = jax.jit(generator.sample)(state, jax.random.split(jax.random.key(seed), n))
    return np.asarray(samples.weights), np.asarray(samples.parents)


@pytest.mark.parametrize("name", BASELINES)
def test_a_sample_depends_on_its_key_alone_and_the_input_stays(name, rows):
    before = rows.copy()
    weights, parents = draw(BASELINES[name], rows, 8)
    assert weights.shape == (8, P) and weights.dtype == np.float32 and parents.shape == (8,)
    assert np.array_equal(rows, before)
    generator = generators.build("x", BASELINES[name])
    keys = jax.random.split(jax.random.key(0), 8)[jnp.array([5, 2])]
    alone = generator.sample(generator.fit(Population.create(rows, NET.spec)), keys)
    # Products of other shapes may round differently; anything else must be equal.
    np.testing.assert_allclose(alone.weights, weights[[5, 2]], atol=1e-6)
    assert np.array_equal(alone.parents, parents[[5, 2]])


def test_copies_are_copies_up_to_their_symmetry(rows):
    images = jax.random.normal(jax.random.key(1), (5, 2, 2, 1))
    for name in ("copy", "permuted", "rescaled"):
        weights, parents = draw(BASELINES[name], rows, 30)
        assert np.array_equal(weights, rows[parents]) == (name == "copy")
        same = jax.jit(jax.vmap(NET.apply, in_axes=(0, None)))
        np.testing.assert_allclose(same(weights, images), same(rows[parents], images), atol=2e-4)
        assert len(set(parents.tolist())) > 10


def test_units_are_moved_as_they_admit():
    leaves = Leaves()
    rectified, odd = leaves.group(4, "positive"), leaves.group(5, "sign")
    for name, inputs, outputs, groups in (
        ("a", 3, 4, (-1, rectified)),
        ("b", 4, 5, (rectified, odd)),
        ("c", 5, 2, (odd,)),
    ):
        leaves.dense(name, inputs, outputs, *groups)
    spec = leaves.spec()
    train = Population.create(np.arange(1, 1 + spec.num_params, dtype=np.float32)[None], spec)
    for setting, moved in (
        ("rescale", {"a/weight", "a/bias", "b/weight"}),
        ("flip", {"b/weight", "b/bias", "c/weight"}),
    ):
        copy = generators.baselines.Copy(**{setting: True})
        drawn = np.asarray(jax.jit(copy.sample)(copy.fit(train), jax.random.split(jax.random.key(0), 3)).weights)
        change = {leaf.name: np.abs(drawn / train.weights - 1)[:, span].max(axis=1) for leaf, span in spec.spans()}
        assert {name for name, x in change.items() if (x > 0.1).all()} == moved
        assert {name for name, x in change.items() if (x < 1e-6).all()} == set(change) - moved
        if setting == "flip":
            np.testing.assert_array_equal(np.abs(drawn), np.broadcast_to(train.weights, drawn.shape))
        else:
            balanced = canonical.balance(spec, np.concatenate([train.weights, drawn]))
            np.testing.assert_allclose(balanced[1:], np.broadcast_to(balanced[:1], drawn.shape), rtol=1e-5)


def test_units_are_brought_into_the_order_of_others():
    """Reordered copies come back, and independent networks as near as the audit's matches are."""
    spec = dense((4, 5, 6, 3), "sign")
    rows, others = random_networks(spec, 24), random_networks(spec, 24, 1)
    others[:8] = reordering.reordered(spec, rows[:8], *shuffles(spec, 8))
    found = np.asarray(jax.jit(functools.partial(aligned.bring, spec))(rows, others))
    np.testing.assert_allclose(found[:8], rows[:8], rtol=1e-6)
    np.testing.assert_array_equal(*(np.sort(np.abs(x), axis=1) for x in (found, others)))
    matched = matching.match(spec, rows[8:], others[8:], mesh=parallel.make_mesh(1)).squared
    assert np.square(found - rows)[8:].sum(axis=1).mean() < 1.01 * matched.mean()


def test_mixtures_of_one_network_in_disguise_are_that_network(rows):
    one = np.repeat(rows[:1], 6, axis=0)
    weights, _ = draw({"kind": "soup", "k": 4}, disguised(NET.spec, one), 20)
    ends = np.repeat(canonical.balance(NET.spec, rows[:1]), 20, axis=0)
    distances = np.sqrt(matching.match(NET.spec, ends, weights, mesh=parallel.make_mesh(1)).squared)
    assert (distances < 1e-5 * np.linalg.norm(ends, axis=1)).all()
    assert np.linalg.norm(weights - weights[0], axis=1).max() > 1  # in several orders


def test_noise_has_its_amplitude(rows):
    weights, parents = draw(BASELINES["noise"], rows)
    noise = (weights - rows[parents]).ravel()
    assert stats.kstest(noise / 0.3, "norm").pvalue > 1e-3
    relative, parents = draw({"kind": "noise", "sigma": 0.1, "relative": True}, rows)
    for _, span in NET.spec.spans():
        ratio = (relative - rows[parents])[:, span].std() / rows[:, span].std()
        assert abs(ratio - 0.1) < 0.01  # at least 800 draws: standard error 2.5 %
    # Tensors of different amplitude, so that one amplitude for all is not that of any of them.
    rows = rows * np.linspace(0.1, 10, P, dtype=np.float32)[None, :]
    relative, parents = draw({"kind": "noise", "sigma": 0.1, "relative": True, "relative_to": "all"}, rows)
    noise = (relative - rows[parents]).ravel() / (0.1 * rows.std(dtype=np.float64))
    # Entries of different size round differently; the largest is a thousand times the noise.
    assert stats.kstest(noise, "norm").pvalue > 1e-3


def test_averages_are_means_of_distinct_rows(rows):
    weights, parents = draw(BASELINES["average"], rows, 200)
    assert (parents == -1).all()
    coefficients = np.linalg.lstsq(rows.T.astype(np.float64), weights.T, rcond=None)[0].T if P >= 20 else None
    if coefficients is None:  # fewer parameters than rows: check against every combination instead
        import itertools

        means = np.array([rows[list(c)].mean(axis=0) for c in itertools.combinations(range(20), 4)])
        assert max(np.abs(means - w).max(axis=1).min() for w in weights[:20]) < 1e-6
    else:
        assert np.allclose(np.sort(coefficients, axis=1)[:, -4:], 0.25, atol=1e-4)
    # Means of four: the variance is a quarter, less the finite-population correction (20 - 4) / (20 - 1).
    ratio = weights.var(axis=0, ddof=1) / rows.var(axis=0, ddof=1)
    assert abs(ratio.mean() - 0.25 * 16 / 19 * 19 / 20) < 0.04


def test_the_faithful_average_contaminates_itself(rows):
    """Replay of the published loop in float64: every average overwrites the first row it drew."""
    generator = generators.build("x", {"kind": "average", "k": 4, "faithful": True})
    keys = jax.random.split(jax.random.key(0), 50)
    weights = np.asarray(generator.sample(generator.fit(Population.create(rows, NET.spec)), keys).weights)
    chosen = np.asarray(jax.vmap(lambda k: jax.random.choice(k, 20, (4,), replace=False))(keys))
    pool = rows.astype(np.float64)
    for i, drawn in enumerate(chosen):
        mean = pool[drawn].mean(axis=0)
        np.testing.assert_allclose(weights[i], mean, atol=1e-5)
        pool[drawn[0]] = mean
    assert not np.allclose(weights, draw(BASELINES["average"], rows, 50)[0])


def test_gaussians_recover_the_moments(rows):
    n = 20_000
    weights, _ = draw(BASELINES["gaussian"], rows, n)
    std = rows.std(axis=0, ddof=1)
    # Five standard errors of a mean and of a standard deviation.
    assert (np.abs(weights.mean(axis=0) - rows.mean(axis=0)) < 5 * std / np.sqrt(n)).all()
    assert (np.abs(weights.std(axis=0) / std - 1) < 5 / np.sqrt(2 * n)).all()
    off = np.corrcoef(weights.T)[~np.eye(P, dtype=bool)]
    assert np.abs(off).max() < 6 / np.sqrt(n)


@pytest.mark.parametrize("count", [5, 20])  # fewer and more rows than what the components need: both Gram matrices
def test_pca_gaussian_has_the_rows_covariance(rows, count):
    n = 20_000
    rows = rows[:count]
    weights, _ = draw({"kind": "pca_gaussian"}, rows, n)
    covariance = np.cov(rows.T)
    # Entries of a sample covariance of n normal draws have a standard error of at most sqrt(2 / n) times the variances.
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert (np.abs(np.cov(weights.T) - covariance) < 6 * np.sqrt(2 / n) * scale).all()
    three, _ = draw({"kind": "pca_gaussian", "components": 3}, rows, 50)
    assert np.linalg.matrix_rank(three - three.mean(axis=0), tol=1e-3) == 3


def test_interpolations_lie_between_two_rows(rows):
    weights, parents = draw(BASELINES["interpolation"], rows, 50)
    for w, parent in zip(weights, parents, strict=True):
        a, b = rows[parent], rows[np.arange(20) != parent]
        t = ((w - a) * (b - a)).sum(axis=1) / ((b - a) ** 2).sum(axis=1)
        gap = np.linalg.norm(a + t[:, None] * (b - a) - w, axis=1)
        best = gap.argmin()
        assert gap[best] < 1e-4 and -1e-4 <= t[best] <= 0.5 + 1e-4


def test_too_few_training_networks_are_refused(rows):
    for config, message in [
        ({"kind": "average", "k": 21}, "needs at least 21 training networks, but the training split has 20"),
        ({"kind": "pca_gaussian", "components": 40}, "asks for 40 principal components"),
    ]:
        with pytest.raises(UserError, match=message):
            draw(config, rows)
    with pytest.raises(UserError, match="needs at least 2"):
        draw({"kind": "interpolation"}, rows[:1])


def test_unknown_units_of_noise_are_refused():
    with pytest.raises(UserError, match="relative_to is 'row'"):
        generators.build("x", {"kind": "noise", "relative_to": "row"})


def test_imported_networks_come_from_their_file(tmp_path, rows):
    np.savez(tmp_path / "mine.npz", weights=rows)
    weights, parents = draw({"kind": "file", "path": str(tmp_path / "mine.npz")}, rows[:3], 7)
    assert np.array_equal(weights, rows[:7]) and (parents == -1).all()
    with pytest.raises(UserError, match="has 20"):
        draw({"kind": "file", "path": str(tmp_path / "mine.npz")}, rows, 21)


def test_unknown_generators_are_named():
    with pytest.raises(UserError, match=r"generators\.x\.kind is 'gan'; set it to one of copy, noise, average"):
        generators.build("x", {"kind": "gan"})
    with pytest.raises(UserError, match=r"no setting generators\.x\.sigmaa; did you mean sigma\?"):
        generators.build("x", {"kind": "noise", "sigmaa": 1})
