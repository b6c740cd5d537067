"""`jw.train_zoo` and `jw.evaluate`: many networks trained at once, from a data set by name or from arrays."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxweights import arrays as array_checks
from jaxweights import data as datasets
from jaxweights import files, locks, nets, parallel, provenance, settings, tasks, zoo
from jaxweights.api import arguments
from jaxweights.data.checks import check_classes
from jaxweights.data.dataset import fingerprint
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation, Evaluator
from jaxweights.nets import custom
from jaxweights.population import Population, TaskExamples, from_array
from jaxweights.spec import WeightSpec
from jaxweights.store import INDEX, PopulationStore

_CLASSIFICATION = "classification"


def train_zoo(
    source: Any = "digits",
    *,
    data: Any = None,
    runs: int = 512,
    heldout: int = 128,
    seed: int = 0,
    path: pathlib.Path | str | None = None,
    network: str | None = None,
    task: str | None = None,
    spec: WeightSpec | None = None,
    data_dir: str | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> Population:
    """Trains a zoo: many runs of one network, all at once.

    Args:
      source: name of a data set, or a Flax module (Linen, or a function `(rngs) -> module` for NNX), whose leaves and,
        for plain stacks of dense and convolution layers, permutation symmetries are found by tracing it.
      data: for a module: name of a data set, or arrays `(x, y, x_test, y_test)`. Integer targets make classifiers,
        real ones regressions; inputs of bytes are divided by 255, others are taken as they are.
      runs: runs of the training split.
      heldout: further runs that no generator may see; an audit needs at least 8.
      seed: random seed. A run depends on the seed and its own number alone.
      path: folder of a store in which the zoo is kept, and in which the same call resumes; None for memory.
      network: name of the network, see `nets.NETWORKS`; by default the task's.
      task: what the networks are for: "classification", "regression", "field" or "policy"; by default what the data
        and the network suggest.
      spec: meaning of the flat vectors of a module, where tracing does not find its symmetries.
      data_dir: folder of data sets that are not embedded.
      mesh: devices, all by default.
      **options: settings of the network (`hidden`, `activation`, ...), the zoo (`epochs`, `learning_rate`, `start`,
        `snapshots`, ...) and the data set (`train_limit`, ...), as `launch.describe --fields` lists them.

    Returns:
      All kept checkpoints, with test accuracy and loss in the records; `.train` and `.heldout` are its splits.

    Raises:
      UserError: unknown settings (naming the nearest known one), or a network that does not fit the data.
    """
    runs, heldout = arguments.whole(runs, "runs", 1), arguments.whole(heldout, "heldout", 0)
    seed = arguments.seed(seed)
    if spec is not None:
        arguments.instance(spec, WeightSpec, "spec", "give a WeightSpec, or None")
    module = None if isinstance(source, str) else source
    name, arrays = _data_source(source, data)
    chosen = task_of(task, network, name, arrays)
    chosen_data, net, recipe = _settings(chosen, module, network, name, arrays, options, runs, heldout)
    if arrays is None:
        dataset = chosen.load(chosen_data, net=net, runs=runs + heldout, data_dir=data_dir)
    else:
        dataset = _dataset(chosen, arrays)
    for line in dataset.skipped:
        print(f"data: left out: {line}", file=sys.stderr)
    shape, outputs = dataset.train_images.shape[1:], dataset.num_classes
    if module is None:
        built = chosen.build(net, shape, outputs)
    else:
        wrapped = custom.wrap(module, shape, outputs, spec=spec)
        print(f"zoo: {wrapped.note}", file=sys.stderr)
        built = dataclasses.replace(wrapped.net, task=chosen)
    mesh = parallel.resolve(mesh)
    test = np.asarray(datasets.standardise(dataset.test_images, dataset.scale, dataset.shift))
    evaluator = Evaluator(built, test, dataset.test_labels, mesh)
    plan = zoo.Recipe.from_settings(recipe, dataset.num_examples)
    if path is None:
        trained = zoo.train_zoo(built, plan, dataset, mesh, seed=seed, evaluate=evaluator)
    else:
        described = net if module is None else repr(built.module)
        facts = {"seed": seed, "zoo": settings.plain(recipe), "data": dataset.source, "network": described}
        with locks.locked(files.make_dir(path)):
            trained = _stored(pathlib.Path(path), facts, built, plan, dataset, mesh, seed, evaluator)
    return dataclasses.replace(trained, evaluator=evaluator, examples=TaskExamples(built, dataset))


def _stored(path: pathlib.Path, facts: dict[str, Any], built, plan, dataset, mesh, seed: int, evaluator) -> Population:
    """Trains into a store, or resumes one of the same zoo."""
    facts = json.loads(json.dumps(facts))
    if (path / INDEX).exists():
        opened = PopulationStore.open(path, drop_missing=True)
        changed = provenance.differences({k: opened.provenance.get(k) for k in facts}, facts)
        if changed or opened.spec != built.spec:
            changed = changed or ["the leaves of the network"]
            raise UserError(f"The folder {path} holds another zoo: {'; '.join(changed)}. Choose another path.")
    options = {"seed": seed, "provenance": facts | {"inputs": dataset.inputs}, "evaluate": evaluator}
    return zoo.train_zoo(built, plan, dataset, mesh, path=path, **options).read()


def evaluate(population: Population, weights: Any = None) -> Evaluation:
    """Accuracy, loss and error masks on the test set that a population was trained for.

    Args:
      population: networks with an evaluator, from `train_zoo` or `sample`.
      weights: other networks `[N, P]` of the same kind; by default the population's own.

    Raises:
      UserError: a population without an evaluator, or weights of another shape.
    """
    arguments.instance(population, Population, "The first argument", "give a population, e.g. of train_zoo")
    if population.evaluator is None:
        population.evaluated()  # says what to do
    chosen = population if weights is None else from_array(weights, "weights", population.spec)
    return population.evaluator(chosen.weights)  # type: ignore[misc]  # checked above


def _data_source(source: Any, data: Any) -> tuple[str, tuple[np.ndarray, ...] | None]:
    """Name of a data set, or arrays in its place."""
    if isinstance(source, str):
        if data is not None:
            raise UserError("data goes with a module; the first argument names a data set already.")
        return source, None
    if not (isinstance(source, nn.Module) or callable(source)):
        raise UserError(
            f"The first argument is {type(source).__name__}; give the name of a data set, e.g. 'digits', or a Flax "
            "module together with data=(x, y, x_test, y_test)."
        )
    if isinstance(data, str):
        return data, None
    if not isinstance(data, (tuple, list)) or len(data) != 4:
        raise UserError("A module needs data: the name of a data set, or arrays (x, y, x_test, y_test).")
    names = ("x", "y", "x_test", "y_test")
    return "arrays", tuple(array_checks.real(part, f"data: {n}") for n, part in zip(names, data, strict=True))


def task_of(task: str | None, network: str | None, name: str, arrays: tuple[np.ndarray, ...] | None) -> tasks.Task:
    """The task that is named, or that the network and the data suggest; says what real targets were taken for."""
    if task is not None:
        return tasks.get(task)
    if arrays is not None:
        y = arrays[1]
        if np.issubdtype(y.dtype, np.integer):
            return tasks.get(_CLASSIFICATION)
        if y.size and (y == np.floor(y)).all():
            print(
                "zoo: the targets are of a real type, so this is a regression; for classes give integers",
                file=sys.stderr,
            )
        return tasks.get("regression")
    if network is not None:
        return next((t for t in tasks.TASKS.values() if network in t.networks), tasks.get())
    return next((t for t in tasks.TASKS.values() if t.data_settings().name == name), tasks.get())  # type: ignore[attr-defined]


def _settings(chosen, module, network, name, arrays, options, runs, heldout):
    """Deals options out to data, network and zoo."""
    network = network or chosen.default_network
    parts = [part for part, there in (("net", module is None), ("zoo", True), ("data", arrays is None)) if there]
    dealt = deal(options, chosen, network, parts, "train_zoo")
    recipe = settings.make(chosen.zoo_settings, {**dealt["zoo"], "num_runs": runs, "num_heldout": heldout})
    made = None if arrays is not None else settings.make(chosen.data_settings, {"name": name, **dealt["data"]})
    return made, {"name": network, **dealt["net"]}, recipe


def deal(
    options: Mapping[str, Any], task: tasks.Task, network: str, parts: Sequence[str], what: str
) -> dict[str, dict[str, Any]]:
    """Options by the section that has a setting of that name: a name that several have is the network's first, then
    the zoo's.

    Args:
      options: by name.
      task: what the networks are for.
      network: name of the network.
      parts: sections that may have options, of "net", "zoo" and "data".
      what: takes the options, for the message.

    Raises:
      UserError: an unknown name.
    """
    classes = {"data": task.data_settings, "zoo": task.zoo_settings, "net": nets.settings_class(network)}
    fields = {part: {f.name for f in dataclasses.fields(classes[part]) if f.name != "name"} for part in parts}
    settings.refuse_unknown(options, sorted(set().union(*fields.values())), what)
    dealt: dict[str, dict[str, Any]] = {"net": {}, "zoo": {}, "data": {}}
    for key, value in options.items():
        dealt[next(part for part in dealt if key in fields.get(part, ()))][key] = value
    return dealt


def _dataset(task: tasks.Task, arrays: tuple[np.ndarray, ...]) -> datasets.Dataset:
    """A data set of arrays."""
    x, y, x_test, y_test = arrays
    _check_shapes(x, y, x_test, y_test)
    classes = _check_targets(task, y, y_test)
    unit = 1 / 255 if x.dtype == np.uint8 else 1.0
    train_images, test_images = (
        part if part.dtype == np.uint8 else array_checks.float32(part, f"data: {name}", what="values")
        for name, part in (("x", x), ("x_test", x_test))
    )
    kind = np.int32 if classes else np.float32
    train_labels, test_labels = task.targets(y.astype(kind), y_test.astype(kind))
    return datasets.Dataset(
        name="arrays",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        num_classes=classes or 1,
        scale=np.full(x.shape[-1], unit, np.float32),
        shift=np.zeros(x.shape[-1], np.float32),
        source=f"arrays; blake2b {fingerprint(train_images, y, test_images, y_test)}",
    )


def _check_shapes(x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray) -> None:
    for what, inputs, targets in (("training", x, y), ("test", x_test, y_test)):
        if inputs.ndim < 2 or targets.ndim != 1 or len(inputs) != len(targets) or not inputs.size:
            raise UserError(
                f"The {what} data have inputs of shape {inputs.shape} and targets of shape {targets.shape}; give "
                "[n, ...] and [n]."
            )
    if x.shape[1:] != x_test.shape[1:]:
        raise UserError(f"Training inputs are {x.shape[1:]} and test inputs {x_test.shape[1:]}; both must be alike.")
    if (x.dtype == np.uint8) != (x_test.dtype == np.uint8):
        raise UserError(
            f"Training inputs are {x.dtype} and test inputs {x_test.dtype}; both must be bytes, or neither."
        )


def _check_targets(task: tasks.Task, y: np.ndarray, y_test: np.ndarray) -> int:
    """The number of classes; 0 for real targets."""
    for name, targets in (("y", y), ("y_test", y_test)):
        array_checks.float32(targets, f"data: {name}", what="targets")
    if task.name != _CLASSIFICATION:
        return 0
    if not all(np.issubdtype(targets.dtype, np.integer) for targets in (y, y_test)):
        raise UserError(
            f"Targets are {y.dtype} in training and {y_test.dtype} in the test; classes are integers from 0: "
            "y.astype(int). Real targets make a regression."
        )
    if min(y.min(), y_test.min()) < 0:
        raise UserError("The classes have negative numbers; give integers from 0.")
    check_classes({"training": y, "test": y_test}, "arrays", "data")
    return int(y.max()) + 1
