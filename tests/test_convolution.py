"""The two-dimensional convolution of the published classifiers and its derivatives are those of lax, on one device and
with a kernel that all devices share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxweights import parallel
from jaxweights.nn import convolution

agree = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def borders(padding):
    return [(padding, padding)] * 2 if isinstance(padding, int) else padding


def draw(height, width, size, stride, padding):
    rng = np.random.default_rng(0)
    sizes = (size, size) if isinstance(size, int) else size
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((8, height, width, 3), (*sizes, 3, 4)))
    rows, cols = (
        (n + sum(border) - size) // stride + 1
        for n, size, border in zip((height, width), sizes, borders(padding), strict=True)
    )
    return x, kernel, rng.normal(size=(8, rows, cols, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("height", "width", "size", "stride", "padding"),
    [(6, 5, 3, 1, 1), (6, 5, 3, 2, 1), (7, 6, 3, 2, 0), (9, 8, 7, 2, 3), (5, 4, 2, 3, 0), (5, 5, 3, 1, 0)]
    + [(6, 4, (2, 3), stride, ((1, 0), (1, 1))) for stride in (1, 2)],
)
def test_convolution_and_its_derivatives_are_those_of_lax(height, width, size, stride, padding):
    x, kernel, weight = draw(height, width, size, stride, padding)

    def textbook(x, kernel):
        numbers, border = ("NHWC", "HWIO", "NHWC"), borders(padding)
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), border, dimension_numbers=numbers)

    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(f(x, k) * weight), (0, 1)))(x, kernel)
        for f in (lambda x, k: convolution.convolve(x, k, stride, padding), textbook)
    )
    jax.tree.map(agree, ours, theirs)


def test_a_shared_kernels_gradient_is_that_of_the_whole_batch():
    x, kernel, weight = draw(4, 4, 3, 1, 1)

    def loss(kernel, x, weight):
        return jnp.sum(convolution.convolve(x, kernel, 1, 1) * weight)

    def shard(kernel, x, weight):
        return jax.grad(lambda k: jax.lax.psum(loss(k, x, weight), parallel.AXIS))(kernel)

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    sharded = jax.shard_map(shard, mesh=parallel.make_mesh(), in_specs=(whole, split, split), out_specs=whole)
    agree(jax.jit(sharded)(kernel, x, weight), jax.jit(jax.grad(loss))(kernel, x, weight))
