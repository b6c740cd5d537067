"""Verdicts and the baselines' front: labels follow the rules in their order, novelty has to be shown, and the front is
what mixtures of baselines reach."""

import dataclasses

import numpy as np
import pytest

from jaxweights import auditing, population
from jaxweights.auditing import front, rules, statistics, verdict

HELDOUT = {"accuracy": {"mean": 0.9, "q05": 0.87}}


def rng(seed=0):
    return np.random.default_rng(seed)


def share(value, limit=0.01, n=100):
    return {"value": value, "ci95": [value - 0.04, value + 0.04], "n": n, "limit": limit}


def space(z=0.0, copies=0.0, ratio=0.0, novelty=0.5, distance=1.0, one_run=False, limit=0.01):
    return {
        "distance_ratio": {"value": distance, "ci95": [distance - 0.02, distance + 0.02], "n": 100},
        "z_u": {"value": z, "ci95": [z - 1, z + 1], "n": 100},
        "z_ratio": {"value": ratio, "ci95": [ratio - 1, ratio + 1], "n": 100},
        "novelty": {"value": novelty, "ci95": [novelty - 0.05, novelty + 0.05], "n": 100, "heldout": 100},
        "memorised_share": None if one_run else share(copies, limit),
        "copied_share": share(copies, limit) if one_run else None,
    }


def series(accuracy=0.9, mixtures=0.0, errors=0.05, saturated=False, raw=None, function=None, **more):
    special = {name: share(more.pop(name)) for name in ("affine_share", "collapsed_share") if name in more}
    tests = {
        **space(**more),
        "interpolated_share": share(mixtures),
        "iou_above_heldout": {**share(errors), "saturated": saturated},
        "distance": "raw",
        **special,
    }
    tests |= {name: space(**one) for name, one in (("raw", raw), ("function", function)) if one is not None}
    return {"accuracy": {"mean": accuracy, "ci95": [0, 1], "n": 100}, "n": 100, "tests": tests}


@pytest.mark.parametrize(
    "found, label, rule",
    [
        ({"z": -9, "copies": 1.0}, "copies", "copies"),
        ({"z": 5, "copies": 0.3, "mixtures": 0.1}, "copies", "copies"),
        ({"copies": 0.3, "limit": 0.4}, "as novel as new runs", "novelty"),  # held-out runs have as many
        ({"copies": 0.1, "mixtures": 0.8, "accuracy": 0.3}, "interpolates", "mixtures"),
        ({"copies": 0.5, "mixtures": 0.4, "affine_share": 1.0}, "interpolates", "mixtures"),  # some near an end
        ({"function": {"copies": 0.9}}, "copies", "copies"),
        ({"z": -9, "novelty": 0.1, "distance": 0.8}, "variations", "closer"),
        ({"z": -9, "novelty": 0.1, "distance": 0.92}, "undecided", "novelty"),  # smaller weights
        ({"z": -9, "novelty": 0.1, "distance": 0.7, "ratio": -9}, "variations", "closer"),
        ({"raw": {"z": -9, "distance": 0.7, "ratio": -9}, "accuracy": 0.1}, "degrades", "accuracy"),
        ({"z": -9, "novelty": 0.1, "distance": 0.82, "ratio": -9, "accuracy": 0.1}, "degrades", "accuracy"),
        ({"z": -9, "novelty": 0.1, "distance": 0.92, "ratio": -9, "accuracy": 0.1}, "degrades", "accuracy"),
        ({"z": -9, "novelty": 0.47}, "as novel as new runs", "novelty"),  # significant, but small
        (
            {"z": -9, "novelty": 0.1, "distance": 0.8, "accuracy": 0.5},
            "degrades",
            "accuracy",
        ),  # near all of them, and does not work
        ({"z": -9, "novelty": 0.1, "distance": 0.7, "accuracy": 0.5, "ratio": -9}, "variations", "closer"),
        ({"raw": {"z": -9, "novelty": 0.1, "distance": 0.7, "ratio": -9}}, "variations", "closer"),
        ({"raw": {"z": -9, "novelty": 0.1, "distance": 0.8}}, "as novel as new runs", "novelty"),
        ({"function": {"z": -9, "novelty": 0.1, "distance": 0.7, "ratio": -9}}, "variations", "closer"),
        ({"errors": 1.0}, "variations", "errors"),  # permuted copies of a network without alignment
        ({"errors": 1.0, "saturated": True}, "as novel as new runs", "novelty"),
        ({"errors": 1.0, "accuracy": 0.1}, "degrades", "accuracy"),  # wrong everywhere
        ({"errors": 0.3}, "as novel as new runs", "novelty"),
        ({"affine_share": 0.9, "z": -9, "novelty": 0.1}, "affine mixture", "affine"),
        ({"affine_share": 0.4}, "as novel as new runs", "novelty"),
        ({"collapsed_share": 0.9, "accuracy": 0.1}, "collapsed", "collapsed"),
        ({"collapsed_share": 0.9, "z": -9, "novelty": 0.0, "distance": 0.1, "one_run": True}, "variations", "closer"),
        ({"accuracy": 0.5}, "degrades", "accuracy"),
        ({"accuracy": 0.88, "z": -2, "novelty": 0.42}, "undecided", "novelty"),
        ({"z": 9, "novelty": 0.9}, "as novel as new runs", "novelty"),
        ({"z": -9, "copies": 1.0, "one_run": True}, "copies", "copies"),
        ({"z": -9, "novelty": 0.0, "distance": 0.3, "accuracy": 0.5, "one_run": True}, "variations", "closer"),
    ],
)
def test_labels_follow_the_rules(found, label, rule):
    got = verdict.judge(series(**found), HELDOUT)
    assert (got["label"], got["rule"]) == (label, rule), got["text"]
    assert got["flagged"] == (label in ("copies", "interpolates", "variations", "affine mixture"))
    assert f"{100 * found.get('accuracy', 0.9):.1f} %" in got["text"] and label in verdict.LABELS


