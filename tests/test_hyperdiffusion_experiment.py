"""HyperDiffusion end to end in miniature: fields of procedural shapes, a generator, the audit, the shapes, the page."""

import json

import mini_hyperdiffusion
import numpy as np
import pytest

from jaxweights import settings, store, tasks
from jaxweights.describe import describe
from jaxweights.errors import UserError
from jaxweights.experiment import Experiment

CONFIG = mini_hyperdiffusion.get_config().to_dict()
RUNS, HELDOUT = CONFIG["zoo"]["num_runs"], CONFIG["zoo"]["num_heldout"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hyperdiffusion")
    Experiment(CONFIG, folder).run()
    return folder


@pytest.fixture(scope="module")
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_every_field_is_fitted_to_a_shape_of_its_own(workdir):
    zoo = store.PopulationStore.open(workdir / "zoo").read()
    assert len(zoo) == RUNS + HELDOUT
    assert zoo.records["fit_iou"].mean() > 0.2 and zoo.records["fit_loss"].mean() < 0.5 < np.log(2)
    # All but the first start from its last weights and stay closer to them than unrelated vectors of their length are.
    away = np.linalg.norm(zoo.weights[1:] - zoo.weights[:1], axis=1)
    assert away.min() > 0 and away.max() < np.linalg.norm(zoo.weights, axis=1).mean()


def test_the_audit_is_one_of_shapes(metrics):
    assert metrics["task"] == "field"
    series = metrics["series"]
    assert series["copy"]["max_error_iou"]["mean"] == 1.0
    # The same shape after reordering hidden units, up to the rounding of sums at the surface.
    assert series["permuted_copy"]["max_error_iou"]["mean"] > 0.98 > series["heldout"]["max_error_iou"]["mean"]
    assert 0 < series["heldout"]["accuracy"]["mean"] < 1
    assert "IoU with the nearest unseen shape" in series["hyperdiffusion"]["verdict"]["text"]


def test_the_study_compares_all_series_with_unseen_shapes(workdir, metrics):
    study = metrics["studies"]["shapes"]
    assert study["references"] == {"training": RUNS, "unseen": CONFIG["data"]["signals"]["unseen"]}
    assert set(study["series"]) == {"training_shapes", "training", "heldout", "hyperdiffusion", "noise_low"}
    assert study["augmented"] == {"hyperdiffusion": 2} and study["shown"] == ["hyperdiffusion"]
    training = study["series"]["training"]
    assert training["networks"] == CONFIG["studies"]["shapes"]["networks"] > training["empty"]
    assert training["chamfer"]["to_unseen"]["mean"] > 0
    with np.load(workdir / "studies" / "shapes.npz") as arrays:
        assert all(np.isfinite(x).all() for name, x in arrays.items() if name.startswith("chamfer"))


def test_running_again_redoes_nothing(workdir, metrics):
    files = [*workdir.glob("samples/*/*"), *workdir.glob("audit/*"), *workdir.glob("studies/*")]
    before = {p: p.stat().st_mtime_ns for p in files}
    assert len(before) > 8
    again = Experiment(CONFIG, workdir)
    again.sample()
    assert again.audit()["studies"] == metrics["studies"]
    assert {p: p.stat().st_mtime_ns for p in files} == before


def test_the_page_shows_shapes(workdir):
    page = (workdir / "report.html").read_text()
    for text in ("Shapes: hyperdiffusion", "Distance to training and to unseen shapes", "max shape IoU", "<canvas"):
        assert text in page, text
    assert "accuracy (%)" not in page
    for figure in ("shapes_hyperdiffusion", "shape_novelty", "shape_scores", "zoo"):
        assert (workdir / "figures" / f"{figure}.png").stat().st_size > 5000


def test_clouds_are_found_in_the_data_dir(tmp_path):
    """As the surfaces that the study compares with."""
    clouds = np.random.default_rng(0).normal(size=(9, 70, 3)).astype(np.float32)
    np.save(tmp_path / "planes_pc.npy", clouds)
    config = json.loads(json.dumps(CONFIG))
    config["data"]["signals"]["clouds"] = "planes_pc"
    dataset = Experiment(config, tmp_path / "run", data_dir=tmp_path).dataset
    np.testing.assert_array_equal(dataset.unseen.surface, clouds[: CONFIG["data"]["signals"]["unseen"]])
    assert dataset.test_labels.shape[1] == len(dataset.unseen)


def test_a_description_needs_no_data():
    facts = describe({**CONFIG, "data": {**CONFIG["data"], "name": "absent"}})
    assert facts["data"]["shape"] == [3] and facts["data"]["train"] == CONFIG["data"]["signals"]["samples"]
    assert facts["generator"]["name"] == "hyperdiffusion" and "there are no shapes 'absent'" in facts["lacks"]


def test_a_description_looks_for_the_files_of_shapes(tmp_path):
    def look(**signals):
        data = {**CONFIG["data"], "name": "absent", "signals": {**CONFIG["data"]["signals"], **signals}}
        task.check_files(settings.make(task.data_settings, data), net=CONFIG["net"], data_dir=str(tmp_path))

    task, folder = tasks.get("field"), tmp_path / "absent"
    folder.mkdir()
    with pytest.raises(UserError, match="has no mesh"):
        look()
    folder.rmdir()
    (tmp_path / "absent.npz").touch()
    look()
    with pytest.raises(UserError, match="There are no clouds"):
        look(clouds="none")


def test_images_are_fields_of_two_dimensions(tmp_path):
    config = json.loads(json.dumps(CONFIG))
    config["data"]["name"] = "digits"
    config["net"]["signal"] = "image"
    del config["studies"]
    images = Experiment(config, tmp_path / "images")
    assert images.net.input_shape == (2,) and len(images.dataset.signals) == RUNS + HELDOUT
    assert describe(config)["data"]["shape"] == [2]
    config["data"] |= {"name": "planes", "grey": True}
    config["net"]["signal"] = "occupancy"
    with pytest.raises(UserError, match="has shapes, no images; leave grey"):
        Experiment(config, tmp_path / "shapes").zoo()
