"""Studies of modelling factors: which cells there are, and that they resume one by one."""

import csv
import dataclasses
import io
from fractions import Fraction
from types import MappingProxyType

import jax
import jax.numpy as jnp
import mini
import numpy as np
import optax
import pytest

from configs import gpt_digits, hyperrep_digits, pdiff_digits
from jaxweights import generators
from jaxweights.errors import UserError
from jaxweights.experiment import parse, samples
from jaxweights.experiment.config import complete
from jaxweights.factors import cells as cells_lib
from jaxweights.factors import study
from jaxweights.factors import table as table_lib
from jaxweights.generators import LearnedGenerator, Samples, Stage, factors

LEARNED = [kind for kind, made in generators.GENERATORS.items() if issubclass(made, LearnedGenerator)]


@dataclasses.dataclass(frozen=True)
class Mean(LearnedGenerator):
    """Learns the mean of the training networks, and adds noise to it."""

    FACTORS = MappingProxyType(
        {
            "training": {"training_50": factors.times(Fraction(1, 2), "steps")},
            "rate": {"slow": factors.to(rate=0.5), "absurd": factors.to(rate=1e18)},
        }
    )
    name: str = "mean"
    steps: int = 20
    rate: float = 0.5

    def prepare(self, training):
        return training.weights, {}

    def stages(self):
        def loss(params, model_state, done, batch, keys, axis_name):
            return jnp.sum(jnp.square(batch - params["mean"][None, :])) / 8, (model_state, {})

        def init(key, done):
            return {"mean": jnp.zeros(385)}, {}

        return (Stage("mean", self.steps, 8, optax.sgd(self.rate), init, loss),)

    def sample(self, state, inputs):
        noise = jax.vmap(lambda key: jax.random.normal(key, (385,)))(inputs)
        return Samples(state["mean"]["params"]["mean"][None, :] + 0.01 * noise, jnp.full(inputs.shape, -1, jnp.int32))


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setitem(generators.GENERATORS, "mean", Mean)
    config = mini.get_config()
    mini.shrink_audit(config.audit, barriers=0)
    config.audit.probe.size = 0
    config.generators = {"mine": {"kind": "mean"}, "noise": {"kind": "noise", "sigma": 0.1}}
    return config.to_dict()


def table(folder):
    return {row["level"] + row["seed"]: row for row in csv.DictReader(io.StringIO((folder / "study.csv").read_text()))}


def test_cells_resume_one_by_one_and_failures_are_named(config, tmp_path, monkeypatch):
    drawn = []

    def draw(context, opened, generator, trained, path, compiled):
        if generator.name == "training_50" and not drawn.count("training_50"):
            drawn.append("training_50")
            raise KeyboardInterrupt
        drawn.append(generator.name)
        return kept(context, opened, generator, trained, path, compiled)

    kept = samples._draw
    monkeypatch.setattr(samples, "_draw", draw)
    with pytest.raises(KeyboardInterrupt):
        study.run(config, tmp_path, ["training"])
    found = study.run(config, tmp_path, ["absurd"], seeds=2)
    # What had begun is finished, and what was done stays.
    trained = [(row["level"], row["seed"]) for row in found["rows"]]
    assert trained == [("default", 0), ("default", 1), ("training_50", 0), ("absurd", 0), ("absurd", 1)]
    assert drawn.count("default") == 1 and drawn.count("training_50") == 2 and "absurd" not in drawn
    rows = table(tmp_path)
    assert list(rows) == ["training0", "heldout0", "default0", "default1", "training_500", "absurd0", "absurd1"]
    assert rows["absurd1"]["verdict"] == "failed" and "not finite" in rows["absurd1"]["failed"]
    assert rows["training_500"]["settings"] == "steps 10" and rows["default0"]["parameters"] == "385"
    for name in ("heldout0", "default0", "training_500"):
        low, value, high = (float(rows[name][f"min_l2{end}"]) for end in ("_low", "", "_high"))
        assert low <= value <= high
    # Half of the steps leave the mean farther from where it goes.
    assert float(rows["training_500"]["min_l2_low"]) > float(rows["default0"]["min_l2_high"])
    default = table_lib.lines(found)[2].find(table_lib.RAW)
    values = [float(rows[name]["min_l2"]) for name in ("default0", "default1")]
    # Student's t with one degree of freedom.
    assert default.half_width == pytest.approx(12.706 * np.std(values, ddof=1) / np.sqrt(2), rel=1e-4)
    assert default.value == pytest.approx(np.mean(values))
    text = (tmp_path / "study.md").read_text()
    assert (
        text.count("\n| ") == 6
        and "Controls that failed" not in text
        and "| training 50 % (steps 10) |" in text
        and "| failed |" in text
    )
    assert (tmp_path / "study.png").stat().st_size > 2_000
    before = (tmp_path / "set_1" / "study.json").stat().st_mtime_ns
    study.run(config, tmp_path, ["training"])
    assert (tmp_path / "set_1" / "study.json").stat().st_mtime_ns == before and list(table(tmp_path)) == list(rows)


