"""Run folders as Ray Tune leaves them, which the data sets of ModelZoos and of SANE are made of.

github.com/ModelZoos/ModelZooDataset, `checkpoints_to_datasets/dataset_base.py` (Schürholt et al., arXiv 2209.14764): a
folder per run with `params.json`, `result.json`, one JSON object per line and iteration, `progress.csv`, and
`checkpoint_{iteration:06d}/checkpoints`, a state dict. Every folder in the zoo's is taken for a run, and the line of an
iteration is found by its number, so that all iterations need one. `dataset.pt` has the images as networks take them.
Published runs have -999 for what a network makes of the training images before its first step; here that is measured.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxweights import data, evaluation, state_dicts
from jaxweights.data.known import ALIASES, KNOWN
from jaxweights.errors import UserError
from jaxweights.exporting import pytorch
from jaxweights.exporting.base import Format
from jaxweights.exporting.each import write_each
from jaxweights.exporting.networks import Contents, Report, runs_of
from jaxweights.population import HYPER, Population
from jaxweights.spec import WeightSpec

DATASET = "dataset.pt"
_PREFIX = "module_list"  # of the names of the layers
# `model_definitions/def_net.py`: channels and windows of the convolutions, units of the hidden layer, and the numbers
# that all five layers have.
_PUBLISHED = {
    "CNN": (((8, 5), (6, 5), (4, 2), (20,)), (0, 3, 6, 9, 11)),
    "CNN2": (((6, 5), (9, 5), (6, 2), (20,)), (0, 3, 6, 9, 11)),
    "CNN3": (((16, 3), (32, 3), (15, 3), (20,)), (0, 4, 8, 13, 16)),
}
_SETTINGS = {
    "net.activation": "model::nlin",
    "net.init": "model::init_type",
    "zoo.optimizer": "optim::optimizer",
    "zoo.learning_rate": "optim::lr",
    "zoo.weight_decay": "optim::wd",
    "zoo.momentum": "optim::momentum",
    "zoo.batch_size": "training::batchsize",
    "zoo.epochs": "training::epochs_train",
}
"""Their names of settings."""


class Run(NamedTuple):
    """One run.

    Attributes:
      folder: its name.
      rows: of its checkpoints, by step.
      iterations: of these checkpoints.
    """

    folder: str
    rows: np.ndarray
    iterations: list[int]


class ModelZoos(Format):
    """A zoo as ModelZoos publishes them."""

    EXAMPLES = True

    def files(self, contents: Contents) -> list[str]:
        return _files(contents.networks, _runs(contents))

    def write(self, folder: pathlib.Path, contents: Contents, report: Report) -> None:
        networks, found = contents.networks, _runs(contents)
        encode = pytorch.archive(networks.spec, layer_names(networks.spec)).of
        write_each(folder, networks, _files(networks, found), encode, lambda done: report(done / 2))
        shared, done = _config(contents), len(networks)
        measured = _measured(contents)
        for run in found:
            _write_run(folder / run.folder, networks, run, measured, {**shared, **_own(networks, run)})
            done += len(run.rows)
            report(done / 2)
        (folder / "config.json").write_text(json.dumps(shared, indent=1) + "\n")
        if contents.examples is not None:
            _write_images(folder / DATASET, contents.examples.dataset)

    def usage(self, contents: Contents) -> str:
        layers = layer_list(contents.networks.spec)
        reader = f" with `layer_lst={layers}`" if layers else ""
        images = (
            f"`{DATASET}` has the images as the networks take them, `[n, C, H, W]`, and their classes, as `trainset` "
            "and `testset` (`torch.load` with `weights_only=False`). `train_acc` is of all training images."
            if contents.examples is not None
            else "The accuracy on training images was not measured: there is no `train_acc`, and so no `ggap`, and no "
            f"`{DATASET}`."
        )
        return (
            "Runs are folders as Ray Tune leaves them, for `ModelDatasetBase` of github.com/ModelZoos/ModelZooDataset"
            f"{reader}:\n\n```python\nimport torch\n\n"
            f'tensors = torch.load({self.files(contents)[0]!r}, map_location="cpu", weights_only=True)\n```\n\n'
            f"`timesteps_total` has the optimizer steps, and the `config` of every run its split. {images}"
        )


def runs(networks: Population, steps_per_epoch: int | None) -> list[Run]:
    """The runs in the order of their numbers.

    Iterations are epochs where all checkpoints are at whole ones. Otherwise the checkpoints of a run are counted, from
    0 where the first is the initialisation, else from 1. Networks that are generated are a run each.

    Args:
      networks: of which the records count.
      steps_per_epoch: optimizer steps of an epoch, where they are known.

    Raises:
      UserError: checkpoints of a run at the same step.
    """
    run, step = runs_of(networks), networks.records["step"]
    short = hashlib.sha256(np.stack([run, step]).astype("<i8").tobytes()).hexdigest()[:5]
    order = np.lexsort((step, run))
    parts = np.split(order, np.flatnonzero(np.diff(run[order])) + 1)
    epochs = steps_per_epoch is not None and (step >= 0).all() and not (step % steps_per_epoch).any()
    found = []
    for number, rows in enumerate(parts):
        steps = step[rows]
        twice = np.flatnonzero(np.diff(steps) == 0)
        if twice.size:
            raise UserError(
                f"Run {run[rows[0]]} has several networks at step {steps[twice[0]]}, which the format model_zoos "
                "cannot tell apart. Choose another format."
            )
        if epochs and steps_per_epoch:
            iterations = (steps // steps_per_epoch).tolist()
        else:
            iterations = list(range(int(steps[0] != 0), int(steps[0] != 0) + len(rows)))
        found.append(Run(f"NN_tune_trainable_{short}_{number:05d}_{number}_run={run[rows[0]]}", rows, iterations))
    return found


def _runs(contents: Contents) -> list[Run]:
    return runs(contents.networks, _steps_per_epoch(contents.recipe))


def _steps_per_epoch(recipe: Mapping[str, Any]) -> int | None:
    """Optimizer steps of an epoch, where the size of the data set is published."""
    name = recipe.get("data.name", "")
    known, batch = KNOWN.get(ALIASES.get(name, name) or ""), recipe.get("zoo.batch_size", 0)
    if known is None or not batch or recipe.get("zoo.import_npz"):
        return None
    return (recipe.get("data.train_limit") or known.sizes[0]) // batch or None


def _files(networks: Population, found: Sequence[Run]) -> list[str]:
    names = [""] * len(networks)
    for run in found:
        for row, iteration in zip(run.rows.tolist(), run.iterations, strict=True):
            names[row] = f"{run.folder}/checkpoint_{iteration:06d}/checkpoints"
    return names


def _layers(spec: WeightSpec) -> dict[str, tuple[int, ...]] | None:
    """The shapes of the weights by layer; None where there are other layers than dense ones and convolutions."""
    leaves = {leaf.name: leaf.stored_shapes[-1] for leaf in spec.leaves}
    found = {}
    for name, theirs in state_dicts.torch_names(spec).items():
        layer, _, part = theirs.rpartition(".")
        if part == "weight" and len(leaves[name]) in (2, 4):
            found[layer] = leaves[name]
        elif part != "bias" or layer not in found:
            return None
    return found


def _published(shapes: Sequence[tuple[int, ...]]) -> tuple[str, Sequence[int]]:
    """The class of their networks with layers of such weights, and the numbers of these layers in it.

    Other networks are "custom", and their layers have activations between them.
    """
    sizes = tuple((shape[0], *shape[3:]) for shape in shapes)
    for name, (hidden, places) in _PUBLISHED.items():
        if sizes[:-1] == hidden:
            return name, places
    return "custom", range(0, 2 * len(shapes), 2)


def layer_names(spec: WeightSpec) -> dict[str, str]:
    """The names of the tensors by leaf: those of `nn.ModuleList`s, where the loader looks for them, or PyTorch's of
    networks with other layers than it knows."""
    names, layers = state_dicts.torch_names(spec), _layers(spec)
    if layers is None:
        return names
    places = dict(zip(layers, _published(list(layers.values()))[1], strict=True))
    parts = {name: theirs.rpartition(".") for name, theirs in names.items()}
    return {name: f"{_PREFIX}.{places[layer]}.{part}" for name, (layer, _, part) in parts.items()}


def layer_list(spec: WeightSpec) -> list[tuple[int, str]]:
    """What the loader is told of the layers; empty for networks that it cannot make vectors of."""
    layers = _layers(spec)
    if layers is None:
        return []
    shapes = list(layers.values())
    kinds = ["conv2d" if len(shape) == 4 else "fc" for shape in shapes]
    return list(zip(_published(shapes)[1], kinds, strict=True))


def _config(contents: Contents) -> dict[str, Any]:
    """The settings that all runs share, by their names."""
    layers, recipe = _layers(contents.networks.spec), contents.recipe
    found: dict[str, Any] = {"model::type": recipe.get("net.name", "custom"), "model::dropout": 0.0}
    if layers:
        shapes = list(layers.values())
        name = _published(shapes)[0]
        found |= {"model::type": name if name in _PUBLISHED else found["model::type"]}
        found |= {"model::channels_in": shapes[0][1], "model::o_dim": shapes[-1][0]}
    found |= {theirs: recipe[ours] for ours, theirs in _SETTINGS.items() if ours in recipe}
    if contents.examples is not None:
        found["dataset::dump"] = DATASET
    return found | {"data": recipe["data.name"]} if "data.name" in recipe else found


def _own(networks: Population, run: Run) -> dict[str, Any]:
    """The settings of one run."""
    records, row = networks.records, run.rows[0]
    found = {"seed": int(records["seed"][row]), "run": int(records["run"][row]), "split": str(records["split"][row])}
    for name, column in records.items():
        ours = name.removeprefix(HYPER)
        if name != ours:
            found[_SETTINGS.get(f"zoo.{ours}", f"hyper::{ours}")] = column[row].item()
    return found


def _measured(contents: Contents) -> dict[str, np.ndarray]:
    """What is measured of the networks by the names of Ray Tune, `[N]` each; NaN for what is not known."""
    records = contents.networks.records
    found = {"test_acc": records["accuracy"], "test_loss": records["loss"]}
    if contents.examples is not None:
        net, images = contents.examples
        inputs = np.asarray(data.standardise(images.train_images, images.scale, images.shift))
        on_training = evaluation.evaluate(net, contents.networks.weights, inputs, images.train_labels)
        found |= {"train_acc": on_training.accuracy, "train_loss": on_training.loss}
    return found


def _write_images(path: pathlib.Path, dataset: data.Dataset) -> None:
    """Writes the images as networks take them, channels first, and their classes."""

    def part(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.asarray(data.standardise(images, dataset.scale, dataset.shift))
        return np.ascontiguousarray(inputs.transpose(0, 3, 1, 2), "<f4"), np.ascontiguousarray(labels, "<i8")

    train, test = part(dataset.train_images, dataset.train_labels), part(dataset.test_images, dataset.test_labels)
    pytorch.save_datasets(path, {"trainset": train, "testset": test})


def _write_run(
    folder: pathlib.Path,
    networks: Population,
    run: Run,
    measured: Mapping[str, np.ndarray],
    config: Mapping[str, Any],
) -> None:
    """Writes what Ray Tune leaves beside the checkpoints."""
    lines = _results(networks, run, measured)
    (folder / "params.json").write_text(json.dumps(config) + "\n")
    kept = set(run.iterations)
    whole = [{**line, "config": config} if line["training_iteration"] in kept else line for line in lines]
    (folder / "result.json").write_text("".join(json.dumps(line) + "\n" for line in whole))
    with open(folder / "progress.csv", "w", newline="") as file:
        table = csv.DictWriter(file, dict.fromkeys(name for line in lines for name in line), restval="")
        table.writeheader()
        table.writerows(lines)


def _results(networks: Population, run: Run, measured: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """A line per iteration; of those without a checkpoint nothing is known."""
    trial = run.folder.partition("trainable_")[2]
    lines = {
        i: {"training_iteration": i, "trial_id": trial}
        for i in range(min(1, run.iterations[0]), run.iterations[-1] + 1)
    }
    for iteration, row in zip(run.iterations, run.rows, strict=True):
        known = {name: float(column[row]) for name, column in measured.items() if math.isfinite(column[row])}
        lines[iteration] = {**known, **lines[iteration], "timesteps_total": int(networks.records["step"][row])}
    return [lines[iteration] for iteration in sorted(lines)]
