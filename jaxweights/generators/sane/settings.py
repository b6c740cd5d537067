"""Settings of SANE."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from jaxweights.generators import canonical, checks, domain, factors
from jaxweights.generators.base import Autoencoding, Recalibration, UsesExamples
from jaxweights.generators.sane import standardisation, windows
from jaxweights.generators.sane.latents import Density, Mode
from jaxweights.settings import setting

EPOCH_STEPS = 328
"""Optimizer steps of an epoch of 700 runs with five checkpoints each, of which three windows are taken: 10,500 windows
in full batches of 32."""


@dataclasses.dataclass(frozen=True)
class SaneSettings(Autoencoding, UsesExamples):
    """Settings of `Sane`; the defaults are the released code's for CNNs (arXiv 2406.09997) with its defects corrected.

    Nine fields undo the corrections, as in the preset "sane_published": `token_size=0`, `standardise="published"`,
    `views="canonical"`, `draw="batch"`, `target="noised"`, `padding="counts"`, `mode="faithful"`, `keep="first"` and
    `halo_lengths="published"`.

    Attributes:
      order: order of hidden units that networks are brought to, see `Flow`; published: that of the first network.
      scale: scale of hidden units; published: as it is.
      token_size: numbers per token; None for the longest row of a layer, that is all that enters a neuron or channel.
        0 for the longest row of layers with a bias, which the published code takes for the longest of all.
      norms: whether layers of batch normalisation have tokens. Without, they are those of the mean training network.
      standardise: mean and standard deviation of layers: "pooled" are those of all numbers, "published" leaves out how
        much means differ between networks and standardises running statistics twice.
      width: size of the tokens in the transformers.
      blocks: number of transformer blocks of the encoder, and as many of the decoder.
      heads: number of attention heads.
      latent_dim: size of the latent of a token.
      max_positions: rows of the tables of positions: tokens of a network, layers, channels; None for as many as the
        training networks have. Published: (100, 10, 40) for CNNs, (55000, 100, 550) for ResNet-18.
      window: tokens of a training window, at most.
      dtype: type of the matrix products; parameters, normalisations, softmax and loss are float32.
      remat: whether each block is computed again for its gradient instead of keeping its intermediate values.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. See `sharding`.
      views: the second view of every window has its hidden units "permuted" at random, or is "canonical" as the first;
        released configs ask for the first and get the second.
      draw: whether every "sample" of a batch has a window and a permutation of its own, or the whole "batch" one
        window and one permutation, as published.
      noise: standard deviation of the factors 1 + noise * normal that every number of a view is multiplied by.
      target: what views are reconstructed as: "clean" numbers, or the "noised" view itself, as published.
      padding: whether padding of tokens is "masked" from the mean of squared errors, or "counts" there (as zeros), as
        published.
      gamma: weight of the contrast of the two views; 1 - gamma is that of the reconstruction.
      temperature: that cosine similarities of the contrast are divided by.
      steps: optimizer steps; published: 50 epochs.
      batch_size: networks per step.
      learning_rate: largest learning rate of the cycle: from a 25th of it up in 30 % of the steps, then down to a
        10,000th of where it began, each along half a cosine. The decay of AdamW's first moment goes from 0.95 to 0.85
        and back.
      weight_decay: decoupled weight decay of matrices and positions.
      density: kernel densities that latents are drawn from: one of every "token" (published for ResNet-18), one of
        every number ("individual"), one of all together ("joint").
      mode: "independent" draws every density on its own; "faithful" is the published code, which seeds each anew: all
        take the same training network and the same noise.
      bandwidth: standard deviation of the kernels.
      top: share of the training networks whose latents are prompts, the best on training examples; 1 for all.
      prompts: latents of "training" networks, or "normal" ones to begin with (of as many), of standard deviation
        `prompt_std`.
      prompt_std: standard deviation of these.
      candidates: networks drawn per sample, of which the best on training examples are kept (subsampling; published: 50
        for 10 samples). 1 for no choice.
      rounds: rounds of drawing; the best networks of a round are the prompts of the next (bootstrapping).
      survivors: share of a round's networks that become prompts.
      keep: of the last of several rounds, the "best" networks are the samples, or the "first" ones, as in the published
        code.
      examples: training examples of the task that networks are tried on, at most.
      halo_window: tokens of which a window of a long sequence has latents or numbers; None for whole sequences.
        Published for ResNet-18: 128.
      halo: tokens of context on both sides of it.
      halo_lengths: whether sequences of "any" length are cut, or only those on which the published code does not stop.
      statistics: running statistics of batch normalisation of samples. "condition": those that were decoded, moved by
        batches of training images, as published. "train": those of training images alone, taken in an experiment once
        samples are drawn. "generate": those that were decoded.
      conditioning: batches of `conditioning_batch` images that move them, each by a tenth.
      conditioning_batch: images per batch.
      variances: decoded running variances below the smallest one of their tensor in the training networks, see
        `HyperRep`.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset(
        {
            "density",
            "mode",
            "bandwidth",
            "top",
            "prompts",
            "prompt_std",
            "candidates",
            "rounds",
            "survivors",
            "keep",
            "statistics",
            "conditioning",
            "conditioning_batch",
            "variances",
        }
    )
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "temperature"})
    FACTORS: ClassVar[factors.Factors] = factors.SANE
    TINY: ClassVar[Mapping[str, Any]] = {
        "width": 8,
        "blocks": 2,
        "heads": 2,
        "latent_dim": 3,
        "window": 4,
        "steps": 4,
        "batch_size": 8,
    }

    name: str = "sane"
    order: canonical.Order = "first"
    scale: Literal["none", "balanced"] = "none"
    token_size: int | None = setting(None, at_least=0, at_most=1_000_000)
    norms: bool = True
    standardise: standardisation.Method = "pooled"
    width: int = setting(1024, at_least=2, at_most=65_536)
    blocks: int = setting(8, at_least=1, at_most=1000)
    heads: int = setting(8, at_least=1, at_most=65_536)
    latent_dim: int = setting(128, at_least=1, at_most=65_536)
    max_positions: tuple[int, int, int] | None = setting(None, at_least=1)
    window: int = setting(64, at_least=1, at_most=1_000_000)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    parameter_shards: int = setting(1, at_least=0)
    views: Literal["permuted", "canonical"] = "permuted"
    draw: Literal["sample", "batch"] = "sample"
    noise: float = setting(0.1, at_least=0)
    target: Literal["clean", "noised"] = "clean"
    padding: Literal["masked", "counts"] = "masked"
    gamma: float = setting(0.05, at_least=0, at_most=1)
    temperature: float = setting(0.1, above=0)
    steps: int = setting(50 * EPOCH_STEPS, at_least=1)
    batch_size: int = setting(32, at_least=2)
    learning_rate: float = setting(1e-4, above=0)
    weight_decay: float = setting(3e-9, at_least=0)
    density: Density = "token"
    mode: Mode = "independent"
    bandwidth: float = setting(0.2, at_least=0)
    top: float = setting(1.0, above=0, at_most=1)
    prompts: Literal["training", "normal"] = "training"
    prompt_std: float = setting(10.0, at_least=0)
    candidates: int = setting(1, at_least=1, at_most=100_000)
    rounds: int = setting(1, at_least=1, at_most=1000)
    survivors: float = setting(0.2, above=0, at_most=1)
    keep: Literal["best", "first"] = "best"
    examples: int = setting(10_000, at_least=1)
    halo_window: int | None = setting(None, at_least=1)
    halo: int = setting(64, at_least=0)
    halo_lengths: windows.Lengths = "any"
    statistics: Literal["condition", "train", "generate"] = "condition"
    conditioning: int = setting(200, at_least=1)
    conditioning_batch: int = setting(32, at_least=1)
    variances: domain.Variances = "clip"

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        checks.heads(self)
        if self.width % 2:
            self.refuse("width", "positions take a half of it for each of two parts; make it even")

    @property
    def needs_examples(self) -> bool:
        """Whether samples are chosen by what they do."""
        return self.candidates > 1 or self.rounds > 1 or self.top < 1

    @property
    def recalibration(self) -> Recalibration | None:
        """See `Generator.recalibration`."""
        return Recalibration("train", self.examples) if self.statistics == "train" else None

    @property
    def sampling(self) -> dict[str, Any]:
        """See `Autoencoding.sampling`."""
        found: dict[str, Any] = {"kind": f"{self.density} kde", "mode": self.mode, "bandwidth": self.bandwidth}
        if self.needs_examples:
            found |= {"top": self.top, "candidates": self.candidates, "rounds": self.rounds}
        return found
