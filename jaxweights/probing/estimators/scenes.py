"""What rendered scenes show, read by a small network that is trained on rendered truth."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, ClassVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import traverse_util
from jax.sharding import Mesh

from jaxweights import files, parallel, processes, programs, settings
from jaxweights.errors import UserError
from jaxweights.generators.base import Stage
from jaxweights.nn.convolution import Conv, patches
from jaxweights.nn.dense import Dense
from jaxweights.nn.parameters import initialise
from jaxweights.probing.data import DesignedData, ScenePairs, Scenes
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.features import Design
from jaxweights.settings import setting
from jaxweights.training import StageTrainer

_BLOCK = 512  # images measured or rendered at a time, over all devices
_PATCH = 2  # pixels of a side that the first layer takes together
_SHARPNESS = 6.0  # of the logits of counts: 12 between a whole number and the next one but one
_OF_PLACES = 4.0  # weight of the squared error of where objects are
_WARM_UP = 0.1  # share of the steps over which the learning rate rises
_RENDER, _TRAIN = 0, 1  # purposes of the key
_SHIFT, _LEVEL, _NOISE = range(3)  # purposes of an example's key


_Kind = Scenes | ScenePairs


class SceneNet(nn.Module):
    """Residual convolutions of 3x3 windows, a map of how many objects every cell has, and the logits of all classes:
    of counts by the sum of the map, of others by a hidden layer.

    Attributes:
      widths: channels of the maps, each of half the size of the one before.
      hidden: units of the hidden layer.
      classes: in all.
      counts: whether the classes are counts from 0 on.
    """

    widths: tuple[int, ...]
    hidden: int
    classes: int
    counts: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Logits `[B, classes]` and objects per cell `[B, cells, cells]` of images `[B, H, W, C]` in [0, 1]."""
        cut = patches(4 * images - 2, _PATCH)
        x = Conv(self.widths[0], _PATCH, stride=_PATCH, initialiser="kaiming_uniform", name="stem")(cut)
        for i, width in enumerate(self.widths):
            stride = 1 if i == 0 else 2
            x = nn.relu(x)
            x = Conv(width, 3, stride, padding=1, initialiser="kaiming_uniform", name=f"down{i}")(x)
            x = x + Conv(width, 3, padding=1, initialiser="kaiming_uniform", name=f"inner{i}")(nn.relu(x))
        x = nn.relu(x)
        density = nn.softplus(Dense(1, name="density")(x))[..., 0]
        if self.counts:
            number = jnp.sum(density, axis=(1, 2))[:, None]
            return -_SHARPNESS * (number - jnp.arange(self.classes)[None]) ** 2, density
        x = nn.relu(Dense(self.hidden, initialiser="kaiming_uniform", name="hidden")(x.reshape(len(x), -1)))
        return Dense(self.classes, name="out")(x), density


