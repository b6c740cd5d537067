"""Partial networks: the same function as the whole network with their leaves put in; all that these do not reach is
computed once per image; the base is an argument of compiled programs; a saved base is read back or refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from jaxweights import nets, tasks
from jaxweights.errors import UserError
from jaxweights.evaluation import accuracy, evaluate

# Network to (config, side of its images, patterns, sizes of the leaves they choose).
CASES = {
    "resnet": (
        {"name": "resnet18", "widths": (4, 8), "depths": (1, 2), "stem": "cifar"},
        8,
        ("layer2/0/bn1/*", "layer2/1/bn*"),
        (8,) * 6,
    ),
    "vit": (
        {"name": "vit_tiny", "width": 8, "depth": 2, "heads": 2, "patch": 4},
        8,
        ("blocks/1/norm2/*", "norm/*"),
        (8,) * 4,
    ),
    "mlp": ({"name": "mlp", "hidden": (6, 5)}, 4, ("fc2/bias", "fc3/*"), (5, 20, 4)),
}
NUM_CLASSES = 4


@functools.cache
def make(name, seed=0):
    """A partial network on a base without zeros."""
    config, side, patterns, _ = CASES[name]
    whole = tasks.build(config, (side, side, 3), NUM_CLASSES)
    rng = np.random.default_rng(seed)
    base = jax.jit(whole.init)(jax.random.key(seed)) + rng.normal(0, 0.2, whole.spec.num_params).astype(np.float32)
    return nets.partial(whole, base, patterns)


def some(net, count, num_images):
    """Weight vectors around the base, images and labels."""
    rng = np.random.default_rng(1)
    vectors = net.start[None] + rng.normal(0, 0.3, (count, net.spec.num_params)).astype(np.float32)
    images = rng.normal(size=(num_images,) + net.input_shape).astype(np.float32)
    return vectors, images, rng.integers(0, NUM_CLASSES, num_images).astype(np.int32)


@pytest.mark.parametrize("name", CASES)
def test_partial_equals_whole_with_the_leaves_put_in(name):
    net = make(name)
    assert tuple(leaf.size for leaf in net.spec.leaves) == CASES[name][3]
    vectors, images, labels = some(net, 3, 5)

    @jax.jit
    def both(vectors, images):
        def loss(apply, vector, x):
            return jnp.mean(nets.cross_entropy(apply(vector, x), labels))

        prepared = net.prepare(images)
        gathered = jax.tree.map(lambda x: x[np.array([2, 4])], prepared)
        return (
            (
                jax.vmap(net.apply, (0, None))(vectors, prepared),
                net.apply(vectors[0], images),
                net.apply(vectors[0], gathered),
                jax.grad(functools.partial(loss, net.apply))(vectors[0], prepared),
            ),
            (
                (logits := jax.vmap(net.whole.apply, (0, None))(net.insert(vectors), images)),
                logits[0],
                logits[0][np.array([2, 4])],
                jax.grad(functools.partial(loss, lambda v, x: net.whole.apply(net.insert(v), x)))(vectors[0], images),
            ),
        )

    ours, expected = both(vectors, images)
    for one, other in zip(ours, expected, strict=True):
        # The same sums in another order: float32 rounding through up to eight layers.
        np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    assert np.ptp(ours[0], axis=0).max() > 0.01 * np.abs(ours[0]).max()


def products(function, *args):
    """Convolutions and matrix products in a program; none has a kernel of its own for every image."""

    def count(jaxpr):
        found = 0
        for eqn in jaxpr.eqns:
            found += eqn.primitive.name in ("conv_general_dilated", "dot_general")
            found += sum(map(count, core.jaxprs_in_params(eqn.params)))
            assert eqn.params.get("feature_group_count", 1) == 1
        return found

    return count(jax.make_jaxpr(function)(*args).jaxpr)


@pytest.mark.parametrize(
    ("name", "patterns", "after"),
    [
        ("resnet", ("layer2/1/bn*",), 2),  # conv2 and fc
        ("resnet", ("layer2/0/bn1/bias",), 4),  # conv2, a block, fc; the shortcut's projection comes before
        ("resnet", ("fc/weight",), 1),
        ("vit", ("norm/*",), 1),
        ("vit", ("blocks/1/attn/proj/bias",), 3),  # two dense layers and the head
        ("mlp", ("fc3/bias",), 0),
    ],
)
def test_every_product_is_computed_once(name, patterns, after):
    """Of images alone, or after the first of the leaves."""
    whole = make(name).whole
    net = nets.partial(whole, make(name).base, patterns)
    vectors, images, _ = some(net, 1, 2)
    total = products(whole.apply, make(name).base, images)
    assert products(net.prepare, images) == total - after
    assert products(net.apply, vectors[0], net.prepare(images)) == after


def test_evaluation_equals_whole_networks_one_at_a_time(mesh, monkeypatch):
    """Two tiles, the last one padded; the last block is not full."""
    net = make("resnet")
    vectors, images, labels = some(net, 11, 21)
    monkeypatch.setattr(accuracy, "block_shape", lambda net, backend: accuracy.BlockShape(16, 2, 3))
    accuracy._plan.cache_clear()
    result = evaluate(net, vectors, images, labels, mesh)
    accuracy._plan.cache_clear()
    logits = np.asarray(jax.jit(lambda w: jax.lax.map(lambda v: net.whole.apply(v, images), w))(net.insert(vectors)))
    wrong = logits.argmax(axis=2) != labels[None]
    assert np.array_equal(result.errors, np.packbits(wrong, axis=1)) and 0 < wrong.mean() < 1
    np.testing.assert_allclose(result.loss, nets.cross_entropy(logits, labels[None]).mean(axis=1), rtol=1e-4)


def score(logits, labels):
    labels = labels[None]
    return nets.cross_entropy(logits, labels), jnp.argmax(logits, axis=-1) == labels


def test_a_program_serves_any_base():
    """No value of the base is a constant of the program that evaluation compiles."""
    net, other = make("resnet"), make("resnet", seed=1)
    assert net != other and net == nets.partial(net.whole, net.base, CASES["resnet"][2])
    vectors, images, labels = some(net, 2, 8)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    program, shape = accuracy._plan(net, images.shape, mesh, score)
    padded = np.resize(vectors, (shape.models * shape.blocks, vectors.shape[1]))
    tiles = images[None], labels[None], np.ones((1, 8), bool)
    ours = [np.asarray(program(n.frozen, padded, np.int32(1), tiles)[1])[:2] / 8 for n in (net, other)]
    for n, loss in zip((net, other), ours, strict=True):
        logits = jax.jit(jax.vmap(n.whole.apply, (0, None)))(n.insert(vectors), images)
        np.testing.assert_allclose(loss, nets.cross_entropy(logits, labels[None]).mean(axis=1), rtol=1e-4)
    assert not np.allclose(*ours, rtol=1e-2)


def test_the_start_is_the_base():
    net = make("resnet")
    assert np.array_equal(net.init(jax.random.key(3)), net.start)
    assert np.array_equal(net.insert(net.start), net.base)
    moved = net.insert(net.start + 1) - net.base
    assert np.count_nonzero(moved) == net.spec.num_params
    flat = net.whole.spec.flatten(net.params(jnp.asarray(net.start + 1)))
    assert np.array_equal(flat, net.insert(net.start + 1))


def test_patterns_choose_leaves():
    whole, base = make("resnet").whole, make("resnet").base
    assert nets.partial(whole, base, ["layer2/1/bn?/weight"]).names == ("layer2/1/bn1/weight", "layer2/1/bn2/weight")
    assert nets.partial(whole, base, ["bn1/running_*"]).names == ("bn1/running_mean", "bn1/running_var")
    trained = nets.partial(whole, base, ["*"])
    assert not any("running_" in name for name in trained.names) and len(trained.names) == len(whole.spec.leaves) - 16
    everything = nets.partial(whole, base, ())
    assert everything.spec is whole.spec and not everything.frozen
    vectors, images, _ = some(everything, 1, 2)
    assert np.array_equal(everything.apply(vectors[0], images), whole.apply(vectors[0], images))


def test_partial_specs_have_no_symmetries():
    spec = make("resnet").spec
    vectors = some(make("resnet"), 2, 1)[0]
    assert spec.groups == () and spec.random_permutation(jax.random.key(0)) == ()
    assert np.array_equal(spec.permute(vectors, ()), vectors)
    assert np.array_equal(spec.rescale(vectors, spec.random_scales(jax.random.key(0))), vectors)
    with pytest.raises(ValueError, match="fc9"):
        spec.subset(["fc9"])


def test_saved_bases_are_read_back_or_refused(tmp_path):
    net, path = make("resnet"), tmp_path / "base.npz"
    net.save(path)
    loaded = nets.load_partial(path, net.whole)
    assert loaded == net and np.array_equal(loaded.base, net.base) and hash(loaded) == hash(net)
    with pytest.raises(UserError, match="another network"):
        nets.load_partial(path, make("mlp").whole)
    with np.load(path) as archive:
        content = dict(archive)
    content["base"][7] += 1
    np.savez(tmp_path / "changed.npz", **content)
    (tmp_path / "short.npz").write_bytes(path.read_bytes()[:-200])
    for name, message in (("changed", "damaged"), ("short", "truncated"), ("absent", "no base")):
        with pytest.raises(UserError, match=message):
            nets.load_partial(tmp_path / f"{name}.npz", net.whole)


def test_errors_name_the_leaves_and_the_lengths():
    net = make("mlp")
    with pytest.raises(UserError, match=r"'fc9/\*' .* fc1/weight, fc1/bias"):
        nets.partial(net.whole, net.base, ["fc1/*", "fc9/*"])
    with pytest.raises(UserError, match="has 353 weights"):
        nets.partial(net.whole, net.base[1:], ["fc1/*"])
