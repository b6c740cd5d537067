"""HyperDiffusion as a generator: how the transformer is trained on weight vectors, and drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import diffusion as diffusion_lib
from jaxweights import draws
from jaxweights.generators import checks, domain, factors, rows
from jaxweights.generators.base import Augmented, Samples, Stage, Training, keys_for, vanishes
from jaxweights.generators.hyperdiffusion import importer, network
from jaxweights.generators.hyperdiffusion.network import Transformer
from jaxweights.generators.state_dict import Checkpoint
from jaxweights.nn.parameters import initialise
from jaxweights.nn.transformer import Architecture, TokenLayout, frequencies, is_matrix, time_features
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec

STAGE = "transformer"
EPOCH_STEPS = 86
"""Optimizer steps of a published epoch: 2,749 aeroplanes in batches of 32."""


@dataclasses.dataclass(frozen=True)
class HyperDiffusion(Augmented):
    """HyperDiffusion; the defaults are the published setting for aeroplanes (arXiv 2303.17015, and 2506.07998).

    Batches all have the same size: an epoch leaves out what is left at its end, which the published loader makes a
    smaller batch of.

    Attributes:
      normalise: what the transformer sees of a weight vector: "none" (as it is), "std" (over the standard deviation of
        all entries), or "per_parameter" (every entry less its mean, over its standard deviation). Networks that were
        all fitted from the same start differ by little beside what they share; only "per_parameter" shows a small
        transformer little else.
      scale: factor of the vectors on top of that.
      augment: networks of the same function that every training network stands for: itself, and its hidden units in
        `augment - 1` fixed random orders, the same for all networks. One is drawn at every access. Those of a smaller
        number are among those of a larger one.
      noise: standard deviation, in weight units, of the Gaussian noise that is added to every vector at every access.
      width: size of the tokens.
      blocks: number of transformer blocks.
      heads: number of attention heads.
      num_frequencies: number of frequencies that timesteps are embedded with.
      max_frequency_log2: logarithm of the highest frequency to base 2.
      dropout: probability of dropping a value of the tokens, of the attention weights, or of what a block adds.
      dtype: type of the matrix products; parameters, normalisations, softmax and loss are float32.
      remat: whether each block is computed again for its gradient instead of keeping its intermediate values; less
        memory, slower.
      num_timesteps: number of diffusion timesteps, T.
      beta_start: first noise variance of the linear schedule.
      beta_end: last noise variance. The published schedule ends with a signal of 0.08 times the vector, though samples
        start from noise alone.
      steps: optimizer steps; published: 6,000 epochs.
      batch_size: vectors per step.
      learning_rate: learning rate of the first step.
      decay_factor: factor by which the learning rate falls.
      decay_every: steps between falls of the learning rate; published: 200 epochs.
      weight_decay: decoupled weight decay, times the learning rate.
      decay_all: whether weight decay acts on all parameters, as published, or on matrices alone.
      gradient_clip: largest norm of the gradient, or 0 for no limit.
      ema_decay: decay of the averaged parameters, which samples are drawn with, or None for no average.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. See `sharding`.
      data_memory: GB of every device that the training networks may take; of more, those of the next steps are read
        while steps run. 0 for a quarter of its memory, of a CPU's shared among its devices.
      sampling_steps: number of DDIM steps, or None for all.
      eta: noise of DDIM steps, from 0 (deterministic) to 1.
      variances: running variances of batch normalisation that fall below the smallest one of their tensor in the
        training networks. clip: that one takes their place; published: they stay, and negative ones leave a network
        without outputs.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset({"sampling_steps", "eta", "dtype", "variances"})
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "ema_decay", "noise"})
    FACTORS: ClassVar[factors.Factors] = factors.HYPERDIFFUSION

    TINY: ClassVar[Mapping[str, Any]] = {
        "augment": 2,
        "width": 8,
        "blocks": 2,
        "heads": 2,
        "num_frequencies": 3,
        "num_timesteps": 10,
        "steps": 4,
        "batch_size": 8,
    }

    name: str = "hyperdiffusion"
    normalise: Literal["none", "std", "per_parameter"] = "none"
    scale: float = setting(1.0, above=0)
    augment: int = setting(1, at_least=1, at_most=10_000)
    noise: float = setting(0.0, at_least=0)
    width: int = setting(2880, at_least=1, at_most=65_536)
    blocks: int = setting(12, at_least=1, at_most=1000)
    heads: int = setting(16, at_least=1, at_most=65_536)
    num_frequencies: int = setting(128, at_least=1, at_most=4096)
    max_frequency_log2: float = setting(20.0, at_least=0, at_most=126)
    dropout: float = setting(0.0, at_least=0, below=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    num_timesteps: int = setting(500, at_least=1, at_most=100_000)
    beta_start: float = setting(1e-4, above=0, below=1)
    beta_end: float = setting(0.02, above=0, below=1)
    steps: int = setting(6000 * EPOCH_STEPS, at_least=1)
    batch_size: int = setting(32, at_least=1)
    learning_rate: float = setting(2e-4, above=0)
    decay_factor: float = setting(0.9, above=0, at_most=1)
    decay_every: int = setting(200 * EPOCH_STEPS, at_least=1)
    weight_decay: float = setting(0.01, at_least=0)
    decay_all: bool = True
    gradient_clip: float = setting(0.0, at_least=0)
    ema_decay: float | None = setting(None, at_least=0, below=1)
    parameter_shards: int = setting(1, at_least=0)
    data_memory: float = setting(0.0, at_least=0)
    sampling_steps: int | None = setting(None, at_least=1)
    eta: float = setting(0.0, at_least=0, at_most=1)
    variances: domain.Variances = "clip"

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        checks.heads(self)
        checks.noise_schedule(self)
        checks.sampling_steps(self)

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`; every copy has an order of the hidden units."""
        return (training.rows + self.augment) * training.spec.num_params

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """The weights as they are; the moments that normalise them are among the constants.

        Args:
          training: rows `[N, P]`.

        Returns:
          `[N, P]` float32, and `layout` (static), `mean` and `std` (`[1]` or `[P]` float32: a vector is what the
          transformer predicts times `std`, plus `mean`), `orders` `[augment, P]` int32 (the first leaves vectors as
          they are) and the embedded timesteps `time_features` `[num_timesteps, 2 * num_frequencies + 1]` float32.
        """
        weights, spec = rows.kept(training.weights), training.spec
        orders = self._orders(spec)
        mean, std = np.zeros(1), np.ones(1)
        if self.normalise == "std":
            std = np.full(1, rows.std(weights))
        elif self.normalise == "per_parameter":
            first = rows.mean(weights)
            second = np.square(first) + rows.variance(weights)
            # Of all networks in all orders.
            mean = first[orders].mean(axis=0)
            std = np.sqrt(np.maximum(second[orders].mean(axis=0) - np.square(mean), 0.0))
        # What never changes stays as it is.
        std = np.where(std > 0, std, 1.0) / self.scale
        table = frequencies(self.num_frequencies, self.max_frequency_log2)
        return weights, self._constants(spec, mean, std, orders, table) | domain.floors(training, by_tensor=True)

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "transformer"."""
        rate = optax.exponential_decay(self.learning_rate, self.decay_every, self.decay_factor, staircase=True)
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=optax.adamw(rate, weight_decay=self.weight_decay, mask=None if self.decay_all else is_matrix),
                init=self._init,
                loss=self._loss,
                ema_decay=self.ema_decay,
                gradient_clip=self.gradient_clip,
                parameter_shards=self.parameter_shards,
                data_memory=self.data_memory,
                stacked=("blocks",),
            ),
        )

    def sample(self, state: Mapping[str, Any], inputs: jax.Array) -> Samples:
        """Draws one network for every key."""
        weights = self.draw(state, inputs)
        return Samples.new(weights)

    def draw(
        self,
        state: Mapping[str, Any],
        keys: jax.Array,
        *,
        initial: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """Draws one network for every key, all together; pure, jit-compatible, a row depends on its own key alone.

        Args:
          state: state of the trained generator.
          keys: `[n]` typed PRNG keys.
          initial: see `diffusion.sample_ddim`.
          noise: the same.

        Returns:
          `[n, P]` float32 weights.
        """
        constants, params = state["constants"], state[STAGE]["params"]
        # Once, not in every step.
        params = jax.tree.map(lambda p, matrix: p.astype(self.dtype) if matrix else p, params, is_matrix(params))
        module: Any = self._module(constants)
        variables = {"params": params}
        times = module.apply(variables, constants["time_features"], method="embed_times")

        def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
            return module.apply(variables, x, times[timesteps], method="denoise")

        shape = (constants["layout"].num_params,)
        given = {"steps": self.sampling_steps, "eta": self.eta, "initial": initial, "noise": noise}
        out = diffusion_lib.sample_ddim(self.diffusion, predict, keys, shape, **given)
        weights = out * constants["std"][None, :] + constants["mean"][None, :]
        return domain.inside(weights, constants, self.variances)

    def state_from_torch(self, checkpoint: Checkpoint, spec: WeightSpec) -> dict[str, Any]:
        """The state of a published model, ready for `sample`.

        Args:
          checkpoint: state dict, see `importer.from_torch`.
          spec: spec of the task network.

        Raises:
          UserError: the checkpoint does not fit.
        """
        params, table = importer.from_torch(checkpoint, TokenLayout(spec, "tensor", 0), self.architecture)
        std = np.full(1, 1 / self.scale)
        return {
            "constants": self._constants(spec, np.zeros(1), std, self._orders(spec), table),
            STAGE: {"params": params, "model_state": {}},
        }

    @property
    def architecture(self) -> Architecture:
        """Sizes of the transformer."""
        return Architecture(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Architecture)})

    @property
    def diffusion(self) -> diffusion_lib.Diffusion:
        """Schedule and objective."""
        betas = diffusion_lib.linear_schedule(self.num_timesteps, self.beta_start, self.beta_end)
        return diffusion_lib.Diffusion(betas, prediction="x0")

    @property
    def copies(self) -> int:
        """Networks of the same function that every training network stands for, itself included."""
        return self.augment

    def num_tokens(self, spec: WeightSpec) -> int:
        """One network's tensors and the timestep."""
        return TokenLayout(spec, "tensor", 0).num_tokens + 1

    def _orders(self, spec: WeightSpec) -> np.ndarray:
        """`[augment, P]` int32 gather indices, each of one order of the hidden units; the first is the given order."""
        orders = [np.arange(spec.num_params)]
        for number in range(1, self.augment):
            key = jax.random.fold_in(jax.random.key(0), number)
            orders.append(np.asarray(spec.permutation_index(spec.random_permutation(key))))
        return np.stack(orders).astype(np.int32)

    def _constants(
        self, spec: WeightSpec, mean: np.ndarray, std: np.ndarray, orders: np.ndarray, table: np.ndarray
    ) -> dict[str, Any]:
        return {
            "layout": TokenLayout(spec, "tensor", 0),
            "mean": mean.astype(np.float32),
            "std": std.astype(np.float32),
            "orders": orders,
            "time_features": time_features(self.num_timesteps, table),
        }

    def _module(self, constants: Mapping[str, Any]) -> Transformer:
        return Transformer(constants["layout"], self.architecture)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        module = self._module(done["constants"])
        inputs = network.example_inputs(module.layout, module.architecture)
        return initialise(module, key, *inputs)["params"], {}

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared error of the predicted vectors."""
        constants = done["constants"]
        module: Any = self._module(constants)
        if self.augment > 1:
            choice = jax.vmap(lambda key: jax.random.randint(key, (), 0, self.augment))(keys_for(keys, _ORDER))
            batch = jnp.take_along_axis(batch, constants["orders"][choice], axis=1, mode="promise_in_bounds")
        if not vanishes(self.noise):
            drawn = draws.normal(keys_for(keys, _NOISE), batch.shape[1:])
            batch = batch + self.noise * drawn
        batch = (batch - constants["mean"][None, :]) / constants["std"][None, :]

        def predict(x_t: jax.Array, timesteps: jax.Array) -> jax.Array:
            times = constants["time_features"][timesteps]
            return module.apply({"params": params}, x_t, times, keys_for(keys, _DROPOUT))

        return diffusion_lib.loss(self.diffusion, predict, batch, keys_for(keys, _DIFFUSION)), (model_state, {})


# What an example's key is used for.
_ORDER, _NOISE, _DIFFUSION, _DROPOUT = range(4)
