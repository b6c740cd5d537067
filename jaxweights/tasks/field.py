"""Neural fields: networks that are fitted to one signal each, the occupancy of a shape or an image."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import numpy as np

from jaxweights import data as datasets
from jaxweights import nets
from jaxweights.evaluation import Evaluation, fields
from jaxweights.settings import Settings, plain, setting
from jaxweights.tasks.base import Examples, Scene, Shown, Task
from jaxweights.tasks.classification import ImageSettings, given, image_examples
from jaxweights.tasks.terms import Terms
from jaxweights.zoo import Recipe, ZooSettings
from jaxweights.zoo.fields import FieldProgram, Plateau

if TYPE_CHECKING:
    from jaxweights.report.style import Picture


@dataclasses.dataclass(frozen=True)
class SignalSettings(Settings):
    """Settings of the signals that fields are fitted to; of images only the number of unseen ones counts.

    Attributes:
      unseen: shapes or images that no network is fitted to.
      samples: points per shape where its occupancy is known, half of them near the surface.
      near: standard deviation of their distance from the surface.
      surface: points on each surface.
      probes: points at which networks are compared.
      moving: procedural shapes that move: four coordinates.
      clouds: point clouds in --data_dir that stand for the unseen shapes' surfaces; "" to sample these.
    """

    SECTION: ClassVar[str] = "data.signals"

    unseen: int = setting(64, at_least=1)
    samples: int = setting(16384, at_least=2, at_most=10_000_000)
    near: float = setting(0.01, at_least=0, below=0.5)
    surface: int = setting(2048, at_least=0, at_most=1_000_000)
    probes: int = setting(4096, at_least=2, at_most=10_000_000)
    moving: bool = False
    clouds: str = ""


@dataclasses.dataclass(frozen=True)
class FieldSettings(ImageSettings):
    """Settings of shapes, or of images as signals; all but the name and the signals are for images.

    Attributes:
      name: procedural shapes (planes, chairs, tables), a file of voxel grids or a folder of meshes in --data_dir; for
        images any set of images.
      signals: how signals are sampled.
    """

    name: str = "planes"
    signals: SignalSettings = SignalSettings()


@dataclasses.dataclass(frozen=True)
class FieldZoo(ZooSettings):
    """Settings of a zoo of fields. Only the last weights of every run are kept, since runs may end early.

    Attributes:
      batch_size: points per step, drawn with replacement.
      start: initial weights of the runs. own: every run has its own; shared: one initialisation for all; first_weights:
        run 0 has its own, and its last weights are those that all others start from.
      schedule: schedule of the learning rate. constant; cosine: over all steps; cosine_per_epoch: the same, changed
        between epochs only; plateau: by the mean loss of epochs.
      plateau: schedule of that name.
      dtype: type of the products while fields are fitted; sums and weights are float32.
    """

    start: Literal["own", "shared", "first_weights"] = "own"  # type: ignore[assignment]
    schedule: Literal["constant", "cosine", "cosine_per_epoch", "plateau"] = "cosine"  # type: ignore[assignment]
    plateau: Plateau = Plateau()
    dtype: Literal["float32", "bfloat16"] = "float32"


class FieldTask(Task):
    """Neural fields. A field's quality is the largest intersection over union of its shape with any unseen one, its
    loss is 1 minus that, and the masks that are compared are those of the points that it occupies, so that their IoU is
    that of the shapes."""

    name = "field"
    terms = Terms(
        quality="quality",
        measure="IoU with the nearest unseen shape",
        column="IoU, nearest unseen (%)",
        axis="IoU with the nearest unseen shape (%)",
        tested="IoU with the nearest unseen shape",
        good="good",
        as_good="their shapes as close to unseen ones",
        explanation=(
            "The largest IoU, over the probe points, with any signal that no network was fitted to, and 1 minus that."
        ),
        overlap="shape IoU",
        overlap_meaning="of the points that two shapes cover, the share that both cover",
        likeness="overlap of shapes",
        alike="the same shape",
        act_like="have the shapes of",
        repeats="shapes are those of",
        unlike="those of networks fitted to other shapes",
        example="probe point",
        inputs="points",
        trained="fitted",
    )
    data_settings = FieldSettings
    zoo_settings = FieldZoo
    default_network = "field"
    shown_networks = 8
    networks = ("field",)  # type: ignore[assignment]

    def load(self, data: FieldSettings, *, net: Mapping[str, Any], runs: int, data_dir: str | None = None):
        options = given(data)
        del options["signals"]
        kind = net.get("signal") or "occupancy"
        return datasets.load_signals(**options, data_dir=data_dir, kind=kind, runs=runs, signals=plain(data.signals))

    def examples(self, data: FieldSettings, *, net: Mapping[str, Any], data_dir: str | None = None) -> Examples:
        signals = data.signals
        if (net.get("signal") or "occupancy") == "occupancy":
            return Examples((4 if signals.moving else 3,), 1, signals.samples, signals.probes)
        height, width, channels = image_examples(data, data_dir, labelled=False).shape
        return Examples((2,), channels, height * width, height * width)

    def check_files(self, data: FieldSettings, *, net: Mapping[str, Any], data_dir: str | None = None) -> None:
        if (net.get("signal") or "occupancy") == "occupancy":
            signals = data.signals
            datasets.check_shapes(data.name, data_dir, moving=signals.moving, clouds=signals.clouds)

    def program(self, net: nets.TaskNet, recipe: Recipe, num_examples: int) -> FieldProgram:
        return FieldProgram(net, recipe, num_examples)

    def evaluate(self, net, weights, inputs, targets, mesh, progress=None) -> Evaluation:
        """See `Task.evaluate`; inputs are points `[T, d]`, targets `[T, m]` of 0 and 1, masks of m signals."""
        masks = fields.occupancy_masks(net, weights, inputs, targets, mesh, progress)
        quality = masks.iou.max(axis=1)
        return Evaluation(quality, np.where(masks.finite, 1.0 - quality, np.nan), masks.packed)

    def predictions(self, net: nets.TaskNet, outputs: jax.Array) -> jax.Array:
        """Probabilities that points are occupied, or values of an image."""
        return jax.nn.sigmoid(outputs) if net.module.signal == "occupancy" else outputs  # type: ignore[union-attr]

    def decisions(self, net: nets.TaskNet, predictions: np.ndarray) -> np.ndarray | None:
        """Whether points are occupied; none of images."""
        return predictions[..., 0] > 0.5 if net.module.signal == "occupancy" else None  # type: ignore[union-attr]

    def has_surfaces(self, net: nets.TaskNet) -> bool:
        return net.module.signal == "occupancy" and net.input_shape == (3,)  # type: ignore[union-attr]

    def pictures(self, shown: Sequence[Shown], scene: Scene) -> Iterable[Picture]:
        """Images on a regular grid; shapes are shown by their own study."""
        if scene.net.input_shape != (2,):
            return
        from jaxweights.report import images  # the report is above tasks: it asks them for their pictures
        from jaxweights.report.style import Picture

        for one in shown:
            drawn = images.render(scene.net, one.weights, scene.mesh)
            yield Picture(
                images.draw(one.series, scene.train, drawn, scene.folder, f"images{one.suffix}"),
                f"Images: {one.series.label} above the nearest training networks",
                f"Every network's values on a grid of {images.RESOLUTION} by {images.RESOLUTION} points.",
            )
