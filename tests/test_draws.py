"""The values of `jax.random`, whoever computes them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import draws


def test_the_draws_are_those_of_jax():
    shape = (5, 31)

    @jax.jit
    def both(keys):
        ours = [draw(keys, shape) for draw in (draws.bits, draws.uniform, draws.normal)]
        theirs = [
            jax.vmap(lambda key: jax.random.bits(key, shape, jnp.uint32))(keys),
            jax.vmap(lambda key: jax.random.uniform(key, shape))(keys),
            jax.vmap(lambda key: jax.random.normal(key, shape))(keys),
        ]
        return ours, theirs

    for ours, theirs in zip(*both(jax.random.split(jax.random.key(3), 4)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_generators_of_jax_draw_by_themselves():
    keys = jax.random.split(jax.random.key(3, impl="rbg"), 2)
    np.testing.assert_array_equal(draws.bits(keys, (3,))[1], jax.vmap(lambda key: jax.random.bits(key, (3,)))(keys)[1])
