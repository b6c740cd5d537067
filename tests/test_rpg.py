"""RPG: tokens, codes of places, the Mamba-2 scan, permutation states, what padding does, devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights.nn import mamba


def recurrence(x, decay, b, c):
    """Mamba-2's states and outputs position by position, in float64."""
    x, decay, b, c = (np.asarray(value, np.float64) for value in (x, decay, b, c))
    state, found = 0.0, []
    for at in range(x.shape[1]):
        state = np.exp(decay[:, at])[..., None, None] * state + np.einsum("nhp,ns->nhps", x[:, at], b[:, at])
        found.append(np.einsum("nhps,ns->nhp", state, c[:, at]))
    return np.stack(found, axis=1)


@pytest.mark.parametrize("chunk", [4, 256])
def test_the_scan_by_chunks_is_the_recurrence(chunk):
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 11, 3, 4), "b": (2, 11, 5), "c": (2, 11, 5)}
    x, b, c = (rng.normal(size=shape).astype(np.float32) for shape in shapes.values())
    decay = -rng.uniform(0.01, 1.6, size=(2, 11, 3)).astype(np.float32)  # rates of 16 and step sizes of 0.1
    found = jax.jit(mamba.scan, static_argnums=4)(x, decay, b, c, chunk)
    expected = recurrence(x, decay, b, c)
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())
