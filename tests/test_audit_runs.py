"""Audits of checkpoints of one run or of few: who is compared with whom, and what mixtures of checkpoints explain.

Distances by run are what a search by definition finds; a mean of training checkpoints has no distance from their hull;
a single training run leaves nothing undefined in the numbers, and the verdicts speak of a run.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxweights import auditing, nets, parallel, report, store, tasks
from jaxweights.auditing import statistics, verdict
from jaxweights.auditing.distances import hull
from jaxweights.errors import UserError
from jaxweights.evaluation import evaluate
from jaxweights.population import Population
from jaxweights.report import measures, tables

WHOLE = tasks.build({"name": "mlp", "hidden": (5,)}, (3, 3, 1), 3)
NET = nets.partial(WHOLE, np.asarray(jax.jit(WHOLE.init)(jax.random.key(0))), ("fc2/*",))
STEPS, ROWS = 6, 12
SETTINGS = auditing.AuditSettings(bootstrap=50, hull_neighbours=0, hull_aligned_neighbours=4)


def rng(seed=0):
    return np.random.default_rng(seed)


def checkpoints(runs, steps, seed):
    """Random walks of the chosen leaves from one start, a checkpoint per step."""
    moves = 0.1 * rng(seed).normal(size=(len(runs), steps, NET.spec.num_params))
    weights = NET.start[None, None, :] + np.cumsum(moves, axis=1)
    run, step = (x.reshape(-1) for x in np.meshgrid(runs, 1 + np.arange(steps), indexing="ij"))
    return Population.create(weights.reshape(len(run), -1), NET.spec, run=run, step=step)


def audited(folder, train):
    """The audit of copies, far strangers and means of four against `train`: metrics, measurements and the subject."""
    heldout_checkpoints = checkpoints(100 + np.arange(10), STEPS, 1)
    chosen = np.stack([rng(i).choice(ROWS, 4, replace=False) for i in range(ROWS)])
    strangers = train.weights + 3 * rng(2).normal(size=train.weights.shape)
    generated = {
        "copy": train.derive(train.weights, np.arange(ROWS), "copy"),
        "stranger": train.derive(strangers, np.full(ROWS, -1), "stranger"),
        "average": train.derive(train.weights[chosen].mean(axis=1), np.full(ROWS, -1), "average"),
    }
    images = rng(3).normal(size=(24, 3, 3, 1)).astype(np.float32)
    subject = auditing.Subject(
        train=dataclasses.replace(train, weights=store.LazyRows(train.weights, np.arange(ROWS))),
        heldout=heldout_checkpoints.where(step=STEPS),
        generated=generated,
        controls=("copy",),
        heldout_checkpoints=heldout_checkpoints,
        evaluate=lambda weights: evaluate(NET, weights, images, np.arange(24) % 3, parallel.make_mesh(2)),
    )
    metrics = auditing.run(subject, SETTINGS, 0, parallel.make_mesh(2), folder)
    return (
        metrics,
        {name: auditing.load(folder / f"{name}.npz") for name in auditing.RESERVED[:2] + tuple(generated)},
        subject,
    )


@pytest.fixture(scope="module")
def of_one_run(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("one"), checkpoints([7], ROWS, 0))


@pytest.fixture(scope="module")
def of_three_runs(tmp_path_factory):
    return audited(tmp_path_factory.mktemp("three"), checkpoints([4, 2, 9], ROWS // 3, 0))


def by_definition(networks, reference, same, left_out=False):
    """Smallest distance of every network to the reference's rows of its own run, or of all others; NaN without any."""
    found = cdist(networks.weights[:], reference.weights[:])
    if left_out:
        found[found == 0] = np.nan
    found[(networks.records["run"][:, None] == reference.records["run"][None, :]) != same] = np.nan
    return np.fmin.reduce(found, axis=1)


