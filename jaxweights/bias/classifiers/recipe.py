"""The published recipe of a source classifier, one training at a time over all devices (Zeng, Yin and Liu, arXiv
2412.01876, appendix A, and its code).

An image goes through: random resized crop, flip and RandAugment on bytes, as the transformation's group says; the
transformation where it acts on access; standardisation by ImageNet's moments; mixup or CutMix. Training is that of
`training`, with its checkpoints.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jaxweights import files, nets, parallel
from jaxweights.bias import gradcam
from jaxweights.bias.augmentation import crops
from jaxweights.bias.augmentation.mixing import Mixing, mixed, smoothed
from jaxweights.bias.augmentation.randaugment import RandAugment, rand_augment
from jaxweights.bias.classifiers.base import Classifier
from jaxweights.bias.protocol import Outcome, Trial
from jaxweights.bias.transformations import Transformation, accessed
from jaxweights.bias.transformations.base import Augmentation
from jaxweights.errors import UserError
from jaxweights.generators.base import Stage, keys_for
from jaxweights.nn.normalization import apply_in_training, is_statistic
from jaxweights.settings import setting
from jaxweights.steps import TrainState
from jaxweights.training import StageTrainer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of channels in [0, 1]."""

_CROP, _CHANGE, _ACCESS, _MIX, _EVALUATE = range(5)  # purposes of an example's key
_TRAIN, _ASK = 0, 1  # purposes of a trial's key
_BLOCK = 256  # images per forward pass, over all devices
_TRAINED = 10_000  # training examples that the training accuracy is taken of


@dataclasses.dataclass(frozen=True)
class Recipe(Classifier):
    """The published recipe; the defaults are its constants.

    Attributes:
      net: `name` and settings of the network, see `nets.NETWORKS`.
      final_learning_rate: at the end of the cosine.
      beta1, beta2: of AdamW.
      side: side of the images that the network sees.
      resize: short side before the square in the middle is cut out, in evaluation.
      augment: RandAugment of the transformations that have it.
      mixing: mixup and CutMix.
      micro_batch: examples per device whose activations are in memory together; 0 for all of a step.
      normalisation: "consistent": where the published table standardises in evaluation alone (segmentation), in
        training, too; "published": as it stands there.
      reported: outcome of the "last" epoch, or of that which was "best" on the very examples that are reported, which
        flatters; the published code tracks both and does not say which one it reports.
    """

    KIND: ClassVar[str] = "recipe"
    IMAGES: ClassVar[bool] = True

    epochs: int = setting(30, at_least=1)
    batch_size: int = setting(4096, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(0.3, at_least=0)
    warmup: float = setting(2 / 30, at_least=0, at_most=1)
    label_smoothing: float = setting(0.1, at_least=0, below=1)
    net: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "convnext_tiny"})
    final_learning_rate: float = setting(1e-6, at_least=0)
    beta1: float = setting(0.9, at_least=0, below=1)
    beta2: float = setting(0.95, at_least=0, below=1)
    side: int = setting(224, at_least=1, at_most=4096)
    resize: int = setting(256, at_least=1, at_most=4096)
    augment: RandAugment = RandAugment()
    mixing: Mixing = Mixing()
    micro_batch: int = setting(0, at_least=0)
    normalisation: Literal["consistent", "published"] = "consistent"
    reported: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize < self.side:
            self.refuse("resize", f"give at least bias.classifier.side, {self.side}")

    def __hash__(self) -> int:
        return hash(repr(self))

    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return self.network(input_shape[-1], num_classes).module

    def network(self, channels: int, num_classes: int) -> nets.TaskNet:
        """The network for images of so many channels."""
        return nets.build(self.net, (self.side, self.side, 3 if channels == 1 else channels), num_classes)

    def schedule(self, steps: int) -> optax.Schedule:
        """The learning rate of every step: from 0 up in a line, then half a cosine, as the published code counts."""
        rising = round(self.warmup * steps)
        left = max(steps - rising, 1)

        def rate(step):
            up = self.learning_rate * step / max(rising - 1, 1)
            share = 0.5 * (1 + jnp.cos(jnp.pi * (step - rising) / left))
            down = self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * share
            return jnp.where(step < rising, up, down)

        return rate

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """AdamW, whose weight decay leaves vectors alone."""

        def matrices(params):
            return jax.tree.map(lambda x: x.ndim > 1, params)

        rate = self.schedule(steps)
        return optax.adamw(rate, self.beta1, self.beta2, 1e-8, weight_decay=self.weight_decay, mask=matrices)

    def standardised_in(self, augmentation: Augmentation) -> tuple[bool, bool]:
        """Whether images are standardised in training and in evaluation."""
        evaluated = augmentation.normalise_eval
        return (augmentation.normalise_train if self.normalisation == "published" else evaluated), evaluated


