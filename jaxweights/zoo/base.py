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
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import files, nets, parallel, progress, provenance
from jaxweights.checkpoints import Checkpoints
from jaxweights.checks import LARGEST_INT
from jaxweights.data import Dataset, standardise
from jaxweights.errors import UserError
from jaxweights.settings import Settings, plain, setting
from jaxweights.zoo.augment import Augmentation
from jaxweights.zoo.imported import read_weights, scaling
from jaxweights.zoo.program import RunData, RunState
from jaxweights.zoo.recipe import Distribution, Recipe
from jaxweights.zoo.supervised import SplitBatch, Supervised, SupervisedSettings

INDEX, WEIGHTS, _CHECKPOINTS = "base.json", "weights.npy", "checkpoints"

_KEY = 2  # 0 and 1 of the zoo's key are its runs and what they share
_DISPATCH_SECONDS = 1.5
_TEST_BYTES = 256 << 20  # activations of the images that a device tests together


@dataclasses.dataclass(frozen=True)
class BaseSettings(Settings):
    """Settings of the network that is trained (epochs) or read (import_npz) before all runs, which continue from it:
    P-diff's recipe.

    Attributes:
      import_npz: a file with `weights` in flat order, or with a state dict, e.g. of PyTorch.
      epochs: epochs of training; 0 for no base network, or for an imported one as it is.
      batch_size: images per step.
      optimizer: sgd, adam or adamw, see `ZooSettings`.
      nesterov: Nesterov momentum of sgd.
      schedule: schedule of the learning rate, see `ZooSettings`.
      learning_rate: learning rate.
      momentum: momentum of sgd.
      weight_decay: weight decay.
      augment: random changes of training images: none, flip_crop, resized_crop.
      select: epoch whose weights are kept: last, or best_test (as published; looks at the test set).
    """

    SECTION: ClassVar[str] = "zoo.base"

    import_npz: str = ""
    epochs: int = setting(0, at_least=0)
    batch_size: int = setting(128, at_least=1)
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    nesterov: bool = False
    schedule: Literal["constant", "cosine", "cosine_per_epoch"] = "cosine_per_epoch"
    learning_rate: float = setting(5e-4, above=0)
    momentum: float = setting(0.9, at_least=0, below=1)
    weight_decay: float = setting(5e-4, at_least=0)
    augment: Augmentation = "none"
    select: Literal["last", "best_test"] = "last"

    @property
    def exists(self) -> bool:
        """Whether there is a base network."""
        return bool(self.epochs or self.import_npz)


class History(NamedTuple):
    """Of every epoch, NaN where it is still to come: mean loss in training, and test accuracy; `[epochs]` float32."""

    loss: jax.Array | np.ndarray
    accuracy: jax.Array | np.ndarray


class Progressed(NamedTuple):
    """What a checkpoint holds: the run, its history, and the best epoch's parameters (None where the last is kept)."""

    params: Any
    opt_state: Any
    history: History
    best: Any


