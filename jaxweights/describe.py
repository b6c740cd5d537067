"""What an experiment is, from shapes alone: nothing is trained, loaded or allocated (`jax.eval_shape`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import data, generators, nets, population
from jaxweights.data.dataset import ALIASES, KNOWN
from jaxweights.errors import UserError
from jaxweights.nn import normalization
from jaxweights.zoo import Recipe, has_base
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
    shape, num_classes, num_train, num_test = _input_shape(config, data_dir)
    net = whole = nets.build(config["net"], shape, num_classes)
    if has_base(config["zoo"]):
        net = nets.partial(whole, np.zeros(whole.spec.num_params, np.float32), config["zoo"]["subset"])
    zoo = _zoo(config["zoo"], net, num_train, num_test)
    described = {
        name: _generator(generator, config["generators"][name]["kind"], net, config, zoo["snapshots_per_run"])
        for name, (generator, trained) in generators.resolve(config["generators"]).items()
        if name == trained
    }
    learned = [d for d in described.values() if d["learned"]]
    return {
        "data": {
            "name": config["data"]["name"],
            "shape": list(shape),
            "num_classes": num_classes,
            "train": num_train,
            "test": num_test,
        },
        "base": None if net is whole else _base(config["zoo"]["base"], whole, num_train),
        "zoo": zoo,
        "generator": learned[0] if learned else None,
        "generators": described,
        "num_samples": config["num_samples"],
    }


def _input_shape(config: Mapping[str, Any], data_dir: str | None):
    """Shape of an input, number of outputs, and examples to train and to test on."""
    net, signals = config["net"], config["data"].get("signals", {})
    settings = {k: v for k, v in config["data"].items() if k != "signals"}
    if net["name"] != "field":
        return _data_shape(settings, data_dir)
    if net.get("signal", "occupancy") == "occupancy":
        return (4 if signals["moving"] else 3,), 1, signals["samples"], signals["probes"]
    (height, width, channels), *_ = _data_shape(settings, data_dir)
    return (2,), channels, height * width, height * width


def _data_shape(settings: Mapping[str, Any], data_dir: str | None):
    known = KNOWN.get(ALIASES.get(settings["name"], settings["name"]))
    if known is None:
        loaded = data.load(**{k: v for k, v in settings.items() if v}, data_dir=data_dir)
        return loaded.train_images.shape[1:], loaded.num_classes, len(loaded.train_labels), len(loaded.test_labels)
    height, width, channels = known.shape
    if settings.get("resize"):
        height = width = settings["resize"]
    if height is None:
        raise UserError(
            f"The images of {settings['name']!r} are of several sizes; set config.data.resize to bring them to one."
        )
    if settings.get("crop"):
        height = width = settings["crop"]
    if settings.get("grey"):
        channels = 1
    limits = (settings.get("train_limit"), settings.get("test_limit"))
    sizes = [min(size, limit) if limit else size for size, limit in zip(known.sizes, limits, strict=True)]
    return (height, width, channels), known.num_classes, *sizes


def _base(settings: Mapping[str, Any], net: nets.TaskNet, num_train: int) -> dict[str, Any]:
    steps = settings["epochs"] * (num_train // settings["batch_size"])
    num_params = int(normalization.trainable(net.spec).sum())
    return {
        "num_params": num_params,
        "num_statistics": net.spec.num_params - num_params,
        "import_npz": settings["import_npz"],
        "epochs": settings["epochs"],
        "steps": steps,
        "batch_size": settings["batch_size"],
        "operations": steps * _step_operations(net, settings["batch_size"]),
    }


def _zoo(settings: Mapping[str, Any], net: nets.TaskNet, num_train: int, num_test: int) -> dict[str, Any]:
    recipe = Recipe.from_config(settings, num_train)
    runs = settings["num_runs"] + settings["num_heldout"]
    per_step, per_example = _zoo_operations(net, recipe)
    heldout = recipe.num_snapshots if recipe.heldout_snapshots == "all" else 1
    rows = settings["num_runs"] * recipe.num_snapshots + settings["num_heldout"] * heldout
    pixels = math.prod(net.input_shape)
    chunk = runs_in_memory(net.spec.num_params, recipe.num_snapshots, runs)
    memory = num_train * pixels + _FLOAT * num_test * pixels
    memory += (
        chunk * _FLOAT * net.spec.num_params * (3 + recipe.num_snapshots)
        + _FLOAT * recipe.batch_size * net.activation_size
    )
    if net.field is not None:  # every run has examples of its own
        memory += (chunk - 1) * _FLOAT * num_train * pixels
    return {
        "network": net.name,
        "num_params": net.spec.num_params,
        "leaves": {leaf.name: list(leaf.shape) for leaf in net.spec.leaves},
        "num_runs": settings["num_runs"],
        "num_heldout": settings["num_heldout"],
        "steps": recipe.snapshots[-1],
        "batch_size": recipe.batch_size,
        "snapshots_per_run": recipe.num_snapshots,
        "rows": rows,
        "bytes": rows * net.spec.num_params * _FLOAT,
        "operations": per_step * recipe.snapshots[-1] * runs + per_example * num_test * rows,
        "peak_memory_bytes": memory,
    }


def _zoo_operations(net: nets.TaskNet, recipe: Recipe) -> tuple[float, float]:
    """Operations of one optimizer step, and of evaluating one network on one example."""
    step = _step_operations(net, recipe.batch_size)
    image = jax.ShapeDtypeStruct((1,) + net.input_shape, jnp.float32)
    if isinstance(net, nets.PartialNet):  # what no vector reaches is computed once for all
        image = jax.eval_shape(net.prepare, image)
    forward = _operations(net.apply, _vector(net), image)
    if net.environment is None:
        return step, forward
    # An update acts for some steps and passes over them several times, with a critic as large as the actor.
    update = recipe.ppo.horizon * (recipe.batch_size * forward + 2 * recipe.ppo.epochs * step)
    return update, net.environment.episode * forward


def _step_operations(net: nets.TaskNet, batch_size: int) -> float:
    batch = jax.ShapeDtypeStruct((batch_size,) + net.input_shape, jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    gradient = jax.grad(lambda w, x, y: jnp.mean(nets.cross_entropy(net.apply(w, x), y)))
    return _operations(gradient, _vector(net), batch, labels)


def _vector(net: nets.TaskNet) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((net.spec.num_params,), jnp.float32)


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
    stages, operations, memory = {}, 0.0, 0
    for stage in generator.stages():
        params, model_state = jax.eval_shape(stage.init, key, done)
        keys = jax.eval_shape(lambda n=stage.batch_size: jax.random.split(jax.random.key(0), n))
        chosen = jax.ShapeDtypeStruct((stage.batch_size,), jnp.int32)
        batch = jax.eval_shape(stage.gather, jax.tree.map(_shape_of, prepared), chosen, keys)

        def gradient(params, model_state, done, batch, keys, stage=stage):
            return jax.grad(lambda p: stage.loss(p, model_state, done, batch, keys, None)[0])(params)

        per_step = _operations(gradient, params, model_state, done, batch, keys)
        count = _count(params)
        auxiliary = sum(_count(params[key]) for key in stage.auxiliary if key in params)
        stages[stage.name] = {
            "num_params": count - auxiliary,
            "auxiliary_params": auxiliary,
            "steps": stage.steps,
            "batch_size": stage.batch_size,
            "operations": per_step * stage.steps,
        }
        operations += per_step * stage.steps
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
        "operations": operations,
        "peak_memory_bytes": memory + _FLOAT * rows * per_row,
    }


def _count(params) -> int:
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


def _shape_of(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)


def _operations(function, *shapes) -> float:
    """Floating-point operations of the traced program: two per multiply-add of products, one per other output."""
    return _count_operations(jax.make_jaxpr(function)(*shapes).jaxpr)


def _count_operations(jaxpr) -> float:
    """XLA's own count is no use here: it takes the body of a loop once, whatever the number of rounds."""
    total = 0.0
    for equation in jaxpr.eqns:
        outputs = sum(math.prod(v.aval.shape) for v in equation.outvars)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2.0 * outputs * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * outputs * math.prod(kernel) / features
        else:
            inner = [_count_operations(getattr(j, "jaxpr", j)) for j in _inner_programs(equation.params)]
            rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += rounds * sum(inner) if inner else outputs
    return total


def _inner_programs(params: Mapping[str, Any]) -> list:
    """The jaxprs among an equation's parameters, for instance the body of a scan."""
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return [v for v in values if hasattr(v, "eqns") or hasattr(getattr(v, "jaxpr", None), "eqns")]
