"""The networks of P-diff are the published ones and timm's: leaves, logits, training mode and initial values; their
permutations leave the function alone; evaluation of many at once equals one at a time."""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoos

from jaxweights import nets, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.evaluation import evaluate
from jaxweights.nn import convolution, normalization
from jaxweights.zoo.supervised import pack, put

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "networks_reference.npz")

# Golden name to (config, side, channels) with 10 classes. ConvNeXt and the families that are large have two to five
# blocks; timm's ConvNeXt is P-diff's with its leaves in another order.
NETWORKS = {
    "pdiff_mlp": ({"name": "pdiff_mlp"}, 64, 3),
    "pdiff_convnet": ({"name": "pdiff_convnet"}, 64, 3),
    "pdiff_resnet": ({"name": "pdiff_resnet"}, 64, 3),
    "pdiff_vit": ({"name": "pdiff_vit"}, 64, 3),
    "pdiff_convnext": ({"name": "pdiff_convnext", "widths": (4, 6, 6, 8), "depths": (1, 1, 1, 1)}, 32, 3),
    "cnn_medium": ({"name": "cnn_medium"}, 32, 3),
    "cnn_medium_grey": ({"name": "cnn_medium"}, 32, 1),
    "resnet18": ({"name": "resnet18", "widths": (64, 4, 6, 8), "depths": (2, 1, 1, 1)}, 32, 3),
    "resnet50": ({"name": "resnet50", "widths": (64, 4, 4, 6), "depths": (1, 1, 1, 1)}, 32, 3),
    "vit": ({"name": "vit_tiny", "width": 24, "depth": 2, "heads": 3}, 32, 3),
}


@functools.cache
def network(name):
    config, side, channels = NETWORKS[name]
    return tasks.build(config, (side, side, channels), 10)


def torch_shape(leaf):
    """The shape in PyTorch's state dict; convolutions are (out, in, rows, columns) there."""
    return leaf.stored_axes if len(leaf.shape) == 4 and leaf.order == (3, 2, 0, 1) else leaf.shape


def drawn(spec):
    """The weights of the golden data, drawn tensor after tensor as their note says."""
    rng, parts = np.random.RandomState(0), []
    for leaf in spec.leaves:
        draws, shape = rng.randn(leaf.size).astype(np.float32), torch_shape(leaf)
        if len(shape) > 1:
            parts.append(draws * np.float32(math.sqrt(2 / math.prod(shape[1:]))))
        else:
            one = leaf.name.rpartition("/")[2] in ("weight", "gamma", "running_var")
            parts.append(np.float32(0.2) * draws + np.float32(one))
    return np.concatenate(parts)


