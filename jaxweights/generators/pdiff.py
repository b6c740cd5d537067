"""P-diff (Wang et al., "Neural Network Diffusion", 2024): a latent diffusion model of flat weight vectors.

A one-dimensional convolutional autoencoder is trained first, with noise on its input and on its latent; a denoising
diffusion model of the latents, one-dimensional and convolutional as well, is trained second.

The published code trains and samples under bfloat16 autocast (so its latents, target noises and decoded weights are
rounded to bfloat16) and runs one further optimizer step at learning rate 0; neither is reproduced.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import diffusion as diffusion_lib
from jaxweights.errors import UserError
from jaxweights.generators.base import LearnedGenerator, Samples, Stage
from jaxweights.generators.conv1d import Conv, ConvTranspose
from jaxweights.generators.layers import BatchNorm, Dense, Statistics, initialise
from jaxweights.population import Population

# The published code lays a vector out in slices of 64 values.
_SLICE_LENGTH = 64
_TIME_FEATURES = 256
_MAX_PERIOD = 10_000
# A latent dimension that varies less than this is constant up to rounding.
_MIN_LATENT_STD = 1e-6
# Relative spread below which a tensor is constant in float32.
_CONSTANT = 1e-7


class Encoder(nn.Module):
    """Strided convolutions, then dense layers to the mean and the log-variance of the latent.

    Attributes:
      channels: output channels of the stride-2 convolutions.
      latent_dim: size of the latent.
      kernel_size: odd.
    """

    channels: tuple[int, ...]
    latent_dim: int
    kernel_size: int

    @nn.compact
    def __call__(
        self, x: jax.Array, statistics: Statistics, axis_name: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Maps `[n, length]` to two `[n, latent_dim]`; see `BatchNorm` for the last two arguments."""
        x = x[:, :, None]
        for i, features in enumerate(self.channels):
            x = Conv(features, self.kernel_size, stride=2, name=f"conv_{i}")(x)
            x = nn.leaky_relu(BatchNorm(name=f"norm_{i}")(x, statistics, axis_name), negative_slope=0.01)
        flat = jnp.swapaxes(x, 1, 2).reshape(x.shape[0], -1)
        hidden = Dense(self.latent_dim, name="to_latent")(flat)
        return Dense(self.latent_dim, name="fc_mu")(hidden), Dense(self.latent_dim, name="fc_var")(hidden)


