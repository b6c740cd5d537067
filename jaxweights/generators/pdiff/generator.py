"""P-diff as a generator: preparation of the vectors, the two stages of training, sampling.

A one-dimensional convolutional autoencoder is trained first, with noise on its input and on its latent; a denoising
diffusion model of the latents, one-dimensional and convolutional as well, is trained second.

The published code draws the examples of a batch from a list of a million copies of the checkpoints, in effect with
replacement, where an epoch here has every checkpoint once. It trains and samples under bfloat16 autocast (so its
latents, target noises and decoded weights are rounded to bfloat16) and runs one further optimizer step at learning rate
0. None of this is reproduced.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import diffusion as diffusion_lib
from jaxweights import draws
from jaxweights.generators import checks, factors, moments
from jaxweights.generators.base import LearnedGenerator, Samples, Stage, Training
from jaxweights.generators.normalisation import Normalised, normalise, restore
from jaxweights.generators.pdiff.network import Autoencoder, Denoiser
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population
from jaxweights.settings import setting

# The published code lays a vector out in slices of 64 values.
_SLICE_LENGTH = 64
# Samples per block on CPU (measured at the published size).
_CPU_BLOCK = 10


@dataclasses.dataclass(frozen=True)
class PDiff(LearnedGenerator):
    """P-diff; the defaults are the paper's main setting (arXiv 2402.13144) with its defects corrected.

    Three fields undo the corrections and give the published code's behaviour: `decode="instance"`,
    `standardise_latents=False`, `encode="batch"`.

    Attributes:
      autoencoder_channels: output channels of the encoder's convolutions.
      latent_dim: size of the latent, which is also the length that the denoiser works on.
      kernel_size: size of all convolutions, an odd number.
      denoiser_channels: output channels of the denoiser's convolutions up to the widest; the rest mirrors them.
      remat: whether each convolution with its normalisation is computed again for its gradient instead of keeping its
        intermediate values; less memory, slower.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. See `sharding`.
      data_memory: GB of every device that the training networks may take; of more, those of the next steps are read
        while steps run. 0 for a quarter of its memory, of a CPU's shared among its devices.
      num_timesteps: number of diffusion timesteps, T.
      beta_start: first noise variance of the linear schedule.
      beta_end: last noise variance.
      input_noise: amplitude of the noise on the normalised weights, which the autoencoder has to reproduce as well.
      latent_noise: amplitude of the noise on the latents while the autoencoder is trained, or None for the standard
        deviation that the encoder gives.
      kl_weight: weight of the divergence of the latents' distribution from a standard normal in the autoencoder's loss.
      autoencoder_steps: optimizer steps of the first stage.
      diffusion_steps: optimizer steps of the second stage, or 0 for none: latents are then drawn from a
        standard normal.
      batch_size: examples per step, both stages; fewer training rows are repeated until they fill a batch.
      autoencoder_learning_rate: learning rate of the first step of the first stage; it falls to 0 along half a cosine.
      diffusion_learning_rate: the same for the second stage.
      weight_decay: weight decay of AdamW, both stages.
      ema_decay: decay of the denoiser's averaged parameters, or None (as published) for no average.
      decode: statistics of the decoder's batch normalisations when sampling: "running", or "instance", which is what
        the published code does by decoding single samples in training mode.
      encode: statistics of the encoder's batch normalisations when the diffusion is trained: "running" (a fixed
        encoder), or "batch", which is what the published code does by leaving the autoencoder in training mode.
      scalars: what becomes of tensors of a single entry: "model" (as all others), or "copy" (that of the first training
        row, as in the published code).
      standardise_latents: whether the diffusion sees latents with mean 0 and variance 1 in each dimension; the
        published code leaves them as they are, though sampling starts from a standard normal.
      sampler: "ddpm" (ancestral, posterior variance) or "ddim".
      sampling_steps: number of DDIM steps, or None for all.
      eta: noise of DDIM steps, from 0 (deterministic) to 1.
      dtype: type of the denoiser's products when sampling. With "bfloat16" sampling is faster on GPUs, TPUs and CPUs
        that have instructions for it; the published code takes it for everything.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"decode", "sampler", "sampling_steps", "eta", "dtype"})
    TRACED: ClassVar[frozenset[str]] = frozenset(
        {
            "autoencoder_learning_rate",
            "diffusion_learning_rate",
            "weight_decay",
            "ema_decay",
            "input_noise",
            "latent_noise",
        }
    )
    FACTORS: ClassVar[factors.Factors] = factors.PDIFF

    TINY: ClassVar[Mapping[str, Any]] = {
        "autoencoder_channels": (3, 4),
        "latent_dim": 4,
        "denoiser_channels": (3, 4),
        "num_timesteps": 10,
        "autoencoder_steps": 4,
        "diffusion_steps": 4,
        "batch_size": 8,
    }

    name: str = "pdiff"
    autoencoder_channels: tuple[int, ...] = setting(
        (64, 128, 256, 256, 32), at_least=1, at_most=65_536, length=(1, None)
    )
    latent_dim: int = setting(128, at_least=1, at_most=1_000_000)
    kernel_size: int = setting(7, at_least=1, at_most=4095)
    denoiser_channels: tuple[int, ...] = setting((64, 128, 256, 512), at_least=1, at_most=65_536, length=(2, None))
    remat: bool = False
    parameter_shards: int = setting(1, at_least=0)
    data_memory: float = setting(0.0, at_least=0)
    num_timesteps: int = setting(1000, at_least=1, at_most=100_000)
    beta_start: float = setting(1e-4, above=0, below=1)
    beta_end: float = setting(0.02, above=0, below=1)
    input_noise: float = setting(0.001, at_least=0)
    latent_noise: float | None = setting(0.1, at_least=0)
    kl_weight: float = setting(0.0, at_least=0)
    autoencoder_steps: int = setting(500, at_least=1)
    diffusion_steps: int = setting(1000, at_least=0)
    batch_size: int = setting(50, at_least=2)
    autoencoder_learning_rate: float = setting(2e-5, above=0)
    diffusion_learning_rate: float = setting(1e-4, above=0)
    weight_decay: float = setting(0.0, at_least=0)
    ema_decay: float | None = setting(None, at_least=0, below=1)
    decode: Literal["running", "instance"] = "running"
    encode: Literal["running", "batch"] = "running"
    scalars: Literal["model", "copy"] = "model"
    standardise_latents: bool = True
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int | None = setting(None, at_least=1)
    eta: float = setting(0.0, at_least=0, at_most=1)
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        if self.kernel_size % 2 == 0:
            self.refuse("kernel_size", "set it to an odd number")
        checks.noise_schedule(self)
        checks.sampling_steps(self)

    def check(self, training: Training) -> None:
        """Any number of rows will do."""

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`."""
        return max(training.rows, self.batch_size) * self.padded_length(training.spec.num_params)

    def prepare(self, training: Population) -> tuple[np.ndarray | Normalised, dict[str, np.ndarray]]:
        """Normalises each tensor by two scalars and pads the vectors to a length that the strides divide.

        Args:
          training: training rows `[N, P]`; their spec names the tensors.

        Returns:
          `[max(N, multiple of N that fills a batch), D]` float32 and the constants, see `normalise`.
        """
        length = self.padded_length(training.spec.num_params)
        return normalise(training, length, self.batch_size, self.scalars == "copy")

    def padded_length(self, num_params: int) -> int:
        """Returns D: the next multiple of 64 and of what the autoencoder's strides need."""
        multiple = math.lcm(_SLICE_LENGTH, 2 ** len(self.autoencoder_channels))
        return -(-num_params // multiple) * multiple

    def stages(self) -> tuple[Stage, ...]:
        """Returns the stages "autoencoder" and, unless it has no steps, "diffusion"."""
        autoencoder = Stage(
            name="autoencoder",
            steps=self.autoencoder_steps,
            batch_size=self.batch_size,
            optimizer=self._optimizer(self.autoencoder_learning_rate, self.autoencoder_steps),
            init=self._init_autoencoder,
            loss=self._autoencoder_loss,
            parameter_shards=self.parameter_shards,
            data_memory=self.data_memory,
        )
        if not self.diffusion_steps:
            return (autoencoder,)
        diffusion = Stage(
            name="diffusion",
            steps=self.diffusion_steps,
            batch_size=self.batch_size,
            optimizer=self._optimizer(self.diffusion_learning_rate, self.diffusion_steps),
            init=self._init_diffusion,
            loss=self._diffusion_loss,
            parameter_shards=self.parameter_shards,
            data_memory=self.data_memory,
            ema_decay=self.ema_decay,
        )
        return autoencoder, diffusion

    def sample(self, state: Mapping[str, Any], inputs: jax.Array) -> Samples:
        """Draws latents, decodes them and undoes the normalisation; see `LearnedGenerator.sample`."""
        latents, constants = self.sample_latents(state, inputs), state["constants"]
        autoencoder: Any = self._autoencoder(constants["mean"].shape[-1])
        decoded = autoencoder.apply(self._autoencoder_variables(state), latents, self.decode, method="decode")
        return Samples.new(restore(decoded, constants))

    def sample_latents(self, state: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        """Draws what the decoder makes networks of, `[n, latent_dim]`, one per key."""
        shape = (self.latent_dim,)
        if not self.diffusion_steps:
            return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
        stage = state["diffusion"]
        denoiser: Any = Denoiser(self.denoiser_channels, self.kernel_size, self.dtype)
        variables = {"params": stage["params"], "batch_stats": stage["model_state"]["denoiser"]}

        def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
            return denoiser.apply(variables, x, timesteps, "running")

        def draw(keys: jax.Array) -> jax.Array:
            if self.sampler == "ddpm":
                return diffusion_lib.sample_ddpm(self._diffusion(), predict, keys, shape)
            steps = self.sampling_steps
            return diffusion_lib.sample_ddim(self._diffusion(), predict, keys, shape, steps=steps, eta=self.eta)

        block = _block(keys.shape[0])
        latents = jax.lax.map(draw, keys.reshape(-1, block)).reshape(-1, self.latent_dim)
        if self.standardise_latents:
            mean, std = moments.of(stage["model_state"]["latents"])
            latents = mean + std * latents
        return latents

    def _optimizer(self, learning_rate: float, steps: int) -> optax.GradientTransformation:
        return optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=self.weight_decay)

    def _autoencoder(self, num_params: int) -> Autoencoder:
        length = self.padded_length(num_params)
        return Autoencoder(self.autoencoder_channels, self.latent_dim, self.kernel_size, length, self.remat)

    def _denoiser(self) -> Denoiser:
        return Denoiser(self.denoiser_channels, self.kernel_size, remat=self.remat)

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
        inputs = jnp.zeros((1, module.length)), jnp.zeros((1, self.latent_dim)), self.latent_noise
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
        """Mean squared error against the noised input, the latent noised as well; plus the weighted divergence."""

        input_keys, latent_keys = jax.vmap(lambda key: jax.random.split(key), out_axes=1)(keys)
        input_noise = draws.normal(input_keys, batch.shape[1:])
        latent_noise = draws.normal(latent_keys, (self.latent_dim,))
        x = batch + self.input_noise * input_noise
        module = self._autoencoder(done["constants"]["mean"].shape[0])
        (reconstruction, mean, log_variance), updated = module.apply(
            {"params": params, "batch_stats": model_state},
            x,
            latent_noise,
            self.latent_noise,
            "batch",
            axis_name,
            mutable=["batch_stats"],
        )
        value, metrics = jnp.mean(jnp.square(reconstruction - x)), {}
        if self.kl_weight:
            metrics = {"reconstruction": value, "divergence": _divergence(mean, log_variance)}
            value = value + self.kl_weight * metrics["divergence"]
        return value, (updated["batch_stats"], metrics)

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
        module: Any = self._autoencoder(done["constants"]["mean"].shape[0])
        if self.encode == "batch":
            variables = {"params": done["autoencoder"]["params"], "batch_stats": model_state["autoencoder"]}
            latents, updated = module.apply(
                variables, batch, "batch", axis_name, method="encode", mutable=["batch_stats"]
            )
            new_state["autoencoder"] = updated["batch_stats"]
        else:
            latents = module.apply(self._autoencoder_variables(done), batch, "running", method="encode")
        if self.standardise_latents:
            new_state["latents"] = moments.update(model_state["latents"], latents, axis_name)
            mean, std = moments.of(new_state["latents"])
            latents = (latents - mean) / std
        denoiser = self._denoiser()

        def predict(x: jax.Array, timesteps: jax.Array) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": model_state["denoiser"]}
            return denoiser.apply(variables, x, timesteps, "batch", axis_name, mutable=["batch_stats"])

        value, updated = diffusion_lib.loss(self._diffusion(), predict, latents, keys, has_aux=True)
        new_state["denoiser"] = updated["batch_stats"]
        return value, (new_state, {})


def _block(count: int) -> int:
    """Samples that go through all timesteps together: all, but on CPU as many as caches hold the activations of."""
    if jax.default_backend() != "cpu":
        return count
    block = max(size for size in range(1, _CPU_BLOCK + 1) if count % size == 0)
    return block if 2 * block > _CPU_BLOCK else count


def _divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence from the standard normal, in nats, averaged over `[n, latent_dim]`'s rows."""
    terms = jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.mean(jnp.sum(terms, axis=1))
