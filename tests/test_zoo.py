"""Bulk training: a run depends on its seed and recipe alone, however it is batched, sharded, chunked, killed and
resumed."""

import functools
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoos

from jaxweights import data, parallel, tasks, zoo
from jaxweights.errors import UserError
from jaxweights.evaluation import evaluate
from jaxweights.store import PopulationStore
from jaxweights.zoo.supervised import pack, put

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = {
    "steps": 30,
    "batch_size": 16,
    "optimizer": "sgd",
    "nesterov": True,
    "schedule": "cosine",
    "snapshots": (0, 7, -1),
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
}


@functools.cache
def digits():
    return data.load("digits", train_limit=200, test_limit=100)


@functools.cache
def network():
    return tasks.build({"name": "mlp", "hidden": (4,)}, (8, 8, 1), 10)


def recipe(**changes):
    return zoos.recipe("classification", len(digits().train_labels), **CONFIG | changes)


def train(path, devices=8, **options):
    settings = {"seed": 3, "num_runs": 10, "num_heldout": 4, "provenance": {}, "lanes": 2, **options}
    the_recipe = settings.pop("recipe", recipe())
    return zoo.train_zoo(network(), the_recipe, digits(), parallel.make_mesh(devices), path=path, **settings)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return train(tmp_path_factory.mktemp("zoo") / "reference")


def test_records_describe_every_snapshot(reference):
    records = reference.records
    assert len(reference) == 14 * 3 and reference.complete
    assert records["run"].tolist() == np.repeat(np.arange(14), 3).tolist()
    assert records["step"].tolist() == [0, 7, 30] * 14
    assert (records["split"] == np.where(records["run"] < 10, "train", "heldout")).all()
    dataset = digits()
    images = np.asarray(data.standardise(dataset.test_images, dataset.scale, dataset.shift))
    again = evaluate(network(), reference.weights[:], images, dataset.test_labels, parallel.make_mesh(1))
    np.testing.assert_array_equal(again.accuracy, records["accuracy"])
    assert records["accuracy"][2::3].mean() > records["accuracy"][0::3].mean() + 0.3


@pytest.mark.parametrize("order", ["own", "shared"])
def test_a_run_is_the_same_in_any_company(tmp_path, order):
    """Bit for bit: device count, chunk size and neighbours change nothing as long as the lanes are the same."""
    the_recipe = recipe(batch_order=order)
    many = train(tmp_path / "a", recipe=the_recipe)
    one = train(tmp_path / "b", devices=1, chunk_size=4, num_runs=3, num_heldout=2, recipe=the_recipe)
    assert np.array_equal(one.weights[:], many.weights[: len(one)])