class Decoder(nn.Module):
    """A dense layer, then transposed convolutions that double the length, then one convolution to a single channel.

    Attributes:
      channels: input channels of the transposed convolutions, the encoder's in reverse.
      length: of the decoded vectors, a multiple of `2 ** len(channels)`.
      kernel_size: odd.
    """

    channels: tuple[int, ...]
    length: int
    kernel_size: int

    @nn.compact
    def __call__(self, z: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Maps `[n, latent_dim]` to `[n, length]`; see `BatchNorm` for the last two arguments."""
        length = self.length >> len(self.channels)
        x = Dense(self.channels[0] * length, name="to_decode")(z)
        x = jnp.swapaxes(x.reshape(z.shape[0], self.channels[0], length), 1, 2)
        for i, features in enumerate(self.channels[1:] + self.channels[-1:]):
            x = ConvTranspose(features, self.kernel_size, name=f"conv_{i}")(x)
            x = nn.elu(BatchNorm(name=f"norm_{i}")(x, statistics, axis_name))
        return Conv(1, self.kernel_size, name="to_output")(x)[:, :, 0]


class Autoencoder(nn.Module):
    """The autoencoder of flat, normalised weight vectors.

    The head of the log-variance exists, as in the published model, but nothing depends on it: the latent noise has a
    fixed amplitude.

    Attributes:
      channels: output channels of the encoder's stride-2 convolutions.
      latent_dim: size of the latent.
      kernel_size: odd.
      length: of the vectors, a multiple of `2 ** len(channels)`.
    """

    channels: tuple[int, ...]
    latent_dim: int
    kernel_size: int
    length: int

    def setup(self) -> None:
        """Builds the two halves."""
        self.encoder = Encoder(self.channels, self.latent_dim, self.kernel_size)
        self.decoder = Decoder(self.channels[::-1], self.length, self.kernel_size)

    def __call__(
        self, x: jax.Array, latent_noise: jax.Array, statistics: Statistics, axis_name: str | None = None
    ) -> jax.Array:
        """Reconstructs `[n, length]` through latents to which `latent_noise` `[n, latent_dim]` is added."""
        return self.decode(self.encode(x, statistics, axis_name) + latent_noise, statistics, axis_name)

    def encode(self, x: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Returns the mean latents `[n, latent_dim]` of `[n, length]`."""
        return self.encoder(x, statistics, axis_name)[0]

    def decode(self, z: jax.Array, statistics: Statistics, axis_name: str | None = None) -> jax.Array:
        """Returns `[n, length]` for latents `[n, latent_dim]`."""
        return self.decoder(z, statistics, axis_name)


class Denoiser(nn.Module):
    """A convolutional network that sees a latent as a signal with one channel, with additive skip connections.

    Attributes:
      channels: output channels of the convolutions up to the widest; the rest mirrors them.
      kernel_size: odd.
    """

    channels: tuple[int, ...]
    kernel_size: int

    @nn.compact
    def __call__(
        self, x: jax.Array, timesteps: jax.Array, statistics: Statistics, axis_name: str | None = None
    ) -> jax.Array:
        """Maps latents `[n, latent_dim]` at `timesteps` `[n]` to `[n, latent_dim]`.

        The time embedding is as long as the latent and is added along it, in every channel, before every convolution.
        """
        latent_dim = x.shape[-1]
        time = Dense(latent_dim, name="time_in")(_time_features(timesteps))
        time = Dense(latent_dim, name="time_out")(nn.silu(time))[:, :, None]
        widths = self.channels + self.channels[-2::-1]
        outputs: list[jax.Array] = []
        x = x[:, :, None]
        for i, features in enumerate(widths):
            if i > len(self.channels):
                x = x + outputs[len(widths) - i]
            x = Conv(features, self.kernel_size, name=f"conv_{i}")(x + time)
            x = nn.elu(BatchNorm(name=f"norm_{i}")(x, statistics, axis_name))
            outputs.append(x)
        return Conv(1, self.kernel_size, name="to_output")(x + outputs[0] + time)[:, :, 0]


def _time_features(timesteps: jax.Array) -> jax.Array:
    """Cosines and sines of the raw timestep `[n]` at geometrically falling frequencies: `[n, 256]`."""
    half = _TIME_FEATURES // 2
    frequencies = jnp.asarray(np.exp(-math.log(_MAX_PERIOD) * np.arange(half) / half), jnp.float32)
    angles = timesteps[:, None].astype(jnp.float32) * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


@dataclasses.dataclass(frozen=True)
class PDiff(LearnedGenerator):
    """P-diff as a `LearnedGenerator`; the defaults are the paper's main setting with its defects mended.

    Three fields undo the mending and give the published code's behaviour: `decode="instance"`,
    `standardise_latents=False`, `encode="batch"`.

    Attributes:
      name: of the generator.
      autoencoder_channels: output channels of the encoder's convolutions.
      latent_dim: size of the latent, which is also the length that the denoiser works on.
      kernel_size: of all convolutions, odd.
      denoiser_channels: output channels of the denoiser's convolutions up to the widest; the rest mirrors them.
      num_timesteps: T of the diffusion.
      beta_start: first noise variance of the linear schedule.
      beta_end: last noise variance.
      input_noise: amplitude of the noise on the normalised weights, which the autoencoder has to reproduce as well.
      latent_noise: amplitude of the noise on the latents while the autoencoder is trained.
      autoencoder_steps: optimizer steps of the first stage.
      diffusion_steps: optimizer steps of the second stage.
      batch_size: examples per step, both stages.
      autoencoder_learning_rate: at the first step; falls to 0 over the stage along a half cosine.
      diffusion_learning_rate: the same for the second stage.
      weight_decay: of AdamW, both stages.
      ema_decay: of the denoiser's averaged parameters, or None (as published) for none.
      decode: statistics of the decoder's batch normalisations when sampling: "running", or "instance", which is what
        the published code does by decoding single samples in training mode.
      encode: statistics of the encoder's when the diffusion is trained: "running" (a fixed encoder), or "batch", which
        is what the published code does by leaving the autoencoder in training mode.
      standardise_latents: whether the diffusion sees latents with mean 0 and variance 1 in each dimension; the
        published code leaves them as they are, though sampling starts from a standard normal.
      sampler: "ddpm" (ancestral, posterior variance) or "ddim".
      sampling_steps: number of DDIM steps, or None for all.
      eta: of DDIM.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"decode", "sampler", "sampling_steps", "eta"})

    name: str = "pdiff"
    autoencoder_channels: tuple[int, ...] = (64, 128, 256, 256, 32)
    latent_dim: int = 128
    kernel_size: int = 7
    denoiser_channels: tuple[int, ...] = (64, 128, 256, 512)
    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    input_noise: float = 0.001
    latent_noise: float = 0.1
    autoencoder_steps: int = 500
    diffusion_steps: int = 1000
    batch_size: int = 50
    autoencoder_learning_rate: float = 2e-5
    diffusion_learning_rate: float = 1e-4
    weight_decay: float = 0.0
    ema_decay: float | None = None
    decode: Literal["running", "instance"] = "running"
    encode: Literal["running", "batch"] = "running"
    standardise_latents: bool = True
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        object.__setattr__(self, "autoencoder_channels", tuple(self.autoencoder_channels))
        object.__setattr__(self, "denoiser_channels", tuple(self.denoiser_channels))
        choices = {"decode": ("running", "instance"), "encode": ("running", "batch"), "sampler": ("ddpm", "ddim")}
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                known = " or ".join(f'"{value}"' for value in allowed)
                raise UserError(f"generator pdiff: {field} is {getattr(self, field)!r}; set it to {known}.")
        if self.kernel_size % 2 == 0:
            raise UserError(f"generator pdiff: kernel_size is {self.kernel_size}; set it to an odd number.")
        if len(self.denoiser_channels) < 2 or not self.autoencoder_channels:
            raise UserError(
                "generator pdiff: give autoencoder_channels at least one entry and denoiser_channels at least two."
            )
        if self.sampler == "ddim" and not 1 <= (self.sampling_steps or self.num_timesteps) <= self.num_timesteps:
            raise UserError(
                f"generator pdiff: sampling_steps is {self.sampling_steps}; set it between 1 and num_timesteps "
                f"({self.num_timesteps}), or to None for all."
            )

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Normalises each tensor by two scalars and pads the vectors to a length that the strides divide.

        The scalars are the averages over rows of the tensor's mean and of its unbiased standard deviation. A tensor
        with a single entry is divided by its standard deviation over rows instead, and a constant tensor is only
        centred.

        Args:
          training: training rows `[N, P]`; their spec names the tensors.

        Returns:
          `[N, D]` float32, and `{"mean": [P], "std": [P]}` float32.
        """
        weights = training.weights
        mean, std = [], []
        end = 0
        for leaf in training.spec.leaves:
            tensor = weights[:, end : end + leaf.size].astype(np.float64)
            end += leaf.size
            mean.append(np.full(leaf.size, tensor.mean()))
            std.append(np.full(leaf.size, _spread(tensor)))
        constants = {
            "mean": np.concatenate(mean).astype(np.float32),
            "std": np.concatenate(std).astype(np.float32),
        }
        data = np.zeros((len(weights), self.padded_length(end)), np.float32)
        data[:, :end] = (weights - constants["mean"][None, :]) / constants["std"][None, :]
        return data, constants

    def padded_length(self, num_params: int) -> int:
        """Returns D: the next multiple of 64 and of what the autoencoder's strides need."""
        multiple = math.lcm(_SLICE_LENGTH, 2 ** len(self.autoencoder_channels))
        return -(-num_params // multiple) * multiple

    def stages(self) -> tuple[Stage, ...]:
        """Returns the stages "autoencoder" and "diffusion"."""
        return (
            Stage(
                name="autoencoder",
                steps=self.autoencoder_steps,
                batch_size=self.batch_size,
                optimizer=self._optimizer(self.autoencoder_learning_rate, self.autoencoder_steps),
                init=self._init_autoencoder,
                loss=self._autoencoder_loss,
            ),
            Stage(
                name="diffusion",
                steps=self.diffusion_steps,
                batch_size=self.batch_size,
                optimizer=self._optimizer(self.diffusion_learning_rate, self.diffusion_steps),
                init=self._init_diffusion,
                loss=self._diffusion_loss,
                ema_decay=self.ema_decay,
            ),
        )

    def sample(self, state: Mapping[str, Any], inputs: jax.Array) -> Samples:
        """Draws latents, decodes them and undoes the normalisation; see `LearnedGenerator.sample`."""
        denoiser = self._denoiser()
        stage = state["diffusion"]
        variables = {"params": stage["params"], "batch_stats": stage["model_state"]["denoiser"]}

        def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
            return denoiser.apply(variables, x, timesteps, "running")

        shape = (self.latent_dim,)
        if self.sampler == "ddpm":
            latents = diffusion_lib.sample_ddpm(self._diffusion(), predict, inputs, shape)
        else:
            latents = diffusion_lib.sample_ddim(
                self._diffusion(), predict, inputs, shape, steps=self.sampling_steps, eta=self.eta
            )
        if self.standardise_latents:
            mean, std = _moments(stage["model_state"]["latents"])
            latents = mean + std * latents
        mean, std = state["constants"]["mean"][None, :], state["constants"]["std"][None, :]
        autoencoder = self._autoencoder(mean.shape[-1])
        decoded = autoencoder.apply(self._autoencoder_variables(state), latents, self.decode, method="decode")
        weights = decoded[:, : mean.shape[-1]] * std + mean
        return Samples(weights=weights, parents=jnp.full((inputs.shape[0],), -1, jnp.int32))

    def _optimizer(self, learning_rate: float, steps: int) -> optax.GradientTransformation:
        return optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=self.weight_decay)

    def _autoencoder(self, num_params: int) -> Autoencoder:
        length = self.padded_length(num_params)
        return Autoencoder(self.autoencoder_channels, self.latent_dim, self.kernel_size, length)

    def _denoiser(self) -> Denoiser:
        return Denoiser(self.denoiser_channels, self.kernel_size)

    def _diffusion(self) -> diffusion_lib.Diffusion:
        return diffusion_lib.Diffusion(
            diffusion_lib.linear_schedule(self.num_timesteps, self.beta_start, self.beta_end)
        )

    def _autoencoder_variables(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The trained autoencoder; its running statistics are the diffusion stage's where that stage moved them on."""
        batch_stats = state["autoencoder"]["model_state"]
        if self.encode == "batch" and "diffusion" in state:
            batch_stats = state["diffusion"]["model_state"]["autoencoder"]
        return {"params": state["autoencoder"]["params"], "batch_stats": batch_stats}

    def _init_autoencoder(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        module = self._autoencoder(done["constants"]["mean"].shape[0])
        inputs = jnp.zeros((1, module.length)), jnp.zeros((1, self.latent_dim))
        variables = initialise(module, key, *inputs, "running")
        return variables["params"], variables["batch_stats"]

    def _autoencoder_loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared error against the noised input, the latent noised as well."""

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            input_key, latent_key = jax.random.split(key)
            return jax.random.normal(input_key, batch.shape[1:]), jax.random.normal(latent_key, (self.latent_dim,))

        input_noise, latent_noise = jax.vmap(draw)(keys)
        x = batch + self.input_noise * input_noise
        module = self._autoencoder(done["constants"]["mean"].shape[0])
        reconstruction, updated = module.apply(
            {"params": params, "batch_stats": model_state},
            x,
            self.latent_noise * latent_noise,
            "batch",
            axis_name,
            mutable=["batch_stats"],
        )
        return jnp.mean(jnp.square(reconstruction - x)), (updated["batch_stats"], {})

    def _init_diffusion(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        inputs = jnp.zeros((1, self.latent_dim)), jnp.zeros((1,), jnp.int32)
        variables = initialise(self._denoiser(), key, *inputs, "running")
        model_state = {"denoiser": variables["batch_stats"]}
        if self.standardise_latents:
            zeros = jnp.zeros((self.latent_dim,))
            model_state["latents"] = {"count": jnp.zeros(()), "mean": zeros, "var": zeros}
        if self.encode == "batch":
            model_state["autoencoder"] = done["autoencoder"]["model_state"]
        return variables["params"], model_state

    def _diffusion_loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared error of the predicted noise on the latents of clean examples."""
        new_state = {}
        module = self._autoencoder(done["constants"]["mean"].shape[0])
        if self.encode == "batch":
            variables = {"params": done["autoencoder"]["params"], "batch_stats": model_state["autoencoder"]}
            latents, updated = module.apply(
                variables, batch, "batch", axis_name, method="encode", mutable=["batch_stats"]
            )
            new_state["autoencoder"] = updated["batch_stats"]
        else:
            latents = module.apply(self._autoencoder_variables(done), batch, "running", method="encode")
        if self.standardise_latents:
            new_state["latents"] = _update_moments(model_state["latents"], latents, axis_name)
            mean, std = _moments(new_state["latents"])
            latents = (latents - mean) / std
        denoiser = self._denoiser()

        def predict(x: jax.Array, timesteps: jax.Array) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": model_state["denoiser"]}
            return denoiser.apply(variables, x, timesteps, "batch", axis_name, mutable=["batch_stats"])

        value, updated = diffusion_lib.loss(self._diffusion(), predict, latents, keys, has_aux=True)
        new_state["denoiser"] = updated["batch_stats"]
        return value, (new_state, {})


def _spread(tensor: np.ndarray) -> float:
    """What to divide a tensor `[N, size]` by: the mean over rows of its unbiased deviation, 1 where it is constant."""
    rows, size = tensor.shape
    if size > 1:
        spread = tensor.std(axis=1, ddof=1).mean()
    else:
        spread = tensor.std(ddof=1) if rows > 1 else 0.0
    return spread if spread > _CONSTANT * abs(tensor.mean()) else 1.0


def _update_moments(moments: dict[str, jax.Array], latents: jax.Array, axis_name: str | None) -> dict[str, jax.Array]:
    """Adds a batch `[n, latent_dim]` to the mean and variance of all latents seen so far.

    The encoder is fixed while these are gathered, so they settle on the training set's within the first few batches.
    """

    def mean_over(values: jax.Array) -> jax.Array:
        mean = jnp.mean(values, axis=0)
        return mean if axis_name is None else jax.lax.pmean(mean, axis_name)

    batch_count = latents.shape[0] * (1 if axis_name is None else jax.lax.axis_size(axis_name))
    batch_mean = mean_over(latents)
    batch_var = mean_over(jnp.square(latents - batch_mean[None, :]))
    count = moments["count"] + batch_count
    share = batch_count / count
    shift = batch_mean - moments["mean"]
    return {
        "count": count,
        "mean": moments["mean"] + share * shift,
        "var": (1 - share) * moments["var"] + share * batch_var + share * (1 - share) * jnp.square(shift),
    }


def _moments(moments: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation, each `[1, latent_dim]`."""
    std = jnp.maximum(jnp.sqrt(moments["var"]), _MIN_LATENT_STD)
    return moments["mean"][None, :], std[None, :]
