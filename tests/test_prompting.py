"""Prompting: what is found agrees with closed forms for a generator whose outcomes are a known function of the prompt.

The generator of these tests takes the first weight for the metric, moves it by a share of the way to what was asked,
and adds a constant and keyed noise.
"""

from __future__ import annotations

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import data, generators, parallel, studies, tasks
from jaxweights.errors import UserError
from jaxweights.generators import Prompted
from jaxweights.population import Population
from jaxweights.report import prompting as page
from jaxweights.studies import base, prompting

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
SETTINGS = {
    "networks": 5,
    "prompts": 7,
    "best_prompt": None,
    "rounds": 3,
    "walks": 2,
    "walk_points": 5,
}
EXACT = 1e-5  # of quotients of a few float32 numbers of order one


@dataclasses.dataclass(frozen=True)
class Mover(Prompted):
    """Its outcome's metric is `(1 - rate) * metric + rate * asked + offset + noise * normal`."""

    TRAJECTORIES: ClassVar[bool] = True

    name: str = "mover"
    conditioning: str = "loss"
    prompt: float = 0.25
    sampler: str = "ddpm"
    eta: float = 1.0
    rate: float = 1.0
    offset: float = 0.0
    noise: float = 0.0

    def prepare(self, training):
        raise NotImplementedError("It is not trained.")

    def stages(self):
        return ()

    def sample(self, state, inputs):
        raise NotImplementedError("It is only prompted.")

    @property
    def asked(self):
        return self.conditioning, self.prompt

    def deterministic(self):
        return self.replace(sampler="ddim", eta=0.0)

    def metric(self, population, what):
        return np.asarray(population.weights[:, 0], np.float32)

    def improve(self, state, weights, metric, asked, keys, *, initial=None):
        is_deterministic = (self.sampler, self.eta) == ("ddim", 0.0)
        assert (initial is not None) == is_deterministic
        drawn = jax.vmap(jax.random.normal)(keys)
        found = metric + self.rate * (asked - metric) + state["offset"] + self.noise * drawn
        rest = weights[:, 1:] if initial is None else weights[:, 1:] + initial[:, 1:]
        return jnp.concatenate([found[:, None], rest], axis=1)


def checkpoints(split, runs, steps, lowest=1.0):
    """Runs of that many checkpoints at given steps, shuffled; the metric falls from 2 + run / 10 to `lowest`."""
    rng = np.random.default_rng(len(split))
    run, step = (x.ravel() for x in np.meshgrid(np.arange(runs), steps, indexing="ij"))
    weights = rng.normal(size=(len(run), P))
    share = (step - steps[0]) / (steps[-1] - steps[0])
    weights[:, 0] = (2 + run / 10) * (1 - share) + lowest * share
    order = rng.permutation(len(run))
    return Population.create(weights[order], NET.spec, run=run[order], step=step[order], split=split)


def subject(steps=(0, 10, 20)):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(30, 2, 2, 1)).astype(np.float32)
    labels = rng.integers(0, 2, 30).astype(np.int32)
    one = np.ones(1, np.float32)
    dataset = data.Dataset("noise", images, labels, images, labels, 2, one, 0 * one, "tests")
    train, heldout = checkpoints("train", 6, steps), checkpoints("heldout", 4, steps, lowest=1.5)
    return studies.Subject(None, {}, NET, dataset, train, heldout, 10, {}, {})


def study(generator, devices=1, the_subject=None, **settings):
    state = {"offset": np.float32(generator.offset)}
    looked_at = dataclasses.replace(the_subject or subject(), generator=generator, state=state)
    estimation = studies.Estimation(50, 0, parallel.make_mesh(devices))
    return studies.run("prompting", looked_at, {"prompting": {**SETTINGS, **settings}}, estimation)


@pytest.fixture(scope="module")
def noisy():
    """What is found about a generator with noise: metrics and arrays."""
    return study(Mover(rate=0.5, noise=0.1))


def test_only_generators_that_improve_networks_are_prompted():
    assert studies.of_generator(Mover()) == "prompting"
    assert not studies.of_generator(generators.build("pdiff", {"kind": "pdiff"}))


