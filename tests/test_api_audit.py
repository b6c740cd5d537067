"""`jw.audit` on arrays from anywhere: copies are flagged, fresh draws are not, and mistakes are named."""

import dataclasses
import json

import numpy as np
import pytest
from audited import (
    COPIES,
    FILES,
    FRESH,
    HELDOUT,
    PREDICTIONS,
    QUICK,
    SIZE,
    SMALL,
    SPEC,
    TRAIN,
    X,
    Y,
    command,
    predict,
    rng,
    write,
)

from jaxweights import files
from jaxweights.api.audit import BASELINES, CONTROLS, audit
from jaxweights.errors import UserError
from jaxweights.population import Population


@pytest.fixture(scope="module")
def alone():
    """Weights alone, two series."""
    return audit(TRAIN, HELDOUT, {"mine": FRESH, "theirs": COPIES}, **QUICK)


@pytest.fixture(scope="module")
def evaluated():
    """With symmetries and a function."""
    given = {"spec": SPEC, "predict": predict, "test": (X, Y), "baselines": ("average", "soup")}
    asked = {"repeats": 2, "transformations": ("sign", "outputs"), "classifier": "linear", "steps": 50}
    return audit(TRAIN, HELDOUT, COPIES, **given, giveaway=asked, **QUICK)


def test_copies_are_flagged_and_fresh_draws_are_not(alone):
    # 24 samples and 16 held-out networks do not show novelty; some would.
    assert alone.verdicts["mine"] == "undecided" and alone.verdicts["theirs"] == "copies"
    assert alone.metrics["series"]["mine"]["verdict"]["needed"] > 0
    assert alone.metrics["series"]["mine"]["verdict"]["beats_baselines"]["answer"] == "not evaluated"
    assert list(alone.verdicts)[:2] == ["mine", "theirs"]
    assert set(alone.verdicts) == {"mine", "theirs", *BASELINES[:6], "copy", "noised_copy", "heldout_control"}
    assert alone.checks == {"controls_passed": True, "failed_controls": []}


def test_weights_alone_have_distances_alone(alone):
    entry = alone.to_json()["series"]["mine"]
    assert entry["accuracy"] is entry["loss"] is entry["max_error_iou"] is entry["tests"]["iou_above_heldout"] is None
    assert entry["tests"]["distance"] == "raw" and "raw" not in entry["tests"]
    assert json.loads(json.dumps(alone.metrics, allow_nan=False)) == alone.to_json()
    assert "accuracy" not in repr(alone)


def test_a_function_of_any_framework_adds_accuracy_and_errors(evaluated):
    entry = evaluated.metrics["series"]["generated"]
    accuracy = np.mean(predict(COPIES.astype(np.float32), X).argmax(axis=2) == Y)
    assert entry["accuracy"]["mean"] == pytest.approx(accuracy)
    assert entry["tests"]["distance"] == "aligned" and evaluated.verdicts["permuted_copy"] == "copies"
    assert evaluated.verdicts["generated"] == "copies" and entry["max_error_iou"]["mean"] > 0.9
    roles = {name: one["role"] for name, one in evaluated.metrics["series"].items()}
    assert roles["average"] == roles["soup"] == "baseline" and {roles.get(name) for name in CONTROLS[:4]} == {"control"}
    assert {entry["battery"][name]["expected"] for name in ("c2st_invariant", "pairs")} == {0.5, 1.0}
    assert CONTROLS[4] == "sign_flipped_copy" not in roles and evaluated.verdicts["rescaled_copy"] == "copies"


def test_batches_classes_and_probabilities_give_the_same_accuracy(evaluated):
    """The loss is the cross-entropy of logits or of probabilities; class numbers have none."""

    def probabilities(weights, inputs):
        scores = np.exp(predict(weights, inputs))
        return scores / scores.sum(axis=-1, keepdims=True)

    few = {"spec": SPEC, "test": (X, Y), "baselines": False, "controls": False, **QUICK}
    expected = evaluated.metrics["series"]["generated"]
    many = audit(TRAIN, HELDOUT, COPIES, predict=probabilities, batched=True, **few).metrics["series"]["generated"]
    assert many["accuracy"]["mean"] == expected["accuracy"]["mean"]
    assert many["loss"]["mean"] == pytest.approx(expected["loss"]["mean"], rel=1e-5)
    named = audit(TRAIN, HELDOUT, COPIES, predict=lambda w, x: predict(w, x).argmax(axis=1), **few)
    assert named.metrics["series"]["generated"]["accuracy"]["mean"] == expected["accuracy"]["mean"]
    assert named.metrics["series"]["generated"]["loss"] is None


def test_the_table_has_every_number_by_series(alone):
    table = alone.table()
    assert list(table.index) == list(alone.metrics["series"])
    entry = alone.metrics["series"]["theirs"]["tests"]["z_u"]
    row = table.loc["theirs"]
    assert [row["tests.z_u"], row["tests.z_u.lower"], row["tests.z_u.upper"]] == [entry["value"], *entry["ci95"]]
    assert row["verdict"] == "copies" and row["n"] == 30


