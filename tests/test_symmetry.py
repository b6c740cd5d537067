"""The symmetry study: zero for what knows the symmetries, and for nothing else."""

import jax
import numpy as np
import pytest

from jaxweights import parallel, tasks
from jaxweights.auditing import symmetry
from jaxweights.errors import UserError
from jaxweights.evaluation import evaluate

COUNT, IMAGES, CLASSES = 6, 61, 3
BOTH = ["relu", "tanh"]


@pytest.fixture(scope="module")
def devices():
    return parallel.make_mesh(2)


@pytest.fixture(scope="module")
def cases(devices):
    """By activation: a network with two hidden layers, six networks, images and labels."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, 3, 3, 1)).astype(np.float32)
    labels = rng.integers(0, CLASSES, IMAGES).astype(np.int32)
    made = {}
    for activation in BOTH:
        net = tasks.build({"name": "mlp", "hidden": (5, 4), "activation": activation}, (3, 3, 1), CLASSES)
        weights = rng.normal(size=(COUNT, net.spec.num_params)).astype(np.float32)
        made[activation] = net, weights, images, labels
    return made


@pytest.fixture(scope="module")
def run(cases, devices):
    """The study of a reconstruction, `(activation, reconstruct, ...) -> (metrics, arrays)`."""

    def study(activation, reconstruct, rows=slice(None), **settings):
        net, weights, images, labels = cases[activation]
        settings = {"resamples": 20, "rng": 3} | settings
        return symmetry.study(net, weights[rows], reconstruct, images, labels, devices, jax.random.key(0), **settings)

    return study


def memorise(weights):
    """A reconstruction that answers with the stored vector that is nearest as it stands."""

    def reconstruct(vectors):
        distances = np.linalg.norm(vectors[:, None, :] - weights[None, :, :], axis=-1)
        return weights[distances.argmin(axis=1)] + 0.5 * np.sin(vectors)

    return reconstruct


@pytest.mark.parametrize(("activation", "scaled"), [("relu", "rescaled"), ("tanh", "sign_flipped")])
def test_a_perfect_autoencoder_tells_networks_apart_and_nothing_else(run, activation, scaled):
    metrics, arrays = run(activation, lambda vectors: vectors)
    assert list(metrics["rows"]) == ["original", "permuted", scaled]
    assert list(metrics["function_change"]) == ["permuted", scaled]
    assert metrics["n"] == COUNT
    for row in ("permuted", scaled):
        # With these seeds no two logits are so close that rounding decides between them; otherwise one example is 1.6.
        assert metrics["function_change"][row] == 0
        for name in symmetry.MEASURES:
            assert metrics["rows"][row][name]["mean"] == 0
    for name in symmetry.MEASURES:
        found = metrics["rows"]["original"][name]
        assert found["ci95"][0] > 0 and found["n"] == COUNT
        np.testing.assert_allclose(arrays[f"symmetry/original/{name}"].mean(), found["mean"], rtol=1e-12)
    assert set(arrays) == {f"symmetry/{row}/{name}" for row in metrics["rows"] for name in symmetry.MEASURES}


def test_only_an_equivariant_autoencoder_gives_zero(run, cases):
    # An elementwise map commutes with any reordering of the entries, and with sign flips if it is odd, but not with
    # scales; it is no identity, so the reconstructions are other functions than the networks.
    def shrink(vectors):
        return np.sign(vectors) * np.maximum(np.abs(vectors) - 0.4, 0)

    for activation, scaled in (("relu", False), ("tanh", True)):
        rows = run(activation, shrink)[0]["rows"]
        last = list(rows)[-1]
        for name in symmetry.MEASURES:
            assert rows["permuted"][name]["mean"] == 0
            assert (rows[last][name]["mean"] == 0) == scaled
        rows = run(activation, memorise(cases[activation][1]))[0]["rows"]
        for row in ("permuted", last):
            assert all(rows[row][name]["ci95"][0] > 0 for name in symmetry.MEASURES)


def test_rows_are_the_definitions_in_plain_sets(run, cases, devices):
    net, weights, images, labels = cases["relu"]
    seen = []

    def halve(vectors):
        seen.append(vectors)
        return 0.5 * vectors + 0.1

    metrics, arrays = run("relu", halve)
    original, permuted, rescaled = seen
    np.testing.assert_array_equal(original, weights)
    # A reordering keeps the entries of every leaf, and a rescaling their signs.
    np.testing.assert_array_equal(np.sort(permuted[:, :45]), np.sort(weights[:, :45]))
    np.testing.assert_array_equal(np.sign(rescaled), np.sign(weights))
    assert not np.array_equal(permuted, weights) and not np.allclose(rescaled, weights)

    def wrong(vectors):
        errors = evaluate(net, 0.5 * vectors + np.float32(0.1), images, labels, devices).errors
        return [set(np.flatnonzero(np.unpackbits(row)[:IMAGES])) for row in errors]

    first, second = wrong(weights), wrong(permuted)
    expected = [1 - len(a & b) / len(a | b) for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(arrays["symmetry/permuted/error_dissimilarity"], expected, rtol=1e-12)
    expected = [100 * abs(len(a) - len(b)) / IMAGES for a, b in zip(first, second, strict=True)]
    # One part in 1e9: accuracies near 1 are subtracted in float64.
    np.testing.assert_allclose(arrays["symmetry/permuted/accuracy_difference"], expected, rtol=1e-9, atol=1e-9)


def test_original_pairs_are_different_networks_and_each_is_used_twice(run):
    """With network 0 unlike the others, exactly the two pairs that it is in differ."""

    def odd_one_out(vectors):
        return np.repeat(vectors[1:2], len(vectors), axis=0) * np.where(np.arange(len(vectors)) == 0, -1, 1)[:, None]

    for seed in range(4):
        values = run("relu", odd_one_out, rng=seed)[1]["symmetry/original/error_dissimilarity"]
        assert np.count_nonzero(values) == 2
        assert values[0] > 0  # the pair that network 0 comes first in


def test_the_same_seeds_give_the_same_numbers(run):
    def halve(vectors):
        return 0.5 * vectors + 0.1

    assert run("tanh", halve)[0] == run("tanh", halve)[0]
    assert run("tanh", halve, rng=4)[0]["rows"]["original"] != run("tanh", halve)[0]["rows"]["original"]


def test_a_network_without_hidden_units_has_no_transformations():
    assert symmetry.transformations(tasks.build({"name": "mlp", "hidden": ()}, (3, 3, 1), CLASSES).spec) == ()
    sigmoid = tasks.build({"name": "mlp", "activation": "sigmoid"}, (3, 3, 1), CLASSES)
    assert symmetry.transformations(sigmoid.spec) == ("permuted",)


def test_impossible_studies_are_refused(run):
    with pytest.raises(UserError, match="at least 2"):
        run("relu", lambda vectors: vectors, slice(1))
    with pytest.raises(UserError, match="shape"):
        run("relu", lambda vectors: vectors[:, 1:])