# With S prompts evenly spaced over a range of width D, their squared deviations add up to D^2 S (S + 1) / 12 (S - 1).
@pytest.mark.parametrize(
    "rate, offset, expected",
    [
        (1.0, 0.0, lambda width, s: np.ones_like(width)),
        (1.0, 0.2, lambda width, s: 1 - 0.2**2 * 12 * (s - 1) / ((s + 1) * width**2)),
        # What was asked for is ignored: every outcome is as the start.
        (0.0, 0.0, lambda width, s: np.full_like(width, 1 - 2 * (2 * s - 1) / (s + 1))),
    ],
)
def test_alignment_has_its_closed_form(rate, offset, expected):
    metrics, arrays = study(Mover(rate=rate, offset=offset), walks=1, rounds=1)
    # The first checkpoints of the first runs, from training and held-out ones.
    for group, count in (("train", 5), ("heldout", 4)):
        start = 2 + np.arange(count) / 10
        asked, achieved = arrays[f"alignment/{group}/asked"], arrays[f"alignment/{group}/achieved"]
        np.testing.assert_allclose(asked, [np.linspace(1.0, x, 7) for x in start], rtol=EXACT)
        outcome = start[:, None] + rate * (asked - start[:, None]) + offset
        np.testing.assert_allclose(achieved, outcome, rtol=EXACT)
        r2 = expected(start - 1.0, 7)
        np.testing.assert_allclose(prompting.r_squared(asked, achieved), r2, atol=1e-4)
        entry = metrics["alignment"][group]
        assert entry["r2"]["mean"] == pytest.approx(r2.mean(), abs=1e-4) and entry["r2"]["n"] == count
        assert entry["start"]["mean"] == pytest.approx(start.mean(), rel=EXACT)
        assert entry["at_best"]["mean"] == pytest.approx(outcome[:, 0].mean(), rel=EXACT)
        assert entry["absolute_error"]["mean"] == pytest.approx(np.abs(outcome - asked).mean(), abs=EXACT)


def test_alignment_is_the_mean_over_networks_and_leaves_out_those_without_prompts():
    rng = np.random.default_rng(1)
    asked = np.linspace(0, [1.0, 5.0, 0.0], 6, axis=1)
    achieved = asked + rng.normal(size=asked.shape)

    def mean(values):
        return float(np.mean(values)), len(values)

    found = prompting._alignment(asked, achieved, asked[:, -1], mean)
    pairs = list(zip(asked, achieved, strict=True))[:2]
    one_by_one = [1 - ((a - b) ** 2).sum() / ((a - a.mean()) ** 2).sum() for a, b in pairs]
    assert found["r2"] == (pytest.approx(np.mean(one_by_one), abs=1e-6), 2)
    assert found["correlation"] == (pytest.approx(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs])), 2)
    nothing = prompting._alignment(asked[2:], achieved[2:], asked[2:, -1], mean)
    assert nothing["r2"] is None and nothing["correlation"] is None


def test_correlation_sees_outcomes_that_follow_and_miss():
    asked = np.linspace(0.0, [1.0, 2.0, 3.0, 4.0], 5, axis=1)
    achieved = np.stack([asked[0] / 2 + 7, -asked[1], np.full(5, 2.0), asked[3]])
    np.testing.assert_allclose(prompting.correlation(asked, achieved), [1, -1, 0, 1], atol=1e-12)


def test_the_best_prompt_follows_the_direction_of_the_metric_and_the_config():
    for conditioning, maximised, best in (("loss", False, 1.0), ("return", True, 2.5), ("error", False, 1.0)):
        metrics, arrays = study(Mover(conditioning=conditioning), walks=1, rounds=1)
        assert (metrics["metric"], metrics["maximised"]) == (conditioning, maximised)
        assert metrics["best"] == pytest.approx(best)
        assert (arrays["alignment/heldout/asked"][:, 0] == metrics["best"]).all()
    assert study(Mover(), best_prompt=0.5, walks=1, rounds=1)[0]["best"] == 0.5


def test_recursion_approaches_the_prompt_by_the_rate():
    metrics, arrays = study(Mover(rate=0.5), walks=1)
    start = 2 + np.arange(4) / 10
    expected = 0.25 + (start[:, None] - 0.25) * 0.5 ** np.arange(4)[None, :]
    np.testing.assert_allclose(arrays["recursion/rounds"], expected, rtol=EXACT)
    for i, entry in metrics["recursion"]["rounds"].items():
        assert entry["mean"] == pytest.approx(expected[:, int(i)].mean(), rel=EXACT)
    np.testing.assert_allclose(arrays["recursion/steps"], [0, 10, 20])
    np.testing.assert_allclose(arrays["recursion/training"], np.linspace(start, 1.5, 3, axis=1), rtol=EXACT)
    assert metrics["recursion"]["training"]["last"]["mean"] == pytest.approx(1.5)


@pytest.mark.parametrize("name, value, least", [("prompts", 1, 2), ("walk_points", 1, 2), ("rounds", 0, 1)])
def test_impossible_settings_are_refused(name, value, least):
    with pytest.raises(UserError, match=rf"studies\.prompting\.{name} is {value}; set it between {least} and"):
        studies.make({"prompting": {**SETTINGS, name: value}})