def test_novelty_has_to_be_shown():
    """The interval of a mean rank decides, not that nothing was found; the stated number of networks would."""
    few, most = rng(0).normal(size=16), rng(1).normal(size=400)
    z = statistics.bootstrap_z_u(few, rng(2).normal(size=16), 500, 0)
    wins = statistics.win_rate(z, 16)
    pairs = few[:, None] > rng(2).normal(size=16)[None, :]
    assert wins.value == pytest.approx(pairs.mean())
    entry = series()
    entry["tests"]["novelty"] = {"value": 0.5, "ci95": [0.3, 0.7], "n": 16, "heldout": 16}
    undecided = verdict.judge(entry, HELDOUT)
    assert undecided["label"] == "undecided" and undecided["needed"] == 64  # a width of 0.2 has to become one of 0.1
    assert "64 samples" in undecided["text"]
    wins = statistics.win_rate(statistics.bootstrap_z_u(most, rng(3).normal(size=400), 500, 0), 400)
    entry["tests"]["novelty"] = wins.to_json()
    assert verdict.judge(entry, HELDOUT)["label"] == "as novel as new runs"
    entry["tests"]["novelty"] = {"value": 0.8, "ci95": [0.7, 0.9], "n": 100}
    assert "farther from training networks than" in verdict.judge(entry, HELDOUT)["text"]


def test_weights_alone_may_be_novel_and_not_known_to_work():
    entry = series()
    entry["accuracy"], entry["tests"]["iou_above_heldout"] = None, None
    found = verdict.judge(entry, {"accuracy": None})
    assert found["label"] == "as novel as new runs"
    assert found["text"].startswith("As novel as new runs by their weights; whether they work was not evaluated. Its")


def test_rules_apply_whether_or_not_one_before_them_does():
    assert verdict.applying(series(copies=1.0, errors=0.9), HELDOUT) == ["copies", "errors", "novelty"]
    assert verdict.applying({**series(), "tests": None}, HELDOUT) == ["undefined"]
    for distance, rule in ((1.0, "collapsed"), (0.4, "novelty")):  # what is near training is near its own kind
        assert verdict.applying(series(collapsed_share=0.9, distance=distance), HELDOUT)[0] == rule


@pytest.mark.parametrize("rule", rules.RULES)
def test_guards_are_those_of_the_table(rule):
    found = {"rule": rule}
    assert verdict.rests_on(found, "copy", {"rule": "novelty"}) == (rule in ("accuracy", "novelty"))
    assert verdict.rests_on(found, auditing.HELDOUT_CONTROL, {"rule": "closer"}) == (rule == "closer")


def measured(distance, accuracy, **more):
    count, none = len(distance), np.zeros((0, 0), np.int64)
    one = np.ones(count)
    return auditing.Measured(
        **{
            "accuracy": np.asarray(accuracy) * one,
            "loss": one,
            "max_error_iou": 0.5 * one,
            "min_l2": distance,
            "nearest": np.zeros((count, 1), np.int64),
            "second_l2": 1.01 * distance,
            "aligned_min_l2": np.zeros(0),
            "aligned_nearest": none,
            "aligned_second_l2": np.zeros(0),
            "aligned_permutation": none[:, :, None],
            "hull_residual": 0.95 * distance,
            **more,
        }
    )


def population_of(spread=0.3, **more):
    near = lambda seed, n: 8 + spread * rng(seed).normal(size=n)  # noqa: E731
    return {
        auditing.TRAINING: measured(near(0, 60), 0.91, **{k: v[:60] for k, v in more.items()}),
        auditing.HELDOUT: measured(
            near(1, 60), 0.9 + 0.01 * rng(2).normal(size=60), **{k: v[:60] for k, v in more.items()}
        ),
    }


def judged(base, **named):
    return auditing.summarise({**base, **named}, (), 200, 0, baselines=("noise",))


