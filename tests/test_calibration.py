"""The calibration in miniature, on small zoos that are trained: verdicts on disk, counts, and a page."""

import dataclasses
import json

import numpy as np
import pytest

from jaxweights import auditing, calibration, files, parallel
from jaxweights.calibration import calibrate, cells, controls, page, pools, rates
from jaxweights.errors import UserError

SIZES = calibration.Sizes(train=16, heldout=8, samples=8)
FEW = ("copy", "noise_33", "average_4", "leak", "new_runs", "other_runs")
MESH = parallel.make_mesh(1)
KIND = dataclasses.replace(calibration.KINDS["mlp_shared"], probe=64)
ZOO = {"runs": 64, "hidden": (4,), "epochs": 2, "train_limit": 300, "test_limit": 60, "lanes": 64}


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder, a few controls, and two values of a threshold."""
    with pytest.MonkeyPatch.context() as patch:
        chosen = {name: controls.CONTROLS[name] for name in FEW}
        for module in (controls, rates):
            patch.setattr(module, "CONTROLS", chosen)
        patch.setattr(rates, "GRID", {"z_u": (-3.0, -50.0)})
        patch.setattr(calibrate, "KINDS", {"mlp_shared": KIND})
        yield tmp_path_factory.mktemp("calibration")


def run(folder, bootstrap=20, **options):
    audit = dataclasses.replace(calibrate.AUDIT, bootstrap=bootstrap)
    return calibration.run(folder, ("mlp_shared",), 1, 1, SIZES, audit, MESH, **ZOO, **options)


@pytest.fixture(scope="module")
def result(few):
    return run(few)


@pytest.fixture(scope="module")
def pool(few, result):
    return pools.pool(KIND, calibration.REPORT, few / "mlp_shared" / "report" / "pool", MESH, **ZOO)


def test_every_experiment_judges_every_control(few, result):
    for part in calibration.PARTS:
        found = result["counts"][part]["mlp_shared"]
        assert list(found) == [*FEW, auditing.HELDOUT_CONTROL]
        assert all(one["n"] == 1 == sum(one["labels"].values()) for one in found.values())
        assert all(found[name]["named"] == 1 for name in ("copy", "noise_33", "average_4", "leak", "new_runs"))
    assert [(row["threshold"], row["value"]) for row in result["sweep"]] == [("z_u", -3.0), ("z_u", -50.0)]
    stored = files.read_json(few / calibration.RESULT, "", "")
    assert stored == json.loads(json.dumps(result))


def test_a_second_call_does_nothing_again_and_verdicts_are_made_anew_from_measurements(few, result, monkeypatch):
    def refuse(*args):
        raise AssertionError("measured again")

    monkeypatch.setattr(cells.Measurer, "__call__", refuse)
    assert run(few) == result == run(few, anew=True)
    path = few / "mlp_shared" / "report" / "seed_000.json"
    stored = files.read_json(path, "", "")
    stored["settings"]["thresholds"]["z_u"] = -4.0
    stored["verdicts"]["default"]["copy"]["label"] = "undecided"
    files.write_json(path, stored)
    assert run(few) == result  # verdicts of other thresholds are no longer valid
    with pytest.raises(AssertionError, match="measured again"):
        run(few, bootstrap=21)  # nor are measurements of other settings


def test_controls_are_measured_together_as_they_are_alone(pool):
    kind, audit = dataclasses.replace(KIND, probe=0), calibrate.AUDIT
    parts = pools.divide(kind, pool, SIZES, 5)
    cell = cells.measure(kind, parts, 5, audit, MESH)
    one = controls.series(parts, float(np.median(cell.measured["heldout"].distance)), 5)["noise_33"]
    evaluate = parts.train.evaluator
    alone = cells.Measurer(auditing.Subject(parts.train, parts.heldout, {}, evaluate=evaluate), audit, MESH)(one, "one")
    for field in dataclasses.fields(alone):
        if field.name not in ("disagreement", "ensemble_gain"):
            together = getattr(cell.measured["noise_33"], field.name)
            np.testing.assert_allclose(together, getattr(alone, field.name), rtol=1e-5, atol=1e-6, err_msg=field.name)


def test_the_page_is_made_of_the_numbers(few, result, tmp_path):
    text = page.write(result, tmp_path).read_text()
    assert (tmp_path / page.PICTURE).stat().st_size > 0
    assert "| copies | copies | 1/1 | 100.0 % [2.5, 100.0] |" in text
    assert page.outcome(result) in text
    assert "`z_u` | **-3**" in text


def test_rates_are_counted_by_hand():
    """Three experiments: a right name, a leak that counts for leaks alone, and a false alarm."""
    verdicts = [("copies", True, False), ("copies", True, True), ("variations", True, False)]
    verdicts = [
        {"label": label, "flagged": flagged, "leaked": leaked, "rules": ["errors", "novelty"], "saturated": leaked}
        for label, flagged, leaked in verdicts
    ]
    copy, leak, new = (rates.count(name, verdicts) for name in ("copy", "leak", "new_runs"))
    assert (copy.named, leak.named, new.named, new.flagged) == (2, 1, 0, 3)
    assert copy.labels == {"copies": 1, "copies, leak": 1, "variations": 1}
    both = rates.together([copy, copy])
    assert (both.n, both.named, both.labels["variations"]) == (6, 4, 2)
    assert (both.rules, both.saturated) == ({"errors": 6, "novelty": 6}, 2)
    # Clopper and Pearson: the upper limit at 3 of 3 is 1, the lower the 3rd root of 2.5 %.
    assert (new.flags.low, new.flags.high) == (pytest.approx(0.025 ** (1 / 3)), 1)
    found = rates.summary({"a": {"copy": copy, "new_runs": new}, "b": {"copy": both, "leak": leak}})
    assert found["least_of"] == ["leak", "b"] and found["found"]["n"] == 12 and found["most"] == 1


def test_power_is_what_a_simulation_has():
    """Ranks of equal laws: 40 against 60 networks, 4,000 draws."""
    rng = np.random.default_rng(0)
    ranks = rng.random((4000, 100)).argsort(axis=1).argsort(axis=1)[:, :40]
    wins = (ranks.sum(axis=1) - 40 * 39 / 2) / (40 * 60)
    low = wins - 1.96 * np.sqrt(101 / (12 * 40 * 60))
    assert abs((low > auditing.THRESHOLDS.novelty).mean() - rates.power(40, 60)) < 0.03


def test_thresholds_that_are_tried_exist_and_their_defaults_are_among_the_values():
    for name, values in rates.GRID.items():
        assert getattr(auditing.THRESHOLDS, name) in values, name
    assert len(list(rates.settings())) == sum(map(len, rates.GRID.values()))


def test_what_cannot_be_calibrated_is_refused(tmp_path, few, pool):
    with pytest.raises(UserError, match="no kind of zoo 'mlp'"):
        calibration.run(tmp_path, ("mlp",), 1)
    with pytest.raises(UserError, match="usual learning rate"):
        pools.divide(KIND, pool.select(np.arange(20)), SIZES, 0)