def test_populations_bring_spec_runs_and_evaluation(evaluated, tmp_path):
    """Held-out runs of several checkpoints enter with one each; the same networks have the same numbers."""
    train = Population.create(TRAIN, SPEC, run=np.arange(40), step=5)
    both = np.concatenate([HELDOUT + 1, HELDOUT])
    runs = Population.create(both, SPEC, run=np.tile(np.arange(20), 2), step=np.repeat([1, 5], 20), split="heldout")
    evaluate = dataclasses.replace(train, evaluator=evaluated.subject.evaluate)
    found = audit(evaluate, runs, {"mine": COPIES}, baselines=False, **QUICK)
    assert found.metrics["series"]["heldout"]["min_l2"] == evaluated.metrics["series"]["heldout"]["min_l2"]
    assert (
        found.metrics["series"]["mine"]["accuracy"]["mean"]
        == (evaluated.metrics["series"]["generated"]["accuracy"]["mean"])
    )
    assert files.read_json(found.save(tmp_path / "new" / "metrics.json"), "", "") == found.to_json()


def test_failed_controls_come_first(alone):
    broken = dataclasses.replace(
        alone, metrics=alone.metrics | {"checks": {"controls_passed": False, "failed_controls": ["copy"]}}
    )
    assert repr(broken).startswith("CONTROLS FAIL")
    assert not repr(alone).startswith("CONTROLS")


NAN = np.where(np.arange(SIZE) == 3, np.nan, FRESH)


@pytest.mark.parametrize(
    "arguments, changes, message",
    [
        ((TRAIN[0], HELDOUT, FRESH), {}, r"train has shape \(24,\); give \[N, P\]"),
        ((TRAIN, HELDOUT[:7], FRESH), {}, "heldout has 7 rows, but an audit needs at least 8"),
        ((TRAIN, HELDOUT[:, :5], FRESH), {}, "heldout has 5 parameters per network, train has 24"),
        ((TRAIN, HELDOUT, {"mine": FRESH[:, :5]}), {}, r'generated\["mine"\] has 5 parameters'),
        ((TRAIN, HELDOUT, {"mine": NAN}), {}, r'generated\["mine"\] has NaN or infinite weights in 30 of 30'),
        ((TRAIN, TRAIN[:20], FRESH), {}, "heldout has 20 networks that are in train"),
        ((TRAIN, HELDOUT, {"gaussian": FRESH}), {}, "'gaussian', which is a name of the audit itself"),
        ((TRAIN, HELDOUT, FRESH), {"bootstraps": 5}, "no setting audit.bootstraps; did you mean bootstrap"),
        ((TRAIN, HELDOUT, FRESH), {"bootstrap": 0}, "audit.bootstrap is 0; set it between 1 and 1000000"),
        ((TRAIN, HELDOUT, FRESH), {"baselines": ("mean",)}, "no baseline 'mean'; there are noise_low"),
        ((TRAIN, HELDOUT, FRESH), {"giveaway": 3}, "giveaway is 3; give True, False, or settings by name"),
        ((TRAIN, HELDOUT, FRESH), {"giveaway": {"repeat": 3}}, "no setting giveaway.repeat; did you mean repeats"),
        ((TRAIN, HELDOUT, FRESH), {"predict": predict}, "test = .* is missing"),
        ((TRAIN[:, :5], HELDOUT[:, :5], FRESH[:, :5]), {"spec": SPEC}, "train has 5 parameters .* describes 24"),
        (
            (TRAIN, HELDOUT, FRESH),
            {"predict": lambda w, x: predict(w, x)[:5], "test": (X, Y)},
            r"predict returned shape \(5, 3\) .*\[60, K\] scores",
        ),
    ],
)
def test_mistakes_are_named(arguments, changes, message):
    with pytest.raises(UserError, match=message):
        audit(*arguments, **changes)


def test_what_gives_networks_away_is_asked_of_series_and_baselines(evaluated, alone):
    found = evaluated.metrics["studies"]["giveaway"]
    assert found["study"] == "giveaway" and set(found["series"]) == {"generated", "average", "soup"}
    assert list(found["series"]["average"]["transformations"]) == ["sign"] and list(found["left_out"]) == ["outputs"]
    assert found["series"]["generated"]["nearest_ratio"]["value"] < 0.1 and "studies" not in alone.metrics