def test_collapse_and_affine_mixtures_are_found_beside_held_out_runs():
    base = population_of(affine_residual=np.full(60, 6.0), sibling_l2=np.full(60, 8.0))
    far, wide, own = 8.1 + 0.3 * rng(5).normal(size=60), np.full(60, 8.0), np.full(60, 6.0)
    found = judged(
        base,
        same=measured(far, 0.5, affine_residual=own, sibling_l2=np.full(60, 0.1)),
        spanned=measured(far, 0.9, affine_residual=np.full(60, 1e-3), sibling_l2=wide),
        near=measured(0.4 * far, 0.9, affine_residual=np.full(60, 2.8), sibling_l2=wide),  # noise leaves its direction
        new=measured(far, 0.9, affine_residual=own, sibling_l2=wide),
    )["series"]
    labels = {name: found[name]["verdict"]["label"] for name in ("same", "spanned", "near", "new")}
    assert labels == {
        "same": "collapsed",
        "spanned": "affine mixture",
        "near": "variations",
        "new": "as novel as new runs",
    }
    filled = judged(population_of(affine_residual=np.full(60, np.nan)), new=measured(far, 0.9, affine_residual=own))
    assert filled["series"]["new"]["tests"]["affine_share"] is None


def test_the_front_is_what_mixtures_of_baselines_reach():
    """Copies at (0, 0.9), noise at (0.5, 0.6) and (1, 0.1): lines between them, the best of what is as novel."""
    points = np.array([[0.0, 0.9], [0.5, 0.6], [1.0, 0.1], [0.25, 0.3]])[:, None, :]
    at = lambda x: front.front(points, np.array([x]))[0]  # noqa: E731
    np.testing.assert_allclose([at(x) for x in (0, 0.25, 0.5, 0.75, 1)], [0.9, 0.75, 0.6, 0.35, 0.1])
    assert at(1.2) == 0.1  # none is as novel: the worst
    # A baseline below the line adds nothing; one above it does.
    better = np.concatenate([points, np.array([[[0.9, 0.8]]])])
    assert front.front(better, np.array([0.45]))[0] == pytest.approx(0.85)


def test_a_generator_beats_the_baselines_above_their_front_alone():
    base = population_of()
    noise = np.tile(8 * np.array(front.LADDER), 16)
    base[auditing.NOISE_LADDER] = measured(noise, 0.9 - 0.6 * noise / 8 / front.LADDER[-1])
    half = 4 + 0.1 * rng(6).normal(size=60)
    found = judged(
        base,
        copy=measured(np.zeros(60), 0.91),
        above=measured(half, 0.85),
        below=measured(half, 0.6),
        wrong=measured(8 * np.ones(60), np.where(np.arange(60) < 6, 0.9, 0.2)),
        farther=measured(np.full(60, 80.0), 0.25),
    )
    answers = {name: e["verdict"]["beats_baselines"]["answer"] for name, e in found["series"].items() if "verdict" in e}
    assert answers == {
        "copy": "no",
        "above": "yes",
        "below": "no",
        "wrong": "no",
        "farther": "no",
        "heldout_control": "yes",
    }
    one = found["series"]["above"]["performance"]
    tau = found["baselines"]["tau_run"]
    assert tau == np.median(base[auditing.TRAINING].min_l2) and found["baselines"]["tau_all"] is None
    assert one["novelty"]["mean"] == pytest.approx(np.mean(half / tau))
    expected = 0.85 - (0.9 - 0.6 * one["novelty"]["mean"] * tau / 8 / front.LADDER[-1])
    assert one["excess"]["value"] == pytest.approx(expected, abs=0.02)
    ceiling = found["series"]["heldout_control"]["performance"]["novel_and_performing"]["tau_run"]
    assert 0.2 < ceiling["1"]["value"] < 0.8 and ceiling["2"]["value"] == 0
    wrong = found["series"]["wrong"]["performance"]["novel_and_performing"]
    assert wrong["tau_run"]["1"]["value"] == (0.1 if tau <= 8 else 0)
    empty = dict.fromkeys(("accuracy", "loss", "max_error_iou"), np.zeros(0))
    alone = auditing.summarise({n: dataclasses.replace(m, **empty) for n, m in base.items()}, (), 20, 0)
    assert alone["baselines"] is None


def test_the_ladder_is_noise_of_its_lengths():
    weights = rng().normal(size=(40, 30)) * np.where(np.arange(30) < 10, 0.0, 2.0)
    spec = population.from_array(weights, "train").spec
    train = population.Population.create(weights.astype(np.float32), spec, run=np.arange(40))
    drawn = front.ladder(train, 5.0, 1)
    assert len(drawn) == 32 * len(front.LADDER) and (drawn.weights[:, :10] == 0).all()
    moved = drawn.weights - train.weights[drawn.records["parent"]]
    lengths = np.linalg.norm(moved, axis=1).reshape(-1, len(front.LADDER))
    np.testing.assert_allclose(lengths.mean(axis=0), 5 * np.array(front.LADDER), rtol=0.1)