@pytest.mark.parametrize("case", ["of_one_run", "of_three_runs"])
def test_distances_by_run_are_those_of_a_plain_search(case, request):
    _, measured, subject = request.getfixturevalue(case)
    populations = {auditing.TRAINING: subject.train, auditing.HELDOUT: subject.heldout, **subject.generated}
    for name, networks in populations.items():
        own = subject.heldout_checkpoints if name == auditing.HELDOUT else subject.train
        same = by_definition(networks, own, True, name in auditing.RESERVED)
        other = by_definition(networks, subject.train, False)
        np.testing.assert_allclose(measured[name].same_run_l2, same, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(measured[name].other_run_l2, other, rtol=1e-12, err_msg=name)
    nearest = measured[auditing.TRAINING].same_run_l2 if subject.one_run else measured[auditing.TRAINING].other_run_l2
    np.testing.assert_array_equal(measured[auditing.TRAINING].min_l2, nearest)


def test_one_run_is_judged_and_leaves_no_number_undefined(of_one_run, tmp_path):
    metrics, _, subject = of_one_run
    series = json.loads(json.dumps(metrics, allow_nan=False))["series"]
    training = {"networks": ROWS, "compared": ROWS, "runs": 1, "leaves_out": "itself"}
    assert metrics["training"] == training | {"duplicates": 0, "duplicate_rows": []}
    assert metrics["checks"]["controls_passed"]
    labels = {name: entry["verdict"]["label"] for name, entry in series.items() if "verdict" in entry}
    assert (labels["copy"], labels["average"]) == ("copies", "interpolates")
    assert labels["stranger"] in ("as novel as new runs", "degrades")
    for name in labels:
        tests = series[name]["tests"]
        assert tests["memorised_share"] is None and tests["distance"] == "raw" and "raw" not in tests
        assert "single run" in series[name]["verdict"]["text"]
    assert "100 % of its networks are checkpoints of the training run" in series["copy"]["verdict"]["text"]
    assert series["copy"]["tests"]["copied_share"]["value"] == 1
    assert series["copy"]["by_run"]["other_run_l2"] is None
    assert series["stranger"]["by_run"]["same_run_l2"] is None
    assert series["stranger"]["by_run"]["other_run_l2"]["n"] == ROWS
    text = report.summary(metrics)
    assert "copy %" in text and "mem. %" not in text
    assert "min L2, own run" in tables.series_table(metrics, dict.fromkeys(series, "control"), measures.MORE, False)


def test_several_runs_are_compared_with_one_another(of_three_runs):
    metrics, measured, _ = of_three_runs
    assert metrics["training"]["leaves_out"] == "its run" and metrics["training"]["runs"] == 3
    copy = metrics["series"]["copy"]
    assert copy["tests"]["memorised_share"]["value"] == 1 and copy["tests"]["copied_share"] is None
    assert copy["by_run"]["same_run_l2"]["mean"] == 0 and copy["by_run"]["other_run_l2"]["mean"] > 0
    assert np.isfinite(measured["average"].second_l2).all()


@pytest.mark.parametrize("case", ["of_one_run", "of_three_runs"])
def test_means_of_any_checkpoints_are_explained_and_strangers_are_not(case, request):
    metrics, measured, _ = request.getfixturevalue(case)
    relative = {name: entry["hull_residual_relative"] for name, entry in metrics["series"].items()}
    assert (measured["average"].hull_residual < 1e-5 * measured["average"].min_l2).all()
    assert relative["average"]["to_nearest"]["mean"] < 1e-5 and relative["average"]["to_heldout"]["value"] < 1e-5
    assert relative["copy"]["to_nearest"]["mean"] == 0
    assert relative["stranger"]["to_nearest"]["mean"] > 0.5 and relative["stranger"]["to_heldout"]["value"] > 2
    assert relative["heldout"]["to_heldout"]["value"] == 1


def test_a_null_at_training_steps_spares_new_runs_and_flags_copies():
    """Checkpoints of new runs from the same start, at any step, against the checkpoints of one run."""

    def walks(seed, runs):
        return np.cumsum(rng(seed).normal(size=(runs, 60, 100)), axis=1)

    train, heldout, new = walks(0, 1)[0], walks(1, 40).reshape(2400, 100), walks(2, 100)
    run, step = np.repeat(5 + np.arange(40), 60), np.tile(1 + np.arange(60), 40)
    rows = auditing.at_training_steps({"run": run, "step": step}, 1 + np.arange(60), 3)
    np.testing.assert_array_equal(run[rows], 5 + np.arange(40))
    assert len(np.unique(step[rows])) > 15

    def z(samples, null):
        return statistics.z_u(*(cdist(x, train).min(axis=1) for x in (samples, null)))

    honest = new[np.arange(100), rng(4).integers(60, size=100)]
    copies = train[rng(5).integers(60, size=100)] + 0.1 * rng(6).normal(size=(100, 100))
    assert z(honest, heldout[step == 60]) < auditing.THRESHOLDS.z_u < -2.5 < z(honest, heldout[rows]) < 2.5
    assert z(copies, heldout[rows]) < auditing.THRESHOLDS.z_u
    # Last checkpoints alone are what is chosen where training networks are.
    last = auditing.at_training_steps({"run": run, "step": step}, np.array([60, 60]))
    np.testing.assert_array_equal(last, np.flatnonzero(step == 60))


def test_mixtures_of_all_are_mixtures_of_all_neighbours():
    """Each query with its own points left out, in blocks of queries and columns, far from the origin."""
    points, queries = 7 + rng().normal(size=(20, 40)), 7 + 0.4 * rng(1).normal(size=(30, 40))
    excluded = rng(2).random((30, 20)) < 0.3
    excluded[0, 3], queries[0] = False, points[3]
    residual, weights = hull.residual_of_all(queries, points, excluded, memory_bytes=1 << 15)
    assert (weights[excluded] == 0).all() and (weights >= 0).all()
    assert residual[0] == 0 and weights[0, 3] == 1
    for query, mask, found in zip(queries, excluded, residual, strict=True):
        alone, _ = hull.interpolation_residual(query[None], points[~mask][None])
        assert found == pytest.approx(alone[0], rel=1e-9)


def test_means_of_sixteen_lie_in_the_hull_of_all_but_not_of_the_nearest():
    """A random walk of 80 checkpoints in 200 dimensions: the nearest 32 miss most constituents of a mean."""
    walk = 1.0 + np.cumsum(0.01 * rng().normal(size=(80, 200)), axis=0)
    means = np.stack([walk[rng(i).choice(80, 16, replace=False)].mean(axis=0) for i in range(10)])
    means[0] = walk.mean(axis=0)
    far = cdist(means, walk)
    nearest = walk[np.argsort(far, axis=1)[:, :32]]
    assert (hull.residual_of_all(means, walk)[0] < 1e-6 * far.min(axis=1)).all()
    assert (hull.interpolation_residual(means, nearest)[0] > 0.05 * far.min(axis=1)).all()
    # Repeated points make the systems singular and change nothing.
    twice = np.concatenate([walk, walk])
    assert (hull.residual_of_all(means, twice)[0] < 1e-6 * far.min(axis=1)).all()


def test_mixtures_of_all_refuse_what_has_no_answer():
    points = rng().normal(size=(4, 3))
    with pytest.raises(UserError, match="do not fit"):
        hull.residual_of_all(points[:, :2], points)
    with pytest.raises(UserError, match="not finite"):
        hull.residual_of_all(np.full((1, 3), np.nan), points)
    with pytest.raises(UserError, match="Query 1 may use none"):
        hull.residual_of_all(points[:2], points, np.array([[False] * 4, [True] * 4]))


def test_median_ratio_is_that_of_a_plain_bootstrap():
    a, b = rng(0).exponential(2.0, 41), rng(1).exponential(1.0, 30)
    found = statistics.bootstrap_median_ratio(a, b, 4000, rng(2))
    loop = [np.median(rng(i).choice(a, 41)) / np.median(rng(9000 + i).choice(b, 30)) for i in range(2000)]
    assert found.value == np.median(a) / np.median(b) and found.n == 41
    # A 2.5 % quantile of 2,000 draws of deviation s has a standard error of about 0.06 s.
    np.testing.assert_allclose([found.low, found.high], np.quantile(loop, [0.025, 0.975]), atol=0.25 * np.std(loop))
    with pytest.raises(UserError, match="positive"):
        statistics.bootstrap_median_ratio(a, np.zeros(3), 10)


def made_up(count, distance, residual):
    """Measurements of networks at a distance from training and another from its mixtures, without other checkpoints."""
    one, none = np.full(count, 1.0), np.zeros((0, 0), np.int64)
    return auditing.Measured(
        accuracy=0.9 * one,
        loss=one,
        max_error_iou=0.5 * one,
        min_l2=distance * one,
        nearest=np.zeros((count, 1), np.int64),
        second_l2=np.nan * one,
        aligned_min_l2=np.zeros(0),
        aligned_nearest=none,
        aligned_second_l2=np.zeros(0),
        aligned_permutation=none[:, :, None],
        hull_residual=residual * one,
    )


@pytest.mark.parametrize(
    "distance, residual, label",
    [
        (0.2, 0.2, "copies"),  # within a third of a step of 1
        (2.0, 1.9, "variations"),  # near the run, on its own side of it: a variation
        (2.0, 0.1, "interpolates"),
        (9.0, 1.0, "interpolates"),
        (9.0, 8.0, "as novel as new runs"),
    ],
)
def test_rules_for_a_single_run(distance, residual, label):
    """Training checkpoints 1 apart, held-out runs 8 away."""
    measured = {
        auditing.TRAINING: made_up(30, 1.0, 0.5),
        auditing.HELDOUT: made_up(40, 8.0, 7.5),
        "one": made_up(50, distance, residual),
    }
    found = auditing.summarise(measured, (), 50, 0, one_run=True)["series"]["one"]
    assert found["verdict"]["label"] == label
    assert found["by_run"] == {"same_run_l2": None, "other_run_l2": None}
    assert found["hull_residual_relative"]["to_nearest"]["mean"] == pytest.approx(residual / distance)
    assert found["hull_residual_relative"]["to_heldout"]["value"] == pytest.approx(residual / 7.5)


def test_a_hull_that_fills_the_space_explains_nothing():
    measured = {
        auditing.TRAINING: made_up(30, 1.0, 0.0),
        auditing.HELDOUT: made_up(40, 8.0, 1e-9),
        "one": made_up(50, 8.0, 1e-12),
    }
    found = auditing.summarise(measured, (), 50, 0, one_run=True)["series"]["one"]
    assert found["hull_residual_relative"]["to_heldout"] is None
    assert found["tests"]["interpolated_share"]["value"] == 0 and found["verdict"]["label"] not in verdict.FLAGGED


def test_audits_without_enough_or_with_too_many_networks_are_refused(of_one_run, tmp_path):
    subject = of_one_run[2]
    alone = dataclasses.replace(subject, train=subject.train.select(np.arange(1)))
    many = dataclasses.replace(subject, train=subject.train.select(np.zeros(513, np.int64)))
    for bad, words in ((alone, "only one"), (many, "hull_neighbours = 0.*513")):
        with pytest.raises(UserError, match=words):
            auditing.run(bad, SETTINGS, 0, parallel.make_mesh(2), tmp_path)
