"""Random-access shuffles are permutations, differ by key and epoch, and look uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxweights import shuffle


def _words(seed, n=None):
    key = jax.random.key(seed)
    return jax.random.key_data(key if n is None else jax.random.split(key, n))


@pytest.mark.parametrize("size", [1, 2, 7, 360, 1437])
def test_permuted_is_a_bijection(size):
    f = jax.jit(lambda words, epoch: shuffle.permuted(jnp.arange(size), words, size, epoch))
    for seed in range(3):
        for epoch in range(3):
            assert np.array_equal(np.sort(f(_words(seed), epoch)), np.arange(size))


def test_epochs_and_keys_differ():
    f = jax.jit(lambda words, epoch: shuffle.permuted(jnp.arange(100), words, 100, epoch))
    orders = {tuple(np.asarray(f(_words(s), e))) for s in range(4) for e in range(4)}
    assert len(orders) == 16


def test_entries_and_pairs_are_uniform():
    size, keys = 12, 20_000
    orders = np.asarray(jax.jit(jax.vmap(lambda w: shuffle.permuted(jnp.arange(size), w, size)))(_words(0, keys)))
    # A fixed key makes the test deterministic; 1e-4 leaves room for 200 comparisons.
    for position in range(size):
        assert stats.chisquare(np.bincount(orders[:, position], minlength=size)).pvalue > 1e-4
    for a, b in [(0, 1), (3, 8), (10, 11)]:
        pairs = np.bincount(orders[:, a] * size + orders[:, b], minlength=size**2)
        off_diagonal = pairs.reshape(size, size)[~np.eye(size, dtype=bool)]
        assert off_diagonal.sum() == keys
        assert stats.chisquare(off_diagonal).pvalue > 1e-4


def test_an_epoch_of_batches_visits_every_example_once():
    size, batch = 103, 10
    f = jax.jit(lambda step: shuffle.batch_indices(_words(1), step, batch, size))
    epoch = np.concatenate([f(s) for s in range(10)])
    assert len(set(epoch.tolist())) == 100
    second = np.concatenate([f(s) for s in range(10, 20)])
    assert len(set(second.tolist())) == 100
    assert not np.array_equal(epoch, second)
