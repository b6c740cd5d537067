"""G.pt as a generator: how the transformer is trained on pairs of checkpoints, and asked for better networks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import diffusion as diffusion_lib
from jaxweights import draws
from jaxweights.errors import UserError
from jaxweights.generators import checks, domain, factors, rows
from jaxweights.generators.base import Prompted, Samples, Stage, Training, keys_for, vanishes
from jaxweights.generators.gpt import importer, metrics, network, pairs
from jaxweights.generators.gpt.network import SCALARS, Transformer
from jaxweights.generators.state_dict import Checkpoint
from jaxweights.nn.parameters import initialise
from jaxweights.nn.transformer import Architecture, TokenLayout, frequencies, is_matrix, time_features
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec

STAGE = "transformer"

_NORMALISED_STD = 0.538  # the published standard deviation of the weights that the transformer sees
EPOCH_STEPS = 89
"""Optimizer steps of a published epoch of the MNIST networks."""


@dataclasses.dataclass(frozen=True)
class GPT(Prompted):
    """G.pt; the defaults are the published setting for MNIST networks and their test loss (arXiv 2209.12892, which
    arXiv 2506.07998 takes over).

    It learns from pairs of checkpoints of one run, so it needs runs with at least two, and it improves given networks:
    asked for a metric, it turns a start of known metric into a network that should reach it.

    Attributes:
      conditioning: metric of a checkpoint: "loss", "error" (percent of test images), "return" (of a policy, whose loss
        is its negative), or the name of any column of the records.
      scale: factor of the weights that the transformer sees; 0 for 0.538 over their standard deviation in the training
        rows, which is how the published factors came about (MNIST: 4.185).
      tokens: pieces of weight vectors that tokens stand for: "chunk" (pieces of each tensor) or "tensor" (whole ones).
      chunk: most weights in a piece.
      width: size of the tokens.
      blocks: number of transformer blocks.
      heads: number of attention heads.
      num_frequencies: number of frequencies that scalars are embedded with.
      max_frequency_log2: logarithm of the highest frequency to base 2.
      dropout: probability of dropping a value of the tokens, of the attention weights, or of what a block adds.
      dtype: type of the matrix products; parameters, normalisations, softmax and loss are float32.
      remat: whether each block is computed again for its gradient instead of keeping its intermediate values; less
        memory, slower.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. See `sharding`.
      data_memory: GB of every device that the training networks may take; of more, those of the next steps are read
        while steps run. 0 for a quarter of its memory, of a CPU's shared among its devices.
      num_timesteps: number of diffusion timesteps, T.
      beta_start: first noise variance of the linear schedule.
      beta_end: last noise variance.
      steps: optimizer steps; published: 2,000 epochs.
      warmup_steps: steps over which the learning rate rises linearly from 0, on top of half a cosine to 0 over all
        steps; published: 5 epochs.
      batch_size: pairs per step.
      learning_rate: highest learning rate.
      weight_decay: decoupled weight decay of matrices; biases, normalisations and positions have none.
      gradient_clip: largest norm of the gradient, or 0 for no limit.
      ema_decay: decay of the averaged parameters, which samples are drawn with, or None for no average.
      noise: standard deviation of the Gaussian noise that is added to the later network of every pair, in units of the
        weights that the transformer sees.
      permute: whether every pair is seen with its hidden units in a random order, the same for both networks.
      prompt: metric that is asked for.
      sampler: "ddpm" (ancestral, variance beta, as published) or "ddim".
      sampling_steps: number of DDIM steps, or None for all.
      eta: noise of DDIM steps, from 0 (deterministic) to 1.
      recursion: number of times that a network is improved; the networks in between are measured.
      variances: drawn running variances below the training networks', see `HyperDiffusion`.
    """

    TRAJECTORIES: ClassVar[bool] = True
    SAMPLING: ClassVar[frozenset[str]] = frozenset(
        {"prompt", "sampler", "sampling_steps", "eta", "recursion", "dtype", "variances"}
    )
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "ema_decay", "noise"})
    FACTORS: ClassVar[factors.Factors] = factors.GPT
    TINY: ClassVar[Mapping[str, Any]] = {
        "chunk": 5,
        "width": 8,
        "blocks": 2,
        "heads": 2,
        "num_frequencies": 3,
        "num_timesteps": 10,
        "steps": 4,
        "warmup_steps": 2,
        "batch_size": 8,
    }

    name: str = "gpt"
    conditioning: str = "loss"
    scale: float = setting(0.0, at_least=0)
    tokens: Literal["chunk", "tensor"] = "chunk"
    chunk: int = setting(1000, at_least=1)
    width: int = setting(1536, at_least=1, at_most=65_536)
    blocks: int = setting(12, at_least=1, at_most=1000)
    heads: int = setting(16, at_least=1, at_most=65_536)
    num_frequencies: int = setting(128, at_least=1, at_most=4096)
    max_frequency_log2: float = setting(14.0, at_least=0, at_most=126)
    dropout: float = setting(0.0, at_least=0, below=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    parameter_shards: int = setting(1, at_least=0)
    data_memory: float = setting(0.0, at_least=0)
    num_timesteps: int = setting(1000, at_least=1, at_most=100_000)
    beta_start: float = setting(1e-4, above=0, below=1)
    beta_end: float = setting(0.02, above=0, below=1)
    steps: int = setting(2000 * EPOCH_STEPS, at_least=1)
    warmup_steps: int = setting(5 * EPOCH_STEPS, at_least=0)
    batch_size: int = setting(1024, at_least=1)
    learning_rate: float = setting(4e-4, above=0)
    weight_decay: float = setting(0.1, at_least=0)
    gradient_clip: float = setting(0.75, at_least=0)
    ema_decay: float | None = setting(0.9999, at_least=0, below=1)
    noise: float = setting(0.0, at_least=0)
    permute: bool = True
    prompt: float = 0.0
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int | None = setting(None, at_least=1)
    eta: float = setting(0.0, at_least=0, at_most=1)
    recursion: int = setting(1, at_least=1, at_most=1000)
    variances: domain.Variances = "clip"

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        checks.heads(self)
        checks.noise_schedule(self)
        checks.sampling_steps(self)

    def check(self, training: Training) -> None:
        """Refuses runs of a single checkpoint, and unknown metrics."""
        super().check(training)
        if training.per_run < 2:
            raise UserError(
                f"{self.section} learns from pairs of checkpoints of one run, but runs keep a single one. Give "
                "zoo.snapshots at least two entries."
            )

    def prepare(self, training: Population) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Finds the checkpoints of every run, in order of their steps; the weights themselves stay as they are.

        An epoch lists every run as often as it has checkpoints.

        Args:
          training: rows `[N, P]` of runs with at least two checkpoints each.

        Returns:
          Per row `weights` `[N, P]` float32, `metric` `[N]` float32, and where its run is: `order` `[N]` int32 is all
          rows sorted by run and step, and the row's run has `count` `[N]` int32 entries there from `first` `[N]` int32
          on. Then `layout` (static), `scale` (float32), `frequencies` `[num_frequencies]` and the embedded timesteps
          `time_features` `[num_timesteps, 2 * num_frequencies + 1]` float32.

        Raises:
          UserError: a run with a single checkpoint, or rows without the metric.
        """
        data = {
            "weights": rows.kept(training.weights),
            "metric": self.metric(training, "the training rows"),
            **pairs.index(training.records, self.section),
        }
        scale = self.scale or _NORMALISED_STD / pairs.std(data["weights"])
        table = frequencies(self.num_frequencies, self.max_frequency_log2)
        return data, self._constants(training.spec, scale, table) | domain.floors(training, by_tensor=True)

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "transformer"."""
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=optax.adamw(self.schedule, weight_decay=self.weight_decay, mask=is_matrix),
                init=self._init,
                loss=self._loss,
                gather=pairs.gather,
                ema_decay=self.ema_decay,
                gradient_clip=self.gradient_clip,
                parameter_shards=self.parameter_shards,
                data_memory=self.data_memory,
                stacked=("blocks",),
            ),
        )

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> dict[str, Any]:
        """Returns `keys`, `round` `[n]`, and `weights` `[n, P]` and `metric` `[n]` of the starts, in turn if these are
        fewer.

        Raises:
          UserError: no starts, or starts without the metric.
        """
        if not len(starts):
            raise UserError(
                f"{self.section} improves the first checkpoints of held-out runs, but there are none. Set "
                "zoo.num_heldout to at least 1."
            )
        rows = np.arange(len(keys)) % len(starts)
        metric = self.metric(starts, "the held-out networks to start from")
        return {
            "keys": keys,
            "weights": np.asarray(starts.weights[rows], np.float32),
            "metric": metric[rows],
            "round": np.zeros(len(keys), np.int32),
        }

    def again(
        self, inputs: Mapping[str, Any], samples: Samples, measure: Callable[[np.ndarray], Population]
    ) -> dict[str, Any] | None:
        """The outcome and its measured metric as the starts of another round, until there were `recursion` rounds
        (recursive prompting, section 3.3)."""
        rounds = inputs["round"] + 1
        if rounds[0] >= self.recursion:
            return None
        weights = np.asarray(samples.weights)
        metric = self.metric(measure(weights), "the networks of the last round")
        return {**inputs, "weights": weights, "metric": metric, "round": rounds}

    def sample(self, state: Mapping[str, Any], inputs: Mapping[str, jax.Array]) -> Samples:
        """Improves every start once; round r draws from `fold_in(key, r)`."""
        metric = inputs["metric"]
        asked = jnp.full(metric.shape, self.prompt, jnp.float32)
        keys = jax.vmap(jax.random.fold_in)(inputs["keys"], inputs["round"])
        weights = self.improve(state, inputs["weights"], metric, asked, keys)
        return Samples.new(weights)

    def improve(
        self,
        state: Mapping[str, Any],
        weights: jax.Array,
        metric: jax.Array,
        asked: jax.Array,
        keys: jax.Array,
        *,
        initial: jax.Array | None = None,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """Draws one network for every start; pure, jit-compatible, a row depends on its own inputs alone.

        Args:
          state: state of the trained generator.
          weights: `[n, P]` float32 networks to start from.
          metric: `[n]` float32, theirs.
          asked: `[n]` float32, what the outcome should have.
          keys: `[n]` typed PRNG keys.
          initial: see `diffusion.sample_ddpm`.
          noise: the same.

        Returns:
          `[n, P]` float32 weights.
        """
        constants = state["constants"]
        module: Any = self._module(constants)
        variables = {"params": state[STAGE]["params"]}
        start = weights * constants["scale"]
        features = network.metric_features(asked, metric, constants["frequencies"])
        conditions = module.apply(variables, start, features, method="condition")
        times = module.apply(variables, constants["time_features"], method="embed_times")

        def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
            return module.apply(variables, x, start, times[timesteps], conditions, method="denoise")

        given: dict[str, Any] = {"initial": initial, "noise": noise}
        shape = start.shape[1:]
        if self.sampler == "ddpm":
            out = diffusion_lib.sample_ddpm(self.diffusion, predict, keys, shape, variance="fixed_large", **given)
        else:
            steps = self.sampling_steps
            out = diffusion_lib.sample_ddim(self.diffusion, predict, keys, shape, steps=steps, eta=self.eta, **given)
        return domain.inside(out / constants["scale"], constants, self.variances)

    def state_from_torch(self, checkpoint: Checkpoint, spec: WeightSpec) -> dict[str, Any]:
        """The state of a published model, ready for `sample`.

        Args:
          checkpoint: state dict, see `importer.from_torch`; `G_ema` of the published files.
          spec: spec of the task network.

        Raises:
          UserError: the checkpoint does not fit, or `scale` is not given.
        """
        if not self.scale:
            self.refuse("scale", "set it to the factor that the published model was trained with")
        params, table = importer.from_torch(checkpoint, self._layout(spec), self.architecture)
        return {
            "constants": self._constants(spec, self.scale, table),
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
    def asked(self) -> tuple[str, float]:
        """Name of the metric, and the value that samples are drawn with."""
        return self.conditioning, self.prompt

    def deterministic(self) -> Self:
        """With DDIM without noise; see `Prompted.deterministic`."""
        return self.replace(sampler="ddim", eta=0.0)

    def num_tokens(self, spec: WeightSpec) -> int:
        """Two networks and the embedded scalars."""
        return 2 * self._layout(spec).num_tokens + SCALARS

    def metric(self, population: Population, what: str) -> np.ndarray:
        """The metric that `conditioning` names, `[N]` float32 for the N rows of a population.

        Args:
          population: evaluated networks.
          what: they are, for errors.

        Raises:
          UserError: rows without this metric, or with one that is not finite.
        """
        return metrics.of(population, self.conditioning, what, self.section)

    def schedule(self, step: jax.typing.ArrayLike) -> jax.Array:
        """Learning rate at a step, counted from 0: half a cosine times a linear rise."""
        # Half of 1 + cos(2 x), without its cancellation near the end.
        cosine = jnp.square(jnp.cos(math.pi / 2 * step / self.steps))
        rise = jnp.minimum(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return self.learning_rate * rise * cosine

    def _layout(self, spec: WeightSpec) -> TokenLayout:
        return TokenLayout(spec, self.tokens, self.chunk)

    def _constants(self, spec: WeightSpec, scale: float, table: np.ndarray) -> dict[str, Any]:
        return {
            "layout": self._layout(spec),
            "scale": np.float32(scale),
            "frequencies": table,
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
        batch: Mapping[str, jax.Array],
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared error of the predicted later checkpoint; beside it, that of predicting the earlier one."""
        constants = done["constants"]
        layout = constants["layout"]
        module: Any = self._module(constants)
        start, target = batch["start"] * constants["scale"], batch["target"] * constants["scale"]
        if self.permute:
            start, target = pairs.permute(layout.spec, start, target, keys)
        if not vanishes(self.noise):
            drawn = draws.normal(keys_for(keys, pairs.NOISE), target.shape[1:])
            target = target + self.noise * drawn
        features = network.metric_features(batch["target_metric"], batch["start_metric"], constants["frequencies"])

        def predict(x_t: jax.Array, timesteps: jax.Array) -> jax.Array:
            times, dropped = constants["time_features"][timesteps], keys_for(keys, pairs.DROPOUT)
            return module.apply({"params": params}, x_t, start, times, features, dropped)

        value = diffusion_lib.loss(self.diffusion, predict, target, keys_for(keys, pairs.DIFFUSION))
        return value, (model_state, {"unchanged": jnp.mean(jnp.square(target - start))})