@pytest.mark.parametrize("order", ["own", "shared"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_bulk_training_equals_a_plain_loop(tmp_path, order, optimizer):
    """Against one model, one step at a time, with optax used as its documentation shows.

    Thirty steps of float32 products in another order: 2e-4 is about a hundred roundings of the largest weights.
    """
    rate = 0.1 if optimizer == "sgd" else 0.01
    the_recipe = recipe(batch_order=order, optimizer=optimizer, learning_rate=rate, snapshots=(-1,))
    store = train(tmp_path / "zoo", num_runs=2, num_heldout=1, recipe=the_recipe)
    trainer = zoos.trainer(network(), the_recipe, 200, parallel.make_mesh(1), 1)
    state = trainer.init(3, np.arange(3))
    dataset = digits()
    everything = put(pack(dataset.train_images, dataset.train_labels, dataset.scale, dataset.shift), trainer.mesh)
    batch = jax.jit(trainer.program.batch)
    schedule = optax.cosine_decay_schedule(rate, 30)
    chain = {
        "sgd": optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(schedule, 0.9, nesterov=True)),
        "adam": optax.chain(optax.add_decayed_weights(5e-4), optax.adam(schedule)),
        "adamw": optax.adamw(schedule, weight_decay=5e-4),
    }[optimizer]

    @jax.jit
    def step(params, opt_state, images, labels):
        def loss(p):
            logits = network().module.apply({"params": p}, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, opt_state = chain.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for run in range(3):
        params = jax.tree.map(lambda x, run=run: x[run], state.params)
        opt_state = chain.init(params)
        for s in range(30):
            images, labels = batch(everything, state.words[run], jnp.int32(s))
            params, opt_state = step(params, opt_state, images, labels)
        np.testing.assert_allclose(network().spec.flatten(params), store.weights[run], atol=2e-4)


def test_batches_are_the_standardised_images_of_their_labels():
    dataset = digits()
    trainer = zoos.trainer(network(), recipe(), 200, parallel.make_mesh(1), 1)
    packed = put(pack(dataset.train_images, dataset.train_labels, dataset.scale, dataset.shift), trainer.mesh)
    words = trainer.init(0, np.arange(1)).words[0]
    images, labels = trainer.program.batch(packed, words, jnp.int32(5))
    all_images = np.asarray(data.standardise(dataset.train_images, dataset.scale, dataset.shift))
    distance = np.abs(np.asarray(images)[:, None] - all_images[None]).max(axis=(2, 3, 4))
    assert (distance.min(axis=1) < 1e-6).all()
    assert np.array_equal(dataset.train_labels[distance.argmin(axis=1)], labels)


def test_own_orders_differ_and_shared_orders_do_not():
    own = zoos.trainer(network(), recipe(), 200, parallel.make_mesh(1), 2).init(0, np.arange(4))
    shared = zoos.trainer(network(), recipe(batch_order="shared", start="shared"), 200, parallel.make_mesh(1), 2).init(
        0, np.arange(4)
    )
    assert len(np.unique(np.asarray(own.words), axis=0)) == 4
    assert len(np.unique(np.asarray(shared.words), axis=0)) == 1
    kernels = [np.asarray(s.params["fc1"]["weight"]).reshape(4, -1) for s in (own, shared)]
    assert [len(np.unique(k, axis=0)) for k in kernels] == [4, 1]


def test_resume_redoes_only_what_is_missing_bit_for_bit(tmp_path):
    path = tmp_path / "zoo"
    full = train(path, devices=1, chunk_size=4)
    weights, stamps = full.weights[:], {}
    for file in path.glob("weights-*.npy"):
        stamps[file.name] = file.stat().st_mtime_ns
    (path / "weights-00001.npy").unlink()
    again = train(path, chunk_size=4)  # and on another number of devices
    assert np.array_equal(again.weights[:], weights) and again.complete
    changed = {f.name for f in path.glob("weights-*.npy") if f.stat().st_mtime_ns != stamps[f.name]}
    assert changed == {"weights-00001.npy"}


def test_a_killed_zoo_resumes_bit_for_bit(tmp_path, reference):
    script = (
        "import sys; sys.path[:0] = ['tests', '.']; import conftest, test_zoo, pathlib\n"
        f"test_zoo.train(pathlib.Path({str(tmp_path / 'zoo')!r}), devices=1, chunk_size=2)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (
        not list((tmp_path / "zoo").glob("weights-*1.npy")) and process.poll() is None and time.monotonic() < deadline
    ):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = PopulationStore.open(tmp_path / "zoo").chunk_ids
    assert before
    resumed = train(tmp_path / "zoo", devices=1, chunk_size=2)
    assert np.array_equal(resumed.weights[:], reference.weights[:])


def test_diverged_runs_are_kept_and_named(tmp_path, capsys):
    rates = {"kind": "choice", "values": (0.1, 1e18)}
    store = train(tmp_path / "zoo", recipe=recipe(learning_rate=rates))
    records = store.records
    wild = records["hyper/learning_rate"] > 1
    assert 0 < wild.sum() < len(wild)
    assert (records["split"][wild] == "diverged").all()
    assert (records["split"][~wild] != "diverged").all()
    named = len(np.unique(records["run"][wild]))
    assert f"{named} of 14 runs diverged" in capsys.readouterr().err


def test_hyper_parameters_follow_their_distributions():
    wide = {"kind": "log_uniform", "low": 1e-3, "high": 1e-1}
    decay = {"kind": "uniform", "low": 0.0, "high": 1e-3}
    trainer = zoos.trainer(network(), recipe(learning_rate=wide, weight_decay=decay), 200, parallel.make_mesh(1), 1)
    hyper = {k: np.asarray(v) for k, v in trainer.init(0, np.arange(400)).hyper.items()}
    logs = (np.log(hyper["learning_rate"]) - np.log(1e-3)) / np.log(100)
    # Standard error of a uniform mean of 400 draws is 0.014; four of them.
    assert abs(logs.mean() - 0.5) < 0.06 and logs.min() >= 0 and logs.max() <= 1
    assert abs(hyper["weight_decay"].mean() - 5e-4) < 6e-5
    assert np.abs(np.corrcoef(logs, hyper["weight_decay"])[0, 1]) < 0.2
    assert (hyper["momentum"] == np.float32(0.9)).all()
    subset = trainer.init(0, np.array([7, 399])).hyper["learning_rate"]
    assert np.array_equal(subset, hyper["learning_rate"][[7, 399]])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"optimizer": "lion"}, "one of sgd, adam, adamw"),
        ({"schedule": "step"}, "one of constant, cosine"),
        ({"batch_size": 201}, "between 1 and the 200"),
        ({"snapshots": (5, 3)}, "ascending"),
        ({"snapshots": (-1,), "snapshot_epochs": (1, 99)}, "epochs of"),
        ({"snapshots": (31,)}, "between 0 and 30"),
        ({"steps": 0, "epochs": 0}, "at least one step"),
        ({"learning_rate": {"kind": "normal"}}, "zoo.learning_rate is a number"),
        ({"learning_rate": {"kind": "log_uniform", "low": 0, "high": 1}}, "log_uniform needs low > 0"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        recipe(**change)


def test_cosine_per_epoch_is_that_of_gpt():
    """lr_e = 0.05 (1 + cos(pi e / 25)), constant within the epoch."""
    changes = {"steps": 0, "epochs": 25, "batch_size": 128, "schedule": "cosine_per_epoch"}
    gpt = zoos.recipe("classification", 60000, **CONFIG | changes)
    assert gpt.steps == 11_700
    steps = jnp.array([0, 467, 468, 11_699])
    rates = jax.vmap(lambda s: gpt.learning_rate(jnp.float32(0.1), s, 60000))(steps)
    np.testing.assert_allclose(
        rates, [0.1, 0.1, 0.05 * (1 + np.cos(np.pi / 25)), 0.05 * (1 + np.cos(np.pi * 24 / 25))], atol=1e-7
    )
