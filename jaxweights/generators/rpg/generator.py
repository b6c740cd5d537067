"""RPG as a generator: how prototypes and the diffusion of tokens are trained together, and sampling.

The published code draws the examples of a batch from a list of a million copies of the checkpoints, in effect with
replacement, and the tokens of a step from all tokens of the batch; here an epoch has every checkpoint once, and every
example of a batch gives equally many tokens. It trains under bfloat16 autocast between steps 5,000 and 45,000, and runs
one further optimizer step at the end. None of this is reproduced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import diffusion as diffusion_lib
from jaxweights import draws, parallel
from jaxweights.generators import checks, factors
from jaxweights.generators.base import LearnedGenerator, Samples, Stage, Training, keys_for, vanishes
from jaxweights.generators.normalisation import normalise, restore
from jaxweights.generators.rpg import tokens as tokens_lib
from jaxweights.generators.rpg.network import Architecture, Denoiser, Prototypes, Recurrence
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec

STAGE = "diffusion"

_ONE = "one"


@dataclasses.dataclass(frozen=True)
class RPG(LearnedGenerator):
    """RPG; the defaults are the paper's setting for ResNets (arXiv 2501.11587, released code), with one permutation
    state.

    Tensors are normalised and cut into tokens. A recurrent network makes a prototype of every token from the code of
    its place; a diffusion model draws every token by itself, given its prototype. So what tokens have in common they
    have from the prototypes alone. Three fields give the published code's behaviour:
    `permutation_states="checkpoints"`, `scalars="copy"`, and `sampler="ddim_published"` where it samples by DDIM.

    Attributes:
      token_size: entries of a token.
      granularity: what is cut into tokens: the whole "vector", every "tensor", or a tensor's output "rows", as many per
        token as fit.
      positions: code of a token's place: of the tensor and of the place in it ("2d"), or of the place in the network
        ("1d").
      permutation_states: rows of the table that prototypes depend on: "one", or one for each of the training
        "checkpoints" (published): then the generator is told which checkpoint to produce, and a sample is of a random
        one.
      scalars: what becomes of tensors of a single entry: "model" (as all others), or "copy" (that of the first training
        row, as in the published code).
      recurrence: layers of the recurrent network: "mamba" (Mamba-2), "lstm", or "mlp" (gated, every token by itself).
      width: size of the prototypes; a multiple of 4.
      layers: number of layers of the recurrent network.
      state: size of the state of a Mamba-2 head, per input.
      window: positions that Mamba-2's convolution sees.
      expand: inner width of a layer over its width.
      head_size: inputs of a Mamba-2 head; divides the inner width.
      channels: output channels of the denoiser's convolutions up to the widest; the rest mirrors them.
      kernel_size: size of all convolutions, an odd number.
      num_timesteps: number of diffusion timesteps, T.
      beta_start: first noise variance of the linear schedule.
      beta_end: last noise variance.
      noise: standard deviation of the Gaussian noise that is added to every normalised network at every access.
      tokens: tokens per step, drawn at random from those of the batch's networks; 0 for all.
      steps: optimizer steps.
      batch_size: networks per step.
      learning_rate: learning rate of the first step; it falls to 0 along half a cosine.
      weight_decay: weight decay of AdamW.
      ema_decay: decay of the averaged parameters, which samples are drawn with, or None (as published) for no average.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. See `sharding`.
      data_memory: GB of every device that the training networks may take; of more, those of the next steps are read
        while steps run. 0 for a quarter of its memory, of a CPU's shared among its devices.
      sampler: "ddpm" (ancestral, posterior variance), "ddim", or "ddim_published", which begins below the last timestep
        (of 1,000 in 60 steps with 945) as if there were no signal left, and ends with the noise of timestep 0.
      sampling_steps: number of DDIM steps, or None for all; published: 60.
      eta: noise of DDIM steps, from 0 (deterministic) to 1.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"sampler", "sampling_steps", "eta"})
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "ema_decay", "noise"})
    FACTORS: ClassVar[factors.Factors] = factors.RPG

    TINY: ClassVar[Mapping[str, Any]] = {
        "token_size": 8,
        "width": 8,
        "layers": 1,
        "state": 3,
        "window": 2,
        "head_size": 4,
        "channels": (2, 3),
        "kernel_size": 3,
        "num_timesteps": 10,
        "tokens": 24,
        "steps": 4,
        "batch_size": 8,
    }

    name: str = "rpg"
    token_size: int = setting(8192, at_least=2, at_most=1_000_000)
    granularity: tokens_lib.Granularity = "tensor"
    positions: tokens_lib.Positions = "2d"
    permutation_states: Literal["one", "checkpoints"] = _ONE
    scalars: Literal["model", "copy"] = "model"
    recurrence: Recurrence = "mamba"
    width: int = setting(8192, at_least=4, at_most=65_536)
    layers: int = setting(2, at_least=1, at_most=100)
    state: int = setting(128, at_least=1, at_most=65_536)
    window: int = setting(4, at_least=1, at_most=1000)
    expand: int = setting(2, at_least=1, at_most=100)
    head_size: int = setting(64, at_least=1, at_most=65_536)
    channels: tuple[int, ...] = setting((32, 64, 128), at_least=1, at_most=65_536, length=(2, None))
    kernel_size: int = setting(7, at_least=1, at_most=4095)
    num_timesteps: int = setting(1000, at_least=1, at_most=100_000)
    beta_start: float = setting(1e-4, above=0, below=1)
    beta_end: float = setting(0.02, above=0, below=1)
    noise: float = setting(0.0, at_least=0)
    tokens: int = setting(1024, at_least=0)
    steps: int = setting(80_000, at_least=1)
    batch_size: int = setting(8, at_least=1)
    learning_rate: float = setting(3e-5, above=0)
    weight_decay: float = setting(0.0, at_least=0)
    ema_decay: float | None = setting(None, at_least=0, below=1)
    parameter_shards: int = setting(1, at_least=0)
    data_memory: float = setting(0.0, at_least=0)
    sampler: Literal["ddpm", "ddim", "ddim_published"] = "ddpm"
    sampling_steps: int | None = setting(None, at_least=1)
    eta: float = setting(0.05, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        if self.kernel_size % 2 == 0:
            self.refuse("kernel_size", "set it to an odd number")
        if self.width % 4:
            self.refuse("width", "set it to a multiple of 4, for the code of places")
        if self.recurrence == "mamba" and self.expand * self.width % self.head_size:
            self.refuse("head_size", f"set it to a divisor of expand times width ({self.expand * self.width})")
        checks.noise_schedule(self)
        checks.sampling_steps(self)

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`."""
        return (training.rows + 4) * training.spec.num_params

    def prepare(self, training: Population) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Normalises each tensor by two scalars, see `normalise`, and lays out tokens.

        Args:
          training: training rows `[N, P]`; their spec names the tensors.

        Returns:
          `vectors` `[N, P]` float32, normalised as they are read where the weights are on disk, and `row` `[N]`, their
          numbers; and the constants of `normalise` with `index` `[tokens, token_size]` int32 (place of an entry in the
          vector, -1 for padding), `slot` `[P]` int32 (place of a parameter in the tokens, one after the other; 0 for
          what is in none), `places` `[tokens, width]` float32 and `rows` `[N]` int32.
        """
        copied = self.scalars == "copy"
        vectors, constants = normalise(training, training.spec.num_params, 0, copied)
        layout = self._layout(training.spec)
        index = np.where(layout.tokens.mask, layout.tokens.index, -1)
        slot = np.zeros(training.spec.num_params, np.int32)
        slot[index[index >= 0]] = np.flatnonzero(index >= 0)
        rows = np.arange(len(training), dtype=np.int32)
        constants |= {
            "index": index,
            "slot": slot,
            "places": tokens_lib.code(layout, self.width, self.positions),
            "rows": rows,
        }
        return {"vectors": vectors, "row": rows}, constants

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "diffusion"."""
        rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=optax.adamw(rate, weight_decay=self.weight_decay),
                init=self._init,
                loss=self._loss,
                ema_decay=self.ema_decay,
                parameter_shards=self.parameter_shards,
                data_memory=self.data_memory,
            ),
        )

    def sample(self, state: Mapping[str, Any], inputs: jax.Array) -> Samples:
        """Draws the tokens of all networks, each given its prototype; see `LearnedGenerator.sample`."""
        constants, keys = state["constants"], inputs
        parents = jnp.full(keys.shape, -1, jnp.int32)
        if self.permutation_states != _ONE:
            rows = constants["rows"]
            choice = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(rows)))(keys_for(keys, _ROW))
            parents = rows[choice]
        drawn = self._draw(state, keys_for(keys, _NOISE), jnp.maximum(parents, 0))
        flat = drawn.reshape(len(keys), -1)[:, constants["slot"]]
        return Samples(weights=restore(flat, constants), parents=parents)

    def num_tokens(self, spec: WeightSpec) -> int:
        """Tokens of one network."""
        return len(self._layout(spec).places)

    def _draw(self, state: Mapping[str, Any], keys: jax.Array, rows: jax.Array) -> jax.Array:
        """Normalised tokens `[n, tokens, token_size]` for keys `[n]` and rows of the table `[n]`."""
        constants, params = state["constants"], state[STAGE]["params"]
        denoiser: Any = self._denoiser()
        variables = {"params": params["denoiser"], "batch_stats": state[STAGE]["model_state"]}
        times = denoiser.apply(variables, jnp.arange(self.num_timesteps), method="embed_times")
        prototypes = self._prototypes(params, constants, rows if self.permutation_states != _ONE else rows[:1])
        embedded = denoiser.apply(variables, prototypes, method="embed_prototypes")
        count = len(constants["places"])
        embedded = jnp.broadcast_to(embedded, (len(keys), *embedded.shape[1:])).reshape(-1, self.token_size)
        keys = jax.vmap(lambda key: jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count)))(keys)

        def draw(keys: jax.Array, prototypes: jax.Array) -> jax.Array:
            def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
                return denoiser.apply(variables, x, times[timesteps], prototypes, "running")

            shape = (self.token_size,)
            if self.sampler == "ddpm":
                return diffusion_lib.sample_ddpm(self.diffusion, predict, keys, shape)
            published = self.published_timesteps if self.sampler == "ddim_published" else None
            steps = {"steps": self.sampling_steps, "timesteps": published}
            return diffusion_lib.sample_ddim(self.diffusion, predict, keys, shape, eta=self.eta, **steps)

        drawn = parallel.in_parts(draw, self.token_size * max(self.channels), keys.reshape(-1), embedded)
        return drawn.reshape(-1, count, self.token_size)

    @property
    def diffusion(self) -> diffusion_lib.Diffusion:
        """Schedule and objective."""
        betas = diffusion_lib.linear_schedule(self.num_timesteps, self.beta_start, self.beta_end)
        return diffusion_lib.Diffusion(betas)

    @property
    def published_timesteps(self) -> np.ndarray:
        """Timesteps of the published DDIM sampler, `[sampling_steps + 1]`."""
        steps = self.sampling_steps or self.num_timesteps
        spaced = np.arange(steps) * (self.num_timesteps // steps) + 1
        return np.concatenate([np.minimum(spaced, self.num_timesteps - 1)[::-1], [0]])

    @property
    def architecture(self) -> Architecture:
        """Sizes of the recurrent network."""
        return Architecture(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Architecture)})

    def _layout(self, spec: WeightSpec) -> tokens_lib.Layout:
        return tokens_lib.layout(spec, self.token_size, self.granularity, self.scalars == "copy")

    def _recurrent(self, constants: Mapping[str, Any]) -> Prototypes:
        return Prototypes(self.architecture, 1 if self.permutation_states == _ONE else len(constants["rows"]))

    def _denoiser(self) -> Denoiser:
        return Denoiser(self.token_size, self.channels, self.kernel_size)

    def _prototypes(self, params: Any, constants: Mapping[str, Any], rows: jax.Array) -> jax.Array:
        """Prototypes `[m, tokens, width]` for rows of the table `[m]`."""
        module: Any = self._recurrent(constants)
        return module.apply({"params": params["recurrent"]}, constants["places"], rows)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        constants = done["constants"]
        keys = jax.random.split(key)
        recurrent = initialise(self._recurrent(constants), keys[0], constants["places"], jnp.zeros(1, jnp.int32))
        denoiser = initialise(self._denoiser(), keys[1], jnp.zeros((1, self.width)), method="start")
        return {"recurrent": recurrent["params"], "denoiser": denoiser["params"]}, denoiser["batch_stats"]

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: Mapping[str, jax.Array],
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared error of the noise that is predicted in the entries of random tokens, without their padding."""
        constants, vectors, rows = done["constants"], batch["vectors"], batch["row"]
        count = len(constants["places"])
        if not vanishes(self.noise):
            jitter = draws.normal(keys_for(keys, _JITTER), vectors.shape[1:])
            vectors = vectors + self.noise * jitter
        prototypes = self._prototypes(params, constants, rows if self.permutation_states != _ONE else rows[:1] * 0)
        prototypes = jnp.broadcast_to(prototypes, (len(rows), *prototypes.shape[1:]))
        index = jnp.broadcast_to(constants["index"][None], (len(rows), count, self.token_size))
        chosen = min(count, -(-self.tokens // self.batch_size) or count)
        if chosen < count:
            order = jax.vmap(lambda key: jax.random.permutation(key, count)[:chosen])(keys_for(keys, _ROW))
            prototypes, index = (jnp.take_along_axis(x, order[:, :, None], axis=1) for x in (prototypes, index))
        shown = (index >= 0).reshape(-1, self.token_size)
        x0 = jnp.take_along_axis(vectors, jnp.maximum(index, 0).reshape(len(rows), -1), axis=1)
        x0 = jnp.where(shown, x0.reshape(-1, self.token_size), 0.0)
        own = jax.vmap(lambda key: jax.random.split(key, chosen))(keys_for(keys, _NOISE)).reshape(-1)
        noised = diffusion_lib.diffuse(self.diffusion, x0, own)
        denoiser: Any = self._denoiser()
        variables = {"params": params["denoiser"], "batch_stats": model_state}
        times = denoiser.apply(variables, noised.timesteps, method="embed_times")
        embedded = denoiser.apply(variables, prototypes.reshape(-1, self.width), method="embed_prototypes")
        output, updated = denoiser.apply(
            variables, noised.x_t, times, embedded, "batch", axis_name, mutable=["batch_stats"]
        )
        # Devices have different numbers of entries, and the same weight: so each divides by their mean number.
        entries = jnp.sum(shown.astype(jnp.float32))
        if chosen < count and axis_name is not None:
            entries = jax.lax.pmean(entries, axis_name)
        squares = jnp.where(shown, jnp.square(output - noised.target), 0.0)
        return jnp.sum(squares) / entries, (updated["batch_stats"], {})


# What a key is used for.
_ROW, _NOISE, _JITTER = range(3)
