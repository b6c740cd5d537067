"""A flow over neurons: how it is trained on aligned networks, and drawn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import flow
from jaxweights.errors import UserError
from jaxweights.generators import behaviour, checks, domain, factors
from jaxweights.generators.base import Samples, Stage, Training, UsesExamples, keys_for, vanishes
from jaxweights.generators.neuron_flow import alignment, whitening
from jaxweights.generators.neuron_flow.functional import Functional, Tensors
from jaxweights.generators.neuron_flow.network import Transformer
from jaxweights.generators.neuron_flow.tokens import NeuronTokens
from jaxweights.nn.parameters import initialise
from jaxweights.nn.transformer import Architecture, frequencies
from jaxweights.population import Population
from jaxweights.settings import setting

STAGE = "transformer"

_POWER = 4  # of the time, in the weight of the behavioural term: early predictions are means of many networks
_LARGEST_LOG_RATIO = 8.0  # of signal to noise, as the transformer sees it
_LOWEST_FREQUENCY = 0.25


@dataclasses.dataclass(frozen=True)
class NeuronFlow(UsesExamples):
    """A flow from Gaussian networks to trained ones.

    Training networks are brought into one order of their hidden units and whitened (ZCA). On the straight path
    z_t = t z_1 + (1 - t) z_0 from standard normal noise to a network, the transformer F predicts the clean network as

        (t / q) z_t + ((1 - t) / sqrt(q)) F(z_t, t),    q = t^2 + (1 - t)^2:

    the first term is what a Gaussian population would have (so F = 0 is the exact flow to the Gaussian with the mean
    and the covariance of the training networks), the second has the size of what is left to know. F sees neurons as
    tokens, each by its whitened numbers and by those of the Gaussian's prediction in units of weights. Beside the
    weights, it may learn from what predicted networks do: a *behavioural* term, their cross-entropy on the training
    examples of the task.

    Attributes:
      order: order of the hidden units of training networks: that of their generalised "mean", which all are matched
        with and which is the mean of all (Procrustes analysis), or "none" for that which they have.
      scale: scale of hidden units that may be rescaled: "balanced" (`auditing.canonical`), or "none".
      references: training networks that the mean is taken of, at most.
      components: principal components by which networks are whitened, beside the variance of every parameter, shrunk as
        `whitening.fit_low_rank` says; 0 for the whole covariance, of P x P numbers.
      network: what F is, a "transformer" of neurons, or a universal neural "functional" of whole tensors, which is
        equivariant under permutations of the hidden units (see `functional`) and wants `positions=False`.
      positions: whether every neuron has a learned position. Without, the transformer is equivariant under permutations
        of the hidden units, and so is the whitening.
      width: size of the tokens.
      blocks: number of transformer blocks.
      heads: number of attention heads.
      num_frequencies: number of frequencies that times are embedded with.
      dtype: type of the matrix products; parameters, normalisations, softmax and loss are float32.
      remat: whether each block is computed again for its gradient instead of keeping its intermediate values.
      time_mean: mean of the logit of the time, which is normal in training.
      time_std: its standard deviation.
      behaviour: weight of the behavioural term, whose cross-entropy in nats is multiplied by the fourth power of the
        time; the loss of the weights is a mean over whitened coordinates. 0 to learn from weights alone.
      noise: standard deviation of the Gaussian noise that is added to every whitened network at every access.
      images: training examples that a predicted network is tried on per step, drawn at random.
      examples: training examples of the task that are kept, at most.
      steps: optimizer steps.
      batch_size: networks per step.
      learning_rate: learning rate of the first step; it falls to 0 along half a cosine.
      weight_decay: decoupled weight decay.
      gradient_clip: largest norm of the gradient, or 0 for no limit.
      ema_decay: decay of the averaged parameters, which samples are drawn with, or None for no average.
      source: what samples begin as: networks drawn from the "flow", from the "gaussian" that F = 0 gives, or from the
        "initialisation" of the task network. The others are controls of what further training is worth.
      sampling_steps: Heun's steps from noise, two predictions each, before the last prediction.
      temperature: standard deviation of the noise that samples begin as, 1 in training. Above 1 samples scatter more.
      candidates: networks that are drawn per sample, of which the one with the smallest loss on the training examples
        is kept.
      finetune_steps: steps of SGD on training examples that every sample takes at the end, with Nesterov momentum of
        0.9 and a learning rate that falls to 0 along a cosine.
      finetune_learning_rate: learning rate of the first of these.
      finetune_batch: training examples per step.
      finetune_weight_decay: weight decay of these steps, added to the gradient as in zoos.
      variances: drawn running variances below the training networks', see `HyperDiffusion`.
    """

    SAMPLING: ClassVar[frozenset[str]] = frozenset(
        {
            "source",
            "sampling_steps",
            "temperature",
            "candidates",
            "finetune_steps",
            "finetune_learning_rate",
            "finetune_batch",
            "finetune_weight_decay",
            "dtype",
            "variances",
        }
    )
    TRACED: ClassVar[frozenset[str]] = frozenset({"learning_rate", "weight_decay", "ema_decay", "noise"})
    FACTORS: ClassVar[factors.Factors] = factors.NEURON_FLOW
    TINY: ClassVar[Mapping[str, Any]] = {
        "behaviour": 0.0,
        "width": 8,
        "blocks": 2,
        "heads": 2,
        "num_frequencies": 3,
        "steps": 4,
        "batch_size": 8,
        "sampling_steps": 3,
    }

    name: str = "neuron_flow"
    order: Literal["none", "mean"] = "mean"
    scale: Literal["none", "balanced"] = "balanced"
    references: int = setting(1000, at_least=1)
    components: int = setting(0, at_least=0)
    network: Literal["transformer", "functional"] = "transformer"
    positions: bool = True
    width: int = setting(96, at_least=1, at_most=65_536)
    blocks: int = setting(4, at_least=1, at_most=1000)
    heads: int = setting(4, at_least=1, at_most=65_536)
    num_frequencies: int = setting(16, at_least=1, at_most=4096)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    time_mean: float = setting(0.3, at_least=-10, at_most=10)
    time_std: float = setting(1.4, above=0, at_most=10)
    behaviour: float = setting(1.0, at_least=0)
    noise: float = setting(0.0, at_least=0)
    images: int = setting(64, at_least=1)
    examples: int = setting(10_000, at_least=1)
    steps: int = setting(10_000, at_least=1)
    batch_size: int = setting(64, at_least=1)
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(0.01, at_least=0)
    gradient_clip: float = setting(1.0, at_least=0)
    ema_decay: float | None = setting(0.998, at_least=0, below=1)
    source: Literal["flow", "gaussian", "initialisation"] = "flow"
    sampling_steps: int = setting(31, at_least=1, at_most=100_000)
    temperature: float = setting(1.0, above=0, at_most=10)
    candidates: int = setting(1, at_least=1, at_most=1000)
    finetune_steps: int = setting(0, at_least=0)
    finetune_learning_rate: float = setting(0.1, above=0)
    finetune_batch: int = setting(64, at_least=1)
    finetune_weight_decay: float = setting(0.0, at_least=0)
    variances: domain.Variances = "clip"

    def __post_init__(self) -> None:
        """Raises UserError for settings that no model can be built from."""
        super().__post_init__()
        checks.heads(self)
        if self.network == "functional" and self.positions:
            self.refuse("network", "a functional knows no positions of neurons; set positions to False")
        if self.components and not self.positions:
            self.refuse("components", "without positions the whole covariance is taken; set it to 0")

    def check(self, training: Training) -> None:
        """Refuses more components than training networks have."""
        super().check(training)
        most = min(training.rows - 1, training.spec.num_params)
        if self.components > most:
            self.refuse("components", f"{training.rows} training networks span {most}; lower it or train more runs")

    @property
    def needs_examples(self) -> bool:
        """Whether what networks do is looked at."""
        looks = self.candidates > 1 or self.finetune_steps > 0 or self.source == "initialisation"
        return looks or not vanishes(self.behaviour)

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`: aligned and whitened networks, the covariance and what is made of
        it."""
        width = training.spec.num_params
        if self.components:
            return 6 * training.rows * width + 3 * self.components * width
        return 2 * training.rows * width + 6 * width * width

    def prepare(self, training: Population) -> tuple[np.ndarray, dict[str, Any]]:
        """Aligns and whitens the networks.

        Args:
          training: rows `[N, P]`, with `examples` where what networks do is looked at.

        Returns:
          `[N, P]` float32 whitened networks, and `tokens` (static), what `whitening.unwhitened` needs, `scale`
          (float32, of the weights that the transformer sees), `frequencies` `[num_frequencies]`, and where there are
          examples those of `behaviour.constants`.

        Raises:
          UserError: examples are needed and absent, or of no classification.
        """
        spec = training.spec
        task = self._examples(training)
        weights = alignment.aligned(spec, training.weights, self.references, order=self.order, scale=self.scale)
        found = (
            whitening.fit_low_rank(weights, self.components)
            if self.components
            else whitening.fit(weights, None if self.positions else spec)
        )
        spread = float(np.sqrt(found.variance / spec.num_params))
        table = frequencies(self.num_frequencies, np.log2(_LARGEST_LOG_RATIO / _LOWEST_FREQUENCY)) * _LOWEST_FREQUENCY
        constants = {
            "tokens": NeuronTokens(spec),
            **found.constants(),
            "scale": np.float32(1 / spread if spread else 1.0),
            "frequencies": table.astype(np.float32),
        }
        return found.whiten(weights), constants | task | domain.floors(training, by_tensor=True)

    def _examples(self, training: Population) -> dict[str, Any]:
        if training.examples is not None and behaviour.possible(training.examples.net):
            return behaviour.constants(training.examples, self.examples)
        if self.needs_examples:
            where = "the training examples of classifiers of images, none of whose weights are frozen"
            raise UserError(
                f"{self.section} looks at what networks do on {where}, and these networks have none at hand. Give it a "
                "zoo of train_zoo or of an experiment, or set behaviour and finetune_steps to 0, candidates to 1 and "
                "source to 'flow' or 'gaussian'."
            )
        return {}

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "transformer"."""
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
                gradient_clip=self.gradient_clip,
                stacked=("blocks",),
            ),
        )

    def sample(self, state: Mapping[str, Any], inputs: jax.Array) -> Samples:
        """Draws one network for every key."""
        constants, keys = state["constants"], inputs
        drawing = keys_for(keys, _NOISE)
        weights = self._drawn(state, drawing) if self.candidates == 1 else self._best(state, drawing)
        if self.finetune_steps:
            further = self.finetune_steps, self.finetune_learning_rate, self.finetune_batch, self.finetune_weight_decay
            weights = behaviour.trained(constants, weights, keys_for(keys, _FURTHER), *further)
        weights = domain.inside(weights, constants, self.variances)
        return Samples.new(weights)

    def _best(self, state: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        """For every key the network `[n, P]` of several that has the smallest loss."""

        def one(number: jax.Array) -> tuple[jax.Array, jax.Array]:
            drawn = self._drawn(state, jax.vmap(lambda key: jax.random.fold_in(key, number))(keys))
            return drawn, behaviour.total_loss(state["constants"], drawn)

        drawn, losses = jax.lax.map(one, jnp.arange(self.candidates))
        best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses), axis=0)
        return jnp.take_along_axis(drawn, best[None, :, None], axis=0)[0]

    def _drawn(self, state: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        """Networks `[n, P]` of the source."""
        constants = state["constants"]
        if self.source == "initialisation":
            return jax.vmap(constants[behaviour.NET].value.init)(keys)
        noise = self.temperature * jax.vmap(lambda key: jax.random.normal(key, constants["mean"].shape))(keys)
        if self.source == "gaussian":
            return whitening.unwhitened(constants, noise)
        return self.transport(state, noise)

    def transport(self, state: Mapping[str, Any], noise: jax.Array) -> jax.Array:
        """Follows the flow from standard normal noise `[n, P]` to networks `[n, P]`."""
        constants, params = state["constants"], state[STAGE]["params"]
        times = np.arange(self.sampling_steps + 1) / (self.sampling_steps + 1)

        def predict(z: jax.Array, t: jax.Array) -> jax.Array:
            return self._predicted(params, constants, z, t)[0]

        def velocity(z: jax.Array, t: jax.Array) -> jax.Array:
            return (predict(z, t) - z) / (1 - t)[:, None]

        z = flow.solve(velocity, noise, times, "heun")
        return whitening.unwhitened(constants, predict(z, jnp.full(len(z), times[-1], jnp.float32)))

    def num_tokens(self, spec) -> int:
        """Hidden units, and one token of what belongs to none."""
        return NeuronTokens(spec).num_tokens

    @property
    def architecture(self) -> Architecture:
        """Sizes of the transformer."""
        return Architecture(self.width, self.blocks, self.heads, self.num_frequencies, self.dtype, self.remat)

    def _module(self, constants: Mapping[str, Any]) -> Transformer | Functional:
        if self.network == "functional":
            return Functional(Tensors(constants["tokens"].spec), self.architecture)
        return Transformer(constants["tokens"], self.architecture, self.positions)

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        constants = done["constants"]
        module = self._module(constants)
        view = jnp.zeros((1, constants["tokens"].num_params))
        return initialise(module, key, [view, view], jnp.zeros(1), constants["frequencies"])["params"], {}

    def _predicted(
        self, params: Any, constants: Mapping[str, Any], z: jax.Array, t: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The clean networks `[n, P]`, whitened, that are predicted of `z` `[n, P]` at times `[n]`, and F."""
        module: Any = self._module(constants)
        share, left, size = _gaussian(t)
        views = [z / size, constants["scale"] * whitening.unwhitened(constants, share * z)]
        ratio = jnp.clip(jnp.log(t) - jnp.log1p(-t), -_LARGEST_LOG_RATIO, _LARGEST_LOG_RATIO)
        outputs = module.apply({"params": params}, views, ratio, constants["frequencies"])
        return share * z + left * outputs, outputs

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: jax.Array,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared error of the predicted networks, times q / (1 - t)^2, which is that of F; and the behavioural
        term."""
        constants = done["constants"]
        logit = jax.vmap(lambda key: jax.random.normal(key, ()))(keys_for(keys, _TIME))
        t = jax.nn.sigmoid(self.time_mean + self.time_std * logit)
        noise = jax.vmap(lambda key: jax.random.normal(key, batch.shape[1:]))(keys_for(keys, _NOISE))
        if not vanishes(self.noise):
            jitter = jax.vmap(lambda key: jax.random.normal(key, batch.shape[1:]))(keys_for(keys, _JITTER))
            batch = batch + self.noise * jitter
        z = flow.between(noise, batch, t)
        predicted, outputs = self._predicted(params, constants, z, t)
        share, left, _ = _gaussian(t)
        weights_loss = jnp.mean(jnp.square(outputs - (batch - share * z) / left))
        if vanishes(self.behaviour):
            return weights_loss, (model_state, {})
        examples = behaviour.drawn(constants, keys_for(keys, _FURTHER), self.images)
        entropy = behaviour.loss(constants[behaviour.NET].value, whitening.unwhitened(constants, predicted), *examples)
        behavioural = jnp.mean(t**_POWER * entropy)
        return weights_loss + self.behaviour * behavioural, (
            model_state,
            {"weights": weights_loss, "behavioural": behavioural},
        )


def _gaussian(t: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of noised standard normal vectors at times `[n]`, each `[n, 1]`: the share of `z_t` that is the mean of the clean
    vector given it, the standard deviation of what is left, and that of `z_t`."""
    t = t[:, None]
    q = jnp.square(t) + jnp.square(1 - t)
    return t / q, (1 - t) / jnp.sqrt(q), jnp.sqrt(q)


# What a key is used for.
_TIME, _NOISE, _FURTHER, _JITTER = range(4)
