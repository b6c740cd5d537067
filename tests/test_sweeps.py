"""Sweeps: runs equal those of zoos, lanes equal single trainings, cells resume, and what is asked for is checked."""

import csv
import dataclasses
import io
import shutil

import jax
import jax.numpy as jnp
import mini
import numpy as np
import optax
import pytest
import zoos

from configs import sweep_digits
from jaxweights import auditing, data, experiment, generators, parallel, population, zoo
from jaxweights.api.sweep import sweep
from jaxweights.errors import UserError
from jaxweights.experiment import plan as experiments
from jaxweights.experiment.config import complete
from jaxweights.generators import LearnedGenerator, Samples, Stage
from jaxweights.lanes import LaneTrainer
from jaxweights.sweeps import estimate, plan, study
from jaxweights.sweeps.settings import SweepSettings
from jaxweights.tasks import get
from jaxweights.training import train_generator

LEARNED = [kind for kind, made in generators.GENERATORS.items() if issubclass(made, LearnedGenerator)]


def config(space, **changes):
    """A sweep of tiny networks."""
    small = mini.get_config().to_dict()
    small["data"] |= {"train_limit": 100, "test_limit": 40}
    small["zoo"] |= {"steps": 3, "batch_size": 20, "start": "own", "lanes": 2, "schedule": "constant"}
    small["generators"] = {}
    return mini.changed(small, {"sweep": {"space": space, "seeds": 2}} | changes)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A grid of two traced settings, one value of which lets every run diverge; its config, folder and result."""
    folder = tmp_path_factory.mktemp("sweep")
    chosen = config({"zoo": {"learning_rate": (0.1, 1e18), "label_smoothing": (0.0, 0.2)}}, **{"sweep.cell": 6})
    return chosen, folder, study.run(chosen, folder)


def rows(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_run_is_that_of_the_zoo_of_its_recipe(swept):
    chosen, folder, result = swept
    assert result["programs"] == 1 and len(list((folder / "cells").iterdir())) == 2
    task, examples = get(), data.load("digits", train_limit=100, test_limit=40)
    net = task.build(chosen["net"], examples.train_images.shape[1:], 10)
    values = {k: chosen["zoo"][k] for k in ("steps", "batch_size", "start", "schedule", "nesterov", "weight_decay")}
    same = zoos.recipe(task.name, 100, **values, label_smoothing=0.2)
    trained = zoo.train_zoo(net, same, examples, num_runs=2, num_heldout=0, lanes=2)
    found = [row for row in rows(folder / "runs.csv") if row["recipe"] == "1"]
    assert [float(row["accuracy"]) for row in found] == trained.records["accuracy"].tolist()
    # Constants of a program are rounded once more or less than traced values.
    assert np.allclose([float(row["loss"]) for row in found], trained.records["loss"], rtol=1e-6)


def test_diverged_runs_are_named_and_in_no_mean(swept):
    _, folder, result = swept
    table = rows(folder / "recipes.csv")
    assert [row["diverged"] for row in table] == ["0", "0", "2", "2"]
    assert table[2]["diverged_seeds"] == "0 1" and table[2]["accuracy_mean"] == ""
    assert sorted(result["best"]) == [0, 1]
    runs = [float(row["accuracy"]) for row in rows(folder / "runs.csv")[:2]]
    # Student's t with one degree of freedom.
    assert float(table[0]["accuracy_mean"]) == pytest.approx(np.mean(runs))
    half = 12.7062 * np.std(runs, ddof=1) / np.sqrt(2)
    assert float(table[0]["accuracy_high"]) - np.mean(runs) == pytest.approx(half, rel=1e-4)
    assert "4 runs of 2 recipes diverged (recipes 2, 3;" in (folder / "sweep.html").read_text()


def test_cells_resume_and_another_sweep_is_refused(swept, tmp_path, monkeypatch):
    chosen, folder, result = swept
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "cells" / "000001.json").unlink()
    trained = []
    run = study.bulk.ZooCells.run
    monkeypatch.setattr(study.bulk.ZooCells, "run", lambda *args: trained.append(args[1].number) or run(*args))
    assert study.run(chosen, copy) == result and trained == [1]
    for name in ("cells/000001.json", "runs.csv", "recipes.csv", "sweep.html"):
        assert (copy / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(UserError, match=r"another sweep; it differs in sweep\.seeds: 2 -> 3.*Choose another --workdir"):
        study.run(mini.changed(chosen, {"sweep.seeds": 3}), copy)
    (copy / "cells" / "000000.json").write_text("{")
    with pytest.raises(UserError, match="is not a cell of a sweep: it is truncated"):
        study.run(chosen, copy)


@pytest.mark.parametrize(
    "space, message",
    [
        ({}, "nothing to sweep. Give values in sweep.space"),
        ({"zoo": {"learning_rate": 0.1}}, r"learning_rate is 0\.1; give a list of values, or a mapping with kind"),
        ({"zoo": {"learning_rate": ()}}, "learning_rate has no values"),
        ({"zoo": {"learning_rate": (0.1, 0.1)}}, r"has 0\.1 twice"),
        ({"zoo": {"learning_rate": {"kind": "uniform", "low": 1, "high": 0}}}, "low must lie below high"),
        ({"zoo": {"learning_rate": {"kind": "uniform", "low": 0.1, "high": 1}}}, r"no grid\. Set sweep\.draws"),
        ({"zoo": {"learing_rate": (0.1, 0.2)}}, "no setting zoo.learing_rate; did you mean learning_rate"),
        ({"zoo": {"momentum": (0.5, 1.0)}}, r"momentum is .*; set it to at least 0 and below 1"),
        ({"zoo": {"batch_size": (16, 0)}}, r"zoo\.batch_size is 0; set it to at least 1"),
        ({"zoo": {"num_runs": (16, 32)}}, "num_runs is no setting of a recipe"),
        ({"seed": (1, 2)}, "Vary settings of zoo, net and data"),
        ({"generators": {"mine": {"steps": (1, 2)}}}, r"generators\.mine is no learned generator of this config"),
    ],
)
def test_impossible_sweeps_are_refused(space, message):
    with pytest.raises(UserError, match=message):
        plan.make(config(space))


def test_draws_of_static_settings_need_values_and_zoos_start_by_themselves():
    with pytest.raises(UserError, match="every value of it is another program"):
        plan.make(config({"zoo": {"batch_size": {"kind": "uniform", "low": 2, "high": 9}}}, **{"sweep.draws": 3}))
    with pytest.raises(UserError, match=r"import_npz reads networks .* every run starts from an init"):
        plan.make(config({"zoo": {"momentum": (0.5, 0.6)}}, **{"zoo.import_npz": "x.npz"}))


def test_a_draw_depends_on_the_seed_the_recipe_and_the_setting_alone():
    space = {"zoo": {"learning_rate": {"kind": "log_uniform", "low": 0.01, "high": 1.0}, "steps": (1, 2)}}
    few, many = (SweepSettings(space=space, draws=count).recipes(7) for count in (50, 400))
    assert many[:50] == few
    alone = SweepSettings(space={"zoo": {"steps": (1, 2)}}, draws=50).recipes(7)
    assert [recipe["zoo.steps"] for recipe in alone] == [recipe["zoo.steps"] for recipe in few]
    logs = np.log10([recipe["zoo.learning_rate"] for recipe in many])
    assert logs.min() >= -2 and logs.max() <= 0 and abs(logs.mean() + 1) < 4 * 2 / np.sqrt(12 * 400)


def test_programs_are_counted_before_anything_runs(tmp_path):
    space = {"zoo": {"learning_rate": (0.1, 0.2, 0.3)}, "net": {"hidden": ((4,), (5, 3))}}
    chosen = config(space)
    made = plan.make(chosen)
    assert [group.fixed for group in made.groups] == [{"net.hidden": (4,)}, {"net.hidden": (5, 3)}]
    assert sorted(int(i) for cell in made.cells for i in cell.recipes) == sorted([*range(6)] * 2)
    found = estimate.text(chosen, tmp_path)
    assert "12: 6 recipes with 2 seeds each" in found and "2 to compile, 2 cells over 1 processes" in found
    assert "net.hidden 5-3: 3 recipes in 1 cells, 383 parameters" in found
    whole = sweep_digits.get_config().to_dict()
    assert estimate.facts(whole)["runs"] == 10_000 and len(plan.make(whole).groups) == 1
    assert "sweep" not in complete(whole, experiment.parse(whole))


@dataclasses.dataclass(frozen=True)
class Noisy(LearnedGenerator):
    """Learns the mean of the training networks in two stages with noise, an average and state."""

    TRACED = frozenset({"rate", "noise", "ema_decay"})
    name: str = "noisy"
    steps: int = 6
    rate: float = 0.5
    noise: float = 0.1
    ema_decay: float | None = 0.5

    def prepare(self, training):
        return training.weights, {"scale": np.float32(1e6)}

    def stages(self):
        def loss(params, model_state, done, batch, keys, axis_name):
            drawn = jax.vmap(lambda key: jax.random.normal(key, batch.shape[1:]))(keys)
            before = done["first"]["params"]["mean"][None, :] if "first" in done else 0.0
            wrong = batch + self.noise * drawn - before - params["mean"][None, :]
            return jnp.mean(jnp.square(wrong)) * done["constants"]["scale"], ({"count": model_state["count"] + 1}, {})

        def init(key, done):
            return {"mean": jax.random.normal(key, (385,))}, {"count": jnp.int32(0)}

        optimizer = optax.adam(optax.cosine_decay_schedule(self.rate, self.steps))
        first = Stage("first", self.steps, 8, optimizer, init, loss, gradient_clip=0.5)
        return first, Stage("second", self.steps, 8, optimizer, init, loss, ema_decay=self.ema_decay)

    def sample(self, state, inputs):
        noise = jax.vmap(lambda key: jax.random.normal(key, (385,)))(inputs)
        mean = state["first"]["params"]["mean"] + state["second"]["params"]["mean"]
        return Samples(mean[None, :] + 0.01 * noise, jnp.full(inputs.shape, -1, jnp.int32))


@pytest.mark.parametrize("kind", LEARNED)
def test_traced_settings_are_read_by_training_alone(kind):
    """No step branches on them, and neither preparation nor sampling looks at them."""
    read = set()

    class Watched(generators.GENERATORS[kind]):  # type: ignore[misc]
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    optional = {"ema_decay": 0.9} if "ema_decay" in Watched.TRACED else {}
    less = {"blocks": 1} if "blocks" in Watched.TINY else {}
    made = Watched(**{**Watched.TINY, **optional, **less})
    spec = get().build({"name": "mlp", "hidden": (3,)}, (4, 4, 1), 3).spec
    weights = np.zeros((2, spec.num_params), np.float32)
    networks = population.Population.create(weights, spec, run=0, step=np.arange(2), loss=0.0, accuracy=0.0)
    read.clear()
    prepared, constants = made.prepare(networks)
    assert not read & made.TRACED

    def train(values, data, done):
        for stage in made.traced(values).stages():
            keys = jax.random.split(jax.random.key(0), stage.batch_size)
            params, model_state = stage.init(keys[0], done)
            batch = stage.gather(data, jnp.zeros(stage.batch_size, jnp.int32), keys)
            loss, (model_state, _) = stage.loss(params, model_state, done, batch, keys, None)
            optimizer = optax.with_extra_args_support(stage.optimizer)
            updates, _ = optimizer.update(params, optimizer.init(params), params, value=loss)
            done = {**done, stage.name: {"params": updates, "model_state": model_state}}
        return done

    values = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in made.TRACED}
    shapes = jax.tree.map(experiments.shape_of, (prepared, {"constants": constants}))
    state = jax.eval_shape(train, values, *shapes)
    read.clear()
    keys = jax.random.split(jax.random.key(0), 2)
    metric = {"metric": jax.ShapeDtypeStruct((2,), jnp.float32)}
    vectors = jax.ShapeDtypeStruct(weights.shape, jnp.float32)
    inputs = {
        "gpt": lambda: {"weights": vectors, "keys": keys, **metric, "round": jax.ShapeDtypeStruct((2,), jnp.int32)},
        "hyperrep": lambda: {"latents": jax.ShapeDtypeStruct((2, 4), jnp.float32), "parents": None},
        "latent_flow": lambda: made.asking({"constants": constants}, keys, np.zeros((2, len(made.conditions)))),
        "sane": lambda: {
            "latents": jax.ShapeDtypeStruct((2, constants["sequence"].num_tokens * made.latent_dim), jnp.float32),
            "parents": None,
        },
    }
    jax.eval_shape(made.sample, state, inputs.get(kind, lambda: keys)())
    assert not read & made.TRACED


def judge(subject, *rest):
    """In place of the audit, which has tests of its own."""
    distances = {
        name: np.linalg.norm(one.weights[0] - subject.train.weights[0]) for name, one in subject.generated.items()
    }
    label = {"label": "undecided"}
    return {"series": {name: {"verdict": label, "min_l2": {"mean": float(d)}} for name, d in distances.items()}}


def test_a_generator_is_swept_and_judged(tmp_path, monkeypatch):
    kept = []
    run = LaneTrainer.run

    def keep(trainer, training, keys, *rest):
        kept.append((training, keys, run(trainer, training, keys, *rest)))
        return kept[-1][2]

    monkeypatch.setitem(generators.GENERATORS, "noisy", Noisy)
    monkeypatch.setattr(LaneTrainer, "run", keep)
    monkeypatch.setattr(auditing, "run", judge)
    sizes = {"sweep.seeds": 1, "sweep.audit": True, "sweep.lanes": 2}
    chosen = config({"generators": {"mine": {"rate": (0.3, 1e18), "noise": (0.2,)}}}, **sizes)
    chosen["generators"] = {"mine": {"kind": "noisy"}}
    found = study.run(chosen, tmp_path, mesh=parallel.make_mesh(1))
    assert found["programs"] == 1 and all(axis["traced"] for axis in found["axes"]) and found["best"] == [0]
    assert found["runs"]["diverged"] == [False, True] and found["runs"]["verdict"] == ["undecided", None]
    assert found["runs"]["training_loss"][0] > 0 and found["runs"]["min_l2"][0] > 0
    assert study.run(chosen, tmp_path) == found and len(kept) == 1
    # A lane is the single training of its settings.
    training, keys, trained = kept[0]
    single = train_generator(Noisy(rate=0.3, noise=0.2), training, parallel.make_mesh(1), key=keys[0])
    for a, b in zip(jax.tree.leaves(trained.states[0]), jax.tree.leaves(single), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_the_library_sweeps_by_names_of_options(swept, monkeypatch):
    given = []
    monkeypatch.setattr(study, "run", lambda *args, **options: given.append(args) or swept[2])
    found = sweep("digits", {"learning_rate": (0.1, 0.2), "hidden": ((4,), (8,))}, seeds=2, epochs=3, train_limit=64)
    made = plan.make(given[0][0])
    assert made.config["zoo"]["epochs"] == 3 and made.config["data"]["train_limit"] == 64
    assert made.traced == ("zoo.learning_rate",) and [g.fixed["net.hidden"] for g in made.groups] == [(4,), (8,)]
    assert set(found.best) == {"learning_rate", "label_smoothing"} and found.runs["diverged"].sum() == 4
    assert "4 runs of 2 recipes diverged" in repr(found) and len(found.csv().splitlines()) == 5
    with pytest.raises(UserError, match=r"no setting space\.learing_rate; did you mean learning_rate"):
        sweep("digits", {"learing_rate": (0.1, 0.2)})
