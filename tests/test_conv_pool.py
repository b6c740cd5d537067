"""Laws of `nn.conv_pool`: it equals XLA's convolution and pooling, in value and gradient, alone and under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxweights.errors import UserError
from jaxweights.nn.conv_pool import (
    Plan,
    choose,
    conv_pool,
    conv_pool_batch_minor,
    conv_pool_unfolded,
    from_batch_minor,
    to_batch_minor,
    unfold,
)

# (H, W, C), (kh, kw, O), pool, implementation: chosen and given tiles, odd maps, overhanging tiles, every window size.
CASES = [
    ((28, 28, 1), (5, 5, 8), True, "auto"),
    ((12, 12, 8), (5, 5, 6), True, "banded"),
    ((4, 4, 6), (2, 2, 4), False, "auto"),
    ((9, 12, 2), (3, 4, 3), True, Plan("banded", (4, 2))),
    ((11, 8, 3), (6, 1, 2), True, Plan("banded", (2, 6))),
    ((9, 7, 2), (7, 7, 3), False, Plan("banded", (3, 1))),
    ((10, 9, 2), (4, 3, 3), False, Plan("banded", (3, 4))),
    ((6, 5, 2), (1, 1, 3), False, Plan("banded", (6, 5))),
    ((5, 5, 1), (2, 3, 1), True, Plan("banded", (8, 8))),
]
IDS = [f"{a}-{b}-{'pool' if c else 'plain'}" for a, b, c, _ in CASES]


def _reference(x, kernel, bias, pool):
    y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    if pool:
        y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return y + bias[None, None, None, :]


def _arguments(inputs, kernel, batch=3, seed=0, integers=False):
    """Random inputs, kernel and bias; with `integers` small ones, whose sums are exact in any order and often tie."""
    random = np.random.default_rng(seed)
    shapes = ((batch, *inputs), (*kernel[:2], inputs[2], kernel[2]), (kernel[2],))
    draw = (lambda s: random.integers(-1, 2, s)) if integers else random.standard_normal
    return [jnp.asarray(draw(shape), jnp.float32) for shape in shapes]


def _values_and_gradients(functions, arguments):
    """Per function the output and its gradients, under one small integer cotangent that differs between neighbours."""

    def run(*arguments):
        results = []
        for function in functions:
            y, pullback = jax.vjp(function, *arguments)
            cotangent = np.arange(y.size, dtype=np.float32).reshape(y.shape) % 7 - 3
            results.append((y, *pullback(jnp.asarray(cotangent))))
        return results

    return jax.jit(run)(*arguments)


def _assert_close(actual, expected):
    # Sums of at most a few thousand float32 terms in another order: relative error of the largest value below
    # sqrt(5000) * 6e-8 = 4e-6 for random rounding; 2e-5 leaves a factor of five.
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.parametrize(("inputs", "kernel", "pool", "implementation"), CASES, ids=IDS)
def test_equals_lax_in_value_and_every_gradient(inputs, kernel, pool, implementation):
    functions = (
        lambda *a: conv_pool(*a, pool=pool, implementation=implementation),
        lambda *a: _reference(*a, pool),
    )
    _assert_close(*_values_and_gradients(functions, _arguments(inputs, kernel)))


@pytest.mark.parametrize("tile", [(2, 2), (4, 2)])
@pytest.mark.parametrize("kind", ["ternary", "constant", "saturated"])
def test_ties_go_to_the_first_maximum_exactly(kind, tile):
    """Integers make every sum exact, so each tie is a tie for both; nothing may differ."""
    x, kernel, bias = _arguments((9, 8, 2), (3, 3, 4), batch=2, integers=True)
    if kind == "constant":
        x = jnp.full_like(x, 2.0)
    if kind == "saturated":
        x = jnp.maximum(x, 0.0).at[:, 2:7].set(0.0)
    functions = (
        lambda *a: conv_pool(*a, pool=True, implementation=Plan("banded", tile)),
        lambda *a: _reference(*a, True),
    )
    ours, expected = _values_and_gradients(functions, (x, kernel, bias))
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("implementation", ["banded", "lax"])
def test_batch_minor_layers_equal_the_plain_layout(implementation):
    """Two layers and an activation in the inner layout give what they give in `[B, H, W, C]`."""
    x, first, bias = _arguments((12, 11, 2), (3, 3, 4))
    _, second, bias2 = _arguments((5, 4, 4), (2, 2, 3), seed=1)

    def inner(x):
        y = jnp.tanh(conv_pool_batch_minor(to_batch_minor(x), first, bias, pool=True, implementation=implementation))
        return from_batch_minor(conv_pool_batch_minor(y, second, bias2, pool=False, implementation=implementation))

    plain = _reference(jnp.tanh(_reference(x, first, bias, True)), second, bias2, False)
    _assert_close([jax.jit(inner)(x)], [plain])


@pytest.mark.parametrize(("inputs", "kernel", "pool"), [case[:3] for case in CASES[3:6]], ids=IDS[3:6])
def test_unfolded_inputs_give_the_same_layer(inputs, kernel, pool):
    """In value and every gradient, for models that share what was unfolded."""
    x, first, bias = _arguments(inputs, kernel)
    _, second, bias2 = _arguments(inputs, kernel, seed=1)
    kernels, biases = jnp.stack([first, second]), jnp.stack([bias, bias2])

    def unfolded(x, kernels, biases):
        columns = unfold(to_batch_minor(x), kernel[:2], pool=pool)
        y = jax.vmap(conv_pool_unfolded, in_axes=(None, 0, 0))(columns, kernels, biases)
        return jax.vmap(from_batch_minor)(y)

    def reference(x, kernels, biases):
        return jnp.stack([_reference(x, kernels[i], biases[i], pool) for i in range(2)])

    _assert_close(*_values_and_gradients((unfolded, reference), (x, kernels, biases)))


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_vmap_and_map_over_models_equal_a_loop(shared, pool):
    """Gradients of several models: vmapped, mapped one at a time, and one call each."""
    models = [_arguments((7, 8, 2), (3, 3, 4), seed=seed) for seed in range(3)]
    x, kernels, biases = (jnp.stack(leaf) for leaf in zip(*models, strict=True))
    x = x[0] if shared else x

    def gradients(x, kernel, bias):
        return jax.grad(lambda k, b: jnp.sum(conv_pool(x, k, b, pool=pool) ** 2), argnums=(0, 1))(kernel, bias)

    one = jax.jit(gradients)
    loop = [one(x if shared else x[i], kernels[i], biases[i]) for i in range(3)]
    loop = [jnp.stack(leaf) for leaf in zip(*loop, strict=True)]
    vmapped = jax.jit(jax.vmap(gradients, in_axes=(None if shared else 0, 0, 0)))(x, kernels, biases)

    def mapped_over_models(x):
        return lax.map(lambda i: gradients(x if shared else x[i], kernels[i], biases[i]), jnp.arange(3))

    mapped = jax.jit(mapped_over_models)(x)
    _assert_close(vmapped, loop)
    _assert_close(mapped, loop)


def _products(jaxpr):
    """Every `dot_general` of a jaxpr and of those inside it."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _products(inner)


