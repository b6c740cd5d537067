"""`jw.train_zoo` and `jw.evaluate`: zoos of named networks and of any module, without a folder, a config or a mesh."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from jaxweights.api.zoo import evaluate, train_zoo
from jaxweights.errors import UserError

SMALL = {"runs": 6, "heldout": 2, "epochs": 2, "train_limit": 200, "test_limit": 80}
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(120, 5)).astype(np.float32), RNG.integers(0, 3, 120)
DATA = (X, Y, X[:40], Y[:40])


class Net(nn.Module):
    """A plain stack of Flax's own layers."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(4)(x)))


@pytest.fixture(scope="module")
def zoo():
    return train_zoo("digits", hidden=(4,), seed=0, **SMALL)


def test_a_zoo_is_a_population_with_splits_and_accuracy(zoo):
    assert len(zoo.train) == 6 and len(zoo.heldout) == 2 and zoo.spec.num_params == 310
    found = evaluate(zoo)
    assert np.array_equal(found.accuracy, zoo.records["accuracy"])
    assert np.array_equal(evaluate(zoo, zoo.train.weights).loss, zoo.train.records["loss"])


def test_a_zoo_on_disk_is_the_same_and_resumes(zoo, tmp_path):
    kept = train_zoo("digits", hidden=(4,), seed=0, path=tmp_path, **SMALL)
    again = train_zoo("digits", hidden=(4,), seed=0, path=tmp_path, **SMALL)
    assert np.array_equal(kept.weights, zoo.weights) and np.array_equal(again.weights, zoo.weights)
    with pytest.raises(UserError, match=r"zoo\.epochs: 2 -> 3"):
        train_zoo("digits", hidden=(4,), seed=0, path=tmp_path, **{**SMALL, "epochs": 3})
    with pytest.raises(UserError, match="network.init: 'absent' -> 'uniform'"):
        train_zoo("digits", hidden=(4,), init="uniform", seed=0, path=tmp_path, **SMALL)


def test_a_stored_zoo_is_that_of_its_arrays(tmp_path):
    options = {"runs": 3, "heldout": 0, "epochs": 1, "batch_size": 16, "path": tmp_path}
    kept = train_zoo(Net(), data=DATA, **options)
    assert np.array_equal(train_zoo(Net(), data=DATA, **options).weights, kept.weights)
    with pytest.raises(UserError, match="data: 'arrays; blake2b"):
        train_zoo(Net(), data=(X + 1, Y, X[:40], Y[:40]), **options)


def test_any_module_trains_on_arrays(capsys):
    zoo = train_zoo(Net(), data=DATA, runs=5, heldout=2, epochs=30, batch_size=16, learning_rate=0.3)
    assert "symmetries of 1 hidden layer" in capsys.readouterr().err
    assert [group.size for group in zoo.spec.groups] == [4]
    assert zoo.records["accuracy"].mean() > 0.45  # of three classes, on examples that were trained on
    # The flat vector is that of the module: its own apply gives the recorded accuracy.
    logits = Net().apply({"params": zoo.spec.unflatten(zoo.weights[0])}, DATA[2])
    assert np.mean(np.argmax(logits, -1) == DATA[3]) == zoo.records["accuracy"][0]
    moved = zoo.spec.permute(zoo.weights, zoo.spec.random_permutation(jax.random.key(0)))
    np.testing.assert_allclose(evaluate(zoo, moved).loss, zoo.records["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: train_zoo("digits", hiden=(4,)), "did you mean hidden"),
        (lambda: train_zoo("digits", runs=0), "runs is 0"),
        (lambda: train_zoo("digits", network="actor"), "train_limit|cartpole|data.name"),
        (lambda: train_zoo("digits", task="regresion"), "did you mean regression|set task to one of"),
        (lambda: train_zoo("digits", data=DATA), "data goes with a module"),
        (lambda: train_zoo(Net()), "A module needs data"),
        (lambda: train_zoo(3), "give the name of a data set"),
        (lambda: train_zoo(Net(), data=(X, Y[:5], X, Y)), "The training data have inputs"),
        (lambda: train_zoo(Net(), data=(X, Y, X[:, :3], Y)), "both must be alike"),
        (lambda: train_zoo(Net(), data=(X, Y, X.astype(np.uint8), Y)), "both must be bytes"),
        (lambda: train_zoo(Net(), data=(X * np.nan, Y, X, Y)), "NaN or infinite"),
        (lambda: train_zoo(Net(), data=(X, Y - 1, X, Y)), "negative"),
        (lambda: train_zoo(Net(), data=(X, np.arange(len(Y)) % 7, X, Y)), "as many outputs"),
    ],
)
def test_mistakes_are_sentences(call, message):
    with pytest.raises(UserError, match=message):
        call()
