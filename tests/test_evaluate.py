"""Evaluation of populations equals one model at a time, on any mesh and in any block size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import nets, parallel, tasks
from jaxweights.evaluation import accuracy, evaluate


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def case(request):
    config = {"mlp": {"name": "mlp", "hidden": (5,)}, "cnn": {"name": "cnn", "init": "xavier_uniform"}}[request.param]
    net = tasks.build(config, (28, 28, 1) if request.param == "cnn" else (4, 4, 1), 10)
    weights = jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), 11))
    rng = np.random.default_rng(0)
    images = rng.normal(size=(45,) + net.input_shape).astype(np.float32)
    return net, np.asarray(weights), images, rng.integers(0, 10, 45).astype(np.int32)


def test_evaluate_equals_one_model_at_a_time(case, mesh, monkeypatch):
    """Three tiles, the last one padded; the last dispatch has fewer blocks than fit."""
    net, weights, images, labels = case
    blocks = 4 if net.name == "cnn" else 1
    monkeypatch.setattr(accuracy, "block_shape", lambda net, backend: accuracy.BlockShape(16, 2, blocks))
    accuracy._plan.cache_clear()
    result = evaluate(net, weights, images, labels, mesh)
    accuracy._plan.cache_clear()
    one = jax.jit(net.apply)
    for i, vector in enumerate(weights):
        logits = np.asarray(one(vector, images))
        wrong = logits.argmax(axis=1) != labels
        assert np.array_equal(np.unpackbits(result.errors[i])[:45].astype(bool), wrong)
        assert not np.unpackbits(result.errors[i])[45:].any()
        assert result.accuracy[i] == (45 - wrong.sum()) / 45
        # float32 logits of another summation order.
        np.testing.assert_allclose(result.loss[i], nets.cross_entropy(logits, labels).mean(), rtol=1e-5)


@pytest.mark.usefixtures("bitwise", "eight_devices")
def test_few_networks_on_one_device_are_as_among_many(case, monkeypatch):
    net, weights, images, labels = case
    mesh, used = parallel.make_mesh(8), []
    monkeypatch.setattr(accuracy, "block_shape", lambda net, backend: accuracy.BlockShape(16, 3, 1))
    monkeypatch.setattr(
        accuracy, "_plan", lambda *rest, make=accuracy._plan.__wrapped__: used.append(rest) or make(*rest)
    )
    many, few = (evaluate(net, weights[:count], images, labels, mesh) for count in (11, 3))
    assert [arguments[2].size for arguments in used] == [8, 8, 1]
    for one, other in zip(many, few, strict=True):
        np.testing.assert_array_equal(one[:3], other)


def test_a_network_that_is_not_finite_is_always_wrong():
    net = tasks.build({"name": "mlp", "hidden": (5,)}, (4, 4, 1), 10)
    weights = np.stack([np.full(net.spec.num_params, np.nan, np.float32), np.zeros(net.spec.num_params, np.float32)])
    images, labels = np.ones((9, 4, 4, 1), np.float32), np.zeros(9, np.int32)
    result = evaluate(net, weights, images, labels, jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",)))
    assert result.accuracy.tolist() == [0.0, 1.0]
    assert np.isnan(result.loss[0]) and np.isclose(result.loss[1], np.log(10))


def test_the_first_layer_of_all_models_is_one_product():
    """With one shared batch of images no product of the first layer may carry a model axis as a batch axis."""
    net = tasks.build({"name": "mlp", "hidden": (5,)}, (4, 4, 1), 10)
    jaxpr = jax.make_jaxpr(jax.vmap(net.apply, in_axes=(0, None)))(
        jnp.zeros((7, net.spec.num_params)), jnp.zeros((3, 4, 4, 1))
    )

    def products(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn
            for value in eqn.params.values():
                if hasattr(value, "jaxpr"):
                    yield from products(value.jaxpr)

    first, second = products(jaxpr.jaxpr)
    assert first.params["dimension_numbers"][1] == ((), ())
    assert second.params["dimension_numbers"][1] != ((), ())


def test_cross_entropy_is_the_textbook_one():
    logits = jnp.array([[1.0, 2.0, 3.0], [0.0, 0.0, 50.0]])
    expected = -np.log(np.exp([1.0, 0.0]) / np.exp([[1.0, 2.0, 3.0], [0.0, 0.0, 50.0]]).sum(axis=1))
    np.testing.assert_allclose(nets.cross_entropy(logits, jnp.array([0, 1])), expected, rtol=1e-6)
