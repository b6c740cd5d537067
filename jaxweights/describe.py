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
from jaxweights.zoo import Recipe

_FLOAT = 4  # bytes


def describe(config: Mapping[str, Any], data_dir: str | None = None) -> dict[str, Any]:
    """Describes an experiment.

    Args:
      config: see `configs/base.py`.
      data_dir: only for data sets whose sizes are not published facts.

    Returns:
      JSON data: `data`, `zoo` (network, parameters per model, runs, snapshots, bytes, operations), `generator` (the
      first learned one, or null), and `generators` by name. Operations are floating-point operations as XLA counts them
      in the program; peak memory is that of weights, gradients, optimizer state, the data set and one block of
      activations.

    Raises:
      UserError: unknown names or impossible settings.
    """
    shape, num_classes, num_train, num_test = _data_shape(config["data"], data_dir)
    net = nets.build(config["net"], shape, num_classes)
    zoo = _zoo(config["zoo"], net, num_train, num_test)
    described = {
        name: _generator(generator, config["generators"][name]["kind"], net, config)
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
        "zoo": zoo,
        "generator": learned[0] if learned else None,
        "generators": described,
        "num_samples": config["num_samples"],
    }


def _data_shape(settings: Mapping[str, Any], data_dir: str | None):
    known = KNOWN.get(ALIASES.get(settings["name"], settings["name"]))
    if known is None:
        loaded = data.load(**{k: v for k, v in settings.items() if v}, data_dir=data_dir)
        return loaded.train_images.shape[1:], loaded.num_classes, len(loaded.train_labels), len(loaded.test_labels)
    height, width, channels = known.shape
    if settings.get("crop"):
        height = width = settings["crop"]
    if settings.get("grey"):
        channels = 1
    limits = (settings.get("train_limit"), settings.get("test_limit"))
    sizes = [min(size, limit) if limit else size for size, limit in zip(known.sizes, limits, strict=True)]
    return (height, width, channels), known.num_classes, *sizes


def _zoo(settings: Mapping[str, Any], net: nets.TaskNet, num_train: int, num_test: int) -> dict[str, Any]:
    recipe = Recipe.from_config(settings, num_train)
    runs = settings["num_runs"] + settings["num_heldout"]
    batch = jax.ShapeDtypeStruct((recipe.batch_size,) + net.input_shape, jnp.float32)
    labels = jax.ShapeDtypeStruct((recipe.batch_size,), jnp.int32)
    vector = jax.ShapeDtypeStruct((net.spec.num_params,), jnp.float32)
    step = jax.grad(lambda w, x, y: jnp.mean(nets.cross_entropy(net.apply(w, x), y)))
    per_step = _operations(step, vector, batch, labels)
    per_image = _operations(net.apply, vector, jax.ShapeDtypeStruct((1,) + net.input_shape, jnp.float32))
    rows = runs * len(recipe.snapshots)
    pixels = math.prod(net.input_shape)
    chunk = min(runs, 1024)
    memory = num_train * pixels + _FLOAT * num_test * pixels
    memory += (
        chunk * _FLOAT * net.spec.num_params * (3 + len(recipe.snapshots))
        + _FLOAT * recipe.batch_size * net.activation_size
    )
    return {
        "network": net.name,
        "num_params": net.spec.num_params,
        "leaves": {leaf.name: list(leaf.shape) for leaf in net.spec.leaves},
        "num_runs": settings["num_runs"],
        "num_heldout": settings["num_heldout"],
        "steps": recipe.steps,
        "batch_size": recipe.batch_size,
        "snapshots_per_run": len(recipe.snapshots),
        "rows": rows,
        "bytes": rows * net.spec.num_params * _FLOAT,
        "operations": per_step * recipe.steps * runs + per_image * num_test * rows,
        "peak_memory_bytes": memory,
    }


def _generator(generator, kind: str, net: nets.TaskNet, config: Mapping[str, Any]) -> dict[str, Any]:
    facts = {"name": kind, "learned": generators.is_learned(generator)}
    if not facts["learned"]:
        return {**facts, "num_params": 0, "tokens": None, "steps": 0, "operations": 0.0, "peak_memory_bytes": 0}
    # Two rows of zeros stand in for the training networks: preparation only has to see their width.
    zeros = population.Population.create(np.zeros((2, net.spec.num_params), np.float32), net.spec)
    prepared, constants = generator.prepare(zeros)
    key = jax.eval_shape(lambda: jax.random.key(0))
    done: dict[str, Any] = {"constants": jax.tree.map(_shape_of, constants)}
    stages, operations, memory = {}, 0.0, 0
    for stage in generator.stages():
        params, model_state = jax.eval_shape(stage.init, key, done)
        batch = jax.ShapeDtypeStruct((stage.batch_size,) + prepared.shape[1:], jnp.float32)
        keys = jax.eval_shape(lambda n=stage.batch_size: jax.random.split(jax.random.key(0), n))

        def gradient(params, model_state, done, batch, keys, stage=stage):
            return jax.grad(lambda p: stage.loss(p, model_state, done, batch, keys, None)[0])(params)

        per_step = _operations(gradient, params, model_state, done, batch, keys)
        count = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
        stages[stage.name] = {
            "num_params": count,
            "steps": stage.steps,
            "batch_size": stage.batch_size,
            "operations": per_step * stage.steps,
        }
        operations += per_step * stage.steps
        copies = 4 + (stage.ema_decay is not None)  # parameters, gradient, two moments, average
        memory = max(memory, _FLOAT * count * copies)
        done = {**done, stage.name: {"params": params, "model_state": model_state}}
    rows = config["zoo"]["num_runs"] * (1 if config["zoo"]["use"] == "last" else len(config["zoo"]["snapshots"]))
    return {
        **facts,
        "num_params": sum(s["num_params"] for s in stages.values()),
        "tokens": getattr(generator, "num_tokens", None),
        "steps": sum(s["steps"] for s in stages.values()),
        "stages": stages,
        "operations": operations,
        "peak_memory_bytes": memory + _FLOAT * rows * math.prod(prepared.shape[1:]),
    }


def _shape_of(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype)


def _operations(function, *shapes) -> float:
    """Floating-point operations of the traced program, as XLA's cost analysis counts them before optimisation."""
    analysis = jax.jit(function).lower(*shapes).cost_analysis()
    return float((analysis or {}).get("flops", 0.0))
