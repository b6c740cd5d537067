"""Transformations of weights: closed forms of each, on a perceptron and a convolutional network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import fft, stats
from test_registries import tiny_network

from jaxweights import parallel, tasks
from jaxweights.bias import classifiers, protocol, ranking
from jaxweights.bias import weights as bias_weights
from jaxweights.bias.weights import Architecture, base, features, transform
from jaxweights.errors import UserError
from jaxweights.nets.symmetries import plain_leaf
from jaxweights.nn.leaves import Leaves
from jaxweights.nn.parameters import initialise
from jaxweights.spec import WeightSpec

CHANGES = {
    "shuffled": "shuffled",
    "blocks": {"kind": "shuffled", "block": 3},
    "fixed": {"kind": "shuffled", "fixed": True},
    "network": {"kind": "statistics", "per": "network"},
    "rows": {"kind": "norms", "sides": "rows"},
    "components": {"kind": "low_rank", "rank": 2},
    "residual": {"kind": "low_rank", "rank": 2, "keep": "residual"},
    "low": {"kind": "frequencies", "cutoff": 0.6},
    "high": {"kind": "frequencies", "cutoff": 0.6, "keep": "high"},
    "bits": {"kind": "quantised", "bits": 3},
    "pca": {"kind": "pca", "components": 2},
    "outputs": {"kind": "outputs", "inputs": 5},
}
ROUNDING = 2e-6


@pytest.fixture(scope="module")
def of():
    net = tasks.build({"name": "mlp", "hidden": (4,)}, (3, 3, 1), 3)
    return Architecture(net.spec, net)


@pytest.fixture(scope="module")
def rows(of):
    """Networks `[6, P]`: 4 x 9 weights, 4 biases, 3 x 4 weights, 3 biases."""
    return np.random.default_rng(0).normal(size=(6, of.spec.num_params)).astype(np.float32)


@pytest.fixture(scope="module")
def found(of, rows):
    """What every transformation makes of the networks, by name: one program for all."""
    kinds = {
        name: bias_weights.make(name)
        for name in bias_weights.TRANSFORMATIONS
        if name not in ("matched", "pca", "features")
    }
    kinds |= {name: bias_weights.make(values) for name, values in CHANGES.items()}
    states = {name: kind.fit(of, rows, jax.random.key(1)) for name, kind in kinds.items()}

    @jax.jit
    def program(states, rows, keys):
        def one(row, key):
            return {name: kind.apply(of, states[name], row, key).reshape(-1) for name, kind in kinds.items()}

        return jax.vmap(one)(rows, keys)

    made = jax.tree.map(np.asarray, program(states, rows, jax.random.split(jax.random.key(2), len(rows))))
    return made | {"states": states}


def parts(rows):
    """First matrices `[n, 4, 9]` and biases, second matrices `[n, 3, 4]` and biases."""
    return rows[:, :36].reshape(-1, 4, 9), rows[:, 36:40], rows[:, 40:52].reshape(-1, 3, 4), rows[:, 52:]


def close(a, b, atol=ROUNDING):
    np.testing.assert_allclose(a, np.reshape(b, np.shape(a)), atol=atol)


def test_orders_of_units_keep_the_function(of, rows, found):
    outputs = jax.jit(jax.vmap(of.net.apply, (0, None)))
    x = np.random.default_rng(1).normal(size=(5, 3, 3, 1)).astype(np.float32)
    expected = outputs(rows, x)
    for name in ("permuted", "canonical"):
        close(outputs(found[name], x), expected, 1e-5)  # sums over units in another order
    first, bias, _, _ = parts(found["canonical"])
    norms = np.square(first).sum(axis=2) + np.square(bias)
    assert (np.diff(norms, axis=1) <= 0).all()
    assert len({tuple(np.argsort(row[36:40])) for row in found["permuted"] - rows}) > 1  # another order for each
    np.testing.assert_array_equal(found["raw"], rows)


def test_shuffles_keep_the_values_of_every_tensor(rows, found):
    slices = (slice(0, 36), slice(36, 40), slice(40, 52), slice(52, 55))
    for name in ("shuffled", "blocks", "fixed"):
        for span in slices:
            np.testing.assert_array_equal(np.sort(found[name][:, span]), np.sort(rows[:, span]))
        assert (found[name] != rows).any(axis=1).all()
    for span in slices:
        np.testing.assert_array_equal(found["sorted"][:, span], np.sort(rows[:, span]))
    index = np.asarray(found["states"]["fixed"])
    np.testing.assert_array_equal(found["fixed"], rows[:, index])
    places = [np.argsort(np.argsort(a))[np.argsort(b)] for a, b in zip(rows, found["shuffled"], strict=True)]
    assert any((place != places[0]).any() for place in places[1:])
    blocks = found["blocks"][:, :36].reshape(6, 12, 3)
    own = rows[:, :36].reshape(6, 12, 3)
    assert all(any((block == other).all() for other in own[i]) for i in range(6) for block in blocks[i])
    np.testing.assert_array_equal(found["blocks"][:, 39], rows[:, 39])  # what fills no block stays


def test_summaries(rows, found):
    first, bias, second, last = parts(rows)
    tensors = [first, bias, second, last]
    means, deviations = ([fn(t.reshape(6, -1), axis=1) for t in tensors] for fn in (np.mean, np.std))
    close(found["statistics"], np.stack(means + deviations, axis=1))
    close(found["network"], np.stack([rows.mean(axis=1), rows.std(axis=1)], axis=1))
    spectra = [np.linalg.svd(m, compute_uv=False) for m in (first, second)]
    close(found["singular_values"], np.concatenate(spectra, axis=1), 1e-5)
    norms = [np.linalg.norm(m, axis=a) for m in (first, second) for a in (2, 1)]
    close(found["norms"], np.concatenate(norms, axis=1))
    close(found["rows"], np.concatenate(norms[::2], axis=1))


def test_coarse_and_fine_parts_add_up(rows, found):
    first, bias, second, last = parts(rows)
    close(found["components"] + found["residual"], rows, 1e-5)
    assert not np.any(found["residual"][:, 36:40]) and (found["components"][:, 52:] == last).all()
    kept = parts(found["components"])
    for matrix, whole in ((kept[0], first), (kept[2], second)):
        spectrum, values = (np.linalg.svd(m, compute_uv=False) for m in (matrix, whole))
        close(spectrum[:, :2], values[:, :2], 1e-5)
        close(spectrum[:, 2:], np.zeros_like(values[:, 2:]), 1e-5)
    low, high = found["low"], found["high"]  # of the first matrix alone: hidden units have no order
    close(low + high, first, 1e-5)
    spectrum = fft.dctn(low.reshape(6, 4, 3, 3), axes=(2, 3), norm="ortho")
    expected = fft.dctn(first.reshape(6, 4, 3, 3), axes=(2, 3), norm="ortho")
    near = np.hypot(*np.meshgrid([0, 0.5, 1], [0, 0.5, 1])) <= 0.6
    close(spectrum, np.asarray(expected) * near, 1e-5)


def test_parts_of_single_weights(rows, found):
    np.testing.assert_array_equal(found["sign"] * found["magnitude"], rows)
    for span in (slice(0, 36), slice(52, 55)):
        largest = np.abs(rows[:, span]).max(axis=1, keepdims=True)
        steps = (found["bits"][:, span] / largest + 1) * 4 - 0.5
        close(steps, np.round(steps), 1e-4)
        assert np.abs(found["bits"][:, span] - rows[:, span]).max() <= largest.max() / 8 + ROUNDING


def test_functions(of, rows, found):
    first, _, second, _ = parts(rows)
    close(found["products"], second @ first, 1e-5)
    probabilities = found["outputs"].reshape(6, 5, 3)
    close(probabilities.sum(axis=-1), np.ones((6, 5)), 1e-5)
    inputs = found["states"]["outputs"]
    close(probabilities[2], jax.nn.softmax(of.net.apply(jnp.asarray(rows[2]), inputs)), 1e-5)


def test_pca_is_the_projection_on_the_largest_directions(of, rows, found):
    centred = rows - rows.mean(axis=0)
    left, values, right = np.linalg.svd(centred, full_matrices=False)
    close(found["pca"], rows.mean(axis=0) + (left[:, :2] * values[:2]) @ right[:2], 1e-5)
    with pytest.raises(UserError, match="components is 6.*at most 5"):
        transform(bias_weights.make({"kind": "pca", "components": 6}), rows, of, jax.random.key(0))


def test_a_network_is_transformed_alike_in_any_block_on_any_devices(monkeypatch, of, rows):
    shuffled = bias_weights.make("shuffled")
    whole = transform(shuffled, rows, of.spec, jax.random.key(3), mesh=parallel.make_mesh(1))
    done = []
    monkeypatch.setattr(base, "_BLOCK_BYTES", 1)
    split = transform(
        shuffled, rows, of, jax.random.key(3), mesh=parallel.make_mesh(4), progress=lambda *x: done.append(x)
    )
    np.testing.assert_array_equal(split, whole)
    assert done == [(4, 6), (6, 6)]
    assert (transform(shuffled, rows, of, jax.random.key(4), mesh=parallel.make_mesh(4)) != whole).any()


def test_matched_units_undo_reorderings(of, rows):
    orders = [np.random.default_rng(i).permutation(4) for i in range(len(rows))]
    moved = np.stack([np.asarray(of.spec.permutation_index([order])) for order in orders])
    matched = bias_weights.make("matched")
    state = matched.fit(of, rows, jax.random.key(0))
    copies = np.take_along_axis(rows, moved, axis=1)
    found = [transform(matched, x, of, jax.random.key(0), state=state) for x in (rows, copies)]
    close(found[1], found[0], 1e-5)


def test_chains_of_convolutions():
    spec = chain(())
    row = jnp.asarray(np.random.default_rng(0).normal(size=spec.num_params), jnp.float32)
    tree = spec.unflatten(row)
    kernel, dense = np.asarray(tree["conv"]["weight"]), np.asarray(tree["fc"]["weight"])
    expected = np.einsum("ohwc,yxic->oiyx", dense.reshape(3, 2, 2, 4), kernel)
    made = bias_weights.make("products").apply(Architecture(spec), (), row, jax.random.key(0))
    close(made, expected, 1e-5)


def chain(more):
    """A convolution of 2 channels and a dense layer on its map, and other layers that read the same channels."""
    leaves = Leaves()
    hidden = leaves.group(4)
    leaves.conv("conv", 3, 2, 4, writes=hidden)
    leaves.dense("fc", (2, 2, 4), 3, reads=hidden)
    for name in more:
        leaves.dense(name, 4, 3, reads=hidden)
    return leaves.spec()


@pytest.mark.parametrize(
    "values, spec, message",
    [
        ("products", chain(("other",)), "products does not fit these networks: their layers are no chain"),
        ("permuted", WeightSpec((plain_leaf("w", (4, 3)),)), "no hidden units that can be reordered"),
        ("singular_values", WeightSpec((plain_leaf("b", (4,)),)), "no matrices, only vectors"),
        ("outputs", chain(()), "nothing says what they compute"),
        ({"kind": "low_rank", "rank": 4}, chain(()), "low_rank.rank is 4; no matrix has a rank above 4"),
        ({"kind": "shuffled", "block": 40}, chain(()), "shuffled.block is 40; the largest tensor has 72"),
    ],
)
def test_what_does_not_fit_is_refused(values, spec, message):
    with pytest.raises(UserError, match=message):
        transform(bias_weights.make(values), np.ones((2, spec.num_params), np.float32), spec, jax.random.key(0))


def test_unknown_transformations_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="kind is 'shufled'.*did you mean shuffled"):
        bias_weights.make("shufled")


@pytest.mark.parametrize("net", ["perceptron", "convolutions"])
def test_the_classifier_of_units_does_not_see_their_order(net):
    spec = tasks.build({"name": "mlp", "hidden": (4, 3)}, (2, 2, 1), 2).spec if net == "perceptron" else chain(())
    rows = np.random.default_rng(0).normal(size=(5, spec.num_params)).astype(np.float32)
    classifier = classifiers.build({"kind": "units", "features": 4}).of_spec(spec)
    module = classifier.module((spec.num_params,), 3)

    @jax.jit
    def logits(rows):
        keys = jax.random.split(jax.random.key(1), len(rows))
        permuted = jax.vmap(lambda row, key: spec.permute(row, spec.random_permutation(key)))(rows, keys)
        params = initialise(module, jax.random.key(0), rows)
        moments = [jnp.stack(classifier.standardisation(x)) for x in (rows, permuted)]
        return *(module.apply(params, x) for x in (rows, permuted)), *moments, permuted

    own, other, scale, same, permuted = logits(rows)
    assert (permuted != rows).any()
    close(own, other, 1e-5)
    close(scale, same, 1e-5)
    assert np.abs(own[0] - own[1]).max() > 1e-3
    with pytest.raises(UserError, match="takes weight vectors of networks"):
        classifiers.build({"kind": "units"}).module((4,), 2)


def test_named_features(of, rows):
    silent = rows.copy()
    silent[0, :9], silent[0, 36], silent[1, 36:40] = 0, -1, -100.0  # one unit without inputs, and all switched off
    silent[0, 40:52:4] = 0  # nothing reads it either
    found = features.of_weights(np.concatenate([rows, silent]), of)
    assert found.values[6, -1] == 0.25 and found.names[-1] == "unused units of hidden layer 1"
    found = features.Named(found.names, found.values[:6])
    first, bias, second, last = parts(rows)
    named = dict(zip(found.names, found.values.T, strict=True))
    for leaf, matrix in (("fc1", first), ("fc2", second)):
        spectra = np.linalg.svd(matrix, compute_uv=False)
        flat = matrix.reshape(6, -1)
        close(named[f"norm of {leaf}/weight"], np.linalg.norm(flat, axis=1), 1e-5)
        close(named[f"spectral norm of {leaf}/weight"], spectra[:, 0], 1e-5)
        close(named[f"stable rank of {leaf}/weight"], np.square(spectra).sum(axis=1) / spectra[:, 0] ** 2, 1e-5)
        close(named[f"sign balance of {leaf}/weight"], np.sign(flat).mean(axis=1))
        close(named[f"kurtosis of {leaf}/weight"], stats.kurtosis(flat, axis=1), 1e-4)
        small = np.abs(flat) < 0.05 * np.sqrt(np.square(flat).mean(axis=1, keepdims=True))
        close(named[f"sparsity of {leaf}/weight"], small.mean(axis=1))
    close(named["norm of fc2/bias"], np.linalg.norm(last, axis=1), 1e-5)
    images = np.random.default_rng(1).normal(size=(20, 3, 3, 1)).astype(np.float32)
    done = features.of_function(of.net, silent, features.Examples(images, np.arange(20) % 3))
    by_name = dict(zip(done.names, done.values.T, strict=True))
    assert by_name["dead units of fc1"][:2].tolist() == [0.25, 1.0]
    recalls = np.stack([by_name[f"recall of class {k}"] for k in range(3)])
    close(np.array([7, 7, 6]) @ recalls / 20, by_name["accuracy"], 1e-6)


def test_ranked_coefficients_name_what_differs():
    rng = np.random.default_rng(0)
    labels, values = np.repeat(np.arange(3), 60), rng.normal(size=(180, 4))
    values[labels == 2, 1] += 3.0
    values[:, 3] = 5.0  # says nothing
    (split,) = protocol.splits(labels, np.arange(180), 40, 20, repeats=1)
    found = ranking.rank(ranking.Table(["a", "b", "c", "d"], values, np.arange(180)), split, ["x", "y", "z"])
    first = found["coefficients"]["z"][0]
    assert first["feature"] == "b" and first["ci95"][0] > 0 and first["n"] == 120
    assert [entry["feature"] for entry in found["majority"]][0] == "b" and len(found["majority"]) == 3
    assert found["majority"][0]["value"] > 0.5 > found["majority"][-1]["value"]
    others = found["coefficients"]["x"]
    assert all(entry["ci95"][0] < 0 < entry["ci95"][1] for entry in others if entry["feature"] != "b")
    binary = protocol.Split(np.minimum(split.labels, 1), split.train[split.labels[split.train] < 2], split.validation)
    two = ranking.rank(ranking.Table(["a", "b", "c", "d"], values, np.arange(180)), binary, ["x", "y"])
    signs = [{e["feature"]: e["value"] for e in two["coefficients"][k]} for k in ("x", "y")]
    assert signs[0] == {k: -v for k, v in signs[1].items()}
    with pytest.raises(UserError, match="No named feature differs"):
        ranking.rank(ranking.Table(["d"], values[:, 3:], np.arange(180)), split, ["x", "y", "z"])


@pytest.mark.parametrize("name", ["resnet18", "pdiff_vit", "field"])  # all do, but tracing takes time
def test_transformations_fit_every_network_or_say_why_not(name):
    """Traced, not run."""
    net = tiny_network(name)
    architecture, refused = Architecture(net.spec, net), set()
    rows = np.random.default_rng(0).normal(size=(8, net.spec.num_params)).astype(np.float32)
    for kind in bias_weights.TRANSFORMATIONS:
        transformation = bias_weights.make({"kind": kind} | ({"components": 2} if kind == "pca" else {}))
        try:
            transformation.check(architecture)
        except UserError as error:
            refused.add(kind)
            assert "Leave this transformation out" in str(error) or "set it" in str(error)
            continue
        if kind == "matched":
            continue
        state = jax.eval_shape(functools.partial(transformation.fit, architecture, rows), jax.random.key(0))
        width = transformation.width(architecture, state)
        assert width == net.spec.num_params if transformation.NETWORK else width > 0
    assert refused <= {"products", "permuted", "canonical", "matched"}, refused
    if net.spec.groups:
        try:
            classifier = classifiers.build({"kind": "units"}).of_spec(net.spec)
        except UserError as error:
            assert "hidden units on" in str(error)
            return
        module, row = classifier.module((net.spec.num_params,), 2), jnp.zeros((1, net.spec.num_params))
        assert jax.eval_shape(lambda: module.apply(initialise(module, jax.random.key(0), row), row)).shape == (1, 2)
