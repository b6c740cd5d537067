"""G.pt end to end in miniature: a zoo of trajectories, one training, two ways of sampling, its study and its page."""

import json

import mini_gpt
import numpy as np
import pytest

from jaxweights import store
from jaxweights.experiment import Experiment

CONFIG = mini_gpt.get_config().to_dict()
STUDIES = CONFIG["studies"]["prompting"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt")
    Experiment(CONFIG, folder).run()
    return folder


@pytest.fixture(scope="module")
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_one_training_serves_one_round_and_two(workdir, metrics):
    assert [p.name for p in (workdir / "generators").iterdir()] == ["gpt"]
    once, twice = (store.PopulationStore.open(workdir / "samples" / n).read() for n in ("gpt", "gpt_recursive"))
    assert not np.array_equal(once.weights, twice.weights)
    for name in ("gpt", "gpt_recursive"):
        assert metrics["series"][name]["accuracy"]["n"] == CONFIG["num_samples"]
    assert set(metrics["studies"]) == {"gpt"}


def test_the_study_holds_every_part(workdir, metrics):
    study = metrics["studies"]["gpt"]
    assert (study["metric"], study["maximised"], study["prompt"]) == ("loss", False, 0.0)
    zoo = store.PopulationStore.open(workdir / "zoo").read()
    assert study["best"] == pytest.approx(zoo.where(split="train").records["loss"].min(), rel=1e-6)
    # Initialisations are kept, so there is no third group of starts.
    assert set(study["alignment"]) == {"train", "heldout"}
    initial = zoo.where(split="heldout", step=0).records["loss"]
    assert len(initial) == CONFIG["zoo"]["num_heldout"]
    entry = study["alignment"]["heldout"]
    assert entry["start"]["mean"] == pytest.approx(initial[: STUDIES["networks"]].mean(), rel=1e-6)
    assert list(study["recursion"]["rounds"]) == ["0", "1", "2"]
    last = zoo.where(split="heldout", step=zoo.records["step"].max()).records["loss"]
    assert study["recursion"]["training"]["last"]["mean"] == pytest.approx(last.mean(), rel=1e-6)
    assert study["walk"]["ends"]["n"] == STUDIES["walks"] and study["walk"]["ends"]["mean"] > 0
    with np.load(workdir / "studies" / "gpt.npz") as arrays:
        assert arrays["alignment/heldout/achieved"].shape == (4, 3) and arrays["walk/overlap"].shape == (2, 3, 3)
        assert arrays["recursion/training"].shape == (8, 4) and arrays["recursion/rounds"].shape == (4, 3)
        assert all(np.isfinite(x).all() for x in arrays.values())


def test_running_again_redoes_nothing(workdir, metrics):
    files = [*workdir.glob("samples/*/*"), *workdir.glob("audit/*"), *workdir.glob("studies/*")]
    before = {p: p.stat().st_mtime_ns for p in files}
    assert len(before) > 10
    again = Experiment(CONFIG, workdir)
    again.sample()
    assert again.audit()["studies"] == metrics["studies"]
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_the_page_shows_alignment_recursion_and_walk(workdir):
    page = (workdir / "report.html").read_text()
    for text in ("Prompt alignment: gpt", "Recursive prompting: gpt", "Latent walk: gpt", "training runs"):
        assert text in page, text
    for figure in ("alignment_gpt", "recursion_gpt", "walk_gpt"):
        assert (workdir / "figures" / f"{figure}.png").stat().st_size > 5000
