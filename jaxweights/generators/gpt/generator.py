"""G.pt as a generator: how the transformer is trained on pairs of checkpoints, and asked for better networks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import diffusion as diffusion_lib
from jaxweights.errors import UserError
from jaxweights.generators.base import LearnedGenerator, Samples, Stage, keys_for
from jaxweights.generators.gpt import importer, network
from jaxweights.generators.gpt.network import Transformer
from jaxweights.nn.parameters import initialise
from jaxweights.nn.transformer import Architecture, Layout, frequencies, is_matrix, time_features
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

STAGE = "transformer"

_NORMALISED_STD = 0.538  # the published standard deviation of the weights that the transformer sees
_BLOCK_ROWS = 1024

_CHOICES: dict[str, tuple[str, ...]] = {
    "tokens": ("chunk", "tensor"),
    "dtype": ("float32", "bfloat16"),
    "sampler": ("ddpm", "ddim"),
}
_AT_LEAST_ONE = (
    "chunk",
    "width",
    "blocks",
    "heads",
    "num_frequencies",
    "num_timesteps",
    "steps",
    "batch_size",
    "recursion",
)


@dataclasses.dataclass(frozen=True)
class GPT(LearnedGenerator):
    """G.pt as a `LearnedGenerator`; the defaults are the published setting for MNIST networks and their test loss.

    It learns from pairs of checkpoints of one run, so it needs runs with at least two, and it improves given networks:
    asked for a metric, it turns a start of known metric into a network that should reach it.

    Attributes:
      name: of the generator.
      conditioning: metric of a checkpoint: "loss", "error" (percent of test images), "return" (of a policy, whose loss
        is its negative), or the name of any column of the records.
      scale: that weights are multiplied with before the transformer sees them; 0 for 0.538 over their standard
        deviation in the training rows, which is how the published coefficients came about (MNIST: 4.185).
      tokens: "chunk" (pieces of each tensor) or "tensor" (whole ones).
      chunk: longest piece.
      width: of the tokens.
      blocks: of the transformer.
      heads: of attention.
      num_frequencies: that scalars are embedded with.
      max_frequency_log2: logarithm of the highest.
      dtype: of the matrix products; parameters, normalisations, softmax and loss are float32.
      remat: compute each block again for its gradient instead of keeping its intermediate values; less memory, slower.
      num_timesteps: T of the diffusion.
      beta_start: first noise variance of the linear schedule.
      beta_end: last noise variance.
      steps: optimizer steps; published: 2,000 epochs of 89 steps.
      warmup_steps: over which the learning rate rises linearly from 0, on top of half a cosine to 0 over all steps.
      batch_size: pairs per step.
      learning_rate: highest.
      weight_decay: of matrices; biases, normalisations and positions have none.
      gradient_clip: largest norm of the gradient, or 0 for no limit.
      ema_decay: of the averaged parameters, which samples are drawn with, or None for none.
      permute: whether every pair is seen with its hidden units in a random order, the same for both networks.
      prompt: metric that is asked for.
      sampler: "ddpm" (ancestral, variance beta, as published) or "ddim".
      sampling_steps: number of DDIM steps, or None for all.
      eta: of DDIM.
      recursion: number of times that a network is improved; the networks in between are measured.
    """

    TRAJECTORIES: ClassVar[bool] = True
    SAMPLING: ClassVar[frozenset[str]] = frozenset({"prompt", "sampler", "sampling_steps", "eta", "recursion", "dtype"})

    name: str = "gpt"
    conditioning: str = "loss"
    scale: float = 0.0
    tokens: Literal["chunk", "tensor"] = "chunk"
    chunk: int = 1000
    width: int = 1536
    blocks: int = 12
    heads: int = 16
    num_frequencies: int = 128
    max_frequency_log2: float = 14.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 178_000
    warmup_steps: int = 445
    batch_size: int = 1024
    learning_rate: float = 4e-4
    weight_decay: float = 0.1
    gradient_clip: float = 0.75
    ema_decay: float | None = 0.9999
    permute: bool = True
    prompt: float = 0.0
    sampler: Literal["ddpm", "ddim"] = "ddpm"
    sampling_steps: int | None = None
    eta: float = 0.0
    recursion: int = 1

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                known = " or ".join(f'"{value}"' for value in allowed)
                raise UserError(f"generator gpt: {field} is {getattr(self, field)!r}; set it to {known}.")
        for field in _AT_LEAST_ONE:
            if getattr(self, field) < 1:
                raise UserError(f"generator gpt: {field} is {getattr(self, field)}; set it to at least 1.")
        for field in ("scale", "warmup_steps", "weight_decay", "gradient_clip"):
            if getattr(self, field) < 0:
                raise UserError(f"generator gpt: {field} is {getattr(self, field)}; set it to at least 0.")
        if self.width % self.heads:
            raise UserError(
                f"generator gpt: width {self.width} is not a multiple of the {self.heads} heads; change one of them."
            )
        if not 0 <= self.eta <= 1:
            raise UserError(f"generator gpt: eta is {self.eta}; set it between 0 and 1.")
        if self.sampler == "ddim" and not 1 <= (self.sampling_steps or self.num_timesteps) <= self.num_timesteps:
            raise UserError(
                f"generator gpt: sampling_steps is {self.sampling_steps}; set it between 1 and num_timesteps "
                f"({self.num_timesteps}), or to None for all."
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
        run, step = training.records["run"], training.records["step"]
        _, inverse, counts = np.unique(run, return_inverse=True, return_counts=True)
        if counts.min() < 2:
            raise UserError(
                f"generator gpt learns from pairs of checkpoints of one run, but {np.sum(counts < 2)} of {len(counts)} "
                "training runs have a single one. Give zoo.snapshots at least two entries."
            )
        data = {
            "weights": np.asarray(training.weights, np.float32),
            "metric": self.metric(training, "the training rows"),
            "order": np.lexsort((step, run)).astype(np.int32),
            "first": (np.cumsum(counts) - counts)[inverse].astype(np.int32),
            "count": counts[inverse].astype(np.int32),
        }
        scale = self.scale or _NORMALISED_STD / _std(data["weights"])
        table = frequencies(self.num_frequencies, self.max_frequency_log2)
        return data, self._constants(training.spec, scale, table)

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "transformer"."""
        return (
            Stage(
                name=STAGE,
                steps=self.steps,
                batch_size=self.batch_size,
                optimizer=self._optimizer(),
                init=self._init,
                loss=self._loss,
                gather=gather_pairs,
                ema_decay=self.ema_decay,
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
                "generator gpt improves the first checkpoints of held-out runs, but there are none. Set "
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
        return Samples(weights=weights, parents=jnp.full((weights.shape[0],), -1, jnp.int32))

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
          state: of the trained generator.
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
        module, variables = self._module(constants), {"params": state[STAGE]["params"]}
        start = weights * constants["scale"]
        metrics = network.metric_features(asked, metric, constants["frequencies"])
        conditions = module.apply(variables, start, metrics, method="condition")
        times = module.apply(variables, constants["time_features"], method="embed_times")

        def predict(x: jax.Array, timesteps: jax.Array) -> jax.Array:
            return module.apply(variables, x, start, times[timesteps], conditions, method="denoise")

        given = {"initial": initial, "noise": noise}
        shape = start.shape[1:]
        if self.sampler == "ddpm":
            out = diffusion_lib.sample_ddpm(self.diffusion, predict, keys, shape, variance="fixed_large", **given)
        else:
            steps = self.sampling_steps
            out = diffusion_lib.sample_ddim(self.diffusion, predict, keys, shape, steps=steps, eta=self.eta, **given)
        return out / constants["scale"]

    def state_from_torch(self, checkpoint: Mapping[str, np.ndarray], spec: WeightSpec) -> dict[str, Any]:
        """The state of a published model, ready for `sample`.

        Args:
          checkpoint: state dict as arrays, see `importer.from_torch`; `G_ema` of the published files.
          spec: of the task network.

        Raises:
          UserError: the checkpoint does not fit, or `scale` is not given.
        """
        if not self.scale:
            raise UserError("generator gpt: set scale to the coefficient that the published model was trained with.")
        params, table = importer.from_torch(checkpoint, self._layout(spec), self.architecture)
        return {
            "constants": self._constants(spec, self.scale, table),
            STAGE: {"params": params, "model_state": {}},
        }

    @property
    def architecture(self) -> Architecture:
        """Sizes of the transformer."""
        return Architecture(self.width, self.blocks, self.heads, self.num_frequencies, self.dtype, self.remat)

    @property
    def diffusion(self) -> diffusion_lib.Diffusion:
        """Schedule and objective."""
        betas = diffusion_lib.linear_schedule(self.num_timesteps, self.beta_start, self.beta_end)
        return diffusion_lib.Diffusion(betas, prediction="x0")

    @property
    def sampling(self) -> dict[str, Any]:
        """The settings of the sampler that matter, for the report."""
        facts = {"prompt": self.prompt, "sampler": self.sampler, "recursion": self.recursion}
        return facts | ({"steps": self.sampling_steps, "eta": self.eta} if self.sampler == "ddim" else {})

    def metric(self, population: Population, what: str) -> np.ndarray:
        """The metric that `conditioning` names, `[N]` float32 for the N rows of a population.

        Args:
          population: evaluated networks.
          what: they are, for errors.

        Raises:
          UserError: rows without this metric, or with one that is not finite.
        """
        if self.conditioning == "error":
            metric = 100.0 * (1.0 - population.records["accuracy"])
        elif self.conditioning == "return":
            metric = -population.records["loss"]
        elif self.conditioning in population.records:
            metric = population.records[self.conditioning]
        else:
            raise UserError(
                f"generator gpt: conditioning is {self.conditioning!r}, but {what} have no such column. Set it to "
                f'"error", "return" or one of {", ".join(sorted(population.records))}.'
            )
        if metric.dtype.kind not in "fiu" or not np.isfinite(metric).all():
            raise UserError(
                f"generator gpt: {what} do not all have a finite number under {self.conditioning!r}, which "
                "conditioning names. Measure these networks, or set conditioning to another column."
            )
        return metric.astype(np.float32)

    def schedule(self, step: jax.Array) -> jax.Array:
        """Learning rate at a step, counted from 0: half a cosine times a linear rise."""
        # Half of 1 + cos(2 x), without its cancellation near the end.
        cosine = jnp.square(jnp.cos(math.pi / 2 * step / self.steps))
        rise = jnp.minimum(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        return self.learning_rate * rise * cosine

    def _layout(self, spec: WeightSpec) -> Layout:
        return Layout(spec, self.tokens, self.chunk)

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
        layout, module = constants["layout"], self._module(constants)
        start, target = batch["start"] * constants["scale"], batch["target"] * constants["scale"]
        if self.permute:
            start, target = permute_pairs(layout.spec, start, target, keys_for(keys, _PERMUTATION))
        metrics = network.metric_features(batch["target_metric"], batch["start_metric"], constants["frequencies"])

        def predict(x_t: jax.Array, timesteps: jax.Array) -> jax.Array:
            return module.apply({"params": params}, x_t, start, constants["time_features"][timesteps], metrics)

        value = diffusion_lib.loss(self.diffusion, predict, target, keys_for(keys, _DIFFUSION))
        return value, (model_state, {"unchanged": jnp.mean(jnp.square(target - start))})

    def _optimizer(self) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.gradient_clip) if self.gradient_clip else optax.identity()
        return optax.chain(clip, optax.adamw(self.schedule, weight_decay=self.weight_decay, mask=is_matrix))


# What an example's key is used for.
_PAIR, _PERMUTATION, _DIFFUSION = range(3)


def gather_pairs(data: Mapping[str, jax.Array], rows: jax.Array, keys: jax.Array) -> dict[str, jax.Array]:
    """Draws an earlier and a later checkpoint of the run of each row.

    With S checkpoints, their distance is uniform on 1 ... S - 1, and the earlier one then on what is left.

    Args:
      data: see `GPT.prepare`.
      rows: `[b]`.
      keys: `[b]`.

    Returns:
      `start` and `target` `[b, P]`, `start_metric` and `target_metric` `[b]`.
    """

    uniform = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys_for(keys, _PAIR))
    first, count = data["first"][rows], data["count"][rows]
    spacing = 1 + _scaled(uniform[:, 0], count - 1)
    start = first + _scaled(uniform[:, 1], count - spacing)
    start, target = data["order"][start], data["order"][start + spacing]
    return {
        "start": data["weights"][start],
        "target": data["weights"][target],
        "start_metric": data["metric"][start],
        "target_metric": data["metric"][target],
    }


def _scaled(uniform: jax.Array, count: jax.Array) -> jax.Array:
    """Numbers 0 ... `count` - 1 from draws of [0, 1)."""
    return jnp.floor(uniform * count).astype(jnp.int32)


def permute_pairs(
    spec: WeightSpec, start: jax.Array, target: jax.Array, keys: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Reorders the hidden units of each pair of `[b, P]` at random, both networks of a pair alike; keys `[b]`."""
    index = jax.vmap(lambda key: spec.permutation_index(spec.random_permutation(key)))(keys)
    return jnp.take_along_axis(start, index, axis=1), jnp.take_along_axis(target, index, axis=1)


def _std(weights: np.ndarray) -> float:
    """Standard deviation of all entries, or 1 where they are all the same; in blocks, for matrices that fill memory."""
    total = squares = 0.0
    for first in range(0, len(weights), _BLOCK_ROWS):
        block = weights[first : first + _BLOCK_ROWS].astype(np.float64)
        total += block.sum()
        squares += np.square(block).sum()
    variance = max(squares - total**2 / weights.size, 0.0) / max(weights.size - 1, 1)
    return math.sqrt(variance) or 1.0