def images(count, side, channels=3):
    return np.random.RandomState(99).randn(count, side, side, channels).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_the_published_ones_and_so_after_permutations_and_rescalings(name):
    net, rng = network(name), np.random.default_rng(0)
    vector, x = drawn(net.spec), images(2, *NETWORKS[name][1:])
    orders = [rng.permutation(group.size) for group in net.spec.groups]
    scales = [
        np.float32(np.exp(rng.normal(size=group.size)) if group.scaling == "positive" else np.ones(group.size))
        for group in net.spec.groups
    ]

    @jax.jit
    def moved_and_logits(vector, orders, scales, x):
        moved = net.spec.rescale(net.spec.permute(vector, orders), scales)
        both = jnp.stack([vector, moved])
        return moved, jax.vmap(net.apply, in_axes=(0, None))(both, net.prepare(x))

    moved, logits = moved_and_logits(vector, orders, scales, x)
    assert np.mean(np.asarray(moved) != vector) > 0.4
    expected = GOLDEN[f"logits/{name}"]
    # Sums of up to a thousand float32 terms, through up to sixteen layers.
    np.testing.assert_allclose(logits, np.stack([expected] * 2), atol=5e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_tiny", "convnext_tiny"])
def test_leaves_are_the_tensors_of_timm(name):
    net = tasks.build({"name": name}, (224, 224, 3), 1000)
    ours = [f"{leaf.name.replace('/', '.')} {' '.join(map(str, torch_shape(leaf)))}" for leaf in net.spec.leaves]
    assert ours == GOLDEN[f"names/{name}"].item().decode().split("\n")


@pytest.mark.parametrize(
    ("name", "side", "classes", "params", "statistics"),
    [
        ("pdiff_mlp", 64, 10, 66_970, 0),
        ("pdiff_convnet", 64, 10, 24_262, 0),
        ("pdiff_resnet", 64, 10, 25_138, 0),
        ("pdiff_vit", 64, 10, 80_714, 0),
        ("pdiff_convnext", 64, 10, 74_970, 0),
        ("cnn_medium", 32, 10, 10_853, 0),
        ("resnet18", 224, 1000, 11_689_512, 9_600),
        ("resnet18", 224, 100, 11_227_812, 9_600),
        ("resnet50", 224, 1000, 25_557_032, 53_120),
        ("vit_tiny", 224, 1000, 5_717_416, 0),
        ("vit_base", 224, 1000, 86_567_656, 0),
        ("convnext_tiny", 224, 1000, 28_589_128, 0),
        ("convnext_base", 224, 1000, 88_591_464, 0),
    ],
)
def test_parameter_counts_are_the_published_ones(name, side, classes, params, statistics):
    net = tasks.build({"name": name}, (side, side, 3), classes)
    mask = normalization.trainable(net.spec)
    assert (mask.sum(), (~mask).sum()) == (params, statistics)


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_vectors_have_all_parameters(name):
    net = network(name)
    assert jax.eval_shape(net.init, jax.random.key(0)).shape == (net.spec.num_params,)
    assert net.activation_size > 0


def test_published_subsets_have_the_published_sizes():
    subsets = {
        "resnet18": (("layer4/1/bn1", "layer4/1/bn2"), 2048),
        "resnet50": (("layer4/2/bn2", "layer4/2/bn3"), 5120),
        "vit_tiny": (("blocks/11/norm2", "norm"), 768),
        "convnext_tiny": (("stages/3/blocks/2/norm", "head/norm"), 3072),
    }
    for name, (layers, size) in subsets.items():
        spec = tasks.build({"name": name}, (224, 224, 3), 100).spec
        chosen = [leaf for leaf in spec.leaves if leaf.name.rpartition("/")[0] in layers]
        assert sum(leaf.size for leaf in chosen if not normalization.is_statistic(leaf.name)) == size


def test_training_mode_is_that_of_pytorch():
    """Logits, loss, gradient and the running statistics that a batch leaves behind; running statistics get no
    gradient."""
    net, x = network("resnet18"), images(4, 32)
    vector = drawn(net.spec)

    def loss(vector):
        logits, params = normalization.apply_in_training(net.module, net.spec.unflatten(vector), x)
        stepped = normalization.take_statistics(net.spec.unflatten(vector + 1), params)
        flat = net.spec.flatten(params), net.spec.flatten(stepped)
        return jnp.mean(nets.cross_entropy(logits, jnp.arange(4))), (logits, *flat)

    (value, (logits, after, stepped)), gradient = jax.device_get(
        jax.jit(jax.value_and_grad(loss, has_aux=True))(vector)
    )
    # The last normalisations are of four values per channel, where close ones amplify float32 rounding.
    np.testing.assert_allclose(logits, GOLDEN["training/logits"], rtol=1e-4, atol=5e-5)
    np.testing.assert_allclose(value, GOLDEN["training/loss"], rtol=1e-5)
    mask = normalization.trainable(net.spec)
    np.testing.assert_allclose(after[~mask], GOLDEN["training/running"], rtol=1e-5, atol=1e-6)
    assert np.array_equal(after[mask], vector[mask]) and not np.any(gradient[~mask])
    assert np.array_equal(stepped[mask], vector[mask] + 1) and np.array_equal(stepped[~mask], after[~mask])
    spans = [(leaf.name, span) for leaf, span in net.spec.spans() if not normalization.is_statistic(leaf.name)]
    norms = [np.linalg.norm(gradient[span]) for _, span in spans]
    np.testing.assert_allclose(norms, GOLDEN["training/gradient_norms"], rtol=1e-3, atol=1e-6)
    last = np.concatenate([gradient[span] for name, span in spans if name.startswith("layer4/0/bn")])
    np.testing.assert_allclose(last, GOLDEN["training/gradient_last"], rtol=1e-3, atol=1e-6)


def test_statistics_of_a_split_batch_are_those_of_the_whole():
    x = images(8, 3)
    params = {k: np.float32([0.5, 1.0, 2.0]) for k in ("weight", "bias", "running_mean", "running_var")}
    whole, moved = jax.jit(functools.partial(normalization.apply_in_training, normalization.BatchNorm()))(params, x)
    split = functools.partial(normalization.apply_in_training, normalization.BatchNorm(axis_name="halves"), params)
    parts, moved_parts = jax.jit(jax.vmap(split, axis_name="halves"))(x.reshape(2, 4, 3, 3, 3))
    np.testing.assert_allclose(parts.reshape(x.shape), whole, atol=1e-6)
    for name, value in moved.items():
        np.testing.assert_allclose(moved_parts[name], np.broadcast_to(value, (2, 3)), atol=1e-6)
    assert not np.allclose(moved["running_var"], params["running_var"])


def test_zoos_move_running_statistics_by_their_batches_alone():
    """One step of bulk training: weight decay moves parameters, and leaves statistics to the batch."""
    net = tasks.build({"name": "resnet18", "widths": (4,), "depths": (1,), "stem": "cifar"}, (4, 4, 1), 3)
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (16, 4, 4, 1), np.uint8), np.arange(16, dtype=np.int32) % 3
    hyper = {"learning_rate": 0.5, "momentum": 0.0, "weight_decay": 0.5}
    recipe = zoos.recipe("classification", 16, steps=1, batch_size=8, schedule="constant", **hyper)
    trainer = zoos.trainer(net, recipe, 16, parallel.make_mesh(1), 1)
    data = put(pack(pixels, labels, np.float32([0.01]), np.float32([-1.0])), trainer.mesh)
    state = trainer.init(0, np.arange(1))
    before = jax.tree.map(lambda x: np.asarray(x[0]), state.params)

    @jax.jit
    def moved_by_the_first_batch(params, words):
        return normalization.apply_in_training(net.module, params, trainer.program.batch(data, words, jnp.int32(0))[0])[
            1
        ]

    moved = moved_by_the_first_batch(before, np.asarray(state.words[0]))
    after = np.asarray(trainer.advance(state, data, np.array([0, 1]))[1])[0, 0]
    mask = normalization.trainable(net.spec)
    np.testing.assert_allclose(after[~mask], net.spec.flatten(moved)[~mask], rtol=1e-5, atol=1e-6)
    start = np.asarray(net.spec.flatten(before))
    assert not np.allclose(after[~mask], start[~mask]) and not np.allclose(after[mask], start[mask])