@pytest.mark.parametrize("kind", LEARNED)
def test_every_level_of_every_generator_is_another_possible_one(kind):
    made = generators.GENERATORS[kind]
    preset = generators.build("some", generators.preset(f"{kind}_small"))
    levels = [level for found in made.FACTORS.values() for level in found]
    assert {"training_33", "training_50", "wide", "narrow", "deep", "more_noise"} <= set(levels)
    assert ("shallow" in levels) == (kind != "flow")  # whose network has no layer to spare
    assert len(set(levels)) == len(levels)
    found, _ = cells_lib.choose({"zoo": {}}, preset, ["all"])
    assert {cell.level for cell in found} == {"default", "set_3", "set_10", *levels}
    for cell in found:
        assert (preset.replace(**cell.changes) != preset) == (cell.level in levels)


def test_published_widths_of_pdiff():
    found = {
        cell.level: cell.text for cell in cells_lib.choose({"zoo": {}}, generators.GENERATORS["pdiff"](), ["all"])[0]
    }
    assert found["deep"].startswith("autoencoder_channels 64-128-256-256-32-32, denoiser_channels 64-128-256-512-512")
    assert found["shallow"] == "autoencoder_channels 64-128-256-256, denoiser_channels 64-128-256"
    assert found["training_33"] == "autoencoder_steps 167, diffusion_steps 333"
    assert found["more_noise"] == "input_noise 0.01, latent_noise 1"


def test_larger_training_sets_have_more_runs_or_more_steps():
    for get_config, expected in (
        (gpt_digits, {"num_runs": 3 * gpt_digits.get_config().zoo.num_runs}),
        (pdiff_digits, {"num_runs": 1, "snapshot_range": (2, 901), "steps": 901}),
    ):
        config = get_config.get_config().to_dict()
        config = complete(config, parse(config))
        name, generator = cells_lib.generator_of(config, None)
        found, _ = cells_lib.choose(config, generator, ["set_3"])
        assert [cell.name for cell in found] == ["default", "set_3"]
        zoo = cells_lib.experiment(config, name, found[1:])["zoo"]
        assert zoo == {**config["zoo"], **expected}


def test_other_ways_of_sampling_are_studied_by_their_names():
    config = hyperrep_digits.get_config().to_dict()
    config = complete(config, parse(config))
    assert cells_lib.generator_of(config)[0] == "hyperrep"
    name, generator = cells_lib.generator_of(config, "hyperrep_gaussian")
    found, _ = cells_lib.choose(config, generator, ["narrow"])
    entries = cells_lib.experiment(config, name, found)["generators"]
    assert entries["default"] == {**config["generators"]["hyperrep"], "sampler": "gaussian"}
    assert entries["narrow"] == {**entries["default"], "width": 48, "heads": 3}


def test_impossible_studies_are_refused(config):
    gpt = generators.GENERATORS["gpt"](dropout=0.1)
    found, notes = cells_lib.choose({"zoo": {}}, gpt, ["dropout"])
    assert [cell.name for cell in found] == ["default", "dropout_20"] and "dropout 10 %" in notes[0]
    with pytest.raises(UserError, match="no factor or level 'widht'; did you mean width"):
        cells_lib.choose({"zoo": {}}, gpt, ["widht"])
    with pytest.raises(UserError, match="no factor or level 'dropout'"):
        cells_lib.choose({"zoo": {}}, generators.GENERATORS["pdiff"](), ["dropout"])
    with pytest.raises(UserError, match="imported networks"):
        cells_lib.choose({"zoo": {"import_npz": "a.npz"}}, gpt, ["set_3"])
    with pytest.raises(UserError, match="has: none"):
        cells_lib.generator_of({"generators": {"noise": {"kind": "noise"}}})
    with pytest.raises(UserError, match="'noise' is no learned generator of this config; there are: mine"):
        cells_lib.generator_of(config, "noise")


def test_the_plan_counts_parameters(config):
    lines = study.plan_of(config, ["slow", "training", "seeds"]).splitlines()
    assert [line.split()[-1] for line in lines] == ["settings", "32", "32", "32", "10", "has"]
    assert [line.split()[0] for line in lines[1:5]] == ["default", "default-1", "default-2", "training_50"]
    assert all(" 385 " in line for line in lines[1:5])


def test_sizes_share_the_base_network(tmp_path):
    (tmp_path / "set_1" / "base").mkdir(parents=True)
    place = tmp_path / "set_3" / "base"
    study._share_base(tmp_path / "set_1", tmp_path / "set_3")
    assert not place.exists()
    for name in ("weights.npy", "base.json"):
        (tmp_path / "set_1" / "base" / name).write_text(name)
    for _ in range(2):
        study._share_base(tmp_path / "set_1", tmp_path / "set_3")
    assert sorted(path.name for path in place.iterdir()) == ["base.json", "weights.npy"]
