"""Tasks: every one describes itself, refuses other tasks' networks and settings, and regression is what numpy says."""

import jax
import numpy as np
import pytest
import zoos
from flax import linen as nn

from configs import base
from jaxweights import operations, parallel, settings, tasks, zoo
from jaxweights.api.zoo import train_zoo
from jaxweights.describe import describe
from jaxweights.errors import UserError
from jaxweights.evaluation import evaluate

ALL = pytest.mark.parametrize("task", tasks.TASKS.values(), ids=lambda task: task.name)


@ALL
def test_settings_are_documented_and_come_back_from_a_config(task):
    for section, kind in (("data", task.data_settings), ("zoo", task.zoo_settings)):
        assert all(row.text for row in settings.rows(kind(), section))
        assert settings.make(kind, settings.config_dict(kind()).to_dict()) == kind()


@ALL
def test_defaults_describe_an_experiment(task):
    config = base.get_config(task.name).to_dict()
    config["data"] |= {"train_limit": 70, "test_limit": 9} if "train_limit" in config["data"] else {}
    facts = describe(config)
    assert facts["data"]["inputs"] == task.terms.inputs and facts["zoo"]["network"] in task.networks
    assert facts["zoo"]["operations"] > 0 and facts["base"] is None


def test_operations_leave_out_what_is_done_now_and_then():
    def step(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x, x) @ x

    assert operations.count(step, jax.ShapeDtypeStruct((4, 4), np.float32)) < 2 * 4**3 + 10


@pytest.mark.parametrize(
    ("task", "network", "shape"),
    [("classification", "field", (3,)), ("field", "mlp", (8, 8, 1)), ("policy", "cnn", (28, 28, 1))],
)
def test_networks_of_other_tasks_are_refused(task, network, shape):
    with pytest.raises(UserError, match=f"The task '{task}' does not take the network '{network}'"):
        tasks.build({"name": network}, shape, 1, task)


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("classification", {"ppo": {}}, "no setting zoo.ppo"),
        ("policy", {"plateau": {}}, "no setting zoo.plateau"),
        ("field", {"subset": ()}, "no setting zoo.subset"),
        ("regression", {"augment": "none"}, "no setting zoo.augment"),
        ("classification", {"snapshot_epoch": (1,)}, "did you mean snapshot_epochs"),
        ("clasification", {}, "There is no task 'clasification'"),
    ],
)
def test_settings_of_other_tasks_are_refused(task, change, message):
    with pytest.raises(UserError, match=message):
        settings.make(tasks.get(task).zoo_settings, change)


def regression():
    task = tasks.get("regression")
    dataset = task.load(task.data_settings(miss_quantile=0.25), net={}, runs=0)
    net = task.build({"name": "mlp", "hidden": (4,)}, dataset.train_images.shape[1:], 1)
    return dataset, net


def test_zoos_in_memory_are_those_of_a_store(tmp_path):
    """And networks learn: they explain more than their mean does."""
    dataset, net = regression()
    options = {"num_runs": 3, "num_heldout": 2, "epochs": 10, "learning_rate": 0.05, "snapshots": (0, -1), "lanes": 2}
    recipe = zoos.recipe("regression", dataset.num_examples, **options)
    kept = zoo.train_zoo(net, recipe, dataset, parallel.make_mesh(2), seed=1)
    stored = zoo.train_zoo(net, recipe, dataset, parallel.make_mesh(2), path=tmp_path / "zoo", seed=1)
    assert np.array_equal(kept.weights, stored.weights[:])
    assert all(np.array_equal(kept.records[name], values) for name, values in stored.records.items())
    before, after = kept.records["accuracy"].reshape(5, 2).T
    assert (after > before).all() and after.mean() > 0.3


def test_regression_is_evaluated_as_by_numpy(mesh):
    dataset, net = regression()
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.3, (5, net.spec.num_params)).astype(np.float32)
    weights[3] = np.nan
    inputs, (targets, tolerance) = dataset.test_images, dataset.test_labels.T
    assert (tolerance == np.float32(np.quantile(np.abs(dataset.train_labels[:, 0]), 0.25))).all()
    residuals = np.stack([np.asarray(net.apply(w, inputs))[:, 0] for w in weights]) - targets[None, :]
    found = evaluate(net, weights, inputs, dataset.test_labels, mesh)
    missed = np.unpackbits(found.errors, axis=1)[:, : len(targets)].astype(bool)
    assert np.array_equal(missed, ~(np.abs(residuals) <= tolerance[None, :]))
    np.testing.assert_allclose(found.loss, np.mean(residuals**2, axis=1), rtol=1e-5)
    explained = 1 - np.sum(residuals**2, axis=1) / np.sum((targets - targets.mean()) ** 2)
    np.testing.assert_allclose(found.accuracy, np.where(np.isnan(explained), -np.inf, explained), rtol=1e-4)


def test_regression_takes_arrays_from_anywhere():
    rng = np.random.default_rng(1)
    x, x_test = rng.normal(size=(64, 3)).astype(np.float32), rng.normal(size=(20, 3)).astype(np.float32)
    y, y_test = x @ [1.0, -2.0, 0.5] + 3, x_test @ [1.0, -2.0, 0.5] + 3
    module = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(1)])
    trained = train_zoo(module, data=(x, y, x_test, y_test), runs=2, heldout=1, epochs=20, batch_size=16, lanes=1)
    assert (trained.records["accuracy"] > 0.8).all()
