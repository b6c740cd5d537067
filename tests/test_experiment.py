"""The whole experiment in miniature, as a library and from the command line, and what it says to impossible input."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import mini
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

from configs import mnist_mlp
from jaxweights import auditing, experiment, files, store
from jaxweights.describe import describe
from jaxweights.errors import UserError
from jaxweights.experiment import Experiment, findings, samples, zoo
from jaxweights.experiment.stages import stale_stages
from launch import audit as audit_program
from launch import common, soaking
from launch import describe as program

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = mini.get_config().to_dict()
GENERATORS = [
    "pdiff",
    "noise_low",
    "average",
    "gaussian",
    "pca_gaussian",
    "interpolation",
]

CONTROLS = [name for name in experiment.CONTROLS if name != "sign_flipped_copy"]  # its units are no odd ones
SERIES = [*GENERATORS, *CONTROLS]
PLANNED = [*GENERATORS, *experiment.CONTROLS]  # by the config alone
MEASURED = [f"measure {name}" for name in PLANNED]


def changed(**values):
    """The mini config with dotted keys replaced."""
    return mini.changed(CONFIG, {name.replace("__", "."): value for name, value in values.items()})


def stamps(folder):
    return {
        p: p.stat().st_mtime_ns for p in pathlib.Path(folder).rglob("*") if p.is_file() and p.suffix in (".npy", ".npz")
    }


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Experiment(CONFIG, folder).run()
    return folder


@pytest.fixture(scope="module")
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_metrics_hold_every_number(metrics):
    assert list(metrics["series"])[:2] == ["training", "heldout"]
    assert set(metrics["series"]) == {"training", "heldout", "heldout_control", *SERIES}
    for name, series in metrics["series"].items():
        for measure in ("accuracy", "min_l2", "aligned_min_l2", "max_error_iou"):
            entry = series[measure]
            assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1], (name, measure)
            assert entry["n"] == {"training": 32, "heldout": 12, "heldout_control": 6}.get(name, 16)
        if name not in ("training", "heldout"):
            for test in ("z_u", "auth_pct"):
                assert (
                    series["tests"][test]["ci95"][0]
                    <= series["tests"][test]["value"]
                    <= series["tests"][test]["ci95"][1]
                )
            assert series["verdict"]["label"] in auditing.LABELS
    assert metrics["zoo"]["num_params"] == 385 and metrics["zoo"]["runs_by_split"] == {
        "train": 32,
        "heldout": 12,
        "diverged": 0,
    }
    assert metrics["versions"]["jax"] and "zoo" in metrics["timing"]


def test_controls_are_flagged_and_heldout_runs_are_not(metrics):
    assert metrics["checks"] == {"controls_passed": True, "failed_controls": []}
    for control in CONTROLS:
        assert metrics["series"][control]["verdict"]["label"] == "copies"
    assert not metrics["series"]["heldout_control"]["verdict"]["flagged"]
    permuted, copied = metrics["series"]["permuted_copy"], metrics["series"]["copy"]
    for series in (permuted, metrics["series"]["rescaled_copy"]):
        assert series["aligned_min_l2"]["mean"] < 1e-5 < series["min_l2"]["mean"]
    assert copied["min_l2"]["mean"] == 0 and copied["max_error_iou"]["mean"] == 1
    for name in ("average", "interpolation"):
        assert metrics["series"][name]["verdict"]["label"] in (
            "interpolates",
            "copies",
            "variations",
            "affine mixture",
        ), name


def test_the_parents_of_samples_are_rows_of_the_zoo(workdir):
    zoo = store.PopulationStore.open(workdir / "zoo")
    samples = store.PopulationStore.open(workdir / "samples" / "copy").read()
    assert np.array_equal(samples.weights, zoo.weights[samples.records["parent"]])
    assert np.array_equal(samples.records["run"], zoo.records["run"][samples.records["parent"]])
    assert np.array_equal(samples.records["accuracy"], zoo.records["accuracy"][samples.records["parent"]])
    assert set(zoo.records["split"][samples.records["parent"]]) == {"train"}


def test_running_again_redoes_nothing(workdir, metrics):
    before, page = stamps(workdir), (workdir / "report.html").read_bytes()
    Experiment(CONFIG, workdir).run()
    assert stamps(workdir) == before
    again = json.loads((workdir / "metrics.json").read_text())
    assert {k: again[k] for k in ("series", "checks", "zoo")} == {k: metrics[k] for k in ("series", "checks", "zoo")}
    assert len(page) > 10_000


LIFE = """
import sys
sys.path[:0] = ["tests", "."]
import conftest, mini
from jaxweights.experiment import Experiment
Experiment(mini.get_config().to_dict(), sys.argv[1]).run()
"""


def test_a_killed_experiment_ends_bit_for_bit_as_an_undisturbed_one(workdir, tmp_path):
    """`launch.soak` in miniature: killed while it samples."""
    for kept in ("config.json", "inputs.json", "streams.json", "zoo", "generators"):
        copy = shutil.copytree if (workdir / kept).is_dir() else shutil.copy
        copy(workdir / kept, tmp_path / kept)
    process = subprocess.Popen([sys.executable, "-c", LIFE, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("samples/average/weights-*")) and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "audit").exists()
    Experiment(CONFIG, tmp_path).audit()
    assert soaking.differences(workdir, tmp_path) == []


def test_a_changed_config_is_refused_by_naming_the_keys(workdir):
    with pytest.raises(UserError, match=r"zoo\.num_runs: 32 -> 33; zoo\.weight_decay: 0\.0005 -> 0\.1"):
        Experiment(changed(zoo__num_runs=33, zoo__weight_decay=0.1), workdir)


STAGES = [
    ({"audit__bootstrap": 50}, ["studies shapes", "audit", "report"]),
    ({"report__boundary_resolution": 10}, ["report"]),
    ({"num_samples": 8}, [*(f"sample {n}" for n in PLANNED), "studies shapes", *MEASURED, "audit", "report"]),
    (
        {"audit__hull_neighbours": 4},
        [*(f"measure {n}" for n in ("training", "heldout", "noise_ladder")), *MEASURED, "audit", "report"],
    ),
    ({"audit__training_queries": 8}, ["measure training", "audit", "report"]),
    (
        {"generators__average__k": 4},
        ["sample average", "studies shapes", "measure average", "audit", "report"],
    ),
    (
        {"generators__few": {"kind": "average", "k": 2}},
        ["sample few", "studies shapes", "measure few", "audit", "report"],
    ),
    (
        {"generators__pdiff__sampler": "ddim"},
        ["sample pdiff", "studies shapes", "measure pdiff", "audit", "report"],
    ),
    (
        {"generators__pdiff__latent_dim": 4},
        ["train pdiff", "sample pdiff", "studies shapes", "measure pdiff", "audit", "report"],
    ),
]


@pytest.mark.parametrize("change, names", STAGES)
def test_a_change_makes_stale_what_depends_on_it(change, names):
    before, after = experiment.stages(CONFIG), experiment.stages(changed(**change))
    assert sorted(s.name for s in stale_stages(before, after)) == sorted(names)
    assert sorted(s.name for s in stale_stages(after, before)) == sorted(names)


def test_a_cheap_change_redoes_what_depends_on_it_alone(workdir, metrics, tmp_path, capfd):
    """A generator more and fewer resamples: nothing is trained or sampled again but that generator."""
    shutil.copytree(workdir, tmp_path / "w")
    before = stamps(tmp_path / "w")
    config = changed(audit__bootstrap=50, generators__few={"kind": "average", "k": 2})
    one = Experiment(config, tmp_path / "w")
    assert "audit.bootstrap: 100 -> 50" in (said := capfd.readouterr().err) and "Made anew: audit, report" in said
    assert not (one.workdir / "report.html").exists()
    one.audit()
    after = stamps(tmp_path / "w")
    assert {p: t for p, t in after.items() if p in before} == before
    assert {p.relative_to(one.workdir).parts[:2] for p in after.keys() - before.keys()} == {
        ("samples", "few"),
        ("audit", "few.npz"),
    }
    streams, former = (files.read_json(w / "streams.json", "table", "") for w in (one.workdir, workdir))
    assert sorted(former.values()) == list(range(len(SERIES))) and streams == {**former, "few": len(SERIES)}
    found = json.loads((one.workdir / "metrics.json").read_text())
    assert found["series"]["few"]["verdict"]["label"] == "interpolates"
    # Back to the first config: what the other one had more is removed.
    Experiment(CONFIG, one.workdir).audit()
    assert stamps(tmp_path / "w") == before
    again = json.loads((one.workdir / "metrics.json").read_text())
    assert again["series"] == metrics["series"]


def test_a_zoo_of_another_config_is_refused(workdir, tmp_path):
    shutil.copytree(workdir / "zoo", tmp_path / "zoo")
    for change, message in [
        ({"zoo__learning_rate": 0.2}, r"zoo\.learning_rate: 0\.1 -> 0\.2"),
        ({"net__hidden": (6,)}, "385 -> 460 parameters"),
    ]:
        (tmp_path / "config.json").unlink(missing_ok=True)
        other = Experiment(changed(**change), tmp_path)
        for stage in (other.zoo, other.sample):
            with pytest.raises(UserError, match=message):
                stage()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"probing": {}}, "it is no experiment. Run it by launch.probe"),
        ({"zoo__num_heldout": 0}, "num_heldout is 0"),
        ({"zoo__num_runs": 0}, "at least one training run"),
        ({"num_samples": 0}, "num_samples is 0; set it to at least 1"),
        ({"zoo__use": "first"}, "zoo.use is 'first'; set it to one of last, all"),
        ({"generators__gan": {"kind": "gan"}}, r"generators\.gan\.kind is 'gan'; set it to one of copy"),
        ({"generators__copy": {"kind": "copy"}}, "cannot be called 'copy'"),
        ({"generators__average__k": 33}, "needs at least 33 training networks, but the training split has 32"),
        ({"net__name": "resnet"}, "net.name is 'resnet'; set it to one of actor, cnn, "),
        ({"data__name": "imagenet"}, "imagenet"),
        ({"zoo__learning_rate": 1e15}, "44 runs diverged"),
    ],
)
def test_impossible_experiments_are_refused(workdir, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        again = Experiment(changed(**change), tmp_path / "w")
        again.zoo()
        again.train_generators()
    assert not (tmp_path / "w" / "samples").exists() and not (tmp_path / "w" / "metrics.json").exists()


def test_every_stage_runs_those_before_it(monkeypatch, tmp_path):
    ran = []
    for module, names in ((zoo, ["run"]), (samples, ["train", "run"]), (findings, ["audit", "write_report"])):
        for name in names:
            stage = f"{module.__name__.rpartition('.')[2]}.{name}"
            monkeypatch.setattr(module, name, lambda context, stage=stage: ran.append(stage))
    monkeypatch.setattr(Experiment, "_check_generators", lambda self, opened: None)
    one = Experiment(CONFIG, tmp_path)
    for call, expected in [
        (one.zoo, ["zoo.run"]),
        (one.train_generators, ["zoo.run", "samples.train"]),
        (one.sample, ["zoo.run", "samples.run"]),
        (one.audit, ["zoo.run", "samples.run", "findings.audit"]),
        (one.report, ["zoo.run", "samples.run", "findings.audit", "findings.write_report"]),
        (one.run, ["zoo.run", "samples.run", "findings.audit", "findings.write_report"]),
    ]:
        ran.clear()
        call()
        assert ran == expected


def test_imported_zoos_and_samples_are_audited(workdir, tmp_path):
    zoo = store.PopulationStore.open(workdir / "zoo").read()
    np.savez(tmp_path / "zoo.npz", weights=zoo.weights)
    np.savez(tmp_path / "mine.npz", weights=zoo.weights[:16])
    config = changed(
        zoo__import_npz=str(tmp_path / "zoo.npz"),
        generators={"mine": {"kind": "file", "path": str(tmp_path / "mine.npz")}},
    )
    one = Experiment(config, tmp_path / "w")
    opened = one.zoo()
    assert np.array_equal(opened.weights[:], zoo.weights)
    assert np.array_equal(opened.records["accuracy"], zoo.records["accuracy"])
    assert opened.records["split"].tolist() == ["train"] * 32 + ["heldout"] * 12
    one.sample()
    metrics = one.audit()
    assert metrics["series"]["mine"]["verdict"]["label"] == "copies" and metrics["checks"]["controls_passed"]
    with pytest.raises(UserError, match="at least 33 training networks, but the training split has 32"):
        Experiment(config | {"generators": {"mean": {"kind": "average", "k": 33}}}, tmp_path / "k").zoo()
    bad = zoo.weights.copy()
    bad[3, 7] = np.inf
    for weights, message in [(bad, "NaN or infinite"), (zoo.weights[:, 1:], "shape"), (zoo.weights[:0], "empty")]:
        np.savez(tmp_path / "zoo.npz", weights=weights)
        with pytest.raises(UserError, match=message):
            Experiment(config, tmp_path / "broken").zoo()
        assert not (tmp_path / "broken" / "zoo").exists()


def launch(program, *flags, workdir=None):
    command = [sys.executable, "-m", f"launch.{program}", "--host_devices=2", *flags]
    command += [f"--workdir={workdir}"] if workdir else []
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )


def test_the_stage_programs_do_what_run_does(workdir, metrics, tmp_path, monkeypatch, capsys):
    """And the same seed gives the same numbers, to the bit, in other processes."""
    done = launch("train_zoo", "--config=tests/mini.py", workdir=tmp_path / "zoo")  # on two devices
    assert done.returncode == 0, done.stderr
    ours, theirs = (store.PopulationStore.open(w / "zoo").weights[:] for w in (workdir, tmp_path / "zoo"))
    assert np.array_equal(ours, theirs)
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    for name in ("audit", "samples/gaussian"):
        shutil.rmtree(again / name)
    (again / "metrics.json").unlink()
    monkeypatch.setattr(common, "setup_jax", lambda *arguments, **options: None)  # on the devices that there are
    with flagsaver.flagsaver():
        flags.FLAGS(["program", "--config=tests/mini.py", f"--workdir={again}"])
        audit_program.main([])
    found = json.loads((again / "metrics.json").read_text())
    assert found["series"] == metrics["series"]
    assert found["checks"]["controls_passed"]
    printed = capsys.readouterr().out
    assert "gaussian" in printed and "verdict" in printed


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--config=tests/mini.py", "--workdir=/proc/self/x"), "cannot be written"),
        (("--config=tests/mini.py", "--config.net.name=resnet"), "net.name is 'resnet'"),
        (("--workdir=x",), "No experiment was named"),
    ],
)
def test_mistakes_end_in_one_paragraph_and_status_one(tmp_path, flags, message):
    done = launch("run", *flags, workdir=None if "--workdir" in " ".join(flags) else tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert message in " ".join(done.stderr.split()) and "error: " in done.stderr


def test_help_explains_every_flag():
    done = subprocess.run(
        [sys.executable, "-m", "launch.run", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    for flag in ("--config", "--workdir", "--data_dir", "--seed", "--host_devices", "--cache_dir", "--[no]quiet"):
        assert flag in done.stdout, flag


def test_describe_allocates_nothing_and_knows_the_published_counts():
    done = launch("describe", "--config=configs/digits.py", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["zoo"]["num_params"] == 1210 and facts["zoo"]["num_runs"] == 512
    assert facts["generator"]["name"] == "pdiff" and facts["generator"]["num_params"] > 0
    assert facts["generators"]["gaussian"]["num_params"] == 0
    facts = describe(mnist_mlp.get_config().to_dict())
    assert "7,960 parameters" in common.aligned(program.rows(facts))
