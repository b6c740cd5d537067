"""What an experiment is, from shapes alone: nothing is trained, loaded or allocated (`jax.eval_shape`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import generators, nets, operations, population, tasks
from jaxweights.experiment.config import complete, parse
from jaxweights.nn import normalization
from jaxweights.zoo import BaseSettings, Recipe, ZooSettings
from jaxweights.zoo.bulk import runs_in_memory

_FLOAT = 4  # bytes


def describe(config: Mapping[str, Any], data_dir: str | None = None) -> dict[str, Any]:
    """Describes an experiment.

    Args:
      config: see `configs/base.py`.
      data_dir: only for data sets whose sizes are not published facts.

    Returns:
      JSON data: `data`, `base` (parameters, running statistics, epochs and operations of the network that all runs
      continue from, or null), `zoo` (network, parameters per model, runs, snapshots, bytes, operations), `generator`
      (the first learned one, or null), and `generators` by name. Operations are floating-point operations of the traced
      program; peak memory is that of weights, gradients, optimizer state, the data set and one block of activations.

    Raises:
      UserError: unknown names or impossible settings.
    """
    parsed = parse(config)
    config = complete(config, parsed)
    task = tasks.get(parsed.task)
    zoo_settings: Any = parsed.zoo  # of the task's class
    examples = task.examples(parsed.data, net=config["net"], data_dir=data_dir)
    net = whole = task.build(config["net"], examples.shape, examples.outputs)
    base = task.base(zoo_settings)
    if base is not None:
        net = nets.partial(whole, np.zeros(whole.spec.num_params, np.float32), zoo_settings.subset)
    zoo = _zoo(task, zoo_settings, net, examples)
    described = {
        name: _generator(generator, config["generators"][name]["kind"], net, config, zoo["snapshots_per_run"])
        for name, (generator, trained) in generators.resolve(config["generators"]).items()
        if name == trained
    }
    learned = [d for d in described.values() if d["learned"]]
    return {
        "data": {
            "name": config["data"]["name"],
            "inputs": task.terms.inputs,
            "shape": list(examples.shape),
            "num_classes": examples.outputs,
            "train": examples.train,
            "test": examples.test,
        },
        "base": None if base is None else _base(task, base, whole, examples.train),
        "zoo": zoo,
        "generator": learned[0] if learned else None,
        "generators": described,
        "num_samples": config["num_samples"],
    }


def _base(task: tasks.Task, chosen: BaseSettings, net: nets.TaskNet, num_train: int) -> dict[str, Any]:
    steps = chosen.epochs * (num_train // chosen.batch_size)
    num_params = int(normalization.trainable(net.spec).sum())
    return {
        "num_params": num_params,
        "num_statistics": net.spec.num_params - num_params,
        "import_npz": chosen.import_npz,
        "epochs": chosen.epochs,
        "steps": steps,
        "batch_size": chosen.batch_size,
        "operations": steps * task.step_operations(net, chosen.batch_size),
    }


def _zoo(task: tasks.Task, chosen: ZooSettings, net: nets.TaskNet, examples: tasks.Examples) -> dict[str, Any]:
    recipe = Recipe.from_settings(chosen, examples.train)
    runs = chosen.num_runs + chosen.num_heldout
    per_step, per_example = task.operations(net, recipe)
    heldout = recipe.num_snapshots if chosen.kept_of_heldout() == "all" else 1
    rows = chosen.num_runs * recipe.num_snapshots + chosen.num_heldout * heldout
    pixels = math.prod(net.input_shape)
    chunk = runs_in_memory(net.spec.num_params, recipe.num_snapshots, runs)
    memory = examples.train * pixels + _FLOAT * examples.test * pixels
    memory += (
        chunk * _FLOAT * net.spec.num_params * (3 + recipe.num_snapshots)
        + _FLOAT * recipe.batch_size * net.activation_size
    )
    if task.program(net, recipe, examples.train).run_bytes:  # every run has examples of its own
        memory += (chunk - 1) * _FLOAT * examples.train * pixels
    return {
        "network": net.name,
        "num_params": net.spec.num_params,
        "leaves": {leaf.name: list(leaf.shape) for leaf in net.spec.leaves},
        "num_runs": chosen.num_runs,
        "num_heldout": chosen.num_heldout,
        "steps": recipe.snapshots[-1],
        "batch_size": recipe.batch_size,
        "snapshots_per_run": recipe.num_snapshots,
        "rows": rows,
        "bytes": rows * net.spec.num_params * _FLOAT,
        "operations": per_step * recipe.snapshots[-1] * runs + per_example * examples.test * rows,
        "peak_memory_bytes": memory,
    }


def _generator(generator, kind: str, net: nets.TaskNet, config: Mapping[str, Any], snapshots: int) -> dict[str, Any]:
    facts = {"name": kind, "learned": isinstance(generator, generators.LearnedGenerator)}
    if not isinstance(generator, generators.LearnedGenerator):
        return {**facts, "num_params": 0, "tokens": None, "steps": 0, "operations": 0.0, "peak_memory_bytes": 0}
    # Two checkpoints of zeros stand in for the training networks: preparation only has to see their width.
    zeros = np.zeros((2, net.spec.num_params), np.float32)
    zeros = population.Population.create(zeros, net.spec, run=0, step=np.arange(2), loss=0.0, accuracy=0.0)
    prepared, constants = generator.prepare(zeros)
    key = jax.eval_shape(lambda: jax.random.key(0))
    done: dict[str, Any] = {"constants": jax.tree.map(_shape_of, constants)}
    stages, total, memory = {}, 0.0, 0
    for stage in generator.stages():
        params, model_state = jax.eval_shape(stage.init, key, done)
        keys = jax.eval_shape(lambda n=stage.batch_size: jax.random.split(jax.random.key(0), n))
        chosen = jax.ShapeDtypeStruct((stage.batch_size,), jnp.int32)
        batch = jax.eval_shape(stage.gather, jax.tree.map(_shape_of, prepared), chosen, keys)

        def gradient(params, model_state, done, batch, keys, stage=stage):
            return jax.grad(lambda p: stage.loss(p, model_state, done, batch, keys, None)[0])(params)

        per_step = operations.count(gradient, params, model_state, done, batch, keys)
        count = _count(params)
        auxiliary = sum(_count(params[key]) for key in stage.auxiliary if key in params)
        stages[stage.name] = {
            "num_params": count - auxiliary,
            "auxiliary_params": auxiliary,
            "steps": stage.steps,
            "batch_size": stage.batch_size,
            "operations": per_step * stage.steps,
        }
        total += per_step * stage.steps
        copies = 4 + (stage.ema_decay is not None)  # parameters, gradient, two moments, average
        memory = max(memory, _FLOAT * count * copies)
        done = {**done, stage.name: {"params": params, "model_state": model_state}}
    whole = generator.TRAJECTORIES or config["zoo"]["use"] == "all"
    rows = config["zoo"]["num_runs"] * (snapshots if whole else 1)
    per_row = sum(math.prod(x.shape[1:]) for x in jax.tree.leaves(prepared))
    return {
        **facts,
        "num_params": sum(s["num_params"] for s in stages.values()),
        "tokens": generator.num_tokens(net.spec),
        "steps": sum(s["steps"] for s in stages.values()),
        "stages": stages,
        "operations": total,
        "peak_memory_bytes": memory + _FLOAT * rows * per_row,
    }


def _count(params) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def _shape_of(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)