def train(
    recipe: Recipe,
    stored: np.ndarray,
    transformation: Transformation,
    trial: Trial,
    num_classes: int,
    *,
    mesh: Mesh | None = None,
    path: pathlib.Path | None = None,
) -> Outcome:
    """Trains a classifier, or resumes it, and asks it about the validation rows.

    Args:
      recipe: its settings.
      stored: `[n, H, W, C]` of `transformations.stored`.
      transformation: what happens on access, and how images are augmented.
      trial: rows; `inputs` is not looked at.
      num_classes: K.
      mesh: devices; None for all of this process.
      path: folder of the checkpoints; None to keep nothing on disk.

    Raises:
      UserError: fewer images than a batch, channels that cannot be augmented so, or groups of mixing that do not divide
        a device's share of a batch.
      Diverged: a loss that is not finite.
    """
    mesh = parallel.resolve(mesh)
    pipeline = _Pipeline(recipe, transformation, num_classes)
    pipeline.check(stored.shape[1:])
    net = recipe.network(stored.shape[-1], num_classes)
    key = jax.random.key(trial.seed)
    data = {"images": stored[trial.train], "labels": trial.labels[trial.train].astype(np.int32)}
    per_epoch = len(trial.train) // recipe.batch_size
    stage = _stage(recipe, net, pipeline, recipe.epochs * per_epoch)
    trainer = StageTrainer(
        stage, data, {}, mesh, jax.random.fold_in(key, _TRAIN), f"{recipe.KIND}/{transformation.KIND}"
    )
    ask = functools.partial(_ask, pipeline, mesh=mesh, key=jax.random.fold_in(key, _ASK))
    best = _Best(path, lambda params, state: ask(params, state, stored[trial.validation]))
    saved = best.see if recipe.reported == "best" else None
    result = trainer.run(None if path is None else path / "checkpoints", lambda row: None, per_epoch, saved=saved)
    given = result["params"], result["model_state"]
    predictions = (
        ask(*given, stored[trial.validation]) if saved is None else best.predictions(trial.labels[trial.validation])
    )
    some = trial.train[:: -(-len(trial.train) // _TRAINED)]
    explain = functools.partial(_explained, pipeline, given, jax.random.fold_in(key, _ASK))
    return Outcome(predictions, float(np.mean(ask(*given, stored[some]) == trial.labels[some])), explain)


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    """From stored images to the inputs of a network."""

    recipe: Recipe
    transformation: Transformation
    num_classes: int

    def check(self, shape: tuple[int, ...]) -> None:
        """Raises `UserError` unless stored images `[H, W, C]` can be augmented."""
        augments = self.transformation.augmentation.group == "full" and self.recipe.augment.operations
        if shape[-1] not in (1, 3) and (augments or shape[-1] % 3):
            raise UserError(
                f"Images of transformation {self.transformation.KIND} have {shape[-1]} channels, and RandAugment and "
                "ImageNet's moments are for colour images. Set bias.classifier.augment.operations to 0, or choose "
                "another bias.classifier.kind."
            )

    def training(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Inputs of training, augmented."""
        images, side = _bytes(images), self.recipe.side
        group = self.transformation.augmentation.group
        images = crops.random_resized(images, keys_for(keys, _CROP), side, flip=group != "crop")
        if group == "full":
            images = rand_augment(images, keys_for(keys, _CHANGE), self.recipe.augment)
        return self._last(images, keys, self.recipe.standardised_in(self.transformation.augmentation)[0])

    def evaluation(self, images: jax.Array, keys: jax.Array) -> jax.Array:
        """Inputs of evaluation."""
        images = crops.central(_bytes(images), self.recipe.side, self.recipe.resize)
        return self._last(images, keys, self.recipe.standardised_in(self.transformation.augmentation)[1])

    def _last(self, images: jax.Array, keys: jax.Array, standardised: bool) -> jax.Array:
        images = accessed(self.transformation)(images / 255, keys_for(keys, _ACCESS))
        if not standardised:
            return images
        times = images.shape[-1] // 3
        mean, deviation = (jnp.tile(jnp.array(x), times)[None, None, None, :] for x in (MEAN, DEVIATION))
        return (images - mean) / deviation


def _bytes(images: jax.Array) -> jax.Array:
    """Stored images as numbers that bytes have, grey ones in three channels."""
    values = images.astype(jnp.float32) if images.dtype == jnp.uint8 else crops.whole(255 * images)
    return jnp.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values


def _stage(recipe: Recipe, net: nets.TaskNet, pipeline: _Pipeline, steps: int) -> Stage:
    def init(key, done):
        del done
        params = net.spec.unflatten(net.init(key))
        return params, _statistics(params)

    def loss(params, model_state, done, batch, keys, axis_name):
        del done
        share = len(keys)
        micro = recipe.micro_batch or share
        if share % micro or (recipe.mixing.active and micro % recipe.mixing.group):
            raise UserError(
                f"A device has {share} examples of a step, in parts of {micro}, and groups of {recipe.mixing.group} "
                "to mix, which do not divide each other. Set bias.classifier.micro_batch to a divisor of the "
                "first, and bias.classifier.mixing.group to one of that."
            )
        module = net.module if axis_name is None or not model_state else net.module.clone(axis_name=axis_name)

        def part(batch):
            examples, labels, keys = batch
            inputs = pipeline.training(examples, keys)
            targets = smoothed(labels, pipeline.num_classes, recipe.label_smoothing)
            inputs, targets = mixed(inputs, targets, keys_for(keys, _MIX), recipe.mixing)
            logits, moved = apply_in_training(module, _with(params, model_state), inputs)
            losses = -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)
            return jnp.mean(losses), _statistics(moved)

        given = batch["images"], batch["labels"], keys
        if micro == share:
            value, moved = part(given)
        else:
            parts = jax.tree.map(lambda x: x.reshape((share // micro, micro) + x.shape[1:]), given)
            value, moved = jax.tree.map(lambda x: jnp.mean(x, 0), jax.lax.map(jax.checkpoint(part), parts))
        return value, (moved, {})

    return Stage("classifier", steps, recipe.batch_size, recipe.optimizer(steps), init, loss)


def _statistics(params: Mapping[str, Any]) -> dict[str, Any]:
    """The running statistics among the parameters of a network."""
    found = {k: _statistics(v) if isinstance(v, Mapping) else v for k, v in params.items()}
    return {k: v for k, v in found.items() if (v if isinstance(v, dict) else is_statistic(k))}


def _with(params: Mapping[str, Any], statistics: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with running statistics in the place of their own."""
    return {
        k: _with(v, statistics[k]) if k in statistics and isinstance(v, Mapping) else statistics.get(k, v)
        for k, v in params.items()
    }


@functools.lru_cache(maxsize=8)
def _classes(pipeline: _Pipeline, channels: int, mesh: Mesh):
    """The compiled program from `(params, key)` and `(images, numbers)` to classes."""
    net = pipeline.recipe.network(channels, pipeline.num_classes)

    def classes(state, rows):
        (params, words), (images, numbers) = state, rows
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.wrap_key_data(words), numbers)
        inputs = pipeline.evaluation(images, keys_for(keys, _EVALUATE))
        logits: Any = net.module.apply({"params": params}, inputs)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    return parallel.map_rows(classes, mesh)


def _ask(pipeline: _Pipeline, params, model_state, images: np.ndarray, *, mesh: Mesh, key: jax.Array) -> np.ndarray:
    """Classes `[n]` int32 of stored images `[n, H, W, C]`."""
    program, size = _classes(pipeline, images.shape[-1], mesh), min(_BLOCK, len(images))
    state, out = (_with(params, model_state), jax.random.key_data(key)), []
    for first in range(0, len(images), size):
        part = images[first : first + size]
        rows = parallel.pad_rows(part, size), np.arange(first, first + size, dtype=np.int32)
        out.append(np.asarray(program(state, rows))[: len(part)])
    return np.concatenate(out)


def _explained(
    pipeline: _Pipeline, given: tuple[Any, Any], key: jax.Array, images: np.ndarray, classes: np.ndarray
) -> np.ndarray | None:
    """Grad-CAM `[n, H, W]` of the last weights; 0 at the borders, which the network does not see in evaluation."""
    recipe = pipeline.recipe
    inputs = pipeline.evaluation(jnp.asarray(images), jax.random.split(key, len(images)))
    module = recipe.network(images.shape[-1], pipeline.num_classes).module
    found = gradcam.maps(module, _with(*given), inputs, jnp.asarray(classes))
    if found is None:
        return None
    height, width = images.shape[1:3]
    side = round(min(height, width) * recipe.side / recipe.resize)
    top, left = (height - side) // 2, (width - side) // 2
    borders = ((0, 0), (top, height - side - top), (left, width - side - left))
    return np.pad(np.asarray(jax.image.resize(found, (len(images), side, side), "bilinear")), borders)


class _Best:
    """Predictions at every checkpoint, kept beside it, so that a resumed training has those before it, too."""

    def __init__(self, path: pathlib.Path | None, ask):
        self._path, self._ask, self._found = None if path is None else path / "predictions", ask, {}

    def see(self, step: int, state: TrainState) -> None:
        """Takes the predictions of a state."""
        self._found[step] = self._ask(*jax.tree.map(np.asarray, (state.params, state.model_state)))
        if self._path is not None:
            files.write_npz(files.make_dir(self._path) / f"{step}.npz", {"predictions": self._found[step]})

    def predictions(self, truth: np.ndarray) -> np.ndarray:
        """Those that agree with the truth most often, the earliest among equals."""
        found = dict(self._found)
        if self._path is not None:
            cure = f"Remove {self._path.parent} and run the same command again."
            for file in self._path.glob("*.npz"):
                found[int(file.stem)] = files.read_npz(file, "predictions of a classifier", cure)["predictions"]
        return found[max(sorted(found), key=lambda step: float(np.mean(found[step] == truth)))]