@dataclasses.dataclass(frozen=True)
class SceneEstimator(Estimator):
    """A convolutional network that is trained on rendered scenes; its answer is the likeliest value of every feature.

    AdamW, a linear warm-up and a cosine; cross-entropy, and the squared error of a coarse map of where objects are.
    Scenes are moved, made brighter or darker, blurred and made noisy at random, as images of generative models are.
    Counts are told from none to one more than the data's largest, so that a model which shows too many is not read as
    one that shows the most.

    Attributes:
      images: rendered scenes that it is trained on.
      steps: optimizer steps.
      batch_size: images per step.
      learning_rate: its largest value.
      weight_decay: of AdamW.
      ema_decay: decay of the averaged parameters, which are used.
      widths: channels of the maps, each of half the size of the one before; the first has a quarter of the pixels.
      hidden: units of the hidden layer that tells shapes and colours.
      shift: most pixels by which an image is moved along each axis.
      noise: largest standard deviation of the noise.
    """

    KIND: ClassVar[str] = "scene_net"

    images: int = setting(16384, at_least=8)
    steps: int = setting(1600, at_least=1)
    batch_size: int = setting(64, at_least=1)
    learning_rate: float = setting(2e-3, above=0)
    weight_decay: float = setting(1e-2, at_least=0)
    ema_decay: float = setting(0.995, at_least=0, below=1)
    widths: tuple[int, ...] = setting((32, 64), length=(1, None), at_least=1)
    hidden: int = setting(128, at_least=1)
    shift: int = setting(2, at_least=0)
    noise: float = setting(0.06, at_least=0)

    def check(self, data: DesignedData) -> None:
        """See `Estimator.check`."""
        self._checked(data)

    def _checked(self, data: DesignedData) -> _Kind:
        if isinstance(data, (Scenes, ScenePairs)):
            return data
        raise UserError(
            f"{self.section} {self.KIND} reads {Scenes.KIND} and {ScenePairs.KIND}, not {data.KIND}; choose another "
            "estimator for them."
        )

    def fit(
        self, data: DesignedData, key: jax.Array, mesh: Mesh | None = None, folder: pathlib.Path | None = None
    ) -> Any:
        """See `Estimator.fit`; the parameters, which a folder keeps."""
        shown = self._checked(data)
        if folder is None:
            return self._trained(shown, key, mesh, None)
        own = files.make_dir(folder / f"{self.KIND}_{self._digest(data, key)}")
        kept = own / "parameters.npz"
        with processes.in_turn("training of the estimator"):
            if not kept.exists():
                # The checkpoints of a job of several processes are written by all of them, and this is one's alone.
                params = self._trained(shown, key, mesh, own if processes.count() == 1 else None)
                files.write_npz(kept, traverse_util.flatten_dict(params, sep="/"))
        found = files.read_npz(kept, "parameters of the estimator", f"Remove the folder {own} and run again.")
        return traverse_util.unflatten_dict(found, sep="/")

    def _trained(self, data: _Kind, key: jax.Array, mesh: Mesh | None, path: pathlib.Path | None) -> Any:
        """The parameters, with checkpoints in a folder or none."""
        mesh = parallel.resolve(mesh)
        examples = self._examples(data, jax.random.fold_in(key, _RENDER), mesh)
        trainer = StageTrainer(self._stage(data), examples, {}, mesh, jax.random.fold_in(key, _TRAIN), self.KIND)
        return trainer.run(path, lambda row: None)["params"]

    def measure(
        self,
        state: Any,
        data: DesignedData,
        images: np.ndarray,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> np.ndarray:
        """See `Estimator.measure`."""
        self.check(data)
        out = np.empty((len(images), len(data.features)), np.float32)
        reader, block = _reader(self, data, parallel.resolve()), min(_BLOCK, len(images))
        for first in range(0, len(images), block):  # the last one overlaps, so that all have one shape
            place = slice(min(first, len(images) - block), min(first + block, len(images)))
            out[place] = np.asarray(reader(state, np.asarray(images[place], np.float32)))
            progress(place.stop, len(images))
        return out

    def module(self, data: DesignedData) -> SceneNet:
        """The network for such data."""
        return SceneNet(self.widths, self.hidden, sum(map(len, _values(data))), isinstance(data, Scenes))

    def _digest(self, data: DesignedData, key: jax.Array) -> str:
        """Of everything that the parameters depend on."""
        facts = [settings.plain(self), data.KIND, settings.plain(data), np.asarray(jax.random.key_data(key)).tolist()]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def _examples(self, data: _Kind, key: jax.Array, mesh: Mesh) -> dict[str, np.ndarray]:
        """Images `[n, H, W, C]` uint8, their classes `[n, F]` int32, and where their objects are `[n, M, 2]`."""
        values, count = _values(data), self.images
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        asked = np.stack([rng.permutation(np.resize(of, count)) for of in values], axis=1).astype(np.float32)
        source = data.replace(largest=int(values[0][-1])) if isinstance(data, Scenes) else data
        source.check(Design(source.features, asked))
        program, keys = _renderer(source, mesh), jax.random.split(key, count)
        blocks = [slice(first, first + _BLOCK) for first in range(0, count, _BLOCK)]
        found = [jax.device_get(program((), (asked[block], keys[block]))) for block in blocks]
        pixels, places = (np.concatenate(side) for side in zip(*found, strict=True))
        labels = np.stack([np.searchsorted(of, asked[:, i]) for i, of in enumerate(values)], axis=1)
        return {"images": pixels, "labels": labels.astype(np.int32), "places": places}

    def _stage(self, data: DesignedData) -> Stage:
        module, sizes = self.module(data), [len(values) for values in _values(data)]
        ends = np.cumsum(sizes)[:-1].tolist()
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, max(1, round(_WARM_UP * self.steps)), self.steps + 1
        )

        def init(key, done):
            del done
            return initialise(module, key, jnp.zeros((1, *data.shape)))["params"], {}

        def gather(examples, rows, keys):
            images, places = jax.vmap(self._changed)(examples["images"][rows], examples["places"][rows], keys)
            return images, examples["labels"][rows], places

        def loss(params, model_state, done, batch, keys, axis_name):
            del done, keys, axis_name
            images, labels, places = batch
            logits, density = cast(tuple[jax.Array, jax.Array], module.apply({"params": params}, images))
            each = [
                optax.softmax_cross_entropy_with_integer_labels(own, labels[:, i])
                for i, own in enumerate(jnp.split(logits, ends, axis=1))
            ]
            wanted = jax.vmap(lambda of: density_of(of, density.shape[1]))(places)
            spread = jnp.sum((density - wanted) ** 2, axis=(1, 2))
            return jnp.mean(sum(each) + _OF_PLACES * spread), (model_state, {})

        return Stage(
            name=self.KIND,
            steps=self.steps,
            batch_size=self.batch_size,
            optimizer=optax.adamw(rate, weight_decay=self.weight_decay),
            init=init,
            loss=loss,
            gather=gather,
            ema_decay=self.ema_decay,
            gradient_clip=1.0,
        )

    def _changed(self, image: jax.Array, places: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An image `[H, W, C]` uint8 moved, at another brightness, blurred, and with noise; and where objects are."""
        keys = [jax.random.fold_in(key, purpose) for purpose in range(3)]
        most = self.shift
        bordered = jnp.pad(image, ((most, most), (most, most), (0, 0)), mode="edge")
        start = jax.random.randint(keys[_SHIFT], (2,), 0, 2 * most + 1)
        levels = jax.lax.dynamic_slice(bordered, (start[0], start[1], 0), image.shape).astype(jnp.float32) / 255
        gain, offset, share, level = jax.random.uniform(keys[_LEVEL], (4,))
        levels = 0.5 + (0.9 + 0.2 * gain) * (levels - 0.5) + 0.1 * (offset - 0.5)
        levels = _blurred(levels, share) + self.noise * level * jax.random.normal(keys[_NOISE], image.shape)
        return levels, places + ((most - start) / image.shape[0])[None]


def density_of(places: jax.Array, cells: int) -> jax.Array:
    """How many objects every cell `[cells, cells]` has, one divided among the four cells around it.

    Args:
      places: `[M, 2]` row and column as shares of the side; NaN for none.
      cells: of a row and of a column.
    """
    there = ~jnp.isnan(places[:, 0])
    at = jnp.clip(jnp.where(there[:, None], places, 0) * cells - 0.5, 0, cells - 1)
    near = jnp.maximum(1 - jnp.abs(at[:, :, None] - jnp.arange(cells)[None, None]), 0)
    return jnp.einsum("m,my,mx->yx", there.astype(jnp.float32), near[:, 0], near[:, 1])


def _blurred(image: jax.Array, share: jax.Array) -> jax.Array:
    """`[H, W, C]` with up to a half of every pixel taken from its neighbours, along both axes."""
    for axis in (0, 1):
        first, last = (jax.lax.slice_in_dim(image, i, i + 1, axis=axis) for i in (0, image.shape[axis] - 1))
        before = jnp.concatenate([first, jax.lax.slice_in_dim(image, 0, -1, axis=axis)], axis)
        after = jnp.concatenate([jax.lax.slice_in_dim(image, 1, None, axis=axis), last], axis)
        image = (1 - 0.5 * share) * image + 0.25 * share * (before + after)
    return image


def _values(data: DesignedData) -> list[tuple[float, ...]]:
    """What each feature may be read as, in ascending order."""
    if isinstance(data, Scenes):
        return [tuple(map(float, range(data.largest + 2)))]
    return [f.values for f in data.features]


@programs.shared
def _renderer(data: _Kind, mesh: Mesh):
    """Bytes of images, and the middle of what is seen of every object, as shares of the side; NaN for none."""

    def render(_, rows):
        view = data.view(*rows)
        middle = (jnp.arange(view.ids.shape[1]) + 0.5) / view.ids.shape[1]

        def place(i):
            own = (view.ids == i).astype(jnp.float32)
            return jnp.stack([own.sum(axis=3 - axis) @ middle for axis in (1, 2)], axis=1) / own.sum((1, 2))[:, None]

        places = jnp.stack([place(i) for i in range(data.most)], axis=1)
        return jnp.round(255 * view.images).astype(jnp.uint8), places

    return parallel.map_rows(render, mesh)


@programs.shared
def _reader(estimator: SceneEstimator, data: DesignedData, mesh: Mesh):
    module, values = estimator.module(data), _values(data)
    ends = np.cumsum([len(of) for of in values])[:-1].tolist()

    def read(params, images):
        logits = jnp.split(cast(tuple[jax.Array, jax.Array], module.apply({"params": params}, images))[0], ends, axis=1)
        likeliest = [jnp.asarray(of)[jnp.argmax(own, axis=1)] for of, own in zip(values, logits, strict=True)]
        return jnp.stack(likeliest, axis=1)

    return parallel.map_rows(read, mesh)
