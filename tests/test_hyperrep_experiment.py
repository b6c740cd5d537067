"""Hyper-Representations end to end in miniature: one training, several samplers, studies, their part of the page."""

import copy
import json

import mini_hyperrep
import numpy as np
import pytest

from jaxweights import generators, store, tasks
from jaxweights.errors import UserError
from jaxweights.experiment import Experiment, parse, plan
from jaxweights.experiment.config import complete
from jaxweights.population import top_rows

CONFIG = mini_hyperrep.get_config().to_dict()
WAYS = {n for n, s in CONFIG["generators"].items() if n == "hyperrep" or s.get("of") == "hyperrep"}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hyperrep")
    Experiment(CONFIG, folder).run()
    return folder


@pytest.fixture(scope="module")
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_one_training_serves_every_sampler(workdir, metrics):
    assert [p.name for p in (workdir / "generators").iterdir()] == ["hyperrep"]
    assert set(metrics["series"]) >= WAYS and len(WAYS) == 4
    samples = {n: store.PopulationStore.open(workdir / "samples" / n).read() for n in WAYS}
    assert len({s.weights.tobytes() for s in samples.values()}) == len(WAYS)
    zoo = store.PopulationStore.open(workdir / "zoo")
    # Faithful samples come from single training networks, which are among the best 30 %.
    training = np.flatnonzero(zoo.records["split"] == "train")
    best = training[top_rows(zoo.records["accuracy"][training], 0.3)]
    assert set(samples["hyperrep_faithful"].records["parent"]) <= set(best)
    assert (samples["hyperrep"].records["parent"] == -1).all()


def test_studies_hold_every_part(metrics):
    study = metrics["studies"]["hyperrep"]
    assert set(study) == {"study", "reconstruction", "probes", "symmetry", "published", "samplers"}
    for split, count in (("train", 48), ("heldout", 20)):
        part = study["reconstruction"][split]
        assert part["accuracy"]["n"] == count and part["r2"] <= 1 and set(part["r2_by_layer"]) == {"fc1", "fc2"}
    assert set(study["probes"]["targets"]) == {"accuracy", "epoch", "generalization gap"}
    assert set(study["symmetry"]["rows"]) == {"original", "permuted", "sign_flipped"}
    # The transformations leave the networks' own accuracy alone: at most one of 120 images, at a tie.
    assert max(study["symmetry"]["function_change"].values()) <= 100 / 120 + 1e-9
    assert set(study["published"]["series"]) == {"training", "noise_0.02", "noise_0.04"} | WAYS
    samplers = study["samplers"]
    assert samplers["hyperrep_faithful"]["mode"] == "faithful" and samplers["hyperrep"]["mode"] == "independent"
    assert samplers["hyperrep_reconstruction"]["nearest_latent"]["mean"] < 1e-5
    assert samplers["hyperrep_reconstruction"]["own_parent_share"]["value"] > 0.9  # two checkpoints may coincide


def test_running_again_redoes_nothing(workdir, metrics):
    files = [*workdir.glob("samples/*/*"), *workdir.glob("audit/*"), *workdir.glob("studies/*")]
    before = {p: p.stat().st_mtime_ns for p in files}
    assert len(before) > 20
    again = Experiment(CONFIG, workdir)
    again.sample()
    assert again.audit()["studies"] == metrics["studies"]
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_the_page_shows_faithful_beside_independent(workdir):
    page = (workdir / "report.html").read_text()
    for text in ("faithful", "independent", "published", "symmetr"):
        assert text in page, text
    for figure in ("symmetry_hyperrep", "published_hyperrep", "autoencoder_hyperrep"):
        assert (workdir / "figures" / f"{figure}.png").stat().st_size > 5000


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"other": {"of": "nobody"}}, "'nobody', which is no learned generator of this config; there are: hyperrep"),
        ({"other": {"of": "average"}}, "no learned generator"),
        ({"other": {"of": "hyperrep", "width": 16}}, "can change only how samples are drawn .*, not width"),
        ({"other": {"of": "hyperrep", "sampler": "magic"}}, r"generators\.other\.sampler is 'magic'"),
    ],
)
def test_impossible_ways_of_sampling_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        generators.resolve({**copy.deepcopy(CONFIG["generators"]), **changes})


@pytest.mark.parametrize("variant, millions", [("", 223), ("narrow", 118)])
def test_paper_configs_have_the_published_sizes(variant, millions):
    from configs.paper import hyperrep_svhn

    config = hyperrep_svhn.get_config(variant).to_dict()
    settings = parse(config)
    planned = plan.make(settings, complete(config, settings), tasks.Examples((28, 28, 1), 10, 1000, 1000))
    generator = next(g for g, _ in planned.generators.values() if isinstance(g, generators.LearnedGenerator))
    assert round(plan.num_params(generator, planned.net) / 1e6) == millions
    assert planned.net.spec.num_params == 2464 and planned.zoo.per_run == 5