def test_first_layer_of_all_models_on_shared_images_is_one_product():
    """No model axis reaches the patches: in the product and in its gradient they are those of one model."""
    models, batch = 5, 3
    x, kernel, bias = _arguments((12, 12, 2), (5, 5, 4), batch)
    kernels, biases = jnp.stack([kernel] * models), jnp.stack([bias] * models)

    def loss(kernel, bias, x):
        return jnp.sum(conv_pool(x, kernel, bias, pool=True, implementation=Plan("banded", (2, 4))) ** 2)

    inputs, columns, rows = 6 * 8 * 2, 4 * 2 * batch, 2 * 4 * 4
    for run, others in (
        (loss, [(models, inputs, rows)]),
        (jax.grad(loss, (0, 1)), [(models, inputs, rows), (models, rows, columns)]),
    ):
        jaxpr = jax.make_jaxpr(jax.vmap(run, in_axes=(0, 0, None)))(kernels, biases, x).jaxpr
        products = list(_products(jaxpr))
        shapes = [sorted((v.aval.shape for v in product.invars), key=len) for product in products]
        assert shapes == [[(inputs, columns), other] for other in others]
        assert all(product.params["dimension_numbers"][1] == ((), ()) for product in products)


def test_second_derivatives_and_forward_mode():
    """The pooled maximum differentiates in both modes: a directional derivative equals gradient times direction."""
    arguments = _arguments((6, 6, 1), (3, 3, 2))
    direction = _arguments((6, 6, 1), (3, 3, 2), seed=4)

    def loss(*arguments):
        return jnp.sum(conv_pool(*arguments, pool=True, implementation="banded") ** 3)

    def slope(*arguments):
        return jax.jvp(loss, arguments, tuple(direction))[1]

    def products(*arguments):
        return sum(jnp.vdot(g, d) for g, d in zip(jax.grad(loss, (0, 1, 2))(*arguments), direction, strict=True))

    # A cubic loss sums some 24 terms of size 1e3 with both signs; float32 keeps six digits of the largest of them.
    both = jax.jit(lambda *a: [jax.value_and_grad(f, (0, 1, 2))(*a) for f in (slope, products)])
    (value, gradients), (expected, expected_gradients) = both(*arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-2)
    for a, b in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(jnp.abs(b).max()))


