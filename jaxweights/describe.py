"""What an experiment is, from shapes alone: nothing is trained or allocated (`jax.eval_shape`), and nothing loaded but
the zoo where it is imported, to count its runs."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxweights import generators, operations, sharding, tasks, training
from jaxweights.errors import UserError
from jaxweights.experiment import imports, plan
from jaxweights.experiment.config import complete, parse
from jaxweights.nn import normalization

_FLOAT = 4  # bytes


def describe(config: Mapping[str, Any], data_dir: str | None = None) -> dict[str, Any]:
    """Describes an experiment.

    Args:
      config: see `configs/base.py`.
      data_dir: only for data sets whose sizes are not published facts.

    Returns:
      JSON data: `data`, `base` (parameters, running statistics, epochs and operations of the network that all runs
      continue from, or null), `zoo` (network, parameters per model, runs, snapshots, bytes, operations), `generator`
      (the first learned one, or null), `generators` by name (of every stage also how many of JAX's devices share one
      copy of the parameters, and the bytes of parameters, gradient and optimizer state on each), and `lacks` (what this
      machine lacks to run it: files or memory; or null). A zoo that is imported has its own numbers of runs,
      `taken_for` says what was assumed of it, and its training has no steps. Operations are floating-point operations
      of the traced program; peak memory is that of weights, gradients, optimizer state, the data set and one block of
      activations.

    Raises:
      UserError: unknown names, impossible settings, a file of other networks, or a network that this machine's memory
        cannot hold.
    """
    parsed = parse(config)
    config = complete(config, parsed)
    task = tasks.get(parsed.task)
    planned = plan.make(parsed, config, task.examples(parsed.data, net=config["net"], data_dir=data_dir))
    examples, lacks, taken_for = planned.examples, _lacks(planned, config, data_dir), []
    if parsed.zoo.import_npz and pathlib.Path(parsed.zoo.import_npz).expanduser().exists():
        read, taken_for = imports.read_zoo(parsed.zoo, planned.net.spec)
        planned = planned._replace(zoo=plan.ZooRows.imported(read.records))
        plan.check_zoo(planned)
    described = {
        name: _generator(generator, config["generators"][name]["kind"], planned)
        for name, (generator, trained) in planned.generators.items()
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
        "base": _base(planned),
        "zoo": _imported(planned, taken_for) if parsed.zoo.import_npz else _zoo(planned),
        "generator": learned[0] if learned else None,
        "generators": described,
        "num_samples": config["num_samples"],
        "lacks": lacks,
    }


def _lacks(planned: plan.Plan, config: Mapping[str, Any], data_dir: str | None) -> str | None:
    try:
        planned.task.check_files(planned.settings.data, net=config["net"], data_dir=data_dir)
        plan.check_machine(planned)
    except UserError as error:
        return str(error)
    return None


def _base(planned: plan.Plan) -> dict[str, Any] | None:
    chosen, net = planned.base, planned.whole
    if chosen is None:
        return None
    steps = chosen.epochs * (planned.examples.train // chosen.batch_size)
    num_params = int(normalization.trainable(net.spec).sum())
    return {
        "num_params": num_params,
        "num_statistics": net.spec.num_params - num_params,
        "import_npz": chosen.import_npz,
        "epochs": chosen.epochs,
        "steps": steps,
        "batch_size": chosen.batch_size,
        "operations": steps * planned.task.step_operations(net, chosen.batch_size),
    }


def _zoo(planned: plan.Plan) -> dict[str, Any]:
    net, recipe, zoo = planned.net, planned.recipe, planned.zoo
    per_step, per_example = planned.task.operations(net, recipe)
    return {
        **_networks(planned),
        "steps": recipe.snapshots[-1],
        "batch_size": recipe.batch_size,
        "operations": per_step * recipe.snapshots[-1] * (zoo.runs + zoo.heldout)
        + per_example * planned.examples.test * zoo.rows,
        "peak_memory_bytes": sum(part.size for part in plan.zoo_memory(planned)),
    }


def _imported(planned: plan.Plan, taken_for: list[str]) -> dict[str, Any]:
    """A zoo that is evaluated alone."""
    networks = _networks(planned)
    per_example = planned.task.operations(planned.net, planned.recipe)[1]
    return {
        **networks,
        "steps": 0,
        "batch_size": 0,
        "operations": per_example * planned.examples.test * networks["rows"],
        "peak_memory_bytes": networks["bytes"],
        "import_npz": planned.settings.zoo.import_npz,
        "taken_for": taken_for,
    }


def _networks(planned: plan.Plan) -> dict[str, Any]:
    """What networks a zoo has, and how many."""
    net, zoo = planned.net, planned.zoo
    return {
        "network": net.name,
        "num_params": net.spec.num_params,
        "leaves": {leaf.name: list(leaf.shape) for leaf in net.spec.leaves},
        "num_runs": zoo.runs,
        "num_heldout": zoo.heldout,
        "snapshots_per_run": zoo.per_run,
        "rows": zoo.rows,
        "bytes": zoo.rows * net.spec.num_params * _FLOAT,
    }


def _generator(generator: Any, kind: str, planned: plan.Plan) -> dict[str, Any]:
    facts = {"name": kind, "learned": isinstance(generator, generators.LearnedGenerator)}
    if not isinstance(generator, generators.LearnedGenerator):
        return {**facts, "num_params": 0, "tokens": None, "steps": 0, "operations": 0.0, "peak_memory_bytes": 0}
    spec = planned.net.spec
    prepared, shapes = plan.traced(generator, planned.net)
    stages = {one.stage.name: _stage(one, prepared) for one in shapes}
    return {
        **facts,
        "num_params": sum(s["num_params"] for s in stages.values()),
        "tokens": generator.num_tokens(spec),
        "steps": sum(s["steps"] for s in stages.values()),
        "stages": stages,
        "operations": sum(s["operations"] for s in stages.values()),
        "peak_memory_bytes": sum(
            part.size for part in plan.generator_memory(generator, planned.training(generator), shapes)
        ),
    }


def _stage(one: plan.StageShapes, prepared: Any) -> dict[str, Any]:
    stage = one.stage
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), stage.batch_size))
    chosen = jax.ShapeDtypeStruct((stage.batch_size,), jnp.int32)
    batch = jax.eval_shape(stage.gather, jax.tree.map(plan.shape_of, prepared), chosen, keys)

    def gradient(params, model_state, done, batch, keys):
        return jax.grad(lambda p: stage.loss(p, model_state, done, batch, keys, None)[0])(params)

    per_step = operations.count(gradient, one.params, one.model_state, one.done, batch, keys)
    auxiliary = plan.auxiliary(one)
    mesh, _ = training.arrange(stage, jax.devices(), plan.count(one.params))
    shards = 1 if stage.parameter_shards == 1 else mesh.shape[sharding.MODEL]
    axes, copies = sharding.split_axes(one.params, shards, stage.stacked), 4 + (stage.ema_decay is not None)
    return {
        "num_params": plan.count(one.params) - auxiliary,
        "auxiliary_params": auxiliary,
        "steps": stage.steps,
        "batch_size": stage.batch_size,
        "operations": per_step * stage.steps,
        "parameter_shards": shards,
        "state_bytes_per_device": sharding.bytes_per_device(one.params, axes, shards, copies),
    }
