"""Classification of images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import data as datasets
from jaxweights import nets
from jaxweights.data.known import ALIASES, KNOWN
from jaxweights.data.probe import ProbeSettings, probe_set
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation
from jaxweights.evaluation.accuracy import totals, wrong_if_undefined
from jaxweights.settings import Settings, plain, setting
from jaxweights.tasks.base import Examples, Scene, Shown, Task
from jaxweights.zoo import BaseSettings, Distribution, Recipe, Supervised, SupervisedSettings
from jaxweights.zoo.augment import Augmentation
from jaxweights.zoo.partial import PartialProgram
from jaxweights.zoo.recipe import FURTHER

if TYPE_CHECKING:
    from jaxweights.report.style import Picture

_OTHERS = ("actor", "field")  # networks of observations and of points


@dataclasses.dataclass(frozen=True)
class ImageSettings(Settings):
    """Settings of a set of images.

    Attributes:
      name: digits (embedded), mnist, fashion_mnist, svhn, cifar10, cifar100, stl10, oxford_flowers102,
        oxford_iiit_pet, food101, imagenet2012, a name found in --data_dir, or the path of an .npz file.
      mean: mean of pixels from 0 to 1, one per colour, with std; () for the published ones.
      std: standard deviation of pixels, likewise.
      grey: convert colour images to grey.
      resize: on loading, resize the shorter side to this and cut out the square in the middle; 0 for images as they
        are.
      crop: side of the centre crop; 0 for none.
      train_limit: number of training images to keep, the first ones; 0 for all.
      test_limit: number of test images to keep, the first ones; 0 for all.
      skip_bad: leave out images, shapes and files that cannot be used, and list them, instead of refusing them.
    """

    SECTION: ClassVar[str] = "data"

    name: str = "digits"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = setting((), above=0)
    grey: bool = False
    resize: int = setting(0, at_least=0, at_most=4096)
    crop: int = setting(0, at_least=0, at_most=4096)
    train_limit: int = setting(0, at_least=0)
    test_limit: int = setting(0, at_least=0)
    skip_bad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            self.refuse("name", "give the name of a data set, or the path of an .npz file")
        if len(self.mean) != len(self.std):
            self.refuse("std", f"give as many entries as data.mean has ({len(self.mean)}), or () for both")


@dataclasses.dataclass(frozen=True)
class LabelledImageSettings(ImageSettings):
    """Settings of a set of images with classes.

    Attributes:
      permute_pixels: random seed of one order of the pixels of all images; 0 for their own.
      label_noise: share of the training labels that are replaced by another class, the same ones for all runs.
    """

    permute_pixels: int = setting(0, at_least=0)
    label_noise: float = setting(0.0, at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class ClassifierZoo(SupervisedSettings):
    """Settings of a zoo of classifiers.

    Attributes:
      augment: random changes of training images. none; flip_crop: mirror images, and cuts of the image with a border of
        zeros; resized_crop: mirror images, and random rectangles resized to the network's input.
      start: initial weights of the runs. own: every run has its own; shared: one initialisation for all; base: the
        weights of the base network.
      base: the network that all runs continue from, if there is one.
      subset: patterns of the leaves that runs train and keep, e.g. ("layer4/1/bn*",); () for all.
      statistics: batch normalisation while runs train. batch: by statistics of the batch; frozen: by the running ones,
        which stay; published: by those of the batch for two steps, then by the running ones, where those steps have
        moved them.
      label_smoothing: hyper-parameter: share of every label that lies on all classes evenly.
    """

    start: Literal["own", "shared", "base"] = "own"  # type: ignore[assignment]
    augment: Augmentation = "none"
    base: BaseSettings = BaseSettings()
    subset: tuple[str, ...] = ()
    statistics: Literal["batch", "frozen", "published"] = "batch"
    label_smoothing: Distribution = setting(
        Distribution("constant", (FURTHER["label_smoothing"],)), at_least=0, below=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.subset and not self.base.exists:
            raise UserError(
                f"zoo.subset is {self.subset}, but all other leaves have no values: there is no base network. Set "
                "zoo.base.epochs or zoo.base.import_npz, or leave zoo.subset at ()."
            )


class Classification(Task):
    """Networks that classify images. Accuracy and errors are those of the test images, the loss is cross-entropy."""

    name = "classification"
    data_settings = LabelledImageSettings
    zoo_settings = ClassifierZoo
    default_network = "mlp"

    @property
    def networks(self) -> Sequence[str]:
        return tuple(name for name in nets.NETWORKS if name not in _OTHERS)

    def load(self, data: LabelledImageSettings, *, net: Mapping[str, Any], runs: int, data_dir: str | None = None):
        del net, runs
        return datasets.load(**given(data), data_dir=data_dir)

    def examples(self, data: ImageSettings, *, net: Mapping[str, Any], data_dir: str | None = None) -> Examples:
        del net
        return image_examples(data, data_dir)

    def base(self, zoo: ClassifierZoo) -> BaseSettings | None:
        return zoo.base if zoo.base.exists else None

    def program(self, net: nets.TaskNet, recipe: Recipe, num_examples: int) -> Supervised:
        settings: ClassifierZoo = recipe.settings
        options: dict[str, Any] = {"augment": settings.augment, "statistics": settings.statistics}
        if isinstance(net, nets.PartialNet):
            return PartialProgram(net, recipe, num_examples, **options)
        if settings.start == "base":
            raise UserError("zoo.start is 'base', but there is none. Set zoo.base.epochs, or zoo.base.import_npz.")
        return Supervised(net, recipe, num_examples, **options)

    def evaluate(self, net, weights, inputs, targets, mesh, progress=None) -> Evaluation:
        """See `Task.evaluate`; a network with a logit that is not finite is undefined, and wrong on every example."""
        found = totals(net, weights, inputs, np.asarray(targets, np.int32), mesh, _score, progress)
        result = Evaluation(found.right / len(targets), found.loss / len(targets), found.errors)
        return wrong_if_undefined(result, len(targets))

    def check_probe(self, settings: ProbeSettings) -> None:
        """Images can be changed."""

    def probe_set(
        self, inputs: np.ndarray, targets: np.ndarray, settings: ProbeSettings
    ) -> tuple[np.ndarray, np.ndarray]:
        if inputs.ndim != 4:
            super().check_probe(settings)
        return probe_set(inputs, targets, settings)

    def predictions(self, net: nets.TaskNet, outputs: jax.Array) -> jax.Array:
        """Probabilities of the classes."""
        return jax.nn.softmax(outputs, axis=-1)

    def decisions(self, net: nets.TaskNet, predictions: np.ndarray) -> np.ndarray:
        """The class of the largest probability."""
        return predictions.argmax(axis=-1)

    def quality(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Accuracies."""
        return (predictions.argmax(axis=-1) == targets).mean(axis=-1)

    def pictures(self, shown: Sequence[Shown], scene: Scene) -> Iterable[Picture]:
        """Decision regions; those of all series are computed together."""
        from jaxweights.report import boundary  # the report is above tasks: it asks them for their pictures
        from jaxweights.report.style import Picture

        dataset = scene.dataset
        standard = np.asarray(datasets.standardise(dataset.test_images, dataset.scale, dataset.shift))
        plane = boundary.fit_plane(standard, dataset.test_labels, dataset.num_classes)
        resolution = scene.settings.boundary_resolution
        stacked = np.concatenate([one.weights for one in shown])
        regions = boundary.classify(scene.net, stacked, plane, scene.mesh, resolution)
        some = len(plane.classes) < dataset.num_classes
        only = f" of {len(plane.classes)} classes, and networks decide between these alone" if some else ""
        ends = np.cumsum([len(one.weights) for one in shown])[:-1]
        for one, own in zip(shown, np.split(regions, ends), strict=True):
            name = f"decision_boundaries{one.suffix}"
            yield Picture(
                boundary.draw(one.series, scene.train, own, plane, scene.folder, name),
                f"Decisions: {one.series.label} beside the nearest training networks",
                f"Predicted classes on the plane of the test images' two principal components (pixels standardised"
                f"{only}). Pixel values beyond the range of images are clamped to it. Dots are test images, projected: "
                "what lies off the plane may be classified otherwise than the tint under it.",
            )