def test_non_finite_values_are_not_hidden_by_pooling():
    """A diverged model stays visibly so: a NaN input reaches the outputs that see it, and no other example."""
    x, kernel, bias = _arguments((6, 6, 1), (3, 3, 2))
    run = jax.jit(lambda x: conv_pool(x, kernel, bias, pool=True, implementation="banded"))
    y = run(x.at[0, 0, 0, 0].set(jnp.nan))
    assert bool(jnp.isnan(y[0, 0, 0]).all()) and bool(jnp.isfinite(y[1:]).all())


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_chosen_plans_are_possible(backend):
    for inputs, kernel, pool, _ in CASES:
        plan = choose(inputs, (*kernel[:2], inputs[2], kernel[2]), pool=pool, backend=backend)
        assert plan.implementation in ("banded", "lax")
        assert min(plan.tile) >= 1 and not (pool and any(side % 2 for side in plan.tile))


def test_mistakes_are_named():
    x, kernel, bias = _arguments((6, 6, 2), (3, 3, 4))
    with pytest.raises(UserError, match="Unknown implementation 'im2col'.*banded"):
        conv_pool(x, kernel, bias, pool=True, implementation="im2col")
    with pytest.raises(UserError, match=r"4x4 is too small for a 5x5 convolution"):
        conv_pool(x[:, :4, :4], jnp.zeros((5, 5, 2, 4)), bias, pool=False)
    with pytest.raises(UserError, match="with 2x2 pooling"):
        conv_pool(x[:, :3, :3], kernel, bias, pool=True, implementation="lax")
    with pytest.raises(UserError, match="does not fit inputs"):
        conv_pool(x, kernel[:, :, :1], bias, pool=True)
    with pytest.raises(UserError, match="unfolded to 18 values"):
        conv_pool_unfolded(unfold(to_batch_minor(x), (3, 3), pool=True), kernel[:, :, :1], bias)
    with pytest.raises(UserError, match="even with pooling"):
        conv_pool(x, kernel, bias, pool=True, implementation=Plan("banded", (3, 2)))
    with pytest.raises(UserError, match="backend 'metal'"):
        choose((6, 6, 2), kernel.shape, pool=True, backend="metal")
