"""Bulk training of policies by proximal policy optimisation (Schulman et al., arXiv 1707.06347).

Details follow the published code of G.pt's data set (`data_gen/train_rl.py`): a Gaussian policy whose deviation is the
same in all states, a critic of its own, advantages normalised over all that an update sees, minibatches in order of
time, an unclipped value loss, and episodes that reach their full length taken as ended.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxweights.errors import UserError
from jaxweights.nets.mlp import MLP
from jaxweights.zoo.trainer import Trainer


class Worlds(NamedTuple):
    """The environments of a run, and how many steps their episodes have lasted: `[E, 4]` float32, `[E]` int32."""

    states: jax.Array
    ages: jax.Array


class Rollout(NamedTuple):
    """What H steps of E environments gave, every leaf `[H, E, ...]`.

    Attributes:
      observations: `[H, E, 4]`; actions, rewards: `[H, E]`.
      ended: `[H, E]` bool, whether the episode ended with the step.
      noise: `[H, E]`, the actions' distance from their mean in standard deviations.
    """

    observations: jax.Array
    actions: jax.Array
    rewards: jax.Array
    ended: jax.Array
    noise: jax.Array


@dataclasses.dataclass(frozen=True)
class PolicyTrainer(Trainer):
    """Trains chunks of runs of policies; the interface is `Trainer`'s, a step is one update.

    Raises:
      UserError: a recipe that policies cannot be trained by.
    """

    def __post_init__(self):
        recipe = self.recipe
        for field, needed in (("optimizer", "adam"), ("batch_order", "own"), ("augment", "none")):
            if getattr(recipe, field) != needed:
                raise UserError(
                    f"zoo.{field} is {getattr(recipe, field)!r}, but policies are trained with {needed!r}. Set it so."
                )

    @functools.cached_property
    def critic(self) -> MLP:
        """Estimates the discounted rewards to come; of the actor's size."""
        return MLP(self.net.module.hidden, 1, "selu", "orthogonal", "orthogonal_1")

    def load(self, dataset: Any) -> tuple:
        """Nothing: policies make their own experience."""
        return ()

    def _start(self, key: jax.Array, hyper: dict[str, jax.Array], first: Any) -> tuple[Any, Any]:
        del first
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        environment = self.net.environment
        params = {
            "actor": self.net.spec.unflatten(self.net.init(keys[0]) * hyper["init_scale"]),
            "critic": self.critic.init(keys[1], jnp.zeros((1, *self.net.input_shape)))["params"],
        }
        states = environment.initial(jax.random.uniform(keys[2], (self.recipe.batch_size, *self.net.input_shape)))
        optimizer = self._optimizer(hyper, jnp.float32(0.0))
        return params, (optimizer.init(params), Worlds(states, jnp.zeros(len(states), jnp.int32)))

    def _vector(self, params: Any) -> jax.Array:
        return self.net.spec.flatten(params["actor"])

    def _optimizer(self, hyper: dict[str, jax.Array], rate: jax.Array) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.recipe.ppo.gradient_clip)
        return optax.chain(clip, self.recipe.transformation(hyper, rate))

    def _step(self, state, data, step, carry):
        """One update: a rollout, then passes over it."""
        del data
        params, (opt_state, worlds) = carry
        ppo, minibatches = self.recipe.ppo, self.recipe.ppo.minibatches
        key = jax.random.fold_in(jax.random.wrap_key_data(state.words), step)
        worlds, rollout = self._rollout(params["actor"], worlds, key)
        advantages, returns = self._advantages(params["critic"], rollout, worlds.states)
        # Up to a constant, which no ratio of probabilities sees.
        density = -0.5 * rollout.noise**2 - 2 * params["actor"]["log_std"][0]
        examples = (rollout.observations, rollout.actions, density, advantages, returns)
        examples = jax.tree.map(lambda x: x.reshape((minibatches, -1) + x.shape[2:]), examples)

        def update(rate, carry, examples):
            params, opt_state = carry
            gradient = jax.grad(self._loss)(params, *examples)
            updates, opt_state = self._optimizer(state.hyper, rate).update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        def learn(carry, epoch):
            rate = self.recipe.learning_rate(state.hyper["learning_rate"], step + epoch / ppo.epochs, self.num_examples)
            return jax.lax.scan(functools.partial(update, rate), carry, examples)

        (params, opt_state), _ = jax.lax.scan(learn, (params, opt_state), jnp.arange(ppo.epochs, dtype=jnp.float32))
        return params, (opt_state, worlds)

    def _rollout(self, actor: Any, worlds: Worlds, key: jax.Array) -> tuple[Worlds, Rollout]:
        environment, shape = self.net.environment, (self.recipe.ppo.horizon, len(worlds.ages))
        noise = jax.random.normal(jax.random.fold_in(key, 0), shape)
        fresh = environment.initial(jax.random.uniform(jax.random.fold_in(key, 1), (*shape, *self.net.input_shape)))
        deviation = jnp.exp(2 * actor["log_std"][0])

        def act(worlds, drawn):
            noise, fresh = drawn
            seen = environment.observe(worlds.states)
            action = self.net.module.apply({"params": actor}, seen)[:, 0] + deviation * noise
            states, reward, failed = environment.step(worlds.states, action)
            ages = worlds.ages + 1
            ended = failed | (ages >= environment.episode)
            worlds = Worlds(jnp.where(ended[:, None], fresh, states), jnp.where(ended, 0, ages))
            return worlds, Rollout(seen, action, reward, ended, noise)

        return jax.lax.scan(act, worlds, (noise, fresh))

    def _advantages(self, critic: Any, rollout: Rollout, last: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Generalised advantage estimates (Schulman et al., arXiv 1506.02438), normalised, and returns; `[H, E]`."""
        ppo = self.recipe.ppo
        seen = jnp.concatenate([rollout.observations, self.net.environment.observe(last)[None]])
        values = self._values(critic, seen.reshape(-1, seen.shape[-1])).reshape(seen.shape[:2])
        goes_on = 1.0 - rollout.ended
        errors = rollout.rewards + ppo.discount * goes_on * values[1:] - values[:-1]

        def back(advantage, now):
            error, goes_on = now
            advantage = error + ppo.discount * ppo.trace * goes_on * advantage
            return advantage, advantage

        advantages = jax.lax.scan(back, jnp.zeros_like(errors[0]), (errors, goes_on), reverse=True)[1]
        returns = advantages + values[:-1]
        return (advantages - jnp.mean(advantages)) / (jnp.std(advantages, ddof=1) + 1e-8), returns

    def _values(self, critic: Any, observations: jax.Array) -> jax.Array:
        return self.critic.apply({"params": critic}, observations)[:, 0]

    def _loss(self, params, observations, actions, density, advantages, returns) -> jax.Array:
        """Clipped surrogate (eq. 7) and squared error of the critic, on flattened examples."""
        flat = observations.reshape(-1, observations.shape[-1])
        actions, density, advantages, returns = (x.reshape(-1) for x in (actions, density, advantages, returns))
        mean = self.net.module.apply({"params": params["actor"]}, flat)[:, 0]
        log_deviation = 2 * params["actor"]["log_std"][0]
        now = -0.5 * ((actions - mean) * jnp.exp(-log_deviation)) ** 2 - log_deviation
        ratio = jnp.exp(now - density)
        clipped = jnp.clip(ratio, 1 - self.recipe.ppo.clip, 1 + self.recipe.ppo.clip)
        policy = jnp.mean(jnp.maximum(-advantages * ratio, -advantages * clipped))
        return policy + self.recipe.ppo.value_weight * jnp.mean((returns - self._values(params["critic"], flat)) ** 2)