def given(data: Settings) -> dict[str, Any]:
    """The settings of a data set that are set, as arguments of `data.load`."""
    return {k: v for k, v in plain(data).items() if v}


def image_examples(data: ImageSettings, data_dir: str | None, labelled: bool = True) -> Examples:
    """The size of a set of images, from what is published about it, else by loading it; see `data.load`."""
    known = KNOWN.get(ALIASES.get(data.name, data.name))
    if known is None:
        options = {k: v for k, v in given(data).items() if k in {f.name for f in dataclasses.fields(ImageSettings)}}
        loaded = datasets.load(**options, data_dir=data_dir, labelled=labelled)
        sizes = len(loaded.train_labels), len(loaded.test_labels)
        return Examples(loaded.train_images.shape[1:], loaded.num_classes, *sizes)
    height, width, channels = known.shape
    if data.resize:
        height = width = data.resize
    if height is None or width is None:
        raise UserError(
            f"The images of {data.name!r} are of several sizes; set config.data.resize to bring them to one."
        )
    if data.crop > min(height, width):
        data.refuse(
            "crop", f"images of {height} by {width} pixels have no such square, so set it to at most their sides"
        )
    if data.crop:
        height = width = data.crop
    channels = 1 if data.grey else channels
    if len(data.mean) not in (0, 1, channels):
        data.refuse("mean", f"give one number, or one for each of the {channels} colours")
    limits = (data.train_limit, data.test_limit)
    for part, size, limit in zip(("train", "test"), known.sizes, limits, strict=True):
        if limit > size:
            data.refuse(f"{part}_limit", f"there are {size} images, so set it to at most that, or to 0 for all")
    train, test = (min(size, limit) if limit else size for size, limit in zip(known.sizes, limits, strict=True))
    return Examples((height, width, channels), known.num_classes, train, test)


def _score(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy, NaN unless all logits are finite, and whether the label has the largest of finite logits."""
    labels = jnp.broadcast_to(labels[None, :], logits.shape[:-1])
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    return jnp.where(finite, nets.cross_entropy(logits, labels), jnp.nan), (
        jnp.argmax(logits, axis=-1) == labels
    ) & finite