def test_networks_without_batch_normalisation_train_in_the_same_way():
    net = network("pdiff_mlp")
    vector, x = drawn(net.spec), images(2, 64)
    logits, params = jax.jit(functools.partial(normalization.apply_in_training, net.module))(
        net.spec.unflatten(vector), x
    )
    assert np.array_equal(net.spec.flatten(params), vector)
    np.testing.assert_allclose(logits, GOLDEN["logits/pdiff_mlp"], atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 2, 2, 3)])
def test_depthwise_convolution_and_its_gradients_are_those_of_lax(shape):
    rng = np.random.default_rng(0)
    x, kernel, weight = (rng.normal(size=s).astype(np.float32) for s in (shape, (7, 7, 1, shape[-1]), shape))

    def textbook(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), [(3, 3)] * 2, dimension_numbers=numbers, feature_group_count=shape[-1]
        )

    ours, theirs = (
        jax.jit(jax.value_and_grad(lambda x, k, f=f: jnp.sum(f(x, k) * weight), (0, 1)))(x, kernel)
        for f in (convolution.depthwise, textbook)
    )
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), ours, theirs)


def test_initial_values_are_those_of_timm():
    """Normal kernels and no biases; residual branches that begin at zero or nearly so."""
    values = {}
    for name in ("resnet18", "vit", "pdiff_convnext"):
        spec = network(name).spec
        vector = np.asarray(jax.jit(network(name).init)(jax.random.key(0)))
        values[name] = {leaf.name: vector[span].reshape(torch_shape(leaf)) for leaf, span in spec.spans()}
    deviations = {
        ("resnet18", "conv1/weight"): math.sqrt(2 / (64 * 49)),
        ("resnet18", "layer1/0/conv1/weight"): math.sqrt(2 / (64 * 9)),
        ("vit", "blocks/0/mlp/fc1/weight"): 0.02,
        ("vit", "pos_embed"): 0.02,
        ("vit", "cls_token"): 1e-6,
        ("pdiff_convnext", "stages/0/blocks/0/conv_dw/weight"): 0.02,
        ("pdiff_convnext", "stem/0/weight"): 0.02,
    }
    for (name, leaf), deviation in deviations.items():
        drawn_values = values[name][leaf]
        # Four standard errors of a standard deviation.
        assert abs(drawn_values.std() / deviation - 1) < 4 / math.sqrt(2 * drawn_values.size)
    constants = {
        ("resnet18", "layer1/0/bn1/weight"): 1,
        ("resnet18", "layer1/0/bn2/weight"): 0,
        ("resnet18", "bn1/running_mean"): 0,
        ("resnet18", "bn1/running_var"): 1,
        ("vit", "norm/weight"): 1,
        ("vit", "head/bias"): 0,
        ("pdiff_convnext", "stages/0/blocks/0/gamma"): np.float32(1e-6),
        ("pdiff_convnext", "stages/0/blocks/0/conv_dw/bias"): 0,
    }
    for (name, leaf), value in constants.items():
        assert np.all(values[name][leaf] == value)


