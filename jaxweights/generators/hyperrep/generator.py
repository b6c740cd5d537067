"""Hyper-Representations as a generator: how the autoencoder is trained, encodes and decodes, and is sampled from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights.errors import UserError
from jaxweights.generators import checks
from jaxweights.generators.base import Autoencoding, Samples, Stage
from jaxweights.generators.hyperrep import loss as losses
from jaxweights.generators.hyperrep.latents import MODES, LatentSampler, draw, misfit
from jaxweights.generators.hyperrep.layout import UnitLayout, check_layout
from jaxweights.generators.hyperrep.network import Architecture, Autoencoder
from jaxweights.generators.hyperrep.plateau import Plateau
from jaxweights.generators.hyperrep.views import Views, permutation_table, two_views
from jaxweights.nn.parameters import INITIALISERS, initialise
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec

STAGE = "autoencoder"
EPOCH_STEPS = 5
"""Optimizer steps of a published epoch: 2,896 checkpoints in batches of 500."""

# The published code drops one of the two terms of the loss where the other's weight is within this of 1.
_ALL = 1e-10


@dataclasses.dataclass(frozen=True)
class HyperRep(Autoencoding):
    """Hyper-Representations: an autoencoder of weights, and a sampler of its latents.

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
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"sampler", "top", "bandwidth", "mode"})

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
    width: int = setting(1200, at_least=1)
    feed_forward: int = setting(1200, at_least=1)
    blocks: int = setting(12, at_least=1)
    heads: int = setting(12, at_least=1)
    latent_dim: int = setting(128, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)
    normalize: bool = True
    compression: Literal["linear", "average", "token"] = "linear"
    decompression: Literal["linear", "repeat"] = "linear"
    bottleneck: Literal["linear", "linear_bounded", "mlp"] = "linear"
    bottleneck_layers: int = setting(3, at_least=0)
    decoder_bias: bool = False
    identical_blocks: bool = False
    feature_normalization: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"
    projection_layers: int = setting(4, at_least=0)
    projection_hidden: int | None = setting(400, at_least=1)
    projection_features: int | None = setting(50, at_least=1)
    projection_batch_norm: bool = True
    projection_init: str = setting("kaiming_normal", one_of=INITIALISERS)
    gamma: float = setting(0.1, at_least=0, at_most=1)
    contrast: Literal["simclr", "positive"] = "simclr"
    temperature: float = setting(0.1, above=0)
    reduction: losses.Reduction = "global_mean"
    normalize_loss: bool = True
    layer_weights: tuple[float, ...] = setting((), at_least=0)
    error_threshold: float | None = setting(None, above=0)
    latent_variance_penalty: float = 0.0
    permutations: Literal["table", "fresh", "none"] = "table"
    permutations_number: int = setting(25_000, at_least=1)
    permutations_seed: int = setting(42, at_least=0)
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

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Leaves the weights as they are and gathers what the losses and the views need.

        Args:
          training: rows `[N, P]` and their spec.

        Returns:
          `[N, P]` float32, and `layout` (static), `mean` `[P]`, `std` `[P]` (of each weight's layer), `mean_loss`
          `[1 + num_layers]` (the reconstruction loss of predicting the mean vector), `score` `[N]` and `step` `[N]` of
          the rows (test accuracy and optimizer step), and, with the permutations "table", `permutations`
          `[permutations_number, P]` int32.

        Raises:
          UserError: the network's weights cannot be encoded this way, or `layer_weights` does not have one entry per
            layer.
        """
        layout = UnitLayout(training.spec)
        check_layout(layout, self.encoding)
        if self.layer_weights and len(self.layer_weights) != len(layout.layers):
            raise UserError(
                f"{self.section}.layer_weights has {len(self.layer_weights)} entries, but the task network has "
                f"{len(layout.layers)} layers ({', '.join(layer.name for layer in layout.layers)}); give one for each."
            )
        weights = np.asarray(training.weights, np.float32)
        mean, std = losses.moments(layout, weights)
        constants = {
            "layout": layout,
            "mean": mean,
            "std": std,
            "mean_loss": losses.mean_losses(layout, weights, mean, self._error_scale(std), **self._reconstruction()),
            "score": np.asarray(training.records["accuracy"], np.float32),
            "step": np.asarray(training.records["step"], np.int32),
        }
        if self.permutations == "table":
            constants["permutations"] = permutation_table(
                training.spec, self.permutations_number, self.permutations_seed
            )
        return weights, constants

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "autoencoder"."""
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=self._optimizer(),
                init=self._init,
                loss=self._loss,
                auxiliary=("projection",),
            ),
        )

    def encode(self, state: Mapping[str, Any], weights: jax.Array) -> jax.Array:
        """Latents of weight vectors; pure, jit-compatible.

        Args:
          state: `constants` and `autoencoder`.
          weights: `[n, P]` float32.

        Returns:
          `[n, latent_dim]` float32.
        """
        constants, params = state["constants"], state[STAGE]["params"][STAGE]
        x = weights / self._feature_scale(constants)
        return self._module(constants).apply({"params": params}, x, method="encode")

    def decode(self, state: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Weight vectors of latents; pure, jit-compatible.

        Args:
          state: `constants` and `autoencoder`.
          latents: `[n, latent_dim]` float32.

        Returns:
          `[n, P]` float32.
        """
        constants, params = state["constants"], state[STAGE]["params"][STAGE]
        out = self._module(constants).apply({"params": params}, latents, method="decode")
        return out * self._feature_scale(constants)

    def finish(self, state: Mapping[str, Any], data: np.ndarray) -> dict[str, Any]:
        """Returns `latents` `[N, latent_dim]` of the training rows, and the `weights` `[N, P]` themselves."""
        encode = jax.jit(
            lambda state, rows: jax.lax.map(lambda r: self.encode(state, r[None, :])[0], rows, batch_size=64)
        )
        return {"latents": np.asarray(encode(state, jnp.asarray(data))), "weights": data}

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> dict[str, np.ndarray]:
        """Returns `latents` `[n, latent_dim]` and `parents` `[n]`, rows of the training population or -1."""
        constants = state["constants"]
        drawn = draw(self.latent_sampler, state["latents"], keys, constants["score"], constants["step"])
        return {"latents": drawn.latents, "parents": drawn.parents}

    def sample(self, state: Mapping[str, Any], inputs: Mapping[str, jax.Array]) -> Samples:
        """Decodes latents; the sampler "direct" yields the training networks that it names, as published."""
        if self.sampler == "direct":
            return Samples(state["weights"][inputs["parents"]], inputs["parents"])
        return Samples(self.decode(state, inputs["latents"]), inputs["parents"])

    def num_tokens(self, spec: WeightSpec) -> int:
        """One network's tokens and, where there is one, the token that becomes the latent."""
        return self.architecture.num_tokens(UnitLayout(spec)) + (self.compression == "token")

    @property
    def latent_sampler(self) -> LatentSampler:
        """How latents are drawn."""
        return LatentSampler(kind=self.sampler, top=self.top, bandwidth=self.bandwidth, mode=self.mode)

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of the sampler that matter, for the report."""
        sampler = self.latent_sampler
        facts = {"kind": sampler.kind, "mode": sampler.mode or None}
        return facts | ({"top": sampler.top} if sampler.kind not in ("uniform", "direct") else {})

    @property
    def architecture(self) -> Architecture:
        """Sizes and variants of the autoencoder."""
        names = [field.name for field in dataclasses.fields(Architecture)]
        return Architecture(**{name: getattr(self, name) for name in names})

    @property
    def views(self) -> Views:
        """How views are made."""
        return Views(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Views)})

    @property
    def _contrasts(self) -> bool:
        return self.gamma >= _ALL

    @property
    def _reconstructs(self) -> bool:
        return abs(1.0 - self.gamma) >= _ALL

    def _module(self, constants: Mapping[str, Any]) -> Autoencoder:
        return Autoencoder(constants["layout"], self.architecture)

    def _projection(self) -> losses.ProjectionHead | None:
        if not self.projection_layers or not self._contrasts:
            return None
        hidden = self.projection_hidden or self.latent_dim
        features = self.projection_features or max(self.latent_dim // 2, 1)
        return losses.ProjectionHead(
            self.projection_layers, hidden, features, self.projection_batch_norm, self.projection_init
        )

    def _error_scale(self, std):
        """What errors are divided by, `[P]`."""
        return std if self.normalize_loss else np.ones(std.shape, np.float32)

    def _feature_scale(self, constants: Mapping[str, Any]):
        """What weights are divided by before they are encoded, `[1, P]` or 1."""
        return constants["std"][None, :] if self.feature_normalization else 1.0

    def _reconstruction(self) -> dict[str, Any]:
        return {
            "reduction": self.reduction,
            "layer_weights": self.layer_weights,
            "error_threshold": self.error_threshold,
        }

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        """Parameters `{"autoencoder", "projection"}`, and the head's running statistics."""
        module = self._module(done["constants"])
        network_key, head_key = jax.random.split(key)
        x = jnp.zeros((1, module.layout.num_params))
        params = {STAGE: initialise(module, network_key, x)["params"]}
        head, model_state = self._projection(), {}
        if head is not None:
            variables = initialise(head, head_key, jnp.zeros((1, self.latent_dim)), "running")
            params["projection"], model_state = variables["params"], variables["batch_stats"]
        return params, model_state

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Contrast and reconstruction of two views, see `Stage.loss`."""
        constants = done["constants"]
        layout = constants["layout"]
        view_keys, *dropout_keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        inputs, targets = two_views(batch, view_keys, layout.spec, self.views, constants.get("permutations"))
        dropout_keys = jnp.concatenate(dropout_keys) if self.dropout else None
        return self._loss_of_views(params, model_state, constants, inputs, targets, dropout_keys, axis_name)

    def _loss_of_views(self, params, model_state, constants, inputs, targets, dropout_keys, axis_name):
        """The loss of views `[2, b, P]`; `dropout_keys` `[2 b]`, the first views' first."""
        module, scale = self._module(constants), self._feature_scale(constants)
        layout, size = constants["layout"], inputs.shape[1]
        x, target = inputs.reshape(2 * size, -1), targets.reshape(2 * size, -1)
        variables = {"params": params[STAGE]}
        z = module.apply(variables, x / scale, dropout_keys, method="encode")
        z_i, z_j = z[:size], z[size:]
        total, metrics = jnp.float32(0), {}
        if self._contrasts:
            contrast, model_state = self._contrast(params, model_state, z_i, z_j, axis_name)
            weight = self.gamma if self._reconstructs else 1.0
            total, metrics["contrast"] = total + weight * contrast, contrast
        if self._reconstructs:
            y = module.apply(variables, z, dropout_keys, method="decode") * scale
            error_scale = self._error_scale(constants["std"])
            reconstruction, layers = losses.reconstruction_loss(
                layout, y, target, error_scale, **self._reconstruction()
            )
            weight = 1 - self.gamma if self._contrasts else 1.0
            total, metrics["reconstruction"] = total + weight * reconstruction, reconstruction
            explained = losses.r2(jnp.concatenate([reconstruction[None], layers]), constants["mean_loss"])
            names = ["r2"] + [f"r2_{layer.name}" for layer in layout.layers]
            metrics |= dict(zip(names, explained, strict=True))
        variance = losses.latent_variance(z_i, axis_name)
        metrics["latent_variance"] = variance
        if self.latent_variance_penalty:
            total = total + self.latent_variance_penalty * variance
        return total, (model_state, metrics)

    def _contrast(self, params, model_state, z_i, z_j, axis_name):
        """The contrast of two views' latents, and the head's running statistics after both."""
        head = self._projection()
        if head is not None:

            def project(z, batch_stats):
                variables = {"params": params["projection"], "batch_stats": batch_stats}
                out, updated = head.apply(variables, z, "batch", axis_name, mutable=["batch_stats"])
                return out, updated["batch_stats"]

            z_i, model_state = project(z_i, model_state)
            z_j, model_state = project(z_j, model_state)
        function = losses.nt_xent if self.contrast == "simclr" else losses.positive_contrast
        return function(z_i, z_j, self.temperature, axis_name), model_state

    def _optimizer(self) -> optax.GradientTransformation:
        rate = self.learning_rate
        if self.scheduler == "cosine":
            rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        parts: list[optax.GradientTransformation] = []
        if self.gradient_clipping == "norm":
            parts.append(optax.clip_by_global_norm(self.gradient_clip))
        elif self.gradient_clipping == "value":
            parts.append(optax.clip(self.gradient_clip))
        if self.optimizer == "adamw":
            parts.append(optax.adamw(rate, weight_decay=self.weight_decay))
        else:
            parts.append(optax.add_decayed_weights(self.weight_decay))
            parts.append(optax.adam(rate) if self.optimizer == "adam" else optax.sgd(rate, momentum=self.momentum))
        if self.scheduler == "plateau":
            fields = {f.name: getattr(self, f"scheduler_{f.name}") for f in dataclasses.fields(Plateau)}
            parts.append(Plateau(**fields).transformation(self.learning_rate))
        return optax.chain(*parts)
