"""Base networks: any number of devices gives the same, training learns, an interrupted one ends as an uninterrupted
one, and published state dicts are read tensor by tensor."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from jaxweights import data, parallel, settings, tasks, zoo
from jaxweights.errors import UserError
from jaxweights.zoo import base
from jaxweights.zoo import imported as imported_weights

SETTINGS = {
    "import_npz": "",
    "epochs": 3,
    "batch_size": 32,
    "optimizer": "adamw",
    "nesterov": False,
    "schedule": "constant",  # so that trainings of any length are one program
    "learning_rate": 3e-2,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "augment": "none",
    "select": "last",
}


@functools.cache
def digits():
    return data.load("digits", train_limit=640, test_limit=200)


def resnet(classes):
    config = {"name": "resnet18", "widths": (12,), "depths": (1,), "stem": "cifar", "init": "torch"}
    return tasks.build(config, (8, 8, 1), classes)


@functools.cache
def network():
    return resnet(10)


def chosen(**changes):
    return settings.make(zoo.BaseSettings, SETTINGS | changes)


def train(path, devices=2, **changes):
    mesh = parallel.make_mesh(devices)
    return zoo.train_base(path, network(), chosen(**changes), digits(), mesh, seed=1, provenance={"made": "here"})


def index(path):
    return json.loads((path / base.INDEX).read_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "whole"
    return path, train(path)


def test_training_learns_and_is_not_repeated(trained):
    path, vector = trained
    epochs = index(path)["epochs"]
    assert [row["epoch"] for row in epochs] == [1, 2, 3] and index(path)["kept_epoch"] == 3
    assert epochs[-1]["loss"] < 0.6 * epochs[0]["loss"] and epochs[-1]["accuracy"] > 0.4  # chance is 0.1
    stamp = (path / base.WEIGHTS).stat().st_mtime_ns
    assert np.array_equal(train(path), vector) and (path / base.WEIGHTS).stat().st_mtime_ns == stamp
    dataset = digits()
    images = np.asarray(data.standardise(dataset.test_images, dataset.scale, dataset.shift))
    logits = np.asarray(jax.jit(network().apply)(vector, images))
    assert np.mean(logits.argmax(axis=1) == dataset.test_labels) == pytest.approx(epochs[-1]["accuracy"], abs=0.011)


def test_the_number_of_devices_changes_nothing():
    """Losses and weights after three steps, statistics of the whole batch and augmentation among what they depend on.

    Other sums of 32 examples in float32, and SGD, which does not amplify them as the signs of small gradients in Adam's
    first steps would.
    """
    ends = []
    for devices in (1, 8):
        trainer = zoo.BaseTrainer.create(
            network(), chosen(optimizer="sgd", augment="flip_crop"), 640, parallel.make_mesh(devices)
        )
        state, total = trainer.advance(trainer.start(0, None), trainer.load(digits()), np.array([0, 3]))
        ends.append((total, np.asarray(trainer.vector(state.params))))
    (one, weights), (eight, others) = ends
    np.testing.assert_allclose(one, eight, rtol=1e-5)
    np.testing.assert_allclose(weights, others, atol=2e-6)
    assert np.abs(others - trainer.vector(trainer.start(0, None).params)).max() > 1e-2


@pytest.mark.parametrize("select", ["last", "best_test"])
def test_an_interrupted_base_ends_as_an_uninterrupted_one(tmp_path, trained, monkeypatch, select):
    """Killed after the first epoch; the best of the epochs is remembered across the break, too."""
    advance = zoo.BaseTrainer.advance

    def interrupted(self, state, data, bounds, total):
        if bounds[0] >= 20:
            raise KeyboardInterrupt
        return advance(self, state, data, bounds, total)

    monkeypatch.setattr(zoo.BaseTrainer, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "base", select=select)
    assert [row["epoch"] for row in index(tmp_path / "base")["epochs"]] == [1]
    monkeypatch.setattr(zoo.BaseTrainer, "advance", advance)
    resumed = train(tmp_path / "base", select=select)
    path, vector = trained
    assert index(tmp_path / "base")["epochs"] == index(path)["epochs"]
    accuracies = [row["accuracy"] for row in index(path)["epochs"]]
    best = 3 if select == "last" else int(np.argmax(accuracies)) + 1
    assert index(tmp_path / "base")["kept_epoch"] == best
    assert np.array_equal(resumed, vector) == (best == 3)


def test_the_best_epoch_on_the_test_set_is_kept_when_asked_for(tmp_path, monkeypatch):
    """With accuracies that peak in the second epoch, its weights are those of a training that ends there."""
    kept, scores = [], iter([0.2, 0.9, 0.9])

    def accuracy(self, params, dataset):
        kept.append(np.asarray(self.vector(params)))
        return next(scores)

    monkeypatch.setattr(zoo.BaseTrainer, "accuracy", accuracy)
    vector = train(tmp_path / "base", select="best_test")
    assert np.array_equal(vector, kept[1]) and not np.array_equal(kept[1], kept[2])
    assert index(tmp_path / "base")["kept_epoch"] == 2


def state_dict(net, vector, prefix=""):
    """As PyTorch would hold it: names with dots, kernels (out, in, rows, columns), counters of batches."""
    tensors = {}
    for leaf, span in net.spec.spans():
        shape = leaf.stored_axes if len(leaf.shape) == 4 else leaf.shape
        name = prefix + leaf.name.replace("/", ".")
        tensors[name] = vector[span].reshape(shape)
        if name.endswith("running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = np.array(7)
    return tensors


def imported(path, tensors, net=None, **changes):
    np.savez(path / "file.npz", **tensors)
    imports = chosen(**{"epochs": 0, "import_npz": str(path / "file.npz")} | changes)
    return zoo.train_base(path / "base", net or network(), imports, digits(), parallel.make_mesh(2), seed=1)


def test_published_networks_are_read(tmp_path, trained):
    path, vector = trained
    assert np.array_equal(imported(tmp_path, state_dict(network(), vector, "model.")), vector)
    assert index(tmp_path / "base")["accuracy"] == pytest.approx(index(path)["accuracy"], abs=0.011)
    shutil.rmtree(tmp_path / "base")
    assert np.array_equal(imported(tmp_path, {"weights": vector[None]}), vector)
    shutil.rmtree(tmp_path / "base")
    onwards = imported(tmp_path, {"weights": vector}, epochs=1)
    assert index(tmp_path / "base")["epochs"][0]["loss"] < 0.5 * index(path)["epochs"][0]["loss"]
    assert not np.array_equal(onwards, vector)


def test_imports_are_tried_before_anything_is_written(tmp_path, trained, capsys):
    """So that the right file can follow in the same folder."""
    vector = trained[1]
    for bad, message in (
        ({"weights": np.where(np.isclose(vector, vector.max()), np.nan, vector)}, "NaN or infinite weights"),
        ({"weights": np.append(vector[:-130], np.full(130, 3e38))}, "outputs that are not finite for 200 of 200 test"),
        ({"weights": -np.abs(vector)}, "negative variances in bn1/running_var"),
    ):
        with pytest.raises(UserError, match=message) as found:
            imported(tmp_path, bad)
        assert not (tmp_path / "base").exists() and "rate" not in str(found.value)
    assert np.array_equal(imported(tmp_path, {"weights": vector}), vector)
    assert "has a test accuracy of 0." in capsys.readouterr().err


def test_a_head_for_other_classes_is_initialised(tmp_path, trained, capsys):
    other = resnet(6)
    tensors = state_dict(network(), trained[1])
    np.savez(tmp_path / "file.npz", **tensors)
    vector = imported_weights.read_weights(tmp_path / "file.npz", other, 1)
    parts = {leaf.name: vector[span] for leaf, span in other.spec.spans()}
    assert "fc/weight (10, 12) -> (6, 12), fc/bias (10,) -> (6,)" in capsys.readouterr().err
    for name, value in parts.items():
        if not name.startswith("fc/"):
            assert np.array_equal(value, tensors[name.replace("/", ".")].ravel())
    assert 0.1 < np.abs(parts["fc/weight"]).max() < 1 and not np.array_equal(
        parts["fc/weight"], tensors["fc.weight"][:6].ravel()
    )


def test_files_of_other_networks_are_refused(tmp_path, trained):
    tensors = state_dict(network(), trained[1])

    def refused(message, **changes):
        changed = {k: v for k, v in {**tensors, **changes}.items() if v is not None}
        np.savez(tmp_path / "file.npz", **changed)
        with pytest.raises(UserError, match=message):
            imported_weights.read_weights(tmp_path / "file.npz", network(), 1)

    refused("1 tensors are missing .bn1.bias", **{"bn1.bias": None})
    refused("1 are left over .layer9.0.weight", **{"layer9.0.weight": np.zeros(3)})
    refused("conv1.weight has shape", **{"conv1.weight": np.zeros((12, 3, 3, 3))})
    refused("`weights` has shape", weights=np.zeros(3))
    (tmp_path / "file.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="truncated or damaged"):
        imported_weights.read_weights(tmp_path / "file.npz", network(), 1)
    with pytest.raises(UserError, match="does not exist"):
        imported_weights.read_weights(tmp_path / "none.npz", network(), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": -1}, "zoo.base.epochs is -1"),
        ({"epochs": 0}, "or the file of a trained network"),
        ({"batch_size": 641}, "between 1 and the 640"),
        ({"select": "best"}, "zoo.base.select is 'best'; set it to one of last, best_test"),
        ({"optimizer": "lion"}, "zoo.base.optimizer is 'lion'"),
        ({"schedule": "plateau"}, "zoo.base.schedule is 'plateau'"),
        ({"learning_rate": {"kind": "choice", "values": (1,)}}, "zoo.base.learning_rate is .*; give a number"),
        ({"epoch": 3}, "no setting zoo.base.epoch; did you mean epochs"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path, **change)


def test_another_or_a_damaged_base_in_the_folder_is_refused(tmp_path, trained):
    shutil.copytree(trained[0], tmp_path / "base")
    with pytest.raises(UserError, match="settings.epochs: 3 -> 4"):
        train(tmp_path / "base", epochs=4)
    np.save(tmp_path / "base" / base.WEIGHTS, trained[1] + 1)
    with pytest.raises(UserError, match="changed after it was written"):
        train(tmp_path / "base")


def test_a_loss_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(UserError, match="not finite in epoch 1"):
        train(tmp_path / "base", learning_rate=1e18)