def test_pytorch_initial_values():
    """Uniform up to one over the root of the number of inputs; normalisations begin as the identity."""
    resnet = tasks.build({"name": "resnet18", "init": "torch", "widths": (8, 8), "depths": (1, 1)}, (32, 32, 3), 10)
    for net in (resnet, network("pdiff_convnet")):
        vector = np.asarray(jax.jit(net.init)(jax.random.key(1)))
        for leaf, span in net.spec.spans():
            values, kind = vector[span], leaf.name.rpartition("/")
            if "bn" in kind[0] or "norm" in kind[0] or kind[0].endswith("downsample/1"):
                assert np.all(values == (kind[2] in ("weight", "running_var")))
            elif kind[2] == "weight":
                largest = np.abs(values).max() * math.sqrt(math.prod(torch_shape(leaf)[1:]))
                assert largest < 1 and (largest > 0.97 or leaf.size < 200)


@pytest.mark.parametrize(
    "config",
    [
        {"name": "pdiff_resnet", "channels": 4, "blocks": 1},
        {"name": "pdiff_vit", "width": 8, "depth": 1, "patch": 4},
        {"name": "resnet18", "widths": (4, 8), "depths": (1, 1), "stem": "cifar"},
    ],
    ids=lambda config: config["name"],
)
def test_evaluation_equals_one_model_at_a_time(config):
    net = tasks.build(config, (16, 16, 3), 10)
    rng = np.random.default_rng(0)
    weights = drawn(net.spec)[None] * rng.uniform(0.5, 1.5, (5, net.spec.num_params)).astype(np.float32)
    x, labels = images(21, 16), rng.integers(0, 10, 21)
    result = evaluate(net, weights, x, labels, parallel.make_mesh(2))
    logits = np.asarray(jax.jit(lambda w: jax.lax.map(lambda v: net.apply(v, x), w))(weights))
    assert np.array_equal(result.accuracy, np.mean(logits.argmax(axis=2) == labels[None], axis=1))
    np.testing.assert_allclose(result.loss, nets.cross_entropy(logits, labels[None]).mean(axis=1), rtol=1e-4)


def test_errors_name_the_cure():
    cases = [
        ({"name": "resnet18", "stem": "small"}, (32, 32, 3), "set it to one of imagenet, cifar"),
        ({"name": "resnet18", "depths": (1,)}, (32, 32, 3), "as many net.depths as net.widths"),
        ({"name": "vit_tiny"}, (30, 32, 3), "do not split into patches of 16x16"),
        ({"name": "vit_tiny", "heads": 5}, (32, 32, 3), "choose a divisor"),
        ({"name": "pdiff_vit", "width": 10}, (64, 64, 3), "multiple of 4"),
        ({"name": "convnext_tiny"}, (16, 16, 3), "needs 32"),
        ({"name": "convnext_tiny", "init": "xavier"}, (32, 32, 3), "set it to one of published, torch"),
        ({"name": "pdiff_convnet"}, (8, 8, 3), "too small for the pdiff_convnet"),
        ({"name": "pdiff_convnet", "windows": (4, 3, 3)}, (64, 64, 3), "odd windows"),
        ({"name": "pdiff_resnet"}, (4,), "classifies images"),
    ]
    for config, shape, message in cases:
        with pytest.raises(UserError, match=message):
            tasks.build(config, shape, 10)
