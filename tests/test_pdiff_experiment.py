"""P-diff as published, end to end in miniature: a base, one run of consecutive checkpoints of two layers, held-out runs
from the same base, generated networks, the audit of a single run, figures."""

import json

import mini_pdiff
import numpy as np
import pytest

from jaxweights import nets, population, store
from jaxweights.evaluation import evaluate
from jaxweights.experiment import Experiment

CONFIG = mini_pdiff.get_config().to_dict()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    experiment = Experiment(CONFIG, tmp_path_factory.mktemp("pdiff"))
    experiment.run()
    return experiment


@pytest.fixture(scope="module")
def metrics(done):
    return json.loads((done.workdir / "metrics.json").read_text())


def test_the_zoo_is_one_run_of_consecutive_checkpoints(done):
    zoo = store.PopulationStore.open(done.workdir / "zoo").read()
    train = zoo.where(split=population.TRAIN)
    assert train.records["run"].tolist() == [0] * 20
    assert train.records["step"].tolist() == list(range(2, 22))
    assert zoo.spec.num_params == 32
    assert {leaf.name.split("/")[2] for leaf in zoo.spec.leaves} == {"bn1", "bn2"}
    heldout = zoo.where(split=population.HELDOUT)
    assert heldout.records["run"].tolist() == list(range(1, 9))
    assert len(np.unique(heldout.records["step"])) > 1 and np.isin(heldout.records["step"], train.records["step"]).all()


def test_accuracies_are_those_of_the_whole_networks(done):
    """The population remembers its base: from the files of the zoo alone, networks are evaluated as recorded."""
    zoo = store.PopulationStore.open(done.workdir / "zoo")
    partial = nets.load_partial(zoo.path / "base.npz", done.net.whole)
    rows = np.arange(0, len(zoo), 7)
    whole = np.asarray(partial.insert(zoo.weights[rows]))
    found = evaluate(done.net.whole, whole, done.test_images, done.dataset.test_labels, done.mesh)
    np.testing.assert_array_equal(found.accuracy, zoo.records["accuracy"][rows])
    assert found.accuracy.mean() > 0.25


def test_the_audit_knows_that_there_is_one_run(metrics):
    assert metrics["checks"]["controls_passed"], metrics["checks"]
    training, pdiff = metrics["series"]["training"], metrics["series"]["pdiff"]
    assert training["by_run"]["other_run_l2"] is None and training["by_run"]["same_run_l2"]["mean"] > 0
    assert pdiff["tests"]["memorised_share"] is None
    for name in ("average", "average_faithful", "copy"):  # mixtures of all checkpoints explain them
        assert metrics["series"][name]["hull_residual"]["mean"] < 1e-6, name
    assert metrics["series"]["heldout"]["hull_residual_relative"]["to_heldout"]["value"] == 1


def test_every_figure_is_drawn(done):
    drawn = {path.stem for path in (done.workdir / "figures").glob("*.png")}
    assert drawn >= {
        "accuracy_similarity",
        "decision_boundaries",
        "interpolation_residual",
        "min_distance",
        "trajectory",
        "tsne",
        "value_distributions",
    }
    page = (done.workdir / "report.html").read_text()
    assert "32 of the" in page and "frozen" in page


def test_running_again_changes_nothing(done):
    files = [path for path in done.workdir.rglob("*") if path.suffix in (".npy", ".npz")]
    before = {path: path.stat().st_mtime_ns for path in files}
    Experiment(CONFIG, done.workdir).run()
    assert {path: path.stat().st_mtime_ns for path in files} == before
