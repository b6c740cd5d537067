"""The base network that runs continue from: trained here, one network over all devices, or read from a file.

Published (P-diff, arXiv 2402.13144, `train.py` of each tag): an image classifier under AdamW with a rate that falls
along a cosine epoch by epoch; of all epochs the one with the best accuracy on the test set is kept. Here the last one
is, unless `select` says "best_test".
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from jaxweights import files, nets, parallel, progress, provenance
from jaxweights.data import Dataset, standardise
from jaxweights.errors import UserError
from jaxweights.spec import Leaf, WeightSpec
from jaxweights.store import Checkpoints
from jaxweights.zoo import recipe as recipes
from jaxweights.zoo.recipe import Distribution, Recipe
from jaxweights.zoo.trainer import RunState, TrainData, Trainer

SELECT = ("last", "best_test")
SETTINGS = (
    "import_npz",
    "epochs",
    "batch_size",
    "optimizer",
    "nesterov",
    "schedule",
    "learning_rate",
    "momentum",
    "weight_decay",
    "augment",
    "select",
)
INDEX, WEIGHTS, _CHECKPOINTS = "base.json", "weights.npy", "checkpoints"

_KEY = 2  # 0 and 1 of the zoo's key are its runs and what they share
_DISPATCH_SECONDS = 1.5
_TEST_BYTES = 256 << 20  # activations of the images that a device tests together


class History(NamedTuple):
    """Of every epoch, NaN where it is still to come: mean loss in training, and test accuracy; `[epochs]` float32."""

    loss: jax.Array
    accuracy: jax.Array


class Progressed(NamedTuple):
    """What a checkpoint holds: the run, its history, and the best epoch's parameters (None where the last is kept)."""

    params: Any
    opt_state: Any
    history: History
    best: Any


