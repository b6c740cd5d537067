"""Settings of flow matching."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxweights.flow import Solver
from jaxweights.generators import canonical, domain, factors
from jaxweights.generators.base import LearnedGenerator, Recalibration
from jaxweights.generators.flow.classes import ClassInput
from jaxweights.generators.selection import Select
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class FlowSettings(LearnedGenerator):
    """Settings of `Flow`; the defaults are DeepWeightFlow's (arXiv 2601.05052) with its defects corrected.

    Five fields undo the corrections and give the published behaviour, as in the preset "deepweightflow":
    `source="table"`, `source_std=0.01`, `select="luckiest"`, `components=0` (one less than there are networks), and
    `statistics="test"`.

    Attributes:
      order: order of hidden units that networks are brought to: of the first training network, as published; of the
        generalised mean of all; or "none".
      scale: scale of hidden units: "none" leaves it (as published), "balanced" makes what reads and what writes each of
        one norm, "unit" gives what writes each, and the matrix of outputs, norm 1 (arXiv 2504.03710).
      geometry: "euclidean" for straight paths, or "spheres" for great circles of what `scale="unit"` gives norm 1.
      components: principal components that the flow sees instead of weights, 0 for all that the training networks span;
        None for weights. As many as there are networks but one lose nothing of these, but every sample is then an
        affine combination of training networks.
      source: noise that paths start from in training: "fresh", or a "table" of as many rows as there are training
        networks, drawn once. Samples start from fresh noise.
      source_std: standard deviation of that noise, or None for that of what the flow sees.
      sigma: standard deviation of the noise on points of the paths.
      time_beta: parameters of the beta distribution of times; the published alternative to uniform ones is (2, 5).
      classes: column of the records with the class of a network, a number, for a flow that is told it; "" for one flow
        of all networks.
      class_input: "embedding" for a vector per class, or "scalar", as released for several data sets: the number of the
        class, from 0 on, through two layers. There is no guidance.
      class_width: size of the embedding of a class.
      network: "mlp", or the "graph" transformer of weightflow (arXiv 2504.03710), which sees a perceptron as a graph of
        all its inputs and units; every layer takes the square of their number, for each network.
      graph_width: features of its nodes and edges.
      graph_layers: its blocks.
      graph_heads: heads of their attention.
      graph_times: which edges see the time: "all", or those without a weight alone, as "published".
      sphere_loss: on spheres "squared" for the mean square of all entries of the error, or "published": the mean over
        layers of the fourth power of its length on a sphere, and the mean square of the entries of biases.
      width: units of the first and last hidden layer of the network, half as many of the middle one.
      time_width: units of the embedding of time.
      extra: further hidden layers of the full width.
      dropout: share of the units that are dropped in training.
      steps: optimizer steps.
      batch_size: networks per step.
      learning_rate: learning rate of the first step of AdamW.
      final_learning_rate: where it falls to along half a cosine.
      weight_decay: weight decay.
      betas: decays of the moments.
      ema_decay: decay of averaged parameters for `select="last"`, or None (as published) for none.
      select: which parameters samples are drawn with: the best for held-out training runs, the "last" ones, or those
        of the smallest loss of a batch, as published.
      validation: share of the training runs that are held out for that.
      statistics: running statistics of batch normalisation. "train": they are not generated, and in an experiment taken
        from training images once samples are drawn; "test": from test images, as published; "generate": as all other
        weights. Outside of an experiment, which has the images, they are the means of the training networks', see
        `evaluation.recalibrated`.
      statistics_images: how many images, from the first on; the published test set has 10,000.
      variances: running variances of batch normalisation that fall below the smallest one of the training networks.
        clip: that one takes their place; published: they stay.
      asked: class that samples are asked for; None for the classes of training networks, as often as they have them.
      solver: "rk4", "heun" or "euler".
      sampling_steps: steps of a sample; the published 100 times are 99 steps.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset(
        {"asked", "solver", "sampling_steps", "statistics_images", "variances"}
    )
    TRACED: ClassVar[frozenset[str]] = frozenset({"weight_decay", "sigma"})
    FACTORS: ClassVar[factors.Factors] = factors.FLOW
    TINY: ClassVar[Mapping[str, Any]] = {
        "width": 8,
        "time_width": 2,
        "steps": 3,
        "batch_size": 4,
        "solver": "euler",
        "sampling_steps": 2,
    }

    name: str = "flow"
    order: canonical.Order = "first"
    scale: canonical.Scale = "none"
    geometry: Literal["euclidean", "spheres"] = "euclidean"
    components: int | None = setting(None, at_least=0)
    source: Literal["fresh", "table"] = "fresh"
    source_std: float | None = setting(None, above=0)
    sigma: float = setting(1e-3, at_least=0)
    time_beta: tuple[float, float] = setting((1.0, 1.0), above=0)
    classes: str = ""
    class_input: ClassInput = "embedding"
    class_width: int = setting(64, at_least=1, at_most=65_536)
    network: Literal["mlp", "graph"] = "mlp"
    graph_width: int = setting(32, at_least=1, at_most=65_536)
    graph_layers: int = setting(5, at_least=1, at_most=1000)
    graph_heads: int = setting(1, at_least=1, at_most=65_536)
    graph_times: Literal["all", "published"] = "all"
    sphere_loss: Literal["squared", "published"] = "squared"
    width: int = setting(512, at_least=2, at_most=65_536)
    time_width: int = setting(64, at_least=1, at_most=65_536)
    extra: int = setting(0, at_least=0, at_most=100)
    dropout: float = setting(0.1, at_least=0, below=1)
    steps: int = setting(30_000, at_least=1)
    batch_size: int = setting(8, at_least=1)
    learning_rate: float = setting(5e-4, above=0)
    final_learning_rate: float = setting(1e-6, at_least=0)
    weight_decay: float = setting(1e-5, at_least=0)
    betas: tuple[float, float] = setting((0.9, 0.95), at_least=0, below=1)
    ema_decay: float | None = setting(None, at_least=0, below=1)
    select: Select = "heldout"
    validation: float = setting(0.1, above=0, below=1)
    statistics: Literal["train", "test", "generate"] = "train"
    statistics_images: int = setting(10_000, at_least=1)
    variances: domain.Variances = "clip"
    asked: float | None = None
    solver: Solver = "rk4"
    sampling_steps: int = setting(99, at_least=1, at_most=100_000)

    @property
    def recalibration(self) -> Recalibration | None:
        """See `Generator.recalibration`."""
        return None if self.statistics == "generate" else Recalibration(self.statistics, self.statistics_images)

    def __post_init__(self) -> None:
        """Raises UserError for settings that do not go together."""
        super().__post_init__()
        if self.geometry == "spheres":
            if self.scale != "unit":
                self.refuse("geometry", 'spheres need what has norm 1: set scale to "unit"')
            if self.components is not None:
                self.refuse("geometry", "principal components lie on no spheres: set components to None")
            if self.solver != "euler":
                self.refuse("geometry", 'great circles are followed by Euler steps: set solver to "euler"')
        elif self.sphere_loss == "published":
            self.refuse("sphere_loss", 'that is an error on spheres: set geometry to "spheres"')
        if self.network == "graph":
            if self.components is not None or self.classes or self.dropout:
                self.refuse("network", "it sees weights alone: set components to None, classes to '' and dropout to 0")
            if self.graph_width % self.graph_heads:
                self.refuse("graph_width", f"it is not a multiple of the {self.graph_heads} heads, so change one")
        if self.asked is not None and not self.classes:
            self.refuse("asked", "the flow is told no classes, so set it to None")
        if self.ema_decay is not None and self.select != "last":
            self.refuse("ema_decay", 'averaged parameters are not among those of single steps: set select to "last"')
        if self.final_learning_rate > self.learning_rate:
            self.refuse("final_learning_rate", f"set it to at most learning_rate ({self.learning_rate})")
