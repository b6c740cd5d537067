"""Flow matching as a generator: the form of the networks, what the velocity learns, and how samples follow it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import draws
from jaxweights import flow as flows
from jaxweights.auditing.alignment.canonical import weight_places
from jaxweights.errors import UserError
from jaxweights.generators import canonical, domain, principal, selection
from jaxweights.generators.base import OnHost, Samples, Stage, Training, keys_for
from jaxweights.generators.baselines import Static
from jaxweights.generators.flow.classes import ClassVelocity
from jaxweights.generators.flow.geometry import Euclidean, Product
from jaxweights.generators.flow.graph import Graph, GraphTransformer
from jaxweights.generators.flow.settings import FlowSettings
from jaxweights.generators.velocity import Velocity
from jaxweights.nn.parameters import initialise
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

STAGE = "flow"


class Labelled(NamedTuple):
    """Networks of several classes.

    Attributes:
      networks: `[n, D]` float32, as the flow sees them.
      classes: `[n]` int32, the numbers of their classes.
    """

    networks: Any
    classes: Any


_HELD_EXAMPLES, _HELD_KEY = 256, 0  # points of their paths, at least so many, and the key of these
_DROPOUT, _CLASS = 1, 2  # what keys are used for


@dataclass(frozen=True)
class Flow(FlowSettings):
    """A velocity that carries noise to networks in one form, learned from straight paths or great circles."""

    def check(self, training: Training) -> None:
        """Refuses fewer networks than a batch or the components need, and networks without the form."""
        left = training.rows - self.held_out(training.rows // max(training.per_run, 1)) * training.per_run
        if left < self.batch_size:
            raise UserError(
                f"{self.section} trains with batches of {self.batch_size}, but {training.rows} training networks leave "
                f"{left} to learn from. Lower batch_size or validation, or train more runs (zoo.num_runs)."
            )
        most = min(left - 1, training.spec.num_params)
        if (self.components or 0) > most:
            self.refuse("components", f"{left} training networks span {most}; lower it or train more runs")
        if self.scale == "unit":
            canonical.spheres(training.spec)
        if self.network == "graph":
            Graph(training.spec)

    def held_out(self, runs: int) -> int:
        """How many of so many training runs choose the parameters instead of being learned from."""
        return selection.held_out(self.select, self.validation, runs)

    def prepared_size(self, training: Training) -> int:
        """See `LearnedGenerator.prepared_size`."""
        return training.rows * (self.components or training.spec.num_params)

    def columns(self) -> tuple[str, ...]:
        """See `LearnedGenerator.columns`."""
        return (self.classes,) if self.classes else ()

    def prepare(self, training: Population) -> tuple[Any, dict[str, Any]]:
        """Brings networks to one form, and to principal components where asked for.

        Args:
          training: training rows `[N, P]` and their records.

        Returns:
          What the flow learns from `[n, D]` float32, where it is told classes as `Labelled`; and the constants:
          `source_std`; of other runs, for the choice of parameters, `validation`, the same; `class_values` and
          `class_shares` `[K]`; and what leads back to weights: `mean` `[P]` and `basis` `[D, P]` of the
          components, `factor` `[P]` of outputs, and where running statistics are not generated `places` `[R]` of all
          others and `centre` `[P]`; for the order of other networks `reference` `[P]`.

        Raises:
          UserError: networks that have no such form.
        """
        form, rows = canonical.Form.of(training, self.order, self.scale)
        constants: dict[str, Any] = {**domain.floors(training, by_tensor=True), "gain": np.float32(form.gain)}
        if form.reference is not None:
            constants["reference"] = form.reference.astype(np.float32)
        constants["factor"] = np.ones(training.spec.num_params, np.float32)
        places = weight_places(training.spec) if self.statistics != "generate" else None
        if places is not None:
            constants |= {"places": places.astype(np.int32), "centre": rows.mean(axis=0)}
            rows = rows[:, places]
        if self.scale == "unit":
            outputs = canonical.spheres(training.spec)
            constants["factor"][np.concatenate([outputs.output, outputs.output_bias])] = form.gain
        if self.geometry == "spheres":
            constants["spec"] = Static(training.spec)
        if self.network == "graph":
            constants["graph"] = Graph(training.spec)
        held = selection.held(self.select, self.validation, training.records["run"])
        latents = rows
        if self.components is not None:
            found, latents = self._components(rows, ~held)
            constants |= found
        data = learned = latents[~held]
        if self.classes:
            constants |= self._classes(training.records)
            every = Labelled(latents, self.class_of(constants, training.records))
            data, validation = (jax.tree.map(lambda x, rows=rows: x[rows], every) for rows in (~held, held))
        else:
            validation = latents[held]
        if self.select == "heldout":
            constants["validation"] = validation if held.any() else data
        varying = learned[:, self.space(constants).straight] if self.geometry == "spheres" else learned
        std = float(varying.std()) if self.source_std is None else self.source_std
        return data, {**constants, "source_std": np.float32(std), "rows": np.int32(len(learned))}

    def encode(self, constants: Mapping[str, Any], rows: np.ndarray) -> np.ndarray:
        """What the flow sees of networks in its form, `[n, P]` to `[n, D]` float32."""
        rows = rows[:, constants["places"]] if "places" in constants else rows
        if "basis" not in constants:
            return rows
        return ((rows - constants["mean"].astype(np.float64)) @ constants["basis"].T).astype(np.float32)

    def decode(self, constants: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Weights `[n, P]` of what the flow sees `[n, D]`."""
        weights = latents
        if "basis" in constants:
            product = jnp.matmul(latents, constants["basis"], precision=jax.lax.Precision.HIGHEST)
            weights = constants["mean"][None] + product
        if "places" in constants:
            every = jnp.broadcast_to(constants["centre"][None], (len(weights), constants["centre"].shape[0]))
            weights = every.at[:, constants["places"]].set(weights)
        return weights * constants["factor"][None]

    def form(self, constants: Mapping[str, Any], spec: WeightSpec) -> canonical.Form:
        """The form of the training networks, for others of their spec."""
        return canonical.Form(spec, self.scale, constants.get("reference"), float(constants["gain"]))

    def stages(self) -> tuple[Stage, ...]:
        """Returns the one stage "flow"."""
        rate = optax.cosine_decay_schedule(
            self.learning_rate, self.steps, min(1.0, self.final_learning_rate / self.learning_rate)
        )
        optimizer = optax.adamw(rate, *self.betas, weight_decay=self.weight_decay)
        stage = Stage(STAGE, self.steps, self.batch_size, optimizer, self._init, self._loss, self.ema_decay)
        return (stage,)

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> Any:
        """Returns the keys, and where the flow is told classes with them `classes` `[n]` int32."""
        del starts
        if not self.classes:
            return keys
        values, shares = (np.asarray(state["constants"][name]) for name in ("class_values", "class_shares"))
        if self.asked is None:
            chosen = jax.vmap(lambda key: jax.random.categorical(key, np.log(shares)))(keys_for(keys, _CLASS))
            return {"keys": keys, "classes": chosen.astype(jnp.int32)}
        found = np.flatnonzero(values == self.asked)
        if not found.size:
            self.refuse("asked", f"no training network has this {self.classes}; set it to one of {values.tolist()}")
        return {"keys": keys, "classes": np.full(len(keys), found[0], np.int32)}

    def sample(self, state: Mapping[str, Any], inputs: Any) -> Samples:
        """Follows the velocity from noise; see `LearnedGenerator.sample`."""
        constants = state["constants"]
        space = self.space(constants)
        keys, classes = (inputs["keys"], inputs["classes"]) if self.classes else (inputs, None)
        start = space.start(self.noise(constants, keys))
        end = flows.solve(
            self.velocity(state, classes), start, flows.grid(self.sampling_steps), self.solver, space.move
        )
        weights = domain.inside(self.decode(constants, end), constants, self.variances)
        return Samples.new(weights)

    def finish(self, state: Mapping[str, Any], data: Any) -> dict[str, Any]:
        """Returns what the flow has learned from, `learned` `[n, D]`, on the host, and where there are any the
        `learned_classes` `[n]`."""
        del state
        networks, classes = _parts(data)
        return {"learned": OnHost(networks)} | ({"learned_classes": OnHost(classes)} if self.classes else {})

    def noise(self, constants: Mapping[str, Any], keys: jax.Array) -> jax.Array:
        """Noise `[n, D]` that samples start from."""
        size = _size(constants)
        return constants["source_std"] * jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)

    def velocity(
        self, state: Mapping[str, Any], classes: jax.Array | None = None
    ) -> Callable[[jax.Array, jax.Array], jax.Array]:
        """The trained velocity `(x [n, D], times [n]) -> [n, D]`, of networks of `classes` `[n]`, see `class_of`."""
        params, constants = selection.chosen(self.select, state[STAGE]), state["constants"]
        return lambda x, times: self._predict(params, constants, x, times, classes)

    def class_of(self, constants: Mapping[str, Any], records: Mapping[str, np.ndarray]) -> np.ndarray:
        """The number of the class of networks `[n]` int32, from 0 on; of one that is not known the next one's."""
        return np.searchsorted(constants["class_values"], np.asarray(records[self.classes], np.float64)).astype(
            np.int32
        )

    def space(self, constants: Mapping[str, Any]) -> Any:
        """Where the flow runs."""
        if self.geometry == "euclidean":
            return Euclidean()
        spec = constants["spec"].value
        places = canonical.spheres(spec)
        every = (*places.hidden, places.output[None])
        return Product(every, spec.num_params, self.sphere_loss == "published")

    def _module(self, constants: Mapping[str, Any]) -> Any:
        if self.network == "graph":
            sizes = self.graph_width, self.graph_layers, self.graph_heads, self.graph_times == "published"
            return GraphTransformer(constants["graph"], *sizes)
        sizes = self.width, self.time_width, self.extra, self.dropout
        if not self.classes:
            return Velocity(*sizes)
        return ClassVelocity(*sizes, self.class_width, constants["class_values"].shape[0], self.class_input)

    def _predict(
        self,
        params: Any,
        constants: Mapping[str, Any],
        x: jax.Array,
        times: jax.Array,
        classes: jax.Array | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        told = (classes,) if self.classes else ()
        found = self._module(constants).apply({"params": params}, x, times, keys, *told)
        return self.space(constants).tangent(x, found)

    def _classes(self, records: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The classes that there are, and the shares of networks that have them."""
        if self.classes not in records or np.asarray(records[self.classes]).dtype.kind not in "biuf":
            self.refuse("classes", f"name a column of numbers of the records; there are {', '.join(records)}")
        values, counts = np.unique(np.asarray(records[self.classes], np.float64), return_counts=True)
        return {"class_values": values, "class_shares": (counts / counts.sum()).astype(np.float32)}

    def _components(self, rows: np.ndarray, learned: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Mean `[P]` and orthonormal basis `[D, P]` of some rows, and all of them in it `[N, D]`; zeros where there are
        fewer components than asked for."""
        most = max(1, min(learned.sum() - 1, rows.shape[1]))
        mean, basis, _ = principal.basis_of(rows[learned], self.components or most)
        latents = ((rows - mean) @ basis.T).astype(np.float32)
        return {"mean": mean.astype(np.float32), "basis": basis.astype(np.float32)}, latents

    def _init(self, key: jax.Array, done: Mapping[str, Any]) -> tuple[Any, Any]:
        constants = done["constants"]
        first, table = jax.random.split(key)
        given = jnp.zeros((1, _size(constants))), jnp.zeros((1,))
        params = initialise(self._module(constants), first, *given)["params"]
        model_state = selection.start(self.select, params)
        return params, model_state | ({"table": jax.random.key_data(table)} if self.source == "table" else {})

    def _loss(
        self,
        params: Any,
        model_state: Any,
        done: Mapping[str, Any],
        batch: Any,
        keys: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        """Mean squared difference of the velocity from that of the paths, see `Stage.loss`."""
        constants = done["constants"]
        loss = self._error(params, constants, batch, keys, model_state.get("table"), train=True)
        metrics = {}
        if self.select == "luckiest":
            model_state = selection.after_batch(model_state, params, loss, axis_name)
        elif self.select == "heldout":
            every = max(1, self.steps // selection.CHOICES)
            model_state = selection.after_step(
                model_state, params, every, functools.partial(self._held_loss, constants)
            )
            metrics["heldout"] = model_state["last"]
        return loss, (model_state, metrics)

    def _held_loss(self, constants: Mapping[str, Any], params: Any) -> jax.Array:
        """The loss of networks that the flow does not learn from, always at the same points of their paths."""
        held, count = constants["validation"], _parts(constants["validation"])[0].shape[0]
        times = -(-_HELD_EXAMPLES // count)
        keys = jax.random.split(jax.random.key(_HELD_KEY), times * count)
        many = jax.tree.map(lambda x: jnp.tile(x, (times,) + (1,) * (x.ndim - 1)), held)
        return self._error(params, constants, many, keys, None, train=False)

    def _error(
        self,
        params: Any,
        constants: Mapping[str, Any],
        batch: Any,
        keys: jax.Array,
        table: jax.Array | None,
        *,
        train: bool,
    ) -> jax.Array:
        networks, classes = _parts(batch)
        x, times, target = self.examples(constants, networks, keys, table)
        dropped = keys_for(keys, _DROPOUT) if train and self.dropout else None
        return self.space(constants).error(self._predict(params, constants, x, times, classes, dropped) - target)

    def examples(
        self,
        constants: Mapping[str, Any],
        networks: jax.Array,
        keys: jax.Array,
        table: jax.Array | None = None,
        times: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Points on the paths to networks `[n, D]`, their times `[n]` and the velocities of the paths.

        Args:
          constants: see `prepare`.
          networks: `[n, D]`, as the flow sees them.
          keys: `[n]` typed PRNG keys.
          table: data of the key of a table of noise whose rows paths start from; None for fresh noise.
          times: `[n]`; None to draw them.
        """
        space, shape = self.space(constants), networks.shape[1:]

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            time, noise, jitter = jax.random.split(key, 3)
            if table is not None:
                row = jax.random.randint(noise, (), 0, constants["rows"])
                noise = jax.random.fold_in(jax.random.wrap_key_data(table), row)
            a, b = self.time_beta
            drawn = jax.random.uniform(time) if a == b == 1 else jax.random.beta(time, a, b)
            return drawn, noise, jitter

        drawn, noise_keys, jitter_keys = jax.vmap(draw)(keys)
        noise, jitter = draws.normal(noise_keys, shape), draws.normal(jitter_keys, shape)
        times = drawn if times is None else times
        start = space.start(constants["source_std"] * noise)
        x, target = space.path(start, networks, times)
        return space.onto(x + self.sigma * jitter), times, target


def _parts(batch: Any) -> tuple[Any, Any]:
    """Networks `[n, D]`, and their classes `[n]` where there are any."""
    return tuple(batch) if isinstance(batch, Labelled) else (batch, None)


def _size(constants: Mapping[str, Any]) -> int:
    """D, what the flow sees of a network."""
    return next(constants[key].shape[0] for key in ("basis", "places", "factor") if key in constants)
