"""An experiment from shapes alone, checked before anything is trained, loaded or allocated (`jax.eval_shape`)."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxweights import auditing, data, generators, memory, nets, population, streaming, tasks, zoo
from jaxweights.errors import UserError
from jaxweights.experiment.config import ExperimentSettings
from jaxweights.generators.base import LearnedGenerator, Stage, Training, UsesExamples
from jaxweights.generators.imported import Imported
from jaxweights.memory import Part
from jaxweights.progress import human
from jaxweights.zoo import BaseSettings, Recipe
from jaxweights.zoo.bulk import runs_in_memory

_FLOAT = 4  # bytes


class ZooRows(NamedTuple):
    """How many networks a zoo has.

    Attributes:
      runs: training runs.
      heldout: held-out runs.
      per_run: checkpoints that a training run keeps.
      rows: networks of all runs.
    """

    runs: int
    heldout: int
    per_run: int
    rows: int

    @classmethod
    def trained(cls, settings: Any, recipe: Recipe) -> ZooRows:
        """Of a zoo that is trained by these settings."""
        runs, heldout, per_run = settings.num_runs, settings.num_heldout, recipe.num_snapshots
        rows = runs * per_run + heldout * (per_run if settings.kept_of_heldout() == "all" else 1)
        return cls(runs, heldout, per_run, rows)

    @classmethod
    def imported(cls, records: Mapping[str, np.ndarray]) -> ZooRows:
        """Of a zoo that is there, by the records of its networks."""
        rows = {split: records["run"][records["split"] == split] for split in (population.TRAIN, population.HELDOUT)}
        train, heldout = (len(np.unique(runs)) for runs in rows.values())
        return cls(train, heldout, len(rows[population.TRAIN]) // max(train, 1), len(records["run"]))


class Plan(NamedTuple):
    """What an experiment consists of.

    Attributes:
      settings: its settings.
      task: what the networks are for.
      examples: sizes of the data set.
      whole: task network.
      net: the part of it that runs train.
      base: settings of the network that runs continue from, or None.
      recipe: how a run is trained.
      zoo: how many networks the zoo has; of one that is imported, not yet known.
      generators: every generator by name, with the name of the one whose training it uses.
    """

    settings: ExperimentSettings
    task: tasks.Task
    examples: tasks.Examples
    whole: nets.TaskNet
    net: nets.TaskNet
    base: BaseSettings | None
    recipe: Recipe
    zoo: ZooRows
    generators: Mapping[str, tuple[Any, str]]

    def training(self, generator: Any) -> Training:
        """What a generator is trained on."""
        chosen: Any = self.settings.zoo
        whole = isinstance(generator, LearnedGenerator) and generator.TRAJECTORIES
        per_run = self.zoo.per_run if whole or chosen.use == "all" else 1
        return Training(self.zoo.runs * per_run, per_run, self.net.spec)


class StageShapes(NamedTuple):
    """A stage of a generator's training.

    Attributes:
      stage: the stage.
      params, model_state: shapes of its parameters and further state.
      done: shapes of what was trained before.
    """

    stage: Stage
    params: Any
    model_state: Any
    done: Mapping[str, Any]


def make(settings: ExperimentSettings, config: Mapping[str, Any], examples: tasks.Examples) -> Plan:
    """Plans an experiment.

    Args:
      settings: its settings.
      config: the same as JSON data, with all defaults.
      examples: sizes of its data set.

    Raises:
      UserError: settings that do not go together or with the data, or a network that this machine's memory cannot hold.
    """
    task, chosen = tasks.get(settings.task), settings.zoo
    net = whole = task.build(config["net"], examples.shape, examples.outputs)
    weights = Part(f"weights and gradient of {whole.spec.num_params:,} parameters", _weights(whole, 2), _SMALLER)
    memory.refuse_unless_fits("The network", [weights], memory.devices())
    base = task.base(chosen)
    if base is not None:
        zoo.base_recipe(base, examples.train)
        net = nets.partial(whole, np.zeros(whole.spec.num_params, np.float32), chosen.subset)  # type: ignore[attr-defined]
    recipe = Recipe.from_settings(chosen, examples.train)
    task.check_probe(settings.audit.probe)
    rows, resolved = ZooRows.trained(chosen, recipe), generators.resolve(config["generators"])
    plan = Plan(settings, task, examples, whole, net, base, recipe, rows, resolved)
    if not chosen.import_npz:
        plan.task.program(net, recipe, examples.train).check_recipe()
        check_zoo(plan)
    return plan


def check_zoo(plan: Plan) -> None:
    """Raises `UserError` where there are too few networks for the audit or for a generator."""
    auditing.check_counts(plan.training(None).rows, plan.zoo.heldout, plan.settings.audit)
    for generator, _ in plan.generators.values():
        generator.check(plan.training(generator))


def check_machine(plan: Plan) -> None:
    """Raises `UserError` where files are missing, or memory for the zoo, the generators or the samples."""
    _check_files(plan.settings)
    if not plan.settings.zoo.import_npz:
        _check_memory(plan)


def _check_files(settings: ExperimentSettings) -> None:
    base: Any = getattr(settings.zoo, "base", None)
    files = [(settings.zoo, "import_npz"), *([(base, "import_npz")] if base else [])]
    files += [(g, "path") for g in settings.generators.values() if isinstance(g, Imported)]
    for where, field in files:
        path = getattr(where, field)
        there = path and pathlib.Path(path).expanduser().exists()  # whether it is a file of networks, its reader says
        if not there and (path or field == "path"):
            where.refuse(field, "there is no such file, so give the path of one that exists")


def _check_memory(plan: Plan) -> None:
    settings, spec = plan.settings, plan.net.spec
    memory.refuse_unless_fits("The zoo", zoo_memory(plan), memory.devices())
    for generator, _ in plan.generators.values():
        training = plan.training(generator)
        rows = Part(f"{training.rows:,} training networks", _FLOAT * training.rows * spec.num_params, _FEWER)
        memory.refuse_unless_fits(generator.section, [rows], memory.host())
        if isinstance(generator, LearnedGenerator):
            refuse_large(generator, training, plan.net)
    for work, count, setting in (
        ("Every series of samples", settings.num_samples, "num_samples"),
        ("The audit", settings.zoo.num_heldout, "zoo.num_heldout"),
    ):
        part = Part(f"{count:,} networks", _weights(plan.net, count), f"Lower {setting}")
        memory.refuse_unless_fits(work, [part], memory.host())


_SMALLER = "Make the network smaller (settings in the section net)"
_FEWER = "Lower zoo.num_runs, or keep fewer snapshots"


def check_disk(plan: Plan, workdir: pathlib.Path) -> None:
    """Raises `UserError` for a zoo that the disk of a workdir cannot hold, where it has not begun to grow there."""
    if (workdir / "zoo").exists() or plan.settings.zoo.import_npz:
        return
    needed, free = plan.zoo.rows * _weights(plan.net, 1), shutil.disk_usage(workdir).free
    if needed > free:
        raise UserError(
            f"The zoo takes {human(needed)}B on disk, but {workdir} has {human(free)}B free. {_FEWER}, or choose a "
            "--workdir on another disk."
        )


def _weights(net: nets.TaskNet, copies: int) -> int:
    return _FLOAT * net.spec.num_params * copies


def zoo_memory(plan: Plan) -> list[Part]:
    """What the training of a chunk of runs keeps in memory: weights, gradients, optimizer state, snapshots, the data
    set and one block of activations."""
    chosen, net, recipe, examples = plan.settings.zoo, plan.net, plan.recipe, plan.examples
    runs = chosen.num_runs + chosen.num_heldout
    values = math.prod(net.input_shape)
    chunk = min(chosen.chunk_size or runs_in_memory(net.spec.num_params, recipe.num_snapshots, runs), runs)
    chunk = max(chunk, chosen.lanes, 1)
    data = examples.train * values + _FLOAT * examples.test * values
    if plan.task.program(net, recipe, examples.train).run_bytes:  # every run has examples of its own
        data += (chunk - 1) * _FLOAT * examples.train * values
    activations = _FLOAT * recipe.batch_size * net.activation_size * max(chosen.lanes, 1)
    kept = _weights(net, 3 + recipe.num_snapshots) * chunk
    fewer = "Lower zoo.chunk_size and zoo.lanes, or set them to 0"
    if 2 * kept // chunk > memory.devices():  # one run alone is large
        fewer = "Keep fewer snapshots per run" if recipe.num_snapshots > 3 else _SMALLER
    return [
        Part("the data set", data, "Lower the sizes in the section data"),
        Part(f"weights, optimizer state and snapshots of {chunk:,} runs", kept, fewer),
        Part("activations", activations, "Lower zoo.batch_size or zoo.lanes"),
    ]


def generator_memory(generator: LearnedGenerator, training: Training, shapes: list[StageShapes]) -> list[Part]:
    """What training a generator keeps in memory: weights, gradients, two moments and the average of its largest stage,
    and the training networks, as many as there is room for."""
    sizes = [(count(s.params) * (4 + (s.stage.ema_decay is not None)), count(s.params)) for s in shapes]
    copies, params = max(sizes, default=(0, 0))
    smaller, prepared = f"Lower the sizes in {generator.section}", _FLOAT * generator.prepared_size(training)
    given = [stage.data_memory for stage in generator.stages()]
    if None not in given:
        devices = len(jax.local_devices())
        room = devices * max(streaming.room(size or 0.0, devices) for size in given)
        # Few networks are repeated until they fill a batch, which is in memory whatever there is room for.
        prepared = min(prepared, max(room, _FLOAT * generator.prepared_size(Training(2, 2, training.spec))))
    return [
        Part(f"weights and optimizer state of {params:,} parameters", _FLOAT * copies, smaller),
        Part(f"what it makes of {training.rows:,} training networks", prepared, f"{smaller}, or zoo.num_runs"),
    ]


def refuse_large(generator: LearnedGenerator, training: Training, net: nets.TaskNet) -> None:
    """Raises `UserError` where a generator cannot be trained in memory."""
    available = memory.devices()
    memory.refuse_unless_fits(generator.section, generator_memory(generator, training, []), available)
    shapes = stage_shapes(generator, net)
    memory.refuse_unless_fits(generator.section, generator_memory(generator, training, shapes), available)


def stage_shapes(generator: LearnedGenerator, net: nets.TaskNet) -> list[StageShapes]:
    """The stages of a generator, for networks of a kind."""
    return traced(generator, net)[1]


def traced(generator: LearnedGenerator, net: nets.TaskNet) -> tuple[Any, list[StageShapes]]:
    """The training examples of two stand-ins, and the stages.

    Raises:
      UserError: networks that the generator cannot learn from, or too little memory to prepare even two.
    """
    spec = net.spec
    least = generator_memory(generator, Training(2, 2, spec), [])
    memory.refuse_unless_fits(generator.section, least, memory.host())
    # Two checkpoints of zeros stand in for the training networks: preparation only has to see their width.
    zeros = np.zeros((2, spec.num_params), np.float32)
    columns = dict.fromkeys(generator.columns(), 1.0) | {"run": 0, "step": np.arange(2), "loss": 0.0, "accuracy": 0.0}
    stand_ins = population.Population.create(zeros, spec, **columns)
    if isinstance(generator, UsesExamples):
        stand_ins = dataclasses.replace(stand_ins, examples=population.TaskExamples(net, _stand_in(net)))
    prepared, constants = generator.prepare(stand_ins)
    key = jax.eval_shape(lambda: jax.random.key(0))
    done: dict[str, Any] = {"constants": jax.tree.map(shape_of, constants)}
    out = []
    for stage in generator.stages():
        params, model_state = jax.eval_shape(stage.init, key, done)
        out.append(StageShapes(stage, params, model_state, done))
        done = {**done, stage.name: {"params": params, "model_state": model_state}}
    return prepared, out


def _stand_in(net: nets.TaskNet) -> data.Dataset:
    """Two examples of zeros, in the place of a network's data set."""
    inputs, labels = np.zeros((2, *net.input_shape), np.float32), np.zeros(2, np.int32)
    scale = np.zeros(net.input_shape[-1], np.float32)
    return data.Dataset("", inputs, labels, inputs, labels, net.num_classes, scale, scale, "")


def num_params(generator: LearnedGenerator, net: nets.TaskNet) -> int:
    """Parameters of a generator for networks of a kind, without those that serve training alone."""
    return sum(count(one.params) - auxiliary(one) for one in stage_shapes(generator, net))


def auxiliary(one: StageShapes) -> int:
    """Parameters of a stage that serve training alone."""
    return sum(count(one.params[key]) for key in one.stage.auxiliary if key in one.params)


def count(params: Any) -> int:
    """Numbers in a pytree of shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def shape_of(x: Any) -> jax.ShapeDtypeStruct:
    """The shape and type of an array."""
    return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)