@dataclasses.dataclass(frozen=True)
class BaseTrainer:
    """Trains one network, its batches split over the devices; `mesh.size` divides the batch.

    The result does not depend on the number of devices but for the order of sums: statistics and gradients are those of
    the whole batch, and every example has a key of its own.

    Attributes:
      program: how the network is trained, with the batch split over the mesh.
      mesh: devices.
    """

    program: Supervised
    mesh: Mesh

    @classmethod
    def create(cls, net: nets.TaskNet, settings: BaseSettings, num_examples: int, mesh: Mesh) -> BaseTrainer:
        """A trainer by the settings of a base network."""
        split = SplitBatch(mesh.size)
        recipe = base_recipe(settings, num_examples)
        program = Supervised(net, recipe, num_examples, augment=settings.augment, split=split)
        return cls(program, mesh)

    @property
    def net(self) -> nets.TaskNet:
        """The network."""
        return self.program.net

    def start(self, seed: int, vector: np.ndarray | None) -> RunState:
        """The state before the first step, on every device; from a given `[P]`, or from an initialisation."""
        recipe = self.program.recipe

        def first(key, vector):
            hyper = recipe.sample_hyper(key)
            vector = self.net.init(jax.random.fold_in(key, 0)) if vector is None else vector
            params = self.net.spec.unflatten(vector)
            opt_state = recipe.transformation(hyper, jnp.float32(0.0)).init(params)
            return RunState(params, opt_state, jax.random.key_data(jax.random.fold_in(key, 1)), hyper)

        key = jax.random.fold_in(jax.random.key(seed), _KEY)
        return jax.jit(first, out_shardings=parallel.replicated(self.mesh))(key, vector)

    def load(self, dataset: Dataset) -> RunData:
        """The training set on every device."""
        return self.program.load(dataset, self.mesh)

    def advance(
        self, state: RunState, data: RunData, bounds: np.ndarray, total: jax.typing.ArrayLike = 0.0
    ) -> tuple[RunState, jax.Array]:
        """Trains from step `bounds[0]` to `bounds[1]`; the state is donated. Returns it, and the losses added to
        `total`, one by one, so that the sum does not depend on the bounds."""
        return self._advance(state, data, jnp.asarray(bounds, jnp.int32), jnp.float32(total))

    @functools.cached_property
    def _advance(self):
        def train(state: RunState, data: RunData, bounds: jax.Array, total: jax.Array):
            def step(i, carry):
                trained, total = carry
                loss, trained = self.program.update(state, data, i, trained)
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

    def accuracy(self, params: Any, dataset: Dataset) -> float:
        """Fraction of the test images that parameters classify correctly."""
        return int(np.sum(self.predictions(params, dataset) == dataset.test_labels)) / len(dataset.test_labels)

    def predictions(self, params: Any, dataset: Dataset) -> np.ndarray:
        """Class of every test image, `[T]`; -1 where outputs are not finite."""
        tile = int(np.clip(_TEST_BYTES // (4 * self.net.activation_size), 8, 512)) * self.mesh.size
        found = []
        for start in range(0, len(dataset.test_labels), tile):
            labels = dataset.test_labels[start : start + tile]
            images = parallel.pad_rows(dataset.test_images[start : start + tile], tile)
            images = standardise(images, dataset.scale, dataset.shift)
            found.append(np.asarray(self._classes(params, images))[: len(labels)])
        return np.concatenate(found)

    @functools.cached_property
    def _classes(self):
        def classes(params, images):
            logits: Any = self.net.module.apply({"params": params}, self.net.resized(images))
            return jnp.where(jnp.isfinite(logits).all(axis=-1), jnp.argmax(logits, axis=-1), -1)

        return parallel.map_rows(classes, self.mesh)


def train_base(
    path: pathlib.Path,
    net: nets.TaskNet,
    settings: BaseSettings,
    dataset: Dataset,
    mesh: Mesh | None = None,
    *,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Trains or imports a base network, or resumes after the last whole epoch, or reads what is done.

    Args:
      path: folder of the result: `weights.npy`, and `base.json` with the loss and test accuracy of every epoch.
      net: the whole network, a classifier.
      settings: settings of its training.
      dataset: training and test images.
      mesh: devices, all by default; the most that divide the batch are used.
      seed: random seed of initialisation, batch order and augmentation.
      provenance: JSON data to keep with it.

    Returns:
      `[P]` float32.

    Raises:
      UserError: impossible settings, a file that does not fit the network, a loss that is not finite, or a folder with
        another base.
    """
    mesh = parallel.make_mesh() if mesh is None else mesh
    base_recipe(settings, dataset.num_examples)
    facts = {
        "settings": plain(settings),
        "seed": seed,
        "network": f"{net.name}, {net.spec.num_params} parameters",
        "data": dataset.source,
    }
    done = _finished(path, facts)
    if done is not None:
        return done
    # A file is read and tried before the folder is made, whose absence says that nothing is lost with another one.
    vector: Any = read_weights(settings.import_npz, net, seed) if settings.import_npz else None
    devices = max(d for d in range(1, mesh.size + 1) if settings.batch_size % d == 0)
    mesh = parallel.make_mesh_of(mesh.devices.ravel()[:devices])
    trainer = BaseTrainer.create(net, settings, dataset.num_examples, mesh)
    accuracy = _imported_accuracy(trainer, settings, vector, dataset, seed) if settings.import_npz else None
    files.make_dir(path)
    facts |= {"provenance": dict(provenance or {})}
    if settings.epochs:
        vector, report = _train(path, trainer, vector, settings, dataset, seed, facts)
    else:
        report = {"accuracy": accuracy}
    with files.atomic(path / WEIGHTS) as temporary:
        np.save(temporary, vector)
        digest = files.sha256(temporary)
    files.write_json(path / INDEX, {**facts, **report, "sha256": digest})
    shutil.rmtree(path / _CHECKPOINTS, ignore_errors=True)
    return vector


def _imported_accuracy(trainer: BaseTrainer, settings: BaseSettings, vector, dataset: Dataset, seed: int) -> float:
    """Test accuracy of a network from a file, and what it was taken for on the terminal.

    Raises:
      UserError: outputs that are not finite.
    """
    found = trainer.predictions(trainer.start(seed, vector).params, dataset)
    if (found < 0).any():
        raise UserError(
            f"The base network {settings.import_npz} has outputs that are not finite for {(found < 0).sum()} of "
            f"{len(found)} test images, though its weights are finite: it is damaged, or of another network than "
            f"{trainer.net.name!r}."
        )
    accuracy = int(np.sum(found == dataset.test_labels)) / len(found)
    said = f"base: {settings.import_npz} has a test accuracy of {accuracy:.4g}; inputs are {scaling(dataset)}"
    print(said, file=sys.stderr, flush=True)
    return accuracy


def base_recipe(settings: BaseSettings, num_examples: int) -> Recipe:
    """The training of the base network as that of a run.

    Raises:
      UserError: a batch larger than the training set, or neither epochs nor a file.
    """
    batch = settings.batch_size
    if batch > num_examples:
        raise UserError(
            f"zoo.base.batch_size is {batch}, but must lie between 1 and the {num_examples} training examples."
        )
    if not settings.exists:
        settings.refuse("epochs", "give at least 1, or the file of a trained network as zoo.base.import_npz")
    per_epoch = num_examples // batch
    if settings.epochs * per_epoch > LARGEST_INT:
        settings.refuse("epochs", f"set it to at most {LARGEST_INT // per_epoch}, or {LARGEST_INT} steps")
    run = SupervisedSettings(
        steps=max(settings.epochs, 1) * per_epoch,
        batch_size=batch,
        optimizer=settings.optimizer,
        nesterov=settings.nesterov,
        schedule=settings.schedule,
        learning_rate=Distribution.constant(settings.learning_rate),
        momentum=Distribution.constant(settings.momentum),
        weight_decay=Distribution.constant(settings.weight_decay),
    )
    return Recipe.from_settings(run, num_examples)


def _finished(path: pathlib.Path, facts: Mapping[str, Any]) -> np.ndarray | None:
    """The weights in the folder, if they are whole; None where there is work left."""
    if not (path / INDEX).exists():
        return None
    cure = f"Remove the folder {path} and run again, or choose another --workdir."
    index = files.read_json(path / INDEX, "base network's record", cure)
    changed = provenance.differences({k: index.get(k) for k in facts}, facts)
    if changed:
        raise UserError(f"The base network in {path} was made by another config: {'; '.join(changed)}. {cure}")
    if "sha256" not in index:
        return None
    if not (path / WEIGHTS).is_file() or files.sha256(path / WEIGHTS) != index["sha256"]:
        raise UserError(f"{path / WEIGHTS} is missing, or was changed after it was written. {cure}")
    return np.load(path / WEIGHTS)


def _train(
    path, trainer: BaseTrainer, vector, settings: BaseSettings, dataset: Dataset, seed: int, facts: dict[str, Any]
):
    """Trains to the end from the last whole epoch; the chosen weights, and what is known about them."""
    net, epochs = trainer.net, settings.epochs
    per_epoch = trainer.program.recipe.steps // epochs
    data = trainer.load(dataset)
    state = trainer.start(seed, vector)
    best = None if settings.select == "last" else jax.tree.map(jnp.copy, state.params)
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
                        f"The loss of the base network is not finite in epoch {epoch + 1}. Lower "
                        f"zoo.base.learning_rate; remove {path} first, or choose another --workdir."
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
