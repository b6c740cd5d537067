"""Trajectories: every run keeps its weights at steps of its own, which nothing but its seed decides."""

import functools
import shutil

import numpy as np
import pytest
import scipy.stats
import zoos
from test_zoo import CONFIG, digits, network, train

from configs import base
from jaxweights import parallel
from jaxweights.describe import describe
from jaxweights.errors import UserError
from jaxweights.zoo import bulk
from jaxweights.zoo.supervised import pack, put

STEPS, DRAWN, RUNS, SEED = 30, 20, 14, 3


def recipe(num_examples=200, **changes):
    settings = {**CONFIG, "steps": STEPS, "snapshots": (-1,), "random_snapshots": DRAWN, **changes}
    return zoos.recipe("classification", num_examples, **settings)


def trainer(the_recipe, lanes=2, devices=1):
    return zoos.trainer(network(), the_recipe, 200, parallel.make_mesh(devices), lanes)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return train(tmp_path_factory.mktemp("trajectories") / "zoo", recipe=recipe(), devices=2, chunk_size=8)


@functools.cache
def draws():
    """The draws of all runs of the store."""
    return trainer(recipe(), devices=2).snapshot_steps(SEED, np.arange(RUNS))


@functools.cache
def many_draws():
    """The draws of 2,000 runs of G.pt's size."""
    gpt = recipe(60_000, steps=11_700, batch_size=128, random_snapshots=198)
    return trainer(gpt).snapshot_steps(SEED, np.arange(2_000))


def test_every_run_keeps_its_start_its_end_and_distinct_steps_between():
    draws = many_draws()
    assert draws.shape == (2_000, 200)
    assert (np.diff(draws, axis=1) > 0).all()
    assert (draws[:, 0] == 0).all() and (draws[:, -1] == 11_700).all()
    every = recipe(random_snapshots=STEPS - 1)
    np.testing.assert_array_equal(trainer(every).snapshot_steps(SEED, np.arange(3)), np.tile(np.arange(31), (3, 1)))


def test_drawn_steps_are_uniform_and_independent_between_runs():
    """Chi-square of the counts of single steps, and the number of steps that neighbouring runs have in common."""
    inner = many_draws()[:, 1:-1]
    runs, drawn = inner.shape
    share = drawn / 11_699
    counts = np.bincount(inner.ravel(), minlength=11_700)[1:]
    # Draws without replacement: the counts' covariance is that of a multinomial but for this factor.
    variance = runs * share * (1 - share) * 11_699 / 11_698
    p_value = scipy.stats.chi2.sf(((counts - runs * share) ** 2).sum() / variance, 11_698)
    assert 1e-3 < p_value < 1 - 1e-3
    common = [len(np.intersect1d(a, b, assume_unique=True)) for a, b in zip(inner[::2], inner[1::2], strict=True)]
    expected = scipy.stats.hypergeom(11_699, drawn, drawn)
    # Four standard errors of a mean of 1,000 pairs.
    assert abs(np.mean(common) - expected.mean()) < 4 * expected.std() / np.sqrt(len(common))


def test_a_run_draws_the_same_steps_in_any_company():
    of_one_run = trainer(recipe(batch_order="shared"), lanes=1)
    np.testing.assert_array_equal(of_one_run.snapshot_steps(SEED, np.array([7]))[0], draws()[7])
    assert not np.array_equal(of_one_run.snapshot_steps(SEED + 1, np.array([7]))[0], draws()[7])
    assert len(np.unique(draws(), axis=0)) == RUNS


def test_records_name_the_steps_of_every_run(store):
    np.testing.assert_array_equal(store.records["step"].reshape(RUNS, -1), draws())
    np.testing.assert_array_equal(store.records["run"], np.repeat(np.arange(RUNS), DRAWN + 2))


def test_resuming_with_other_devices_and_dispatches_changes_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(bulk, "_SLOTS", 4)
    path = tmp_path / "zoo"
    shutil.copytree(store.path, path)
    (path / "weights-00001.npy").unlink()
    again = train(path, recipe=recipe(), devices=1)
    assert len(again.chunk_ids) == 2
    assert np.array_equal(again.weights[:], store.weights[:])
    for name in ("step", "loss", "accuracy"):
        assert np.array_equal(again.records[name], store.records[name])


@pytest.mark.parametrize("order, lanes", [("own", 1), ("own", 2), ("shared", 2)])
def test_weights_are_those_of_a_fixed_grid_of_the_same_steps(store, order, lanes):
    """The first two runs without company: `[K + 1]` bounds are the fixed grid's program."""
    dataset, runs = digits(), np.arange(2)
    pair = trainer(recipe(batch_order=order), lanes)
    data = put(pack(dataset.train_images, dataset.train_labels, dataset.scale, dataset.shift), pair.mesh)
    bounds = np.concatenate([np.zeros((2, 1), int), draws()[:2]], axis=1)
    if (order, lanes) == ("own", 2):
        kept = store.weights[: 2 * (DRAWN + 2)].reshape(2, DRAWN + 2, -1)
    else:
        _, kept = pair.advance(pair.init(SEED, runs), data, bounds)
    for run in runs:
        _, expected = pair.advance(pair.init(SEED, runs), data, bounds[run])
        assert np.array_equal(kept[run], expected[run])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"snapshots": (0, -1)}, "excludes other choices of snapshots"),
        ({"snapshot_epochs": (1, 2)}, "excludes other choices of snapshots"),
        ({"random_snapshots": STEPS}, "between 0 and 29"),
        ({"random_snapshots": -1}, "between 0 and"),
    ],
)
def test_impossible_draws_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        recipe(**change)


def test_describe_counts_random_snapshots():
    config = base.get_config()
    config.zoo.random_snapshots = 198
    described = describe(config.to_dict())["zoo"]
    runs = config.zoo.num_runs + config.zoo.num_heldout
    assert described["snapshots_per_run"] == 200 and described["rows"] == 200 * runs
