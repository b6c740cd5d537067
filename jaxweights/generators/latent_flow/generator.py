"""A conditional latent flow: its autoencoder, how its velocity is trained, and how it is asked for networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import draws
from jaxweights import flow as flows
from jaxweights.errors import UserError
from jaxweights.generators import behaviour, canonical, conditions, domain, moments, principal, selection
from jaxweights.generators.base import Samples, Stage, Training, keys_for, vanishes
from jaxweights.generators.conditions import Conditions, Facts
from jaxweights.generators.latent_flow import context
from jaxweights.generators.latent_flow.context import Context
from jaxweights.generators.latent_flow.network import Codec, ConditionalVelocity
from jaxweights.generators.latent_flow.settings import LatentFlowSettings
from jaxweights.nn.parameters import initialise
from jaxweights.population import TAUGHT, Population
from jaxweights.spec import WeightSpec

AUTOENCODER, FLOW = "autoencoder", "flow"
_CERTAIN = -4.0  # logarithm of the variance of latents before training
_HELD_EXAMPLES, _HELD_KEY = 256, 0  # held-out networks, each as often as it takes, and the key of what is drawn


class Known(NamedTuple):
    """Training networks and what is known of them.

    Attributes:
      networks: `[n, P]` float32, in one form.
      facts: see `Conditions`.
      taught: `[n, K]` bool, the classes that they were taught; without columns where no examples are shown.
    """

    networks: Any
    facts: Facts
    taught: Any


@dataclass(frozen=True)
class LatentFlow(LatentFlowSettings):
    """A flow in the latents of an autoencoder of weights that can be asked for networks of which something holds.

    After D2NWG (arXiv 2402.18153: a variational autoencoder of weights, and a diffusion in its latents that is given an
    embedding of a data set) and FLoWN (arXiv 2503.19371: flow matching there, given images). No code, sizes or zoos of
    either are published, so this is no reproduction. Networks are brought to one form. The autoencoder begins as their
    principal components, of standard deviation 1, and learns what corrects these.
    """

    def check(self, training: Training) -> None:
        """Refuses fewer networks than a batch or the latents need."""
        runs = training.rows // max(training.per_run, 1)
        left = training.rows - selection.held_out(self.select, self.validation, runs) * training.per_run
        if left < self.batch_size:
            raise UserError(
                f"{self.section} trains with batches of {self.batch_size}, but {training.rows} training networks leave "
                f"{left} to learn from. Lower batch_size or validation, or train more runs (zoo.num_runs)."
            )
        most = min(left - 1, training.spec.num_params)
        if self.latent_dim > most:
            self.refuse("latent_dim", f"{left} training networks span {most}; lower it or train more runs")
        if self.scale == "unit":
            canonical.spheres(training.spec)

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`."""
        return training.rows * training.spec.num_params

    def prepare(self, training: Population) -> tuple[Known, dict[str, Any]]:
        """Brings networks to one form, and finds what is known of them.

        Args:
          training: rows `[N, P]` with the columns of `conditions`, and `examples` where they are looked at.

        Returns:
          What the flow learns from, and the constants: `mean` `[P]`, `basis` `[L, P]` and `std` `[L]` of the principal
          components, `spread` (the root mean variance of a weight), the `scales` of conditions, `validation` (`Known`
          of held-out training runs), and what `canonical`, `behaviour` and `context` keep.

        Raises:
          UserError: a column or examples that are absent; networks that have no such form.
        """
        form, rows = canonical.Form.of(training, self.order, self.scale)
        kept = selection.held(self.select, self.validation, training.records["run"])
        mean, basis, std = principal.basis_of(rows[~kept], self.latent_dim)
        spread = float(np.sqrt(rows[~kept].var(axis=0).mean()))
        constants: dict[str, Any] = {
            "mean": mean.astype(np.float32),
            "basis": basis.astype(np.float32),
            "std": np.where(std > 0, std, 1).astype(np.float32),
            "spread": np.float32(spread or 1.0),
            "gain": np.float32(form.gain),
            **domain.floors(training, by_tensor=True),
            **self._examples(training),
        }
        if form.reference is not None:
            constants["reference"] = form.reference.astype(np.float32)
        num_classes = 0 if training.examples is None else training.examples.dataset.num_classes
        facts, constants["scales"] = self._conditions.read(training.records, num_classes)
        taught = np.zeros((len(rows), 0), bool)
        if self.context:
            column = next(name for name in training.records if conditions.is_set(name))
            taught = conditions.classes(training.records[column], num_classes)
        data = Known(rows, facts, taught)
        if self.select == "heldout":
            constants["validation"] = jax.tree.map(lambda x: x[kept] if kept.any() else x, data)
        return jax.tree.map(lambda x: x[~kept], data), constants

    def _examples(self, training: Population) -> dict[str, Any]:
        if not self.needs_examples:
            return {}
        if training.examples is None or not behaviour.possible(training.examples.net):
            raise UserError(
                f"{self.section} looks at the training examples of classifiers of images, none of whose weights are "
                "frozen, and these networks have none at hand. Give it a zoo of train_zoo or of an experiment, or set "
                "behaviour and context to 0."
            )
        if self.context and not any(map(conditions.is_set, training.records)):
            raise UserError(
                f"{self.section} is shown examples of the classes that networks were taught, but their records have no "
                f"column {TAUGHT!r}: all were trained on one data set. Set context to 0."
            )
        found = behaviour.constants(training.examples, self.examples)
        return found | context.constants(found["labels"], training.examples.dataset.num_classes)

    def form(self, constants: Mapping[str, Any], spec: WeightSpec) -> canonical.Form:
        """The form of the training networks, for others of their spec."""
        return canonical.Form(spec, self.scale, constants.get("reference"), float(constants["gain"]))

    def stages(self) -> tuple[Stage, ...]:
        """Returns the stages "autoencoder" and "flow"."""
        codec = self._optimizer(self.autoencoder_learning_rate, self.autoencoder_steps)
        flow = self._optimizer(self.learning_rate, self.steps)
        return (
            Stage(AUTOENCODER, self.autoencoder_steps, self.batch_size, codec, self._init_codec, self._codec_loss),
            Stage(FLOW, self.steps, self.batch_size, flow, self._init_flow, self._flow_loss),
        )

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> dict[str, Any]:
        """What samples are asked for, the same for all; see `LearnedGenerator.inputs` and `asking`."""
        del starts
        asked = self.asked or (None,) * len(self.conditions)
        row = np.array([np.nan if value is None else value for value in asked], np.float64)
        return self.asking(state, keys, np.tile(row, (len(keys), 1)), [self.shown] * len(keys))

    def asking(
        self, state: Mapping[str, Any], keys: jax.Array, asked: np.ndarray, shown: Sequence[Sequence[int]] = ()
    ) -> dict[str, Any]:
        """The input of `sample` that asks for other networks in every row.

        Args:
          state: state of the trained generator.
          keys: `[n]` typed PRNG keys.
          asked: `[n, C]`, one number per condition, NaN for what is left open.
          shown: classes whose training examples are shown, n sequences, or none at all.

        Raises:
          UserError: classes that there are no examples of, or that no training network was taught.
        """
        constants = state["constants"]
        num_classes = len(constants["count"]) if self.context else 0
        taught = np.zeros((len(keys), num_classes), bool)
        for row, chosen in enumerate(shown):
            wrong = [k for k in chosen if k >= num_classes or not constants["count"][k]]
            if wrong:
                raise UserError(f"{self.section} has no examples of class {wrong[0]} to show.")
            taught[row, list(chosen)] = True
        return {"keys": keys, "facts": self._conditions.facts(constants["scales"], asked), "taught": taught}

    def sample(self, state: Mapping[str, Any], inputs: Mapping[str, Any]) -> Samples:
        """Follows the velocity from noise and decodes; see `LearnedGenerator.sample`."""
        keys, constants = inputs["keys"], state["constants"]
        noise = jax.vmap(lambda key: jax.random.normal(key, (self.latent_dim,)))(keys_for(keys, _NOISE))
        shown = self._context(constants, inputs["taught"], keys)
        end = flows.solve(
            self._guided(state, inputs["facts"], shown), noise, flows.grid(self.sampling_steps), self.solver
        )
        mean, std = moments.of(state[FLOW]["model_state"]["latents"])
        return Samples.new(self.decode(state, mean + std * end))

    def encode(self, state: Mapping[str, Any], networks: jax.Array) -> jax.Array:
        """Means of the latents `[n, L]` of networks `[n, P]` in the form of the training networks, see `form`."""
        return self._encoded(self._codec_params(state), state["constants"], networks)[0]

    def decode(self, state: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Networks `[n, P]` of latents `[n, L]`."""
        constants = state["constants"]
        return domain.inside(self._decoded(self._codec_params(state), constants, latents), constants, self.variances)

    @property
    def _conditions(self) -> Conditions:
        return Conditions(self.conditions, self.section)

    def _optimizer(self, rate: Any, steps: int) -> optax.GradientTransformation:
        return optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=self.weight_decay)

    def _codec(self, constants: Mapping[str, Any]) -> Codec:
        return Codec(constants["mean"].shape[0], self.latent_dim, self.codec_width)

    def _velocity(self, constants: Mapping[str, Any]) -> ConditionalVelocity:
        num_classes = constants["count"].shape[0] if self.context else 0
        sizes = self.width, self.time_width, self.extra, self.dropout
        return ConditionalVelocity(*sizes, self.condition_width, self.context_width, num_classes)

    def _codec_params(self, done: Mapping[str, Any]) -> Any:
        return selection.chosen(self.select, done[AUTOENCODER])

    def _encoded(self, params: Any, constants: Mapping[str, Any], networks: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Means and log-variances of the latents `[n, L]` of networks `[n, P]`."""
        module: Any = self._codec(constants)
        centred = networks - constants["mean"][None]
        components = jnp.matmul(centred, constants["basis"].T, precision=jax.lax.Precision.HIGHEST)
        shift, log_variance = module.apply({"params": params}, centred / constants["spread"], method="encode")
        return components / constants["std"][None] + shift, _CERTAIN + log_variance

    def _decoded(self, params: Any, constants: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        module: Any = self._codec(constants)
        components = latents * constants["std"][None]
        plain = jnp.matmul(components, constants["basis"], precision=jax.lax.Precision.HIGHEST)
        correction = module.apply({"params": params}, latents, method="decode")
        return constants["mean"][None] + plain + constants["spread"] * correction

    def _init_codec(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        module = self._codec(done["constants"])
        params = initialise(module, key, jnp.zeros((1, module.size)), jnp.zeros((1, self.latent_dim)))["params"]
        return params, selection.start(self.select, params)

    def _codec_loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: Known,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Share of the variance that decoded networks lose, and the weighted divergences; see `Stage.loss`."""
        del axis_name
        constants = done["constants"]
        loss, metrics = self._reconstruction(constants, params, batch.networks, keys)

        def measure(params: Any, held: Known, keys: jax.Array) -> jax.Array:
            return self._reconstruction(constants, params, held.networks, keys)[0]

        model_state, found = self._chosen(model_state, constants, params, self.autoencoder_steps, measure)
        return loss, (model_state, metrics | found)

    def _reconstruction(
        self, constants: Mapping[str, Any], params: Any, networks: jax.Array, keys: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The loss of the autoencoder for networks `[n, P]`, and its parts."""
        read = networks
        if not vanishes(self.noise):
            jitter = draws.normal(keys_for(keys, _JITTER), networks.shape[1:])
            read = networks + self.noise * constants["spread"] * jitter
        latents, log_variance = self._encoded(params, constants, read)
        loss, metrics = jnp.float32(0), {}
        if self.kl_weight:
            terms = jnp.square(latents) + jnp.exp(log_variance) - 1 - log_variance
            metrics["divergence"] = 0.5 * jnp.mean(terms)
            loss = self.kl_weight * metrics["divergence"]
            drawn = jax.vmap(lambda key: jax.random.normal(key, (self.latent_dim,)))(keys_for(keys, _NOISE))
            latents = latents + jnp.exp(0.5 * log_variance) * drawn
        found = self._decoded(params, constants, latents)
        metrics["lost"] = jnp.mean(jnp.square(found - networks)) / jnp.square(constants["spread"])
        loss = loss + metrics["lost"]
        if not vanishes(self.behaviour):
            inputs, _ = behaviour.drawn(constants, keys_for(keys, _IMAGES), self.images)
            net = constants[behaviour.NET].value
            metrics["behavioural"] = jnp.mean(behaviour.divergence(net, found, networks, inputs))
            loss = loss + self.behaviour * metrics["behavioural"]
        return loss, metrics

    def _init_flow(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        constants = done["constants"]
        width = constants["scales"]["shift"].shape[0]
        facts = Facts(jnp.zeros((1, width)), jnp.zeros((1, len(self.conditions)), bool))
        taught = jnp.zeros((1, constants["count"].shape[0] if self.context else 0), bool)
        shown = self._context(constants, taught, jax.random.split(key, 1))
        given = jnp.zeros((1, self.latent_dim)), jnp.zeros((1,)), facts, shown
        params = initialise(self._velocity(constants), key, *given)["params"]
        zeros = jnp.zeros((self.latent_dim,))
        latents = {"count": jnp.zeros(()), "mean": zeros, "var": zeros}
        return params, selection.start(self.select, params) | {"latents": latents}

    def _flow_loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: Known,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared difference of the velocity of latents from that of straight paths, see `Stage.loss`."""
        codec, constants = self._codec_params(done), done["constants"]
        latents, _ = self._encoded(codec, constants, batch.networks)
        seen = moments.update(model_state["latents"], latents, axis_name)
        mean, std = moments.of(seen)

        def measure(params: Any, held: Known, keys: jax.Array) -> jax.Array:
            latents, _ = self._encoded(codec, constants, held.networks)
            return self._error(params, constants, (latents - mean) / std, held, keys)

        known, dropped = self._remembered(batch, keys), keys_for(keys, _DROPOUT) if self.dropout else None
        loss = self._error(params, constants, (latents - mean) / std, known, keys, dropped)
        model_state = {**model_state, "latents": seen}
        model_state, found = self._chosen(model_state, constants, params, self.steps, measure)
        return loss, (model_state, found)

    def _error(
        self,
        params: Any,
        constants: Mapping[str, Any],
        data: jax.Array,
        known: Known,
        keys: jax.Array,
        dropped: jax.Array | None = None,
    ) -> jax.Array:
        """Mean squared error of the velocity at random points of the paths to standardised latents `[n, L]`."""
        noise = draws.normal(keys_for(keys, _NOISE), data.shape[1:])
        times = jax.vmap(jax.random.uniform)(keys_for(keys, _TIME))
        shown = self._context(constants, known.taught, keys)
        module: Any = self._velocity(constants)
        x = flows.between(noise, data, times)
        found = module.apply({"params": params}, x, times, known.facts, shown, dropped)
        return jnp.mean(jnp.square(found - (data - noise)))

    def _remembered(self, batch: Known, keys: jax.Array) -> Known:
        """What training tells the flow; the data set is one more condition."""
        known, count = batch.facts.known, len(self.conditions)
        if self.context:
            known = jnp.concatenate([known, batch.taught.any(axis=1, keepdims=True)], axis=1)
        known = conditions.remembered(known, keys_for(keys, _FORGET), self.forget)
        facts = conditions.told(batch.facts, known[:, :count], self.conditions)
        return Known(batch.networks, facts, batch.taught & known[:, -1:] if self.context else batch.taught)

    def _context(self, constants: Mapping[str, Any], taught: jax.Array, keys: jax.Array) -> Context | None:
        if not self.context:
            return None
        return context.drawn(constants, taught, keys_for(keys, _CONTEXT), self.context)

    def _guided(self, state: Mapping[str, Any], facts: Facts, shown: Context | None) -> Callable[..., jax.Array]:
        """The velocity that samples follow, `(x [n, L], times [n]) -> [n, L]`."""
        params = selection.chosen(self.select, state[FLOW])
        module: Any = self._velocity(state["constants"])

        def velocity(facts: Facts, shown: Context | None, x: jax.Array, times: jax.Array) -> jax.Array:
            return module.apply({"params": params}, x, times, facts, shown)

        nothing = jax.tree.map(jnp.zeros_like, facts)
        hidden = None if shown is None else shown._replace(shown=jnp.zeros_like(shown.shown))
        if self.guidance in (0, 1):
            return functools.partial(velocity, *((facts, shown) if self.guidance else (nothing, hidden)))

        def guided(x: jax.Array, times: jax.Array) -> jax.Array:
            free = velocity(nothing, hidden, x, times)
            return free + self.guidance * (velocity(facts, shown, x, times) - free)

        return guided

    def _chosen(
        self,
        model_state: Any,
        constants: Mapping[str, Any],
        params: Any,
        steps: int,
        measure: Callable[[Any, Known, jax.Array], jax.Array],
    ) -> tuple[Any, dict[str, jax.Array]]:
        """The state of the choice of parameters after a step, and the loss of held-out runs."""
        if self.select == "last":
            return model_state, {}
        held: Known = constants["validation"]
        times = -(-_HELD_EXAMPLES // held.networks.shape[0])
        keys = jax.random.split(jax.random.key(_HELD_KEY), times * held.networks.shape[0])

        def held_loss(params: Any) -> jax.Array:
            return measure(params, jax.tree.map(lambda x: jnp.tile(x, (times, 1)), held), keys)

        model_state = selection.after_step(model_state, params, max(1, steps // selection.CHOICES), held_loss)
        return model_state, {"heldout": model_state["last"]}


# What an example's key is used for.
_TIME, _NOISE, _JITTER, _IMAGES, _CONTEXT, _FORGET, _DROPOUT = range(7)
