"""WeightSpec: exact round trips, invariance of the function under the declared symmetries, the published sizes and
orders."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import tasks
from jaxweights.errors import UserError
from jaxweights.nn.leaves import Leaves
from jaxweights.spec import Group, Leaf, WeightSpec

NETS = {
    "mlp": ({"name": "mlp", "hidden": (5, 4)}, (3, 3, 1)),
    "mlp_colour": ({"name": "mlp", "hidden": (5,), "activation": "leaky_relu"}, (2, 2, 3)),
    "mlp_tanh": ({"name": "mlp", "hidden": (6,), "activation": "tanh"}, (3, 3, 1)),
    "cnn_tanh": ({"name": "cnn", "init": "xavier_uniform"}, (28, 28, 1)),
    "cnn_relu": ({"name": "cnn", "activation": "relu", "init": "kaiming_uniform"}, (28, 28, 1)),
}


@pytest.fixture(scope="module", params=NETS)
def net(request):
    config, shape = NETS[request.param]
    return tasks.build(config, shape, 4)


@pytest.fixture(scope="module")
def vector(net):
    return jax.jit(net.init)(jax.random.key(0))


@pytest.fixture(scope="module")
def images(net):
    return jax.random.normal(jax.random.key(1), (6,) + net.input_shape)


def test_flatten_inverts_unflatten_exactly(net, vector):
    batch = jnp.stack([vector, vector * 3])
    assert np.array_equal(net.spec.flatten(net.spec.unflatten(batch)), batch)
    assert np.array_equal(jax.vmap(lambda v: net.spec.flatten(net.spec.unflatten(v)))(batch), batch)


def test_permutation_keeps_the_function(net, vector, images):
    permutations = net.spec.random_permutation(jax.random.key(2))
    permuted = jax.jit(net.spec.permute)(vector, permutations)
    assert not np.array_equal(permuted, vector)
    # Sums over hidden units run in another order: float32 rounding only.
    apply = jax.jit(net.apply)
    np.testing.assert_allclose(apply(permuted, images), apply(vector, images), atol=2e-5)


def test_permutations_compose_and_invert(net, vector):
    permutations = net.spec.random_permutation(jax.random.key(2))
    inverse = tuple(jnp.argsort(p) for p in permutations)
    assert np.array_equal(net.spec.permute(net.spec.permute(vector, permutations), inverse), vector)


def test_rescaling_keeps_the_function(net, vector, images):
    scales = net.spec.random_scales(jax.random.key(3))
    rescaled = jax.jit(net.spec.rescale)(vector, scales)
    assert not np.array_equal(rescaled, vector)
    with jax.default_matmul_precision("float32"):  # TF32, a GPU's default, rounds scaled weights by other amounts
        apply = jax.jit(net.apply)
        np.testing.assert_allclose(apply(rescaled, images), apply(vector, images), atol=5e-5)


def test_sign_flips_before_pooling_are_not_declared_a_symmetry():
    tanh = tasks.build({"name": "cnn", "activation": "tanh"}, (28, 28, 1), 10).spec
    assert [g.scaling for g in tanh.groups] == ["none", "none", "sign", "sign"]
    relu = tasks.build({"name": "cnn", "activation": "relu"}, (28, 28, 1), 10).spec
    assert {g.scaling for g in relu.groups} == {"positive"}


@pytest.mark.parametrize("scheme, chunk", [("neuron", 0), ("chunk", 7), ("tensor", 0)])
def test_tokens_cover_every_entry_once(net, vector, scheme, chunk):
    tokens = net.spec.tokens(scheme, chunk)
    assert sorted(tokens.index[tokens.mask]) == list(range(net.spec.num_params))
    batch = jnp.stack([vector, -vector])
    assert np.array_equal(tokens.detokenise(tokens.tokenise(batch)), batch)


def test_json_round_trip(net):
    assert WeightSpec.from_json(net.spec.to_json()) == net.spec


def test_published_sizes_and_layouts():
    gpt = tasks.build({"name": "mlp", "hidden": (10,)}, (28, 28, 1), 10).spec
    assert gpt.num_params == 7960
    assert gpt.tokens("chunk", 1000).mask.sum(axis=1).tolist() == [1000] * 7 + [840, 10, 100, 10]
    units, rest = gpt.units(0)
    assert units.shape == (10, 795) and len(rest) == 10
    hyper = tasks.build({"name": "cnn"}, (28, 28, 1), 10).spec
    assert hyper.num_params == 2464
    assert np.diff(hyper.offsets).reshape(-1, 2).sum(axis=1).tolist() == [208, 1206, 100, 740, 210]
    assert sorted(hyper.tokens("neuron").mask.sum(axis=1).tolist()) == sorted(
        [26] * 8 + [201] * 6 + [25] * 4 + [37] * 20 + [21] * 10
    )
    digits = tasks.build({"name": "mlp", "hidden": (16,)}, (8, 8, 1), 10).spec
    assert digits.num_params == 1210


def test_attention_has_one_neuron_token_per_unit_of_query_key_and_value():
    spec = tasks.build({"name": "vit_tiny", "width": 8, "depth": 1, "heads": 2, "patch": 4}, (8, 8, 3), 4).spec
    tokens = spec.tokens("neuron")
    assert sorted(tokens.index[tokens.mask]) == list(range(spec.num_params))
    (start,) = (span.start for leaf, span in spec.spans() if leaf.name == "blocks/0/attn/qkv/weight")
    rows = tokens.index[[row[0] in range(start, start + 24 * 8, 8) for row in tokens.index]]
    # Eight incoming weights each, and the bias.
    weights = np.arange(start, start + 24 * 8).reshape(24, 8)
    assert np.array_equal(rows[:, :9], np.c_[weights, start + 24 * 8 + np.arange(24)])


def test_flat_order_is_that_of_pytorch_state_dicts():
    net = tasks.build({"name": "cnn"}, (28, 28, 1), 10)
    params = net.spec.unflatten(jnp.arange(2464.0))
    # PyTorch: conv weight (out, in, kh, kw), linear weight (out, in), inputs of fc1 flattened channel first.
    conv2 = np.arange(208, 208 + 1200).reshape(6, 8, 5, 5)
    assert np.array_equal(params["conv2"]["kernel"], conv2.transpose(2, 3, 1, 0))
    fc1 = np.arange(1514, 1514 + 720).reshape(20, 4, 3, 3)
    assert np.array_equal(params["fc1"]["weight"], fc1.transpose(0, 2, 3, 1).reshape(20, 36))


def test_units_reassemble_the_vector():
    leaves = Leaves()
    hidden = leaves.group(2)
    leaves.dense("fc1", 3, 2, writes=hidden)
    leaves.dense("fc2", 2, 4, reads=hidden)
    spec = leaves.spec()
    units, rest = spec.units(0)
    assert sorted(np.concatenate([units.ravel(), rest])) == list(range(spec.num_params))
    swapped = np.asarray(spec.permutation_index((jnp.array([1, 0]),)))
    assert np.array_equal(swapped[units], units[::-1])


def test_inconsistent_specs_are_refused():
    bias = Leaf("fc1/bias", (2,), (2,), (0,), (1,), (0,))
    with pytest.raises(ValueError, match="does not fit group"):
        WeightSpec((bias,), (Group(3),))
    with pytest.raises(ValueError, match="unique"):
        WeightSpec((bias, bias), (Group(2),))
    with pytest.raises(ValueError, match="factor"):
        Leaf("x", (4,), (3,), (-1,), (0,), (0,))


def test_images_that_are_too_small_are_refused():
    with pytest.raises(UserError, match="too small"):
        tasks.build({"name": "cnn"}, (8, 8, 1), 10)


@pytest.mark.parametrize(
    "init, kernel_std, bound",
    [
        ("torch", 1 / np.sqrt(3 * 144), 1 / 12),
        ("uniform", 1 / np.sqrt(12), 1.0),
        ("normal", 1.0, None),
        ("xavier_uniform", np.sqrt(2 / (144 + 50)), np.sqrt(6 / (144 + 50))),
        ("xavier_normal", np.sqrt(2 / (144 + 50)), None),
        ("kaiming_uniform", np.sqrt(2 / 144), np.sqrt(6 / 144)),
        ("kaiming_normal", np.sqrt(2 / 144), None),
    ],
)
def test_initialisers_have_their_distribution(init, kernel_std, bound):
    """fc1 is 144 -> 50: 7,200 draws, so a standard deviation is known to about 1 %."""
    net = tasks.build({"name": "mlp", "hidden": (50,), "init": init}, (12, 12, 1), 10)
    params = net.spec.unflatten(jax.jit(net.init)(jax.random.key(0)))
    kernel, bias = np.asarray(params["fc1"]["weight"]), np.asarray(params["fc1"]["bias"])
    mean = 0.5 if init == "uniform" else 0.0
    assert abs(kernel.mean() - mean) < 5 * kernel_std / np.sqrt(7200)
    assert abs(kernel.std() / kernel_std - 1) < 0.05
    if bound is not None:
        assert np.abs(kernel).max() <= bound
    assert (bias == np.float32(0.01)).all() if init != "torch" else np.abs(bias).max() <= 1 / 12
    # The module's own init draws from the same distribution.
    own = jax.jit(net.module.init)(jax.random.key(1), jnp.zeros((1, 12, 12, 1)))["params"]["fc1"]["weight"]
    assert abs(np.asarray(own).std() / kernel_std - 1) < 0.05
