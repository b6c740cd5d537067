"""The settings of Hyper-Representations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from jaxweights.generators import checks, domain, factors
from jaxweights.generators.base import Autoencoding
from jaxweights.generators.hyperrep import loss as losses
from jaxweights.generators.hyperrep.latents import MODES, LatentSampler, misfit
from jaxweights.generators.hyperrep.network import Architecture
from jaxweights.generators.hyperrep.views import Views
from jaxweights.nn.parameters import INITIALISERS
from jaxweights.settings import setting

EPOCH_STEPS = 5
"""Optimizer steps of a published epoch: 2,896 checkpoints in batches of 500."""


@dataclasses.dataclass(frozen=True)
class HyperRepSettings(Autoencoding):
    """The fields of `HyperRep`.

    The defaults are the setting of arXiv 2506.07998 for the CNN of 2,464 parameters, where the autoencoder has
    223,316,838. Its numbers are in a file that no source quotes: these sizes reproduce the published parameter counts
    of the default and of all four variants, and the optimization is that of the same authors' public configuration for
    this CNN (arXiv 2110.15288).

    Attributes:
      encoding: tokens: "neuron" (a unit's incoming weights and bias), "weight" (single weights), or "neuron_in_out"
        (also the weights by which the next layer reads the unit).
      width: size of the tokens.
      feed_forward: hidden size of the blocks' dense layers.
      blocks: number of transformer blocks of the encoder, and as many of the decoder.
      heads: number of attention heads.
      latent_dim: size of the latent.
      dropout: dropout rate, in the blocks and in the bottleneck "mlp".
      normalize: whether blocks normalise their inputs.
      compression: tokens to one vector: "linear" (all, one after the other), "average", or "token" (a learned extra
        one).
      decompression: one vector to tokens: "linear" (a part each), or "repeat" (the same for all).
      bottleneck: that vector to the latent: "linear", "linear_bounded" (then tanh), or "mlp" (several layers, then
        tanh); the decoder's is the mirror image without tanh.
      bottleneck_layers: number of hidden layers of "mlp".
      decoder_bias: whether the decoder adds a learned vector to the latent.
      identical_blocks: whether all blocks of a stack start from the same parameters, as in the published code.
      feature_normalization: whether weights are divided by their layer's standard deviation before they are encoded and
        multiplied by it after they are decoded. (The published code also divides the target that way, by mistake.)
      dtype: type of the matrix products; parameters, normalisations, softmax and loss are float32.
      remat: whether each block is computed again for its gradient instead of keeping its intermediate values; less
        memory, slower.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. See `sharding`.
      data_memory: GB of every device that the training networks may take; of more, those of the next steps are read
        while steps run. 0 for a quarter of its memory, of a CPU's shared among its devices.
      projection_layers: number of hidden layers of the projection head, 0 for no head.
      projection_hidden: size of its hidden layers, or None for `latent_dim`.
      projection_features: size of its output, which is contrasted, or None for half of `latent_dim`.
      projection_batch_norm: whether its hidden layers are batch-normalised.
      projection_init: initialisation of the head, as of task networks; biases start at 0.01.
      gamma: weight of the contrast; the reconstruction has 1 - gamma.
      contrast: "simclr" (NT-Xent) or "positive" (see `positive_contrast`).
      temperature: temperature of the contrast.
      reduction: "global_mean" or "layer_mean", see `reconstruction_loss`.
      normalize_loss: whether errors are divided by their layer's standard deviation.
      layer_weights: factors of the layers' losses, one per layer; empty for ones.
      error_threshold: largest squared error, larger ones are clipped; None for no limit.
      latent_variance_penalty: weight of the mean variance of the first views' latents.
      permutations: hidden units of views are permuted by: "table" (a list drawn once), "fresh" (a new permutation for
        every view), or "none".
      permutations_number: length of the table.
      permutations_seed: random seed of the table.
      noise: standard deviation of Gaussian noise on the views, in raw weight units where it is additive.
      noise_kind: what noise does to weights: "additive" or "multiplicative".
      erase: what is erased of views: "none", "block" (one stretch) or "scatter" (single entries).
      erase_probability: probability that something of a view is erased.
      erase_range: smallest and largest share that is erased.
      erase_value: number that replaces weights, or "random" for standard normal ones.
      target: what has to be reproduced: "view" (the augmented view itself, as published) or "clean" (permuted, without
        noise and erasure).
      steps: optimizer steps; published: 500 epochs.
      batch_size: examples per step, each of which is seen in two views.
      optimizer: optimization method.
      learning_rate: learning rate of the first step.
      weight_decay: weight decay, decoupled for "adamw", added to the gradient for the others.
      momentum: momentum of "sgd".
      scheduler: None (a constant learning rate), "plateau" (lower the learning rate when the mean loss stops falling,
        PyTorch's ReduceLROnPlateau), or "cosine" (half a cosine to 0).
      scheduler_every: steps whose mean loss "plateau" looks at; published: one epoch.
      scheduler_factor: factor by which the learning rate falls.
      scheduler_patience: number of looks without improvement that are tolerated.
      scheduler_threshold: smallest improvement that counts.
      scheduler_threshold_mode: whether that is a share of the best loss ("rel") or a difference ("abs").
      scheduler_cooldown: number of looks to skip after a reduction.
      scheduler_min_learning_rate: lowest learning rate of "plateau".
      gradient_clipping: what is limited: None (nothing), "norm" (of the whole gradient) or "value" (of every entry).
      gradient_clip: the limit.
      sampler: where latents come from, see `LatentSampler`, also for the next three.
      top: share of the best training networks (by test accuracy) whose latents are used.
      bandwidth: bandwidth of kernel density estimates.
      mode: variant of the sampler, "" for its first one; "faithful" is the published S_KDE with the seed that all
        dimensions share.
      variances: decoded running variances of batch normalisation that fall below the smallest one of their tensor in
        the training networks. clip: that one takes their place; published: they stay, and negative ones leave a network
        without outputs.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"sampler", "top", "bandwidth", "mode", "variances"})
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "momentum", "temperature"})
    FACTORS: ClassVar[factors.Factors] = factors.HYPERREP

    TINY: ClassVar[Mapping[str, Any]] = {
        "width": 8,
        "feed_forward": 8,
        "blocks": 2,
        "heads": 2,
        "latent_dim": 4,
        "projection_hidden": 6,
        "projection_features": 4,
        "permutations_number": 20,
        "steps": 4,
        "batch_size": 8,
    }

    name: str = "hyperrep"
    encoding: Literal["neuron", "weight", "neuron_in_out"] = "neuron"
    width: int = setting(1200, at_least=1, at_most=65_536)
    feed_forward: int = setting(1200, at_least=1, at_most=1_000_000)
    blocks: int = setting(12, at_least=1, at_most=1000)
    heads: int = setting(12, at_least=1, at_most=65_536)
    latent_dim: int = setting(128, at_least=1, at_most=1_000_000)
    dropout: float = setting(0.1, at_least=0, below=1)
    normalize: bool = True
    compression: Literal["linear", "average", "token"] = "linear"
    decompression: Literal["linear", "repeat"] = "linear"
    bottleneck: Literal["linear", "linear_bounded", "mlp"] = "linear"
    bottleneck_layers: int = setting(3, at_least=0, at_most=1000)
    decoder_bias: bool = False
    identical_blocks: bool = False
    feature_normalization: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    parameter_shards: int = setting(1, at_least=0)
    data_memory: float = setting(0.0, at_least=0)
    projection_layers: int = setting(4, at_least=0, at_most=1000)
    projection_hidden: int | None = setting(400, at_least=1, at_most=1_000_000)
    projection_features: int | None = setting(50, at_least=1, at_most=1_000_000)
    projection_batch_norm: bool = True
    projection_init: str = setting("kaiming_normal", one_of=INITIALISERS)
    gamma: float = setting(0.1, at_least=0, at_most=1)
    contrast: Literal["simclr", "positive"] = "simclr"
    temperature: float = setting(0.1, above=0)
    reduction: losses.Reduction = "global_mean"
    normalize_loss: bool = True
    layer_weights: tuple[float, ...] = setting((), at_least=0)
    error_threshold: float | None = setting(None, above=0)
    latent_variance_penalty: float = setting(0.0, at_least=0)
    permutations: Literal["table", "fresh", "none"] = "table"
    permutations_number: int = setting(25_000, at_least=1, at_most=10_000_000)
    permutations_seed: int = setting(42, at_least=0, at_most=2**32 - 1)
    noise: float = setting(0.0, at_least=0)
    noise_kind: Literal["additive", "multiplicative"] = "additive"
    erase: Literal["none", "block", "scatter"] = "block"
    erase_probability: float = setting(0.5, at_least=0, at_most=1)
    erase_range: tuple[float, float] = setting((0.02, 0.33), at_least=0, at_most=1)
    erase_value: float | Literal["random"] = 0.0
    target: Literal["view", "clean"] = "view"
    steps: int = setting(500 * EPOCH_STEPS, at_least=1)
    batch_size: int = setting(500, at_least=2)
    optimizer: Literal["adamw", "adam", "sgd"] = "adam"
    learning_rate: float = setting(1e-4, above=0)
    weight_decay: float = setting(1e-9, at_least=0)
    momentum: float = setting(0.9, at_least=0, below=1)
    scheduler: Literal["plateau", "cosine"] | None = "plateau"
    scheduler_every: int = setting(EPOCH_STEPS, at_least=1)
    scheduler_factor: float = setting(0.3, above=0, below=1)
    scheduler_patience: int = setting(10, at_least=0)
    scheduler_threshold: float = setting(1e-4, above=0, below=1)
    scheduler_threshold_mode: Literal["rel", "abs"] = "rel"
    scheduler_cooldown: int = setting(0, at_least=0)
    scheduler_min_learning_rate: float = setting(0.0, at_least=0)
    gradient_clipping: Literal["norm", "value"] | None = None
    gradient_clip: float = setting(5.0, above=0)
    sampler: str = setting("kde", one_of=MODES)
    top: float = setting(0.3, above=0, at_most=1)
    bandwidth: float = setting(0.002, at_least=0)
    mode: str = ""
    variances: domain.Variances = "clip"

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        checks.heads(self)
        if self.width < 2 and self.normalize:
            self.refuse("width", "set it to at least 2, a single value cannot be normalised")
        if self.bottleneck == "mlp" and self.decompression == "repeat":
            self.refuse(
                "bottleneck",
                'it yields all tokens, so it does not go with the decompression "repeat"; set one of them to "linear"',
            )
        if self.erase_range[0] > self.erase_range[1]:
            self.refuse("erase_range", "put the smaller share first")
        wrong = misfit(self.sampler, self.mode, self.bandwidth)
        if wrong:
            self.refuse(*wrong)
        object.__setattr__(self, "mode", self.latent_sampler.mode)

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; another sampler has its own first mode, unless one is given."""
        return super().replace(**({"mode": ""} if "sampler" in changes else {}) | changes)

    @property
    def latent_sampler(self) -> LatentSampler:
        """How latents are drawn."""
        return LatentSampler(kind=self.sampler, top=self.top, bandwidth=self.bandwidth, mode=self.mode)

    @property
    def architecture(self) -> Architecture:
        """Sizes and variants of the autoencoder."""
        names = [field.name for field in dataclasses.fields(Architecture)]
        return Architecture(**{name: getattr(self, name) for name in names})

    @property
    def views(self) -> Views:
        """How views are made."""
        return Views(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Views)})
