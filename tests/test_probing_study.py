"""Studies of designed networks and images in a folder: what they find, keep and refuse."""

import dataclasses
import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxweights import parallel
from jaxweights.errors import UserError
from jaxweights.generators import Stage
from jaxweights.probing import answers, describe, models, settings, study, table, trials
from jaxweights.probing.features import Design
from jaxweights.probing.weights import Planted

CONFIG = {
    "seed": 0,
    "probing": {
        "data": {"kind": "planted", "inputs": 4, "outputs": 3, "hidden": 8},
        "models": {"copy": {"kind": "copy"}, "interpolation": {"kind": "interpolation"}},
        "probes": {
            "units": {"kind": "impulse", "feature": "units", "values": (2, 8)},
            "norm": {"kind": "prototype", "feature": "norm", "mixtures": ((2, 4),)},
            "sum": {"kind": "additivity", "feature": "norm", "mixtures": ((2, 4),)},
            "grid": {"kind": "combinations", "features": ("units", "norm"), "numbers": (4, 12)},
        },
        "num_train": 120,
        "num_heldout": 100,
        "num_samples": 150,
        "seeds": 2,
    },
}


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    """A study of generators of networks, and its folder."""
    folder = tmp_path_factory.mktemp("probing") / "run"
    return study.run(CONFIG, folder), folder


def test_what_is_found(probed):
    result, folder = probed
    assert json.loads((folder / "metrics.json").read_text())["kind"] == "networks"
    assert list(result["designs"]) == ["grid.4.0", "grid.12.0", "norm.2", "norm.4", "norm.2+4", "units.2", "units.8"]
    probes, said = result["probes"], result["answers"]
    for one in probes["grid"]["copy"]["numbers"].values():
        assert one["mass"]["value"] == one["iou"]["value"] == one["purity"]["value"] == 1
    assert said["copy"] == {**said["copy"], "copies": True, "averages": False, "combinations": False}
    assert probes["units"]["copy"]["values"]["8"]["generated"]["mean"]["value"] == 8
    assert said["interpolation"]["copies"] is False and not probes["sum"]["copy"]["mixtures"]["2+4"]["beyond_null"]
    assert probes["sum"]["interpolation"]["mixtures"]["2+4"]["beyond_null"]  # means of norms 2 and 4 have others
    assert probes["norm"]["heldout"]["mixtures"]["2+4"]["mass"]["value"] == 0
    # Of the few weights of two sparse units a share of 0.9 may be all of them, which is in no bin.
    assert all(
        one["accuracy"]["value"] > (0.95 if k == "negative" else 0.999) for k, one in result["estimators"].items()
    )
    assert "new combinations" in table.text(result) and "Numbers: grid" in (folder / "report.html").read_text()


def test_resumes_with_what_is_missing(probed):
    result, folder = probed
    path = folder / "trials" / "copy" / "units.8.1.npz"
    before = path.read_bytes()
    path.unlink()
    assert describe.done(CONFIG, folder) == "27 of 28 trainings"
    assert study.run(CONFIG, folder) == result and path.read_bytes() == before