def test_trajectories_of_any_order_and_length():
    records = {"run": np.array([7, 2, 7, 2, 2]), "step": np.array([30, 5, 10, 20, 0])}
    steps, metric = prompting.trajectories(records, np.array([3.0, 1.0, 2.0, 9.0, 4.0]))
    np.testing.assert_array_equal(steps, [5, 17.5, 20])
    np.testing.assert_array_equal(metric, [[4, 1, 9], [2, 3, np.nan]])
    np.testing.assert_array_equal(prompting._last(metric), [9, 3])


def test_slerp_keeps_ends_lengths_and_speed():
    rng = np.random.default_rng(2)
    first, last = rng.normal(size=(2, 3, 50))
    length = np.linalg.norm(first, axis=1, keepdims=True)
    last *= length / np.linalg.norm(last, axis=1, keepdims=True)
    arc = prompting.slerp(first, last, np.linspace(0, 1, 6))
    assert arc.shape == (3, 6, 50) and arc.dtype == np.float32
    np.testing.assert_allclose(arc[:, [0, -1]], np.stack([first, last], axis=1), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(arc, axis=2), length.repeat(6, 1), rtol=1e-6)
    steps = np.linalg.norm(np.diff(arc, axis=1), axis=2)
    np.testing.assert_allclose(steps, steps[:, :1].repeat(5, 1), rtol=1e-5)


def test_walks_lead_along_an_arc_of_noise_and_are_measured_by_definition():
    """A generator that adds the noise to its start: the path of its networks is the arc itself."""
    starts, points, given = prompting.Starts(np.ones((2, 40), np.float32), np.float32([2.0, 3.0])), 5, []

    def improve(starts, asked, key, initial):
        given.append((starts.metric, asked, initial))
        return starts.weights + initial

    def measure(weights):
        return weights[:, 0], np.packbits(weights > 1, axis=1)

    found = prompting.walk(improve, measure, starts, 0.25, points, 40, jax.random.key(3))
    ((metric, asked, noise),) = given  # all points of all paths at once
    np.testing.assert_array_equal(metric, np.repeat([2, 3], points))
    assert asked == 0.25
    noise = noise.reshape(2, points, 40)
    arc = prompting.slerp(noise[:, 0], noise[:, -1], np.linspace(0, 1, points))
    np.testing.assert_allclose(noise, arc, atol=1e-5)
    ends = noise[:, [0, -1]]
    assert abs(ends.mean()) < 4 / np.sqrt(ends.size) and 0.7 < ends.std() < 1.3 and len(np.unique(ends)) == ends.size
    np.testing.assert_allclose(found.from_start, np.linalg.norm(noise, axis=2), rtol=EXACT)
    np.testing.assert_allclose(found.step, np.linalg.norm(noise[:, 1:] - noise[:, :-1], axis=2), rtol=EXACT)
    np.testing.assert_allclose(found.ends, np.linalg.norm(noise[:, -1] - noise[:, 0], axis=1), rtol=EXACT)
    np.testing.assert_allclose(found.metric, 1 + noise[:, :, 0], rtol=EXACT)
    a, b = noise[1, 0] > 0, noise[1, 3] > 0
    assert found.overlap[1, 0, 3] == (a & b).sum() / (a | b).sum() and found.overlap.shape == (2, points, points)


def test_walks_ask_for_the_prompt_of_the_generator():
    metrics, arrays = study(Mover(offset=0.3), rounds=1)
    np.testing.assert_allclose(arrays["walk/metric"], 0.25 + 0.3, rtol=EXACT)
    np.testing.assert_allclose(arrays["walk/start"], [2.0, 2.1], rtol=EXACT)
    assert metrics["walk"]["ends"] == {"mean": pytest.approx(arrays["walk/ends"].mean()), "n": 2}
    assert metrics["walk"]["lowest"]["mean"] == pytest.approx(0.55)


def test_starts_that_are_trained_already_get_random_ones_beside_them():
    assert set(study(Mover(), walks=1, rounds=1)[0]["alignment"]) == {"train", "heldout"}
    metrics, arrays = study(Mover(), the_subject=subject((5, 10, 20)), walks=1, rounds=1)
    assert list(metrics["alignment"]) == ["train", "heldout", "initialisations"]
    fresh = arrays["alignment/initialisations/asked"][:, -1]
    assert len(set(fresh)) == 4 and np.abs(fresh).max() < 0.51  # drawn within 1 / sqrt(4) of 0


@pytest.mark.parametrize("block, devices", [(8, 1), (16, 2), (256, 8)])
def test_blocks_and_devices_change_nothing(noisy, block, devices, monkeypatch):
    monkeypatch.setattr(base, "_BLOCK", block)
    metrics, arrays = study(Mover(rate=0.5, noise=0.1), devices)
    assert metrics == noisy[0]
    assert all(np.array_equal(arrays[name], value) for name, value in noisy[1].items())


