"""Task networks of any Flax module: the symmetries that are found leave the function alone, and no others are found."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from jaxweights import nets
from jaxweights.errors import UserError
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec


class Dense(nn.Module):
    """Dense layers with skip connections from the given layers on."""

    act: object = nn.relu
    widths: tuple = (5, 4)
    skip: bool = False

    @nn.compact
    def __call__(self, x):
        for width in self.widths:
            y = self.act(nn.Dense(width)(x))
            x = x + y if self.skip and x.shape == y.shape else y
        return nn.Dense(3)(x)


class Convolutions(nn.Module):
    """Two convolutions, a flattening, two dense layers; the map may be flattened channels first."""

    first: bool = False
    act: object = nn.relu

    @nn.compact
    def __call__(self, x):
        x = nn.max_pool(self.act(nn.Conv(4, (3, 3))(x)), (2, 2), (2, 2))
        x = self.act(nn.Conv(3, (3, 3), use_bias=False)(x))
        x = jnp.moveaxis(x, -1, 1) if self.first else x
        x = self.act(nn.Dense(6)(x.reshape(x.shape[0], -1)))
        return nn.Dense(3)(x)


class Normed(nn.Module):
    """A network with batch statistics."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(nn.Dense(4)(x)))


class Stateful(nn.Module):
    """A network that needs to be told something."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3)(x)


class Perceptron(nnx.Module):
    """An NNX network with a list of layers and dropout."""

    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 5, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        for layer in self.layers:
            x = self.dropout(jnp.tanh(layer(x)))
        return self.head(x)


CASES = {
    "relu": (Dense(), (4,), [(5, "positive"), (4, "positive")], "symmetries of 2 hidden layers found"),
    "tanh": (Dense(jnp.tanh), (4,), [(5, "sign"), (4, "sign")], "symmetries of 2 hidden layers found"),
    "gelu": (Dense(nn.gelu), (4,), [(5, "none"), (4, "none")], "symmetries of 2 hidden layers found"),
    "relu6": (Dense(nn.relu6, (5,)), (4,), [(5, "none")], "symmetries of 1 hidden layer found"),
    "cnn": (Convolutions(), (6, 6, 2), [(4, "positive"), (3, "positive"), (6, "positive")], "symmetries of 3 "),
    "cnn_first": (Convolutions(True), (6, 6, 2), [(4, "positive"), (3, "positive"), (6, "positive")], "of 3 "),
    "cnn_tanh": (Convolutions(False, jnp.tanh), (6, 6, 2), [(4, "none"), (3, "sign"), (6, "sign")], "of 3 "),
    "skip": (Dense(nn.relu, (5, 5), True), (4,), [], "no symmetries: exchanging units of any of 2 hidden layers"),
    "skip_later": (Dense(nn.relu, (7, 5, 5), True), (4,), [(7, "positive")], "symmetries of 1 of 3 hidden layers"),
    "linear": (Dense(nn.relu, ()), (4,), [], "no symmetries: no two dense"),
    "nnx": (Perceptron, (4,), [(6, "sign"), (5, "sign")], "symmetries of 2 hidden layers found"),
}


@pytest.mark.parametrize("name", CASES)
def test_symmetries_are_those_of_the_function(name):
    module, shape, groups, note = CASES[name]
    net, found = nets.wrap(module, shape, 3)
    assert note in found and [(g.size, g.scaling) for g in net.spec.groups] == groups
    vector = jax.jit(net.init)(jax.random.key(0))
    assert vector.shape == (net.spec.num_params,) and not np.array_equal(vector, jax.jit(net.init)(jax.random.key(1)))
    x = jax.random.normal(jax.random.key(2), (7, *shape))
    moved = net.spec.permute(vector, net.spec.random_permutation(jax.random.key(3)))
    moved = net.spec.rescale(moved, net.spec.random_scales(jax.random.key(4)))
    assert np.array_equal(moved, vector) == (not groups)
    before, after = (jax.jit(net.apply)(v, x) for v in (vector, moved))
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(before).max())
    assert net.activation_size >= sum(size for size, _ in groups) + 3 and hash(net) is not None


def test_vectors_are_those_of_ravel_pytree():
    module = Convolutions()
    net, _ = nets.wrap(module, (6, 6, 2), 3)
    params = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 2)))["params"]
    np.testing.assert_array_equal(net.spec.flatten(params), ravel_pytree(params)[0])
    np.testing.assert_array_equal(net.init(jax.random.key(0)), ravel_pytree(params)[0])


def test_an_nnx_network_computes_what_it_does_itself():
    net, _ = nets.wrap(Perceptron, (4,), 3)
    model = Perceptron(nnx.Rngs(5))
    model.eval()
    own = {"head": model.head, **{f"layers/{i}": layer for i, layer in enumerate(model.layers)}}
    values = []
    for leaf in net.spec.leaves:
        layer, _, name = leaf.name.rpartition("/")
        values.append(np.ravel(getattr(own[layer], name)[...]))
    x = jax.random.normal(jax.random.key(2), (7, 4))
    np.testing.assert_allclose(net.apply(np.concatenate(values), x), model(x), atol=1e-6)


def _spec(scaling="positive", permuted=0):
    leaves = []
    for name, shape, groups, roles in (
        ("Dense_0/bias", (5,), (0,), (1,)),
        ("Dense_0/kernel", (4, 5), (FIXED, 0), (0, 1)),
        ("Dense_1/bias", (3,), (FIXED,), (0,)),
        ("Dense_1/kernel", (5, 3), (permuted, FIXED), (-1 if permuted == 0 else 0, 0)),
    ):
        leaves.append(Leaf(name, shape, shape, groups, roles, tuple(range(len(shape)))))
    return WeightSpec(tuple(leaves), (Group(5, scaling),))


def test_a_given_spec_is_tested():
    module = Dense(nn.relu, (5,))
    net, note = nets.wrap(module, (4,), 3, spec=_spec())
    assert net.spec == _spec() == nets.wrap(module, (4,), 3).net.spec and note == "symmetries as given"
    with pytest.raises(UserError, match="permutations of the given spec change the outputs"):
        nets.wrap(module, (4,), 3, spec=_spec(permuted=FIXED))
    with pytest.raises(UserError, match=r'rescalings \("sign"\)'):
        nets.wrap(module, (4,), 3, spec=_spec("sign"))
    with pytest.raises(UserError, match="does not fit the module: Dense_0"):
        nets.wrap(Dense(nn.relu, (6,)), (4,), 3, spec=_spec())


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Normed(), (4,), r"state besides its parameters \(batch_stats\).*LayerNorm or GroupNorm"),
        (Stateful(), (4,), "cannot be called on inputs alone"),
        (nn.Dense(4), (4,), r"to \(8, 4\), not to \(8, 3\)"),
        (nn.Dense(3, param_dtype=jnp.bfloat16), (4,), "parameters of type bfloat16"),
        (Dense, (4,), "is no network; give an instance"),
        (Perceptron(nnx.Rngs(0)), (4,), r"lambda rngs: Perceptron\(..., rngs=rngs\)"),
        (lambda rngs: nnx.BatchNorm(4, rngs=rngs), (4,), r"state besides its parameters \(mean, var\)"),
    ],
)
def test_errors_name_the_cure(module, shape, message):
    with pytest.raises(UserError, match=message):
        nets.wrap(module, shape, 3)