def test_refusals(probed, tmp_path, monkeypatch):
    _, folder = probed
    with monkeypatch.context() as patched, pytest.raises(UserError, match="this job has 2"):
        patched.setattr(study.processes, "count", lambda: 2)
        study.run({**CONFIG, "probing": {**CONFIG["probing"], "together": False}}, tmp_path / "none")
    other = {**CONFIG, "probing": {**CONFIG["probing"], "num_samples": 7}}
    with pytest.raises(UserError, match="num_samples: 150 -> 7"):
        study.run(other, folder)
    for changes, words in (
        ({"models": {"heldout": {"kind": "copy"}}}, "another name"),
        ({"models": {"gpt": {"kind": "gpt"}}}, "checkpoints"),
        ({"estimator": {"kind": "dots"}}, "remove it"),
        ({"probes": {"a": {"kind": "impulse", "feature": "unit"}}}, "units"),
        ({"data": {**CONFIG["probing"]["data"], "sparsities": (0.1, 0.9)}}, "sparsity of 0.9"),
        ({"seeds": 0}, "seeds"),
    ):
        with pytest.raises(UserError, match=words):
            study.run({**CONFIG, "probing": {**CONFIG["probing"], **changes}}, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    path = folder / "trials" / "copy" / "units.2.0.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match="Remove it"):
        study.run(CONFIG, folder)
    path.write_bytes(whole)


@pytest.mark.parametrize("aligned", [True, False])
def test_planted_networks_have_their_features(aligned):
    data = Planted(aligned=aligned)
    values = np.array([[3, 2, 0.5, 0.3], [8, 5, 0.7, 0.9], [2, 1, 0.1, 0.1]], np.float32)
    drawn = data.draw(Design(data.features, values), 90, 0)
    wanted = values[drawn.records["combination"]]
    measured = data.measure(drawn.weights)
    for i, feature in enumerate(data.features):
        assert (feature.bin(measured[:, i]) == feature.bin(wanted[:, i])).all()
    np.testing.assert_allclose(measured[:, 1], wanted[:, 1], rtol=1e-6)
    order = np.random.default_rng(0).permutation(data.hidden)
    permuted = data.measure(np.asarray(data.spec.permute(drawn.weights, [order])))
    np.testing.assert_allclose(permuted, measured, rtol=1e-5)
    dead = data.measure(np.zeros((1, data.spec.num_params)))[0]
    assert dead[0] == dead[1] == 0 and np.isnan(dead[2:]).all()


def test_answers_say_what_is_not_known():
    nothing = answers.of_model({}, {"a": {"value": None, "ci95": [None, None]}})
    assert nothing["copies"] is None and "nothing is known of copies, averages, combinations" in nothing["text"]


@dataclasses.dataclass(frozen=True)
class Mean(models.ImageModel):
    """The mean image, with noise."""

    KIND: ClassVar[str] = "mean"

    def stages(self):
        """Gradient descent on the squared error, of which a step halves the distance to the mean."""

        def init(key, done):
            del key
            return {"image": jnp.zeros_like(done["constants"]["blank"])}, {}

        def loss(params, state, done, batch, keys, axis_name):
            del done, keys, axis_name
            return jnp.mean((batch - params["image"][None]) ** 2), (state, {})

        return (Stage("fit", 12, 16, optax.sgd(48.0), init, loss),)

    def draw(self, state, keys, shape):
        """Noise is what a key adds."""
        noise = jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        return state["fit"]["params"]["image"][None] + 0.01 * noise


IMAGES = {
    "seed": 0,
    "probing": {
        "data": {"kind": "discs", "side": 8, "jitter": 0.0},
        "estimator": {"kind": "discs"},
        "models": {"mean": {"kind": "mean"}},
        "probes": {"grid": {"kind": "combinations", "numbers": (1, 2), "faithful": True}},
        "num_train": 16,
        "num_heldout": 40,
        "num_samples": 24,
        "seeds": 1,
        "shown": 2,
    },
}


def test_images_of_a_model(tmp_path, monkeypatch):
    monkeypatch.setitem(models.MODELS, "mean", Mean)
    described = describe.describe(IMAGES)
    assert described["models"]["mean"]["num_params"] == 8 * 8 * 3 and described["trainings"] == 2
    result = study.run(IMAGES, tmp_path)
    # One combination is one image here, which the mean of training images is; of two it is neither.
    one, two = (result["probes"]["grid"]["mean"]["numbers"][n] for n in ("1", "2"))
    assert one["mass"]["value"] == one["iou"]["value"] == 1 and two["mass"]["value"] < 0.1
    assert min(e["accuracy"]["value"] for e in result["estimators"].values()) > 0.9
    page = (tmp_path / "report.html").read_text()
    assert "published recall" in page and "figures/examples.png" in page
    rows = np.full((2, 8 * 8 * 3), 0.5, np.float32)
    rows[1, 7] = np.nan  # of a training that diverged
    subject = study.subject_of(settings.parse(IMAGES), 0)
    measured = trials.measured(subject, rows, parallel.make_mesh(1), tmp_path)
    assert np.isfinite(measured[0, :3]).all() and np.isnan(measured[1]).all()  # grey has no hue