def test_findings_are_json_and_noise_is_independent(noisy):
    metrics, arrays = noisy
    assert json.loads(json.dumps(metrics)) == metrics
    found = {g: arrays[f"alignment/{g}/achieved"] - 0.5 * arrays[f"alignment/{g}/asked"] for g in ("train", "heldout")}
    drawn = [x - 0.5 * arrays[f"alignment/{g}/asked"][:, -1:] for g, x in found.items()]
    drawn = np.concatenate([x.ravel() for x in drawn]) / 0.1
    assert len(np.unique(drawn.round(4))) == drawn.size  # a key of its own for every prompt of every start
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size) and 0.6 < drawn.std() < 1.4
    curve = arrays["recursion/rounds"]
    drawn = curve[:, 1:] - 0.5 * (curve[:, :-1] + 0.25)
    assert len(np.unique(drawn.round(5))) == drawn.size  # and of every round


# -- what the page says ----------------------------------------------------------------------------------------------


def around(value, half, n=16):
    return {"mean": value, "ci95": [value - half, value + half], "n": n}


def findings(
    r2=0.9, seen=0.9, follows=0.0, reached=0.4, rounds=(2.3, 0.5, 0.4), trained=0.4, maximised=False, ends=1.0
):
    def entry(value):
        found = {"r2": value, "correlation": follows, "absolute_error": 0.1, "start": 2.3}
        return {name: around(x, 0.05) for name, x in found.items()}

    walk = {"from_start": 5.0, "ends": ends, "step": 0.2, "largest_step": 0.3, "lowest": 0.3, "highest": 0.5}
    walk |= {"neighbours_iou": 0.9, "ends_iou": 0.6}
    return {
        "metric": "return" if maximised else "loss",
        "maximised": maximised,
        "prompt": 0.0,
        "best": 0.3,
        "alignment": {g: entry(v) | {"at_best": around(reached, 0.02)} for g, v in (("train", seen), ("heldout", r2))},
        "recursion": {
            "rounds": {str(i): around(v, 0.02) for i, v in enumerate(rounds)},
            "training": {"first": around(2.3, 0.02), "last": around(trained, 0.02)},
        },
        "walk": {"points": 5, **{k: {"mean": v, "n": 2} for k, v in walk.items()}},
    }


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, ("outcomes follow prompts", "do not differ", "become better")),
        ({"r2": -1.5}, ("do not follow prompts", "more closely")),
        ({"r2": -1.5, "follows": 0.8}, ("rise and fall with the prompts", "but do not meet them")),
        ({"r2": 0.01, "follows": 0.8}, ("rise and fall with the prompts", "but do not meet them")),
        ({"r2": 0.01}, ("it is open", "more closely")),
        ({"seen": 0.5}, ("less closely",)),
        ({"reached": 2.3}, ("do not become clearly better",)),
        ({"reached": 2.9}, ("become worse",)),
        ({"reached": 2.9, "maximised": True}, ("become better", "mean return")),
    ],
)
def test_what_is_said_of_alignment_follows_from_the_intervals(changes, words):
    text = page.alignment_text(findings(**changes))
    assert all(w in text for w in words), text


@pytest.mark.parametrize(
    "changes, words",
    [
        ({}, ("better than after one", "as good as")),
        ({"rounds": (2.3, 0.5, 0.5), "trained": 0.1}, ("no different from after one", "worse than what training")),
        ({"rounds": (2.3, 0.5, 0.9), "trained": 1.4}, ("worse than after one", "better than what training")),
        ({"rounds": (2.3, 0.5, 0.9), "trained": 1.4, "maximised": True}, ("better than after one", "worse than what")),
    ],
)
def test_what_is_said_of_recursion_follows_from_the_intervals(changes, words):
    text = page.recursion_text(findings(**changes))
    assert all(w in text for w in words), text


def test_what_is_said_of_the_walk_follows_from_the_distances():
    assert "hardly depends on the noise" in page.walk_text(findings(ends=0.4))
    text = page.walk_text(findings(ends=4.0))
    assert "decides which network" in text and "80&nbsp;% of" in text and "1.5 times" in text


def test_every_figure_is_drawn_for_every_group(tmp_path):
    metrics, arrays = study(Mover(noise=0.1), the_subject=subject((5, 10, 20)))
    with page.style.drawing():
        found = list(page.parts("mover", metrics, arrays, "#d62728", tmp_path))
    names = [getattr(p, "identity", None) or p.path.stem for p in found]
    assert names == ["alignment_mover", "prompting-mover", "recursion_mover", "walk_mover"]
    assert "new initialisations" in found[1].content
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in names if "-" not in name)