def test_figures_and_report_need_arrays_alone(alone, evaluated, tmp_path):
    for draw in (alone.plot.distances, alone.plot.mixtures, alone.plot.heatmap, alone.plot.values):
        assert draw().axes
    for draw in (evaluated.plot.novelty, evaluated.plot.similarity, evaluated.plot.tsne):
        assert draw()._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="not evaluated"):
        alone.plot.novelty()
    with pytest.raises(UserError, match="no series 'yours'; there are mine, theirs"):
        alone.plot.heatmap("yours")
    for result, seen in ((alone, "undecided"), (evaluated, "copies")):
        text = result.report(tmp_path / "new" / "report.html").read_text()
        assert f'<span class="badge {seen}">' in text and result.verdict_texts["copy"][:20] in text
        assert ("error IoU" in text.split("What the measures mean")[0]) == (result is evaluated)
        assert "figures/" not in text and ("What gives them away" in text) == (result is evaluated)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    assert "<table" in alone._repr_html_() and "Controls pass" in alone._repr_html_()


def test_regressions_have_r_squared():
    """A linear model by NumPy: the words are those of regressions."""
    slopes = np.linspace(-1, 1, 6)
    inputs = rng(5).normal(size=(50, 6))
    sets = [slopes + 0.2 * rng(seed).normal(size=(n, 6)) for seed, n in ((6, 30), (7, 12), (8, 20))]
    options = {"test": (inputs, inputs @ slopes), "task": "regression", "baselines": False, "controls": False}
    found = audit(*sets, predict=lambda w, x: x @ w, **options, **QUICK)
    targets = inputs @ slopes
    errors = [np.square(inputs @ w - targets).mean() / targets.var() for w in sets[2]]
    assert found.metrics["series"]["generated"]["accuracy"]["mean"] == pytest.approx(1 - np.mean(errors), rel=1e-5)
    assert "R2" in repr(found) and found.metrics["task"] == "regression"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The networks in files."""
    path = tmp_path_factory.mktemp("files")
    write(path)
    return path


@pytest.fixture(scope="module")
def found(folder):
    return audit(
        folder / "zoo.npz",
        str(folder / "zoo.npz"),
        {"mine": folder / "mine.safetensors"},
        spec=folder / "spec.json",
        predictions=folder / "predictions.npz",
        baselines=("average",),
        **SMALL,
    )


def test_files_give_the_networks_and_predictions_that_were_written(found):
    for name, networks in (("train", TRAIN), ("heldout", HELDOUT), ("mine", COPIES)):
        entry = found.metrics["series"][{"train": "training"}.get(name, name)]
        right = PREDICTIONS[name].argmax(axis=2) == Y
        assert entry["accuracy"]["mean"] == pytest.approx(right.mean()) and entry["n"] == len(networks)
        if name != "train":
            distance = np.linalg.norm(networks[:, None] - TRAIN[None], axis=2).min(axis=1)
            assert entry["min_l2"]["mean"] == pytest.approx(distance.mean(), rel=1e-5)
    series = found.metrics["series"]
    assert series["permuted_copy"]["max_error_iou"]["mean"] == 1 and series["copy"]["accuracy"]
    assert found.verdicts["mine"] == "copies"


def test_what_nobody_has_run_is_audited_by_its_weights_alone(found):
    for name in ("average", "noised_copy"):
        entry = found.metrics["series"][name]
        assert entry["accuracy"] is None and entry["max_error_iou"] is None and entry["aligned_min_l2"]
    assert found.plot.novelty().axes and found.plot.calibration().axes and "average" in repr(found)


def test_stored_populations_bring_their_spec(folder):
    one = folder / "theirs"
    alone = audit(TRAIN, HELDOUT, {"theirs": one}, spec=SPEC, baselines=False, controls=False, **SMALL)
    assert alone.metrics["series"]["theirs"]["aligned_min_l2"]["n"] == len(FRESH)
    with pytest.raises(UserError, match="no network of the split 'train': all are generated"):
        audit(one, HELDOUT, FRESH)


def test_the_program_writes_page_and_tables(folder, capsys, monkeypatch):
    monkeypatch.setattr("jaxweights.report.page.write_audit", lambda path, audited: path)
    command(
        folder,
        monkeypatch,
        **FILES,
        predictions="predictions.npz",
        out="new/audit",
        baselines="none",
        settings="bootstrap=20,battery.bootstrap=9",
    )
    said = capsys.readouterr().out
    assert "mine" in said and "report: new/audit/report.html" in said
    metrics = files.read_json("new/audit/metrics.json", "", "")
    lines = (folder / "new/audit/table.csv").read_text().splitlines()
    table = dict(zip(lines[0].split(","), lines[3].split(","), strict=True))
    accuracy = metrics["series"]["mine"]["accuracy"]
    assert [line.partition(",")[0] for line in lines[1:]] == list(metrics["series"])
    assert float(table["accuracy"]) == accuracy["mean"] and float(table["accuracy.upper"]) == accuracy["ci95"][1]
    tex = (folder / "new/audit/table.tex").read_text()
    assert r"accuracy (\%)" in tex and r"$Z_U$" in tex and tex.count(r"\\") == len(metrics["series"]) + 1
    assert len({line.count(" & ") for line in tex.splitlines() if line.endswith(r"\\")}) == 1
