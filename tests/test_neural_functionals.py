"""Universal neural functionals: all maps that commute with orders of hidden units, and no others."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import tasks
from jaxweights.errors import UserError
from jaxweights.generators.neuron_flow import NeuronFlow, functional
from jaxweights.generators.neuron_flow.functional import Functional, Linear, Tensors
from jaxweights.population import Population

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
DEEP = tasks.build({"name": "mlp", "hidden": (3, 2)}, (2, 2, 1), 2)
RNG = np.random.default_rng(0)
TINY = NeuronFlow(**{**NeuronFlow.TINY, "positions": False, "order": "none", "network": "functional", "blocks": 1})
SIZES = (4, 3)


def orbits(axes):
    """Tuples of indices under all orders of the units of every group: one for every way in which they are equal."""
    patterns = set()
    for index in itertools.product(*(range(SIZES[group]) for group in axes)):
        seen: dict[tuple[int, int], int] = {}
        patterns.add(tuple(seen.setdefault(pair, len(seen)) for pair in zip(axes, index, strict=True)))
    return len(patterns)


@pytest.mark.parametrize(
    ("output", "inputs", "count"),
    [((0,), (0,), 2), ((0, 1), (0, 1), 4), ((0, 0), (0, 0), 15), ((0, 0), (), 2), ((), (1, 0), 1), ((1, 0), (0,), 2)],
)
def test_terms_span_all_maps_that_commute_with_orders(output, inputs, count):
    terms = functional.terms(output, inputs)
    assert len(terms) == count == orbits(output + inputs)
    wide, high = ([SIZES[group] for group in axes] for axes in (inputs, output))
    every = np.eye(int(np.prod(wide)), dtype=np.float32).reshape(-1, *wide, 1)

    @jax.jit
    def mapped(x):
        whole = jnp.zeros((len(x), *high, 1))
        return [whole + functional.spread(term, functional.gathered(term, x), tuple(high)) for term in terms]

    found = np.stack([np.asarray(one).ravel() for one in mapped(every)])
    assert np.linalg.matrix_rank(found) == count
    orders = [RNG.permutation(size) for size in SIZES]
    for place, group in enumerate(inputs):
        every = np.take(every, orders[group], axis=1 + place)
    moved = [np.asarray(one) for one in mapped(every)]
    for place, group in enumerate(output):
        moved = [np.take(one, np.argsort(orders[group]), axis=1 + place) for one in moved]
    np.testing.assert_allclose(np.stack([one.ravel() for one in moved]), found, atol=1e-6)


def test_networks_of_them_are_equivariant():
    spec = DEEP.spec
    tensors = Tensors(spec)
    views = RNG.normal(size=(2, 2, spec.num_params)).astype(np.float32)
    np.testing.assert_array_equal(tensors.join(tensors.split(views[0])), views[0])
    module = Functional(tensors, TINY.architecture)
    times, table = np.array([0.1, -1.0], np.float32), np.ones(3, np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), list(views), times, table)
    params = jax.tree.map(lambda x: (0.3 * RNG.normal(size=x.shape)).astype(np.float32), shapes)
    outputs = jax.jit(lambda views: module.apply(params, list(views), times, table))
    order = np.asarray(spec.permutation_index([jnp.array([2, 0, 1]), jnp.array([1, 0])]))
    found = np.asarray(outputs(views))
    np.testing.assert_allclose(outputs(views[:, :, order]), found[:, order], atol=1e-5)
    assert np.abs(found[:, order] - found).max() > 0.01
    # Tensors of one, two and one hidden axes, of outputs and of none: W1 b1 W2 b2 W3 b3.
    groups = tensors.groups
    count = sum(len(functional.terms(a, b)) for a, b in itertools.product(groups, groups))
    linear = jax.eval_shape(Linear(tensors, 5).init, jax.random.key(0), tensors.split(views[0]))["params"]
    assert sum(name.startswith("kernel") for name in linear) == count == 55


def test_the_flow_learns_through_them():
    weights = RNG.normal(size=(20, NET.spec.num_params)).astype(np.float32)
    batch, constants = TINY.prepare(Population.create(weights, NET.spec))
    done, keys = {"constants": constants}, jax.random.split(jax.random.key(1), len(batch))

    @jax.jit
    def begun():
        params, _ = TINY.stages()[0].init(jax.random.key(0), done)
        return params, jax.grad(lambda p: TINY._loss(p, {}, done, batch, keys, None)[0])(params)

    params, gradient = begun()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    # It begins at zero, the flow of the Gaussian, so that only what multiplies its outputs has a gradient.
    assert {name for name, x in gradient.items() if np.abs(jax.tree.leaves(x)[0]).max() > 0} == {
        f"last_{number}_{kind}" for number in range(4) for kind in ("kernel", "bias")
    }
    assert set(params) == set(gradient)
    with pytest.raises(UserError, match="positions"):
        NeuronFlow(network="functional")
