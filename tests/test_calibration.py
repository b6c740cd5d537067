"""The calibration in miniature, on networks that are drawn instead of trained: verdicts on disk, counts, and a page."""

import dataclasses
import json

import numpy as np
import pytest

from jaxweights import auditing, calibration, files, parallel, tasks
from jaxweights.calibration import calibrate, cells, controls, page, pools, rates
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluator
from jaxweights.population import Population

SIZES = calibration.Sizes(train=16, heldout=8, samples=8)
FEW = ("copy", "noise_33", "average_4", "leak", "new_runs", "other_runs")
MESH = parallel.make_mesh(1)


def drawn_zoo(source, *, runs, learning_rate, mesh, seed, **options):
    """Linear classifiers around a common one, all about as accurate, in the place of `train_zoo`."""
    assert source == "digits" and options["start"] == "shared"
    rng = np.random.default_rng(seed)
    net = tasks.build({"name": "mlp", "hidden": ()}, (3, 3, 1), 4)
    images = rng.normal(size=(40, 3, 3, 1)).astype(np.float32)
    centre = rng.normal(size=net.spec.num_params)
    weights = (centre + 0.3 * rng.normal(size=(runs, len(centre)))).astype(np.float32)
    labels = np.argmax(net.apply(centre.astype(np.float32), images), axis=-1)
    rates_of = {"hyper/learning_rate": np.resize(learning_rate["values"], runs)}
    zoo = Population.create(weights, net.spec, run=np.arange(runs), step=1, accuracy=0.9, **rates_of)
    return dataclasses.replace(zoo, evaluator=Evaluator(net, images, labels, mesh))


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A folder, a few controls, and two values of a threshold."""
    with pytest.MonkeyPatch.context() as patch:
        chosen = {name: controls.CONTROLS[name] for name in FEW}
        for module in (controls, rates):
            patch.setattr(module, "CONTROLS", chosen)
        patch.setattr(rates, "GRID", {"z_u": (-3.0, -50.0)})
        patch.setattr(pools, "train_zoo", drawn_zoo)
        yield tmp_path_factory.mktemp("calibration")


def run(folder, **options):
    audit = dataclasses.replace(calibrate.AUDIT, bootstrap=20)
    return calibration.run(folder, ("mlp_shared",), 1, 1, SIZES, audit, MESH, runs=64, **options)


@pytest.fixture(scope="module")
def result(few):
    return run(few)


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


def test_controls_are_measured_together_as_they_are_alone(few):
    kind, audit = calibration.KINDS["mlp_shared"], calibrate.AUDIT
    parts = pools.divide(kind, pools.pool(kind, calibration.REPORT, mesh=MESH, runs=64), SIZES, 5)
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
    verdicts = [{"label": label, "flagged": flagged, "leaked": leaked} for label, flagged, leaked in verdicts]
    copy, leak, new = (rates.count(name, verdicts) for name in ("copy", "leak", "new_runs"))
    assert (copy.named, leak.named, new.named, new.flagged) == (2, 1, 0, 3)
    assert copy.labels == {"copies": 1, "copies, leak": 1, "variations": 1}
    both = rates.together([copy, copy])
    assert (both.n, both.named, both.labels["variations"]) == (6, 4, 2)
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


def test_what_cannot_be_calibrated_is_refused(tmp_path, few):
    with pytest.raises(UserError, match="no kind of zoo 'mlp'"):
        calibration.run(tmp_path, ("mlp",), 1)
    with pytest.raises(UserError, match="usual learning rate"):
        run_small = drawn_zoo(
            "digits", runs=20, learning_rate={"values": (1.0, 2.0)}, mesh=MESH, seed=0, start="shared"
        )
        pools.divide(calibration.KINDS["mlp_shared"], run_small, SIZES, 0)