@dataclasses.dataclass(frozen=True)
class BaseTrainer(Trainer):
    """Trains one network, its batches split over the devices; `mesh.size` divides the batch.

    The result does not depend on the number of devices but for the order of sums: statistics and gradients are those of
    the whole batch, and every example has a key of its own.
    """

    def start(self, seed: int, vector: np.ndarray | None) -> RunState:
        """The state before the first step, on every device; from a given `[P]`, or from an initialisation."""

        def first(key, vector):
            hyper = self.recipe.sample_hyper(key)
            vector = self.net.init(jax.random.fold_in(key, 0)) if vector is None else vector
            params = self.net.spec.unflatten(vector)
            opt_state = self.recipe.transformation(hyper, jnp.float32(0.0)).init(params)
            return RunState(params, opt_state, jax.random.key_data(jax.random.fold_in(key, 1)), hyper)

        key = jax.random.fold_in(jax.random.key(seed), _KEY)
        return jax.jit(first, out_shardings=parallel.replicated(self.mesh))(key, vector)

    def advance(
        self, state: RunState, data: TrainData, bounds: np.ndarray, total: jax.typing.ArrayLike = 0.0
    ) -> tuple[RunState, jax.Array]:
        """Trains from step `bounds[0]` to `bounds[1]`; the state is donated. Returns it, and the losses added to
        `total`, one by one, so that the sum does not depend on the bounds."""
        return self._program(state, data, jnp.asarray(bounds, jnp.int32), jnp.float32(total))

    @functools.cached_property
    def _program(self):
        def train(state: RunState, data: TrainData, bounds: jax.Array, total: jax.Array):
            def step(i, carry):
                trained, total = carry
                loss, trained = self._update(state, data, i, trained)
                return trained, total + loss

            start = ((state.params, state.opt_state), total)
            (params, opt_state), total = jax.lax.fori_loop(bounds[0], bounds[1], step, start)
            return state._replace(params=params, opt_state=opt_state), total

        whole = PartitionSpec()
        body = jax.shard_map(train, mesh=self.mesh, in_specs=(whole,) * 4, out_specs=whole)
        return jax.jit(body, donate_argnums=0)

    @functools.cached_property
    def vector(self):
        """Compiled: the weights `[P]` of parameters."""
        return jax.jit(self.net.spec.flatten)

    @property
    def _module(self) -> nn.Module:
        module = self.net.module
        return module.clone(axis_name=parallel.AXIS) if hasattr(module, "axis_name") else module

    def _rows(self, words: jax.Array, step: jax.Array) -> jax.Array:
        return self._share(super()._rows(words, step))

    def _augmented(self, images: jax.Array, key: jax.Array) -> jax.Array:
        keys = self._share(jax.random.split(key, self.recipe.batch_size))
        return jax.vmap(lambda image, key: super(BaseTrainer, self)._augmented(image[None], key)[0])(images, keys)

    def _share(self, batch: jax.Array) -> jax.Array:
        """This device's examples of a batch."""
        share = len(batch) // self.mesh.size
        return jax.lax.dynamic_slice_in_dim(batch, jax.lax.axis_index(parallel.AXIS) * share, share)

    def _mean(self, losses: jax.Array) -> jax.Array:
        return jax.lax.pmean(jnp.mean(losses), parallel.AXIS)  # inside the differentiated loss: see training.py

    def accuracy(self, params: Any, dataset: Dataset) -> float:
        """Fraction of the test images that parameters classify rightly."""
        tile = int(np.clip(_TEST_BYTES // (4 * self.net.activation_size), 8, 512)) * self.mesh.size
        right = 0
        for start in range(0, len(dataset.test_labels), tile):
            labels = dataset.test_labels[start : start + tile]
            images = parallel.pad_rows(dataset.test_images[start : start + tile], tile)
            images = standardise(images, dataset.scale, dataset.shift)
            right += int(np.sum(np.asarray(self._classes(params, images))[: len(labels)] == labels))
        return right / len(dataset.test_labels)

    @functools.cached_property
    def _classes(self):
        def classes(params, images):
            return jnp.argmax(self.net.module.apply({"params": params}, self.net.resized(images)), axis=-1)

        return parallel.map_rows(classes, self.mesh)


def train_base(
    path: pathlib.Path,
    net: nets.TaskNet,
    settings: Mapping[str, Any],
    dataset: Dataset,
    mesh: Mesh,
    *,
    seed: int,
    provenance: Mapping[str, Any],
) -> np.ndarray:
    """Trains or imports a base network, or resumes after the last whole epoch, or reads what is done.

    Args:
      path: folder of the result: `weights.npy`, and `base.json` with the loss and test accuracy of every epoch.
      net: the whole network.
      settings: `zoo.base` of a config, see `SETTINGS`.
      dataset: training and test images.
      mesh: devices; the most that divide the batch are used.
      seed: of initialisation, batch order and augmentation.
      provenance: JSON data to keep with it.

    Returns:
      `[P]` float32.

    Raises:
      UserError: a network that is no classifier, impossible settings, a file that does not fit the network, a loss that
        is not finite, or a folder with another base.
    """
    if net.field or net.environment:
        raise UserError(
            f"Only classifiers continue from a base network; {net.name!r} is none. Set zoo.base.epochs to 0 and "
            "zoo.base.import_npz to nothing."
        )
    recipe = _recipe(settings, dataset.num_examples)
    files.make_dir(path)
    facts = {
        "settings": dict(settings),
        "seed": seed,
        "network": f"{net.name}, {net.spec.num_params} parameters",
        "data": dataset.source,
    }
    done = _finished(path, facts)
    if done is not None:
        return done
    vector = None
    if settings["import_npz"]:
        vector = read_weights(pathlib.Path(settings["import_npz"]).expanduser(), net, seed)
    batch = recipe.batch_size
    devices = max(d for d in range(1, mesh.size + 1) if batch % d == 0)
    mesh = parallel.make_mesh_of(mesh.devices.ravel()[:devices])
    trainer = BaseTrainer(net, recipe, dataset.num_examples, mesh)
    facts |= {"provenance": dict(provenance)}
    if settings["epochs"]:
        vector, report = _train(path, trainer, vector, settings, dataset, seed, facts)
    else:
        report = {"accuracy": trainer.accuracy(trainer.start(seed, vector).params, dataset)}
    with files.atomic(path / WEIGHTS) as temporary:
        np.save(temporary, vector)
        digest = files.sha256(temporary)
    files.write_json(path / INDEX, {**facts, **report, "sha256": digest})
    shutil.rmtree(path / _CHECKPOINTS, ignore_errors=True)
    return vector


def _recipe(settings: Mapping[str, Any], num_examples: int) -> Recipe:
    unknown, missing = sorted(set(settings) - set(SETTINGS)), sorted(set(SETTINGS) - set(settings))
    if unknown or missing:
        raise UserError(
            f"zoo.base has unknown settings ({', '.join(unknown) or 'none'}) or lacks some "
            f"({', '.join(missing) or 'none'}); they are {', '.join(SETTINGS)}."
        )
    epochs, batch = settings["epochs"], settings["batch_size"]
    if not 1 <= batch <= num_examples:
        raise UserError(
            f"zoo.base.batch_size is {batch}, but must lie between 1 and the {num_examples} training examples."
        )
    if epochs < 0 or not (epochs or settings["import_npz"]):
        raise UserError(
            f"zoo.base.epochs is {epochs}; give at least 1, or the file of a trained network as zoo.base.import_npz."
        )
    one_of = functools.partial(recipes.choice, settings, "zoo.base")
    one_of("select", SELECT)
    hyper = {name: settings[name] for name in ("learning_rate", "momentum", "weight_decay")} | {"init_scale": 1.0}
    for name, value in hyper.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"zoo.base.{name} is one number, since there is one base network; got {value!r}.")
    steps = max(epochs, 1) * (num_examples // batch)
    return Recipe(
        steps=steps,
        batch_size=batch,
        optimizer=one_of("optimizer", recipes.OPTIMIZERS),
        nesterov=bool(settings["nesterov"]),
        schedule=one_of("schedule", ("constant", "cosine", "cosine_per_epoch")),
        batch_order="own",
        start="own",
        snapshots=(steps,),
        hyper=tuple((name, Distribution.parse(value, name)) for name, value in hyper.items()),
        augment=one_of("augment", recipes.AUGMENTATIONS),
    )


def _finished(path: pathlib.Path, facts: Mapping[str, Any]) -> np.ndarray | None:
    """The weights in the folder, if they are whole; None where there is work left."""
    if not (path / INDEX).exists():
        return None
    cure = "Remove that folder and run again, or choose another --workdir."
    index = files.read_json(path / INDEX, "base network's record", cure)
    changed = provenance.differences({k: index.get(k) for k in facts}, facts)
    if changed:
        raise UserError(f"The base network in {path} was made by another config: {'; '.join(changed)}. {cure}")
    if "sha256" not in index:
        return None
    if not (path / WEIGHTS).exists() or files.sha256(path / WEIGHTS) != index["sha256"]:
        raise UserError(f"{path / WEIGHTS} is missing, or was changed after it was written. {cure}")
    return np.load(path / WEIGHTS)


def _train(path, trainer: BaseTrainer, vector, settings, dataset: Dataset, seed: int, facts: dict[str, Any]):
    """Trains to the end from the last whole epoch; the chosen weights, and what is known about them."""
    net, epochs = trainer.net, settings["epochs"]
    per_epoch = trainer.recipe.steps // epochs
    data = trainer.load(dataset)
    state = trainer.start(seed, vector)
    best = None if settings["select"] == "last" else jax.tree.map(jnp.copy, state.params)
    unknown = np.full(epochs, np.nan, np.float32)
    now = Progressed(state.params, state.opt_state, History(unknown, unknown), best)
    now = jax.device_put(now, parallel.replicated(trainer.mesh))
    with Checkpoints(path / _CHECKPOINTS) as checkpoints:
        first = checkpoints.latest_step() or 0
        if first:
            now = checkpoints.restore(first, like=now)
        loss, accuracy = (np.array(x) for x in now.history)
        state, best, count = state._replace(params=now.params, opt_state=now.opt_state), now.best, 1
        with progress.Progress((epochs - first) * per_epoch, f"base ({net.name})", "steps") as bar:
            for epoch in range(first, epochs):
                total, step, stop = 0.0, epoch * per_epoch, (epoch + 1) * per_epoch
                while step < stop:
                    take = min(count, stop - step)
                    begin = time.monotonic()
                    state, total = jax.block_until_ready(
                        trainer.advance(state, data, np.array([step, step + take]), total)
                    )
                    step += take
                    rate = take / max(time.monotonic() - begin, 1e-6)
                    count = int(np.clip(rate * _DISPATCH_SECONDS, max(count // 2, 1), 8 * count))
                    note = f", test accuracy {accuracy[epoch - 1]:.1%}" if epoch else ""
                    bar.update(step - first * per_epoch, f"epoch {epoch + 1}{note}")
                loss[epoch] = float(total) / per_epoch
                if not np.isfinite(loss[epoch]):
                    raise UserError(
                        f"The loss of the base network is not finite in epoch {epoch + 1}. Set zoo.base.learning_rate "
                        "lower, and use a new workdir."
                    )
                accuracy[epoch] = trainer.accuracy(state.params, dataset)
                if best is not None and accuracy[epoch] > np.max(accuracy[:epoch], initial=-1.0):
                    best = jax.tree.map(jnp.copy, state.params)  # the next dispatch donates the state
                checkpoints.save(epoch + 1, Progressed(state.params, state.opt_state, History(loss, accuracy), best))
                report = {"epochs": _rows(loss[: epoch + 1], accuracy[: epoch + 1])}
                files.write_json(path / INDEX, {**facts, **report})
    kept = epochs - 1 if best is None else int(np.argmax(accuracy))
    report = {"epochs": _rows(loss, accuracy), "kept_epoch": kept + 1, "accuracy": float(accuracy[kept])}
    return np.asarray(trainer.vector(state.params if best is None else best)), report


def _rows(loss: np.ndarray, accuracy: np.ndarray) -> list[dict[str, float]]:
    return [
        {"epoch": i + 1, "loss": float(a), "accuracy": float(b)}
        for i, (a, b) in enumerate(zip(loss, accuracy, strict=True))
    ]


def read_weights(path: pathlib.Path, net: nets.TaskNet, seed: int) -> np.ndarray:
    """Reads a network from an `.npz` file.

    Args:
      path: the file. Either `weights`, `[P]` or `[1, P]` in flat order, or one array per tensor of PyTorch's state dict
        under its name, maybe behind a prefix that all share ("model."). Counters of batches are ignored.
      net: the network. If its last layer has another number of classes, that one is initialised.
      seed: of that initialisation.

    Returns:
      `[P]` float32.

    Raises:
      UserError: no such file, or tensors that the network lacks, does not have, or has in another shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            tensors = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Give zoo.base.import_npz the path of an .npz file.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an .npz file of arrays ({error}). Save it with numpy.savez.") from error
    if set(tensors) >= {"weights"}:
        vector = np.asarray(tensors["weights"], np.float32)
        if vector.shape not in ((net.spec.num_params,), (1, net.spec.num_params)):
            raise UserError(
                f"{path}: `weights` has shape {vector.shape}, but the network {net.name!r} has {net.spec.num_params} "
                "parameters. Set net as the file was made."
            )
        return vector.reshape(-1)
    return _from_state_dict(path, tensors, net, seed)


def _from_state_dict(path: pathlib.Path, tensors: dict[str, np.ndarray], net: nets.TaskNet, seed: int) -> np.ndarray:
    tensors = {name: value for name, value in tensors.items() if not name.endswith("num_batches_tracked")}
    dotted = {leaf.name: leaf.name.replace("/", ".") for leaf in net.spec.leaves}
    prefix = _prefix(tensors, dotted[net.spec.leaves[0].name])
    theirs = {name: prefix + dotted[name] for name in dotted}
    missing = [name for name in theirs.values() if name not in tensors]
    extra = sorted(set(tensors) - set(theirs.values()))
    if missing or extra:
        raise UserError(
            f"{path} does not hold the network {net.name!r}: {len(missing)} tensors are missing "
            f"({', '.join(missing[:5])}), {len(extra)} are left over ({', '.join(extra[:5])}). Set net as the file was "
            "made."
        )
    head, fresh, parts = _head(net.spec), [], []
    start = np.asarray(jax.jit(net.init)(jax.random.key(seed)))
    for leaf, span in net.spec.spans():
        value = tensors[theirs[leaf.name]]
        if value.shape in (leaf.shape, leaf.stored_axes):
            parts.append(np.asarray(value, np.float32).ravel())
        elif leaf.name.rpartition("/")[0] == head:
            fresh.append(f"{leaf.name} {value.shape} -> {leaf.shape}")
            parts.append(start[span])
        else:
            raise UserError(
                f"{path}: {theirs[leaf.name]} has shape {value.shape}, this network needs {leaf.stored_axes}. Set net, "
                "and the size and colours of the images, as the file was made."
            )
    if fresh:
        print(f"base: {path.name} has another last layer, which is initialised: {', '.join(fresh)}")
    return np.concatenate(parts)


def _prefix(names: Mapping[str, Any], first: str) -> str:
    """What stands before a top-level tensor's name."""
    found = [name[: -len(first)] for name in names if name == first or name.endswith(f".{first}")]
    return min(found, key=len, default="")


def _head(spec: WeightSpec) -> str:
    """The last layer, which has an output per class."""
    last: Leaf = spec.leaves[-1]
    return last.name.rpartition("/")[0]
