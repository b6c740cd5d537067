"""Bulk training of policies by proximal policy optimisation (Schulman et al., arXiv 1707.06347).

Details follow the published code of G.pt's data set (`data_gen/train_rl.py`): a Gaussian policy whose deviation is the
same in all states, a critic of its own, advantages normalised over all that an update sees, minibatches in order of
time, an unclipped value loss, and episodes that reach their full length taken as ended.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxweights.data import Dataset
from jaxweights.nets.mlp import MLP
from jaxweights.settings import Settings, setting
from jaxweights.zoo.program import Program, RunData, RunState


@dataclasses.dataclass(frozen=True)
class PPO(Settings):
    """Settings of proximal policy optimisation; the defaults are those of G.pt's data set.

    The environments that act in parallel are the zoo's `batch_size`; an optimizer step of the zoo is one update:
    `horizon` steps of all environments, then `epochs` passes over them.

    Attributes:
      horizon: steps of every environment per update.
      epochs: passes over these steps per update.
      minibatches: minibatches of a pass: consecutive pieces of the horizon, as in the published code, which does not
        shuffle.
      clip: range of the probability ratio around 1.
      discount: discount of later rewards, gamma.
      trace: lambda of the generalised advantage estimate.
      value_weight: weight of the critic's squared error beside the policy's loss.
      gradient_clip: largest norm of the gradient of actor and critic together.
    """

    SECTION: ClassVar[str] = "zoo.ppo"

    horizon: int = setting(16, at_least=1, at_most=65_536)
    epochs: int = setting(8, at_least=1)
    minibatches: int = setting(2, at_least=1, at_most=65_536)
    clip: float = setting(0.2, at_least=0, at_most=1)
    discount: float = setting(0.99, at_least=0, at_most=1)
    trace: float = setting(0.95, at_least=0, at_most=1)
    value_weight: float = setting(2.0, above=0)
    gradient_clip: float = setting(2.0, above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.horizon % self.minibatches:
            self.refuse("horizon", f"{self.minibatches} minibatches do not divide it, change one")


class Environments(NamedTuple):
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
class PolicyProgram(Program):
    """Training of one policy; a step of the zoo is one update. Parameters are the actor's and the critic's."""

    @property
    def environment(self) -> Any:
        """The environment that the policy acts in."""
        return self.net.module.environment

    @property
    def ppo(self) -> PPO:
        """Settings of the updates."""
        return self.recipe.settings.ppo

    @functools.cached_property
    def critic(self) -> MLP:
        """Estimates the discounted rewards to come; of the actor's size."""
        return MLP(self.net.module.hidden, 1, "selu", "orthogonal", "orthogonal_1")

    def default_lanes(self, backend: str) -> int:
        """On CPU policies gain nothing from lanes, and with one alone came out the same bit for bit on any number of
        devices."""
        return 1 if backend == "cpu" else 256

    def load(self, dataset: Dataset, mesh: Mesh) -> RunData:
        """No data: policies collect their own."""
        del dataset, mesh
        return RunData(())

    def start(self, key: jax.Array, hyper: dict[str, jax.Array], given: Any) -> tuple[Any, Any]:
        del given
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        params = {
            "actor": self.net.spec.unflatten(self.net.init(keys[0]) * hyper["init_scale"]),
            "critic": self.critic.init(keys[1], jnp.zeros((1, *self.net.input_shape)))["params"],
        }
        draws = jax.random.uniform(keys[2], (self.recipe.batch_size, *self.net.input_shape))
        states = self.environment.initial(draws)
        optimizer = self._optimizer(hyper, jnp.float32(0.0))
        return params, (optimizer.init(params), Environments(states, jnp.zeros(len(states), jnp.int32)))

    def vector(self, params: Any) -> jax.Array:
        return self.net.spec.flatten(params["actor"])

    def _optimizer(self, hyper: dict[str, jax.Array], rate: jax.Array) -> optax.GradientTransformation:
        clip = optax.clip_by_global_norm(self.ppo.gradient_clip)
        return optax.chain(clip, self.recipe.transformation(hyper, rate))

    def step(self, state: RunState, data: RunData, step: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        """One update: a rollout, then passes over it."""
        del data
        params, (opt_state, environments) = carry
        ppo, minibatches = self.ppo, self.ppo.minibatches
        key = jax.random.fold_in(jax.random.wrap_key_data(state.words), step)
        environments, rollout = self._rollout(params["actor"], environments, key)
        advantages, returns = self._advantages(params["critic"], rollout, environments.states)
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
        return params, (opt_state, environments)

    def _rollout(self, actor: Any, environments: Environments, key: jax.Array) -> tuple[Environments, Rollout]:
        environment, shape = self.environment, (self.ppo.horizon, len(environments.ages))
        noise = jax.random.normal(jax.random.fold_in(key, 0), shape)
        fresh = environment.initial(jax.random.uniform(jax.random.fold_in(key, 1), (*shape, *self.net.input_shape)))
        deviation = jnp.exp(2 * actor["log_std"][0])

        def act(environments, drawn):
            noise, fresh = drawn
            seen = environment.observe(environments.states)
            action = self._means(actor, seen) + deviation * noise
            states, reward, failed = environment.step(environments.states, action)
            ages = environments.ages + 1
            ended = failed | (ages >= environment.episode)
            environments = Environments(jnp.where(ended[:, None], fresh, states), jnp.where(ended, 0, ages))
            return environments, Rollout(seen, action, reward, ended, noise)

        return jax.lax.scan(act, environments, (noise, fresh))

    def _advantages(self, critic: Any, rollout: Rollout, last: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Generalised advantage estimates (Schulman et al., arXiv 1506.02438), normalised, and returns; `[H, E]`."""
        ppo = self.ppo
        seen = jnp.concatenate([rollout.observations, self.environment.observe(last)[None]])
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
        values: Any = self.critic.apply({"params": critic}, observations)
        return values[:, 0]

    def _means(self, actor: Any, observations: jax.Array) -> jax.Array:
        """Mean actions `[B]`."""
        actions: Any = self.net.module.apply({"params": actor}, observations)
        return actions[:, 0]

    def _loss(self, params, observations, actions, density, advantages, returns) -> jax.Array:
        """Clipped surrogate (eq. 7) and squared error of the critic, on flattened examples."""
        flat = observations.reshape(-1, observations.shape[-1])
        actions, density, advantages, returns = (x.reshape(-1) for x in (actions, density, advantages, returns))
        mean = self._means(params["actor"], flat)
        log_deviation = 2 * params["actor"]["log_std"][0]
        now = -0.5 * ((actions - mean) * jnp.exp(-log_deviation)) ** 2 - log_deviation
        ratio = jnp.exp(now - density)
        clipped = jnp.clip(ratio, 1 - self.ppo.clip, 1 + self.ppo.clip)
        policy = jnp.mean(jnp.maximum(-advantages * ratio, -advantages * clipped))
        return policy + self.ppo.value_weight * jnp.mean((returns - self._values(params["critic"], flat)) ** 2)
