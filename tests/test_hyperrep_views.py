"""The views that Hyper-Representations is trained on keep the function and have the published distributions."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from jaxweights import tasks
from jaxweights.generators.hyperrep import views

NETS = {
    "cnn": tasks.build(
        {"name": "cnn", "channels": (3, 2), "windows": (3, 2), "pools": (True, False), "hidden": 4}, (10, 10, 1), 3
    ),
    "mlp": tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2),
}
NET = NETS["cnn"]


def random_rows(count, net=NET, seed=0):
    return np.random.default_rng(seed).normal(size=(count, net.spec.num_params)).astype(np.float32)


PLAIN = views.Views("none", 0.0, "additive", "none", 0.5, (0.02, 0.33), 0.0, "view")


def make_views(count=4, net=NET, rows=None, seed=0, table=None, **settings):
    """The weight vectors, their views and the targets, as NumPy arrays."""
    rows = random_rows(1, net)[np.zeros(count, int)] if rows is None else rows
    keys = jax.random.split(jax.random.key(seed), len(rows))
    settings = dataclasses.replace(PLAIN, **settings)
    made = jax.jit(lambda x, k: views.two_views(x, k, net.spec, settings, table))(rows, keys)
    return rows, *(np.asarray(x) for x in made)


logits_of = jax.jit(jax.vmap(NET.apply, in_axes=(0, None)))


@pytest.mark.parametrize("permutations", ["table", "fresh"])
def test_permuted_views_compute_the_same_function(permutations):
    table = views.permutation_table(NET.spec, 50, seed=0) if permutations == "table" else None
    rows, inputs, targets = make_views(200, permutations=permutations, table=table)
    np.testing.assert_array_equal(inputs, targets)
    images = np.random.default_rng(0).normal(size=(3, 10, 10, 1)).astype(np.float32)
    logits = logits_of(np.concatenate([rows[:1], inputs.reshape(400, -1)]), images)
    # Sums of some dozen products in another order.
    np.testing.assert_allclose(logits, np.broadcast_to(logits[:1], logits.shape), atol=1e-4)
    # Every unit of a group of four comes to every place equally often (chi-squared test), and the two views differ.
    places = np.argmax(np.isclose(inputs.reshape(400, -1)[:, 128:132], rows[0, 128]), axis=1)
    if permutations == "fresh":
        assert stats.chisquare(np.bincount(places, minlength=4)).pvalue > 1e-3
    else:
        counts = np.bincount(np.argmax(table[:, 128:132] == 128, axis=1), minlength=4)
        assert stats.chisquare(np.bincount(places, minlength=4), counts * 400 / 50).pvalue > 1e-3
    assert (np.any(inputs[0] != inputs[1], axis=-1)).mean() > 0.9


def test_views_depend_on_the_examples_keys_alone():
    rows, keys = random_rows(8), jax.random.split(jax.random.key(0), 8)
    settings = dataclasses.replace(PLAIN, permutations="fresh", noise=0.1, erase="block", erase_value="random")
    run = jax.jit(lambda x, k: views.two_views(x, k, NET.spec, settings)[0])
    part = np.array([5, 1, 1, 7, 0, 2, 3, 3])
    np.testing.assert_array_equal(run(rows[part], keys[part]), run(rows, keys)[:, part])


def test_noise_has_its_deviation_and_views_differ():
    rows, inputs, _ = make_views(200, noise=0.2)
    noise = np.ravel(inputs - rows[None])
    assert stats.kstest(noise, stats.norm(scale=0.2).cdf).pvalue > 1e-3
    assert abs(np.corrcoef(np.ravel(inputs[0] - rows), np.ravel(inputs[1] - rows))[0, 1]) < 0.03
    rows, inputs, _ = make_views(200, noise=0.2, noise_kind="multiplicative")
    assert stats.kstest(np.ravel(inputs / rows[None]) - 1, stats.norm(scale=0.2).cdf).pvalue > 1e-3


def block_lengths(size, low, high, probability, draws, seed=0):
    """The published erasing, one vector after the other: `(start, length)` of what is erased, or `(0, 0)`."""
    rng = np.random.default_rng(seed)
    found = np.zeros((draws, 2), int)
    for i in range(draws):
        if rng.random() < probability:
            for _ in range(10):
                length, start = int(size * rng.uniform(low, high)), rng.integers(size)
                if start + length < size:
                    found[i] = start, length
                    break
    return found


def test_block_erasing_has_the_published_distribution():
    """Range up to nearly the whole vector, so that all ten tries fail now and then."""
    size, low, high = NET.spec.num_params, 0.3, 0.99
    rows = np.ones((4000, size), np.float32)
    _, inputs, _ = make_views(rows=rows, erase="block", erase_probability=0.8, erase_range=(low, high))
    gone = inputs.reshape(8000, size) == 0
    edges = np.diff(np.pad(gone.astype(int), ((0, 0), (1, 1))), axis=1)
    assert ((edges == 1).sum(axis=1) <= 1).all() and not gone[:, -1].any()
    expected = block_lengths(size, low, high, 0.8, 8000)
    assert stats.ks_2samp(gone.sum(axis=1), expected[:, 1]).pvalue > 1e-3
    starts = np.argmax(gone, axis=1)[gone.any(axis=1)]
    assert stats.ks_2samp(starts, expected[expected[:, 1] > 0, 0]).pvalue > 1e-3
    untouched, tries = np.mean(~gone.any(axis=1)), np.mean(expected[:, 1] == 0)
    assert abs(untouched - tries) < 4 * (2 * 0.25 / 8000) ** 0.5


def test_scattered_erasing_draws_with_replacement():
    size, rows = NET.spec.num_params, np.ones((4000, NET.spec.num_params), np.float32)
    _, inputs, _ = make_views(rows=rows, erase="scatter", erase_probability=1.0, erase_range=(0.2, 0.6))
    gone = inputs.reshape(8000, size) == 0
    rng = np.random.default_rng(0)
    lengths = (size * rng.uniform(0.2, 0.6, 8000)).astype(int)
    expected = [len(np.unique(rng.integers(size, size=n))) for n in lengths]
    assert stats.ks_2samp(gone.sum(axis=1), expected).pvalue > 1e-3
    assert stats.chisquare(gone.sum(axis=0)).pvalue > 1e-3


def test_random_values_replace_erased_ones():
    rows = np.full((500, NET.spec.num_params), 7, np.float32)
    _, inputs, _ = make_views(rows=rows, erase="block", erase_value="random")
    assert stats.kstest(inputs[inputs != 7], stats.norm.cdf).pvalue > 1e-3


def test_clean_targets_are_the_permuted_vectors():
    table = views.permutation_table(NET.spec, 50, seed=0)
    settings = {"permutations": "table", "noise": 0.1, "erase": "block", "erase_probability": 1.0}
    rows, inputs, targets = make_views(50, table=table, target="clean", **settings)
    np.testing.assert_array_equal(np.sort(targets, axis=-1), np.sort(np.broadcast_to(rows, targets.shape), axis=-1))
    kept = inputs != 0
    noise = (inputs - targets)[kept]
    assert kept.mean() < 1 and stats.kstest(noise, stats.norm(scale=0.1).cdf).pvalue > 1e-3
