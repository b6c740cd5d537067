"""Settings of a conditional latent flow."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxweights.flow import Solver
from jaxweights.generators import canonical, domain, factors
from jaxweights.generators.base import UsesExamples, vanishes
from jaxweights.generators.conditions import MOST_CLASSES, is_set
from jaxweights.population import TAUGHT
from jaxweights.settings import setting


@dataclasses.dataclass(frozen=True)
class LatentFlowSettings(UsesExamples):
    """Settings of `LatentFlow`. No sizes were published that could be taken over; the defaults are ours.

    Attributes:
      order: order of hidden units that networks are brought to: of the generalised "mean" of training networks, of the
        "first" one, or "none".
      scale: scale of hidden units: "balanced", "unit" or "none", see `Flow`.
      latent_dim: dimensions of the latents, at most one less than there are networks to learn from.
      codec_width: hidden units of the encoder and of the decoder, which correct principal components.
      kl_weight: weight of the divergence of latents from standard normal ones, per dimension, which makes the
        autoencoder variational; 0 for an autoencoder whose latents are certain.
      behaviour: weight of the behavioural term of the autoencoder: the divergence in nats of the predictions of decoded
        networks from those of the networks, on training images. The term of the weights is the share of their variance
        that is lost. 0 to learn from weights alone.
      noise: standard deviation of the Gaussian noise on the networks that the autoencoder reads, in units of the root
        mean variance of a weight.
      images: training images that a decoded network is tried on per step, drawn at random.
      examples: training examples of the task that are kept, at most.
      autoencoder_steps: optimizer steps of the autoencoder.
      autoencoder_learning_rate: its learning rate, which falls to 0 along half a cosine.
      conditions: columns of the records of training networks that the flow is told: numbers such as "accuracy", "step"
        or "hyper/learning_rate", and "taught", the classes that a network was taught. Numbers that are not finite are
        unknown. Accuracies in the records are those on test images.
      context: examples of a network's data set that the flow is shown, as many of each of the classes that it was
        taught on average; 0 for none. Needs the column "taught" and the training examples of the task.
      context_width: hidden units of the encoder of these.
      condition_width: size of the embeddings of conditions and of data sets.
      forget: share of the networks of which training tells the flow nothing, so that it can be asked for any; where
        there are several conditions, each of them is left out for as many of the others.
      width: units of the first and last hidden layer of the velocity, half as many of the middle one.
      time_width: units of the embedding of time.
      extra: further hidden layers of the full width.
      dropout: share of the units that are dropped in training.
      steps: optimizer steps of the flow.
      batch_size: networks per step, both stages.
      learning_rate: learning rate of the flow, which falls to 0 along half a cosine.
      weight_decay: weight decay of AdamW, both stages.
      select: which parameters of both stages are kept: the best for held-out training runs, or the "last" ones.
      validation: share of the training runs that are held out for that.
      asked: what samples are asked for, one number per condition, None for what is left open; of "taught" the classes,
        one bit each (5 for classes 0 and 2). Empty to leave all open.
      shown: classes whose training examples samples are shown; empty for none.
      guidance: how far samples follow what they are asked for: 0 not at all, 1 as learned, more for the difference of
        both as many times (classifier-free guidance).
      solver: "heun", "rk4" or "euler".
      sampling_steps: steps of a sample.
      variances: drawn running variances below the training networks', see `HyperDiffusion`.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset(
        {"asked", "shown", "guidance", "solver", "sampling_steps", "variances"}
    )
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "noise"})
    FACTORS: ClassVar[factors.Factors] = factors.LATENT_FLOW
    TINY: ClassVar[Mapping[str, Any]] = {
        "latent_dim": 4,
        "codec_width": 8,
        "kl_weight": 0.01,
        "autoencoder_steps": 3,
        "condition_width": 4,
        "width": 8,
        "time_width": 2,
        "extra": 0,
        "steps": 3,
        "batch_size": 4,
        "asked": (0.5,),
        "guidance": 2.0,
        "solver": "euler",
        "sampling_steps": 2,
    }

    name: str = "latent_flow"
    order: canonical.Order = "mean"
    scale: canonical.Scale = "balanced"
    latent_dim: int = setting(64, at_least=1, at_most=1_000_000)
    codec_width: int = setting(512, at_least=1, at_most=65_536)
    kl_weight: float = setting(1e-3, at_least=0)
    behaviour: float = setting(0.0, at_least=0)
    noise: float = setting(0.0, at_least=0)
    images: int = setting(64, at_least=1)
    examples: int = setting(10_000, at_least=1)
    autoencoder_steps: int = setting(10_000, at_least=1)
    autoencoder_learning_rate: float = setting(5e-4, above=0)
    conditions: tuple[str, ...] = ("accuracy",)
    context: int = setting(0, at_least=0)
    context_width: int = setting(128, at_least=1, at_most=65_536)
    condition_width: int = setting(64, at_least=1, at_most=65_536)
    forget: float = setting(0.1, at_least=0, below=1)
    width: int = setting(512, at_least=2, at_most=65_536)
    time_width: int = setting(64, at_least=1, at_most=65_536)
    extra: int = setting(1, at_least=0, at_most=100)
    dropout: float = setting(0.0, at_least=0, below=1)
    steps: int = setting(30_000, at_least=1)
    batch_size: int = setting(64, at_least=1)
    learning_rate: float = setting(5e-4, above=0)
    weight_decay: float = setting(1e-4, at_least=0)
    select: Literal["heldout", "last"] = "heldout"
    validation: float = setting(0.1, above=0, below=1)
    asked: tuple[float | None, ...] = ()
    shown: tuple[int, ...] = setting((), at_least=0, below=MOST_CLASSES)
    guidance: float = setting(1.0, at_least=0)
    solver: Solver = "heun"
    sampling_steps: int = setting(50, at_least=1, at_most=100_000)
    variances: domain.Variances = "clip"

    def __post_init__(self) -> None:
        """Raises UserError for settings that do not go together."""
        super().__post_init__()
        if len(set(self.conditions)) < len(self.conditions) or sum(map(is_set, self.conditions)) > 1:
            self.refuse("conditions", "name every column once, and at most one set of classes")
        if self.asked and len(self.asked) != len(self.conditions):
            self.refuse("asked", f"give one number or None for each of conditions ({', '.join(self.conditions)})")
        if self.shown and not self.context:
            self.refuse("shown", "the flow is shown no examples, so leave it empty or set context above 0")

    @property
    def needs_examples(self) -> bool:
        """Whether what networks do or were trained on is looked at."""
        return self.context > 0 or not vanishes(self.behaviour)

    def columns(self) -> tuple[str, ...]:
        """See `LearnedGenerator.columns`."""
        further = () if not self.context or any(map(is_set, self.conditions)) else (TAUGHT,)
        return self.conditions + further
