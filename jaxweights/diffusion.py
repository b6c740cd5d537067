"""Gaussian diffusion: schedules, training loss and samplers, shared by every diffusion generator.

Notation of Ho et al. (2020): `x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise`, timesteps t = 0 ... T - 1,
and `alpha_bar_{-1} = 1`. Arrays are `[n, ...]`, one example per row, and timesteps `[n]` int32. All randomness comes
from per-example keys, so that an example's result does not depend on the batch, chunk or device that it is computed in.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import draws

Prediction = Literal["epsilon", "x0", "v"]
Variance = Literal["fixed_small", "fixed_large"]
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def linear_schedule(num_steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Returns `[T]` float64 betas in equal steps from `beta_start` to `beta_end` (Ho et al., 2020, for T = 1000).

    The end values are not rescaled with T, so a shorter schedule keeps some of the signal at its last step.
    """
    return np.linspace(beta_start, beta_end, num_steps, dtype=np.float64)


def cosine_schedule(num_steps: int, offset: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Returns `[T]` float64 betas whose alpha-bar falls like a squared cosine (Nichol and Dhariwal, 2021, eq. 17)."""
    time = np.arange(num_steps + 1, dtype=np.float64) / num_steps
    alpha_bar = np.cos((time + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta)


class Noised(NamedTuple):
    """Training examples of the diffusion: `x_t` `[n, ...]`, timesteps `[n]`, and the target of the network."""

    x_t: jax.Array
    timesteps: jax.Array
    target: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Diffusion:
    """A noise schedule and the target of the network.

    Tables are float64 on the host and enter computations as float32.

    Attributes:
      betas: `[T]` noise variances, each in (0, 1).
      prediction: the network's output: the noise, the clean example, or
        `v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0` (Salimans and Ho, 2022).

    Raises:
      ValueError: if a beta lies outside (0, 1) or the prediction is unknown.
    """

    betas: np.ndarray
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.betas.ndim != 1 or not np.all((self.betas > 0) & (self.betas < 1)):
            raise ValueError("betas must be a vector of values between 0 and 1")
        _check_kind(self.prediction)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.betas)

    @functools.cached_property
    def alpha_bars(self) -> np.ndarray:
        """`[T]` float64: fraction of the variance of `x_t` that is signal."""
        return np.cumprod(1 - self.betas.astype(np.float64))

    @functools.cached_property
    def alpha_bars_previous(self) -> np.ndarray:
        """`[T]` float64: alpha-bar of the step before, 1 for the first."""
        return np.concatenate([[1.0], self.alpha_bars[:-1]])

    @functools.cached_property
    def posterior_variance(self) -> np.ndarray:
        """`[T]` float64: variance of `x_{t-1}` given `x_t` and `x_0` (Ho et al., 2020, eq. 7); 0 at t = 0."""
        return self.betas * (1 - self.alpha_bars_previous) / (1 - self.alpha_bars)

    def reverse_variance(self, variance: Variance) -> np.ndarray:
        """Returns `[T]` float64 variances of the ancestral step.

        "fixed_small" is the posterior variance. "fixed_large" is beta, with the entry of t = 0, where no noise is
        added, replaced by the posterior variance of t = 1.

        Raises:
          ValueError: for another value of `variance`.
        """
        if variance == "fixed_small":
            return self.posterior_variance
        if variance == "fixed_large":
            return np.concatenate([self.posterior_variance[1:2], self.betas[1:]]) if self.num_steps > 1 else self.betas
        raise ValueError(f'variance must be "fixed_small" or "fixed_large", not {variance!r}')

    def add_noise(self, x0: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """Returns `x_t`, shape of `x0` `[n, ...]`, at `timesteps` `[n]`."""
        signal_rate, noise_rate = self._rates(timesteps, x0.ndim)
        return signal_rate * x0 + noise_rate * noise

    def target(self, x0: jax.Array, noise: jax.Array, timesteps: jax.Array) -> jax.Array:
        """Returns the target of the network, shape of `x0` `[n, ...]`."""
        if self.prediction == "x0":
            return x0
        if self.prediction == "epsilon":
            return noise
        signal_rate, noise_rate = self._rates(timesteps, x0.ndim)
        return signal_rate * noise - noise_rate * x0

    def convert(
        self, value: jax.Array, x_t: jax.Array, timesteps: jax.Array, source: Prediction, destination: Prediction
    ) -> jax.Array:
        """Expresses a prediction about `x_t` `[n, ...]` in another parameterisation.

        Args:
          value: the prediction, shape of `x_t`.
          x_t: the noised examples it was made for.
          timesteps: `[n]`.
          source: parameterisation of `value`.
          destination: parameterisation of the result.

        Raises:
          ValueError: for an unknown parameterisation.
        """
        _check_kind(source)
        _check_kind(destination)
        if source == destination:
            return value
        signal_rate, noise_rate = self._rates(timesteps, x_t.ndim)
        if destination == "x0":
            if source == "epsilon":
                return (x_t - noise_rate * value) / signal_rate
            return signal_rate * x_t - noise_rate * value
        if destination == "epsilon":
            if source == "x0":
                return (x_t - signal_rate * value) / noise_rate
            return noise_rate * x_t + signal_rate * value
        if source == "x0":
            return (signal_rate * x_t - value) / noise_rate
        return (value - noise_rate * x_t) / signal_rate

    def _rates(self, timesteps: jax.Array, ndim: int) -> tuple[jax.Array, jax.Array]:
        """The square roots of alpha-bar and of its complement, broadcastable to `[n, ...]` of rank `ndim`."""
        shape = timesteps.shape + (1,) * (ndim - timesteps.ndim)
        signal_rate = jnp.asarray(np.sqrt(self.alpha_bars), jnp.float32)[timesteps]
        noise_rate = jnp.asarray(np.sqrt(1 - self.alpha_bars), jnp.float32)[timesteps]
        return signal_rate.reshape(shape), noise_rate.reshape(shape)


def _check_kind(kind: str) -> None:
    if kind not in ("epsilon", "x0", "v"):
        raise ValueError(f'a prediction is "epsilon", "x0" or "v", not {kind!r}')


def diffuse(diffusion: Diffusion, x0: jax.Array, keys: jax.Array) -> Noised:
    """Noises examples at random timesteps, t uniform over all T.

    Args:
      diffusion: schedule and prediction.
      x0: `[n, ...]` float32 clean examples.
      keys: `[n]` typed PRNG keys, one per example.
    """

    time_keys, noise_keys = jax.vmap(lambda key: jax.random.split(key), out_axes=1)(keys)
    timesteps = jax.vmap(lambda key: jax.random.randint(key, (), 0, diffusion.num_steps))(time_keys)
    noise = draws.normal(noise_keys, x0.shape[1:])
    return Noised(diffusion.add_noise(x0, noise, timesteps), timesteps, diffusion.target(x0, noise, timesteps))


def loss(
    diffusion: Diffusion, predict: Callable[..., Any], x0: jax.Array, keys: jax.Array, *, has_aux: bool = False
) -> Any:
    """The unweighted mean squared error of the prediction over all examples and entries.

    Args:
      diffusion: schedule and prediction.
      predict: `(x_t [n, ...], timesteps [n]) -> [n, ...]`, or a pair of that and anything where `has_aux`.
      x0: `[n, ...]` float32 clean examples.
      keys: `[n]` typed PRNG keys, one per example.
      has_aux: whether `predict` returns a second value, for example updated batch statistics.

    Returns:
      The scalar loss, or `(loss, second value)` where `has_aux`.
    """
    noised = diffuse(diffusion, x0, keys)
    output = predict(noised.x_t, noised.timesteps)
    output, aux = output if has_aux else (output, None)
    value = jnp.mean(jnp.square(output - noised.target))
    return (value, aux) if has_aux else value


def sample_ddpm(
    diffusion: Diffusion,
    predict: Predict,
    keys: jax.Array,
    shape: tuple[int, ...],
    *,
    variance: Variance = "fixed_small",
    clip: float | None = None,
    initial: jax.Array | None = None,
    noise: jax.Array | None = None,
) -> jax.Array:
    """Ancestral sampling (Ho et al., 2020, algorithm 2), all samples together in one scan over the T steps.

    Args:
      diffusion: schedule and prediction.
      predict: `(x_t [n, *shape], timesteps [n]) -> [n, *shape]`.
      keys: `[n]` typed PRNG keys; a sample depends on its key alone. The initial noise is drawn from `fold_in(key, T)`,
        the noise added at timestep t from `fold_in(key, t)`.
      shape: shape of one sample.
      variance: variance of the noise added at t > 0, see `Diffusion.reverse_variance`.
      clip: bound that predicted clean samples are clipped to, or None.
      initial: `[n, *shape]` used instead of drawn initial noise.
      noise: `[T, n, *shape]` used instead of drawn step noise, in the order of use (T - 1 first); the last is not used.

    Returns:
      `[n, *shape]` float32.
    """
    rate_of_one = 1 - diffusion.alpha_bars
    added = np.sqrt(diffusion.reverse_variance(variance))
    added[0] = 0.0
    coefficients = np.stack(
        [
            np.sqrt(diffusion.alpha_bars_previous) * diffusion.betas / rate_of_one,
            np.sqrt(1 - diffusion.betas) * (1 - diffusion.alpha_bars_previous) / rate_of_one,
            added,
        ],
        axis=1,
    )

    def update(x: jax.Array, output: jax.Array, timesteps: jax.Array, row: jax.Array) -> jax.Array:
        x0 = _clean(diffusion, output, x, timesteps, clip)
        return row[0] * x0 + row[1] * x

    timesteps = np.arange(diffusion.num_steps)[::-1]
    return _scan(diffusion, predict, update, keys, shape, timesteps, coefficients[timesteps], initial, noise)


def ddim_timesteps(num_steps: int, sampling_steps: int) -> np.ndarray:
    """Returns `[sampling_steps]` evenly spaced, decreasing timesteps; the first is T - 1, that of the initial noise.

    Raises:
      ValueError: unless 1 <= `sampling_steps` <= T.
    """
    if not 1 <= sampling_steps <= num_steps:
        raise ValueError(f"{num_steps} timesteps can be sampled in 1 to {num_steps} steps, not {sampling_steps}")
    return np.arange(sampling_steps, 0, -1) * num_steps // sampling_steps - 1


def sample_ddim(
    diffusion: Diffusion,
    predict: Predict,
    keys: jax.Array,
    shape: tuple[int, ...],
    *,
    steps: int | None = None,
    eta: float = 0.0,
    clip: float | None = None,
    initial: jax.Array | None = None,
    noise: jax.Array | None = None,
    timesteps: np.ndarray | None = None,
) -> jax.Array:
    """DDIM sampling (Song et al., 2021, eq. 12), all samples together in one scan.

    Args:
      diffusion: schedule and prediction.
      predict: `(x_t [n, *shape], timesteps [n]) -> [n, *shape]`.
      keys: `[n]` typed PRNG keys, used as in `sample_ddpm`.
      shape: shape of one sample.
      steps: number of steps, evenly spaced over the schedule, or None for all T.
      eta: 0 for the deterministic sampler; 1 with all T steps is the ancestral sampler of "fixed_small" variance.
      clip: bound that predicted clean samples are clipped to, or None.
      initial: `[n, *shape]` used instead of drawn initial noise.
      noise: `[steps, n, *shape]` used instead of drawn step noise, in the order of use.
      timesteps: `[steps + 1]` decreasing, instead: those of the steps, and that of the result, which keeps its noise.

    Returns:
      `[n, *shape]` float32.

    Raises:
      ValueError: unless 1 <= `steps` <= T and 0 <= `eta` <= 1.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 and 1, not {eta}")
    if timesteps is None:
        timesteps = ddim_timesteps(diffusion.num_steps, diffusion.num_steps if steps is None else steps)
        following = np.concatenate([diffusion.alpha_bars[timesteps[1:]], [1.0]])
    else:
        following, timesteps = diffusion.alpha_bars[timesteps[1:]], timesteps[:-1]
    current = diffusion.alpha_bars[timesteps]
    added = eta * np.sqrt((1 - following) / (1 - current) * (1 - current / following))
    coefficients = np.stack([np.sqrt(following), np.sqrt(1 - following - added**2), added], axis=1)

    def update(x: jax.Array, output: jax.Array, timesteps: jax.Array, row: jax.Array) -> jax.Array:
        x0 = _clean(diffusion, output, x, timesteps, clip)
        if clip is None:
            noise_in_x = diffusion.convert(output, x, timesteps, diffusion.prediction, "epsilon")
        else:
            noise_in_x = diffusion.convert(x0, x, timesteps, "x0", "epsilon")
        return row[0] * x0 + row[1] * noise_in_x

    return _scan(diffusion, predict, update, keys, shape, timesteps, coefficients, initial, noise)


def _clean(
    diffusion: Diffusion, output: jax.Array, x: jax.Array, timesteps: jax.Array, clip: float | None
) -> jax.Array:
    x0 = diffusion.convert(output, x, timesteps, diffusion.prediction, "x0")
    return x0 if clip is None else jnp.clip(x0, -clip, clip)


def _scan(
    diffusion: Diffusion,
    predict: Predict,
    update: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array],
    keys: jax.Array,
    shape: tuple[int, ...],
    timesteps: np.ndarray,
    coefficients: np.ndarray,
    initial: jax.Array | None,
    noise: jax.Array | None,
) -> jax.Array:
    """Runs `x <- update(...) + coefficients[2] * noise` over the timesteps in the order given."""

    def normal(timestep: jax.Array | int) -> jax.Array:
        return draws.normal(jax.vmap(lambda key: jax.random.fold_in(key, timestep))(keys), shape)

    is_stochastic = bool(np.any(coefficients[:, 2] > 0))

    def step(x: jax.Array, scanned: tuple[jax.Array, jax.Array, jax.Array | None]) -> tuple[jax.Array, None]:
        timestep, row, given = scanned
        at = jnp.full((x.shape[0],), timestep)
        following = update(x, predict(x, at), at, row)
        if is_stochastic:
            following = following + row[2] * (normal(timestep) if given is None else given)
        return following, None

    x = normal(diffusion.num_steps) if initial is None else initial
    rows = (jnp.asarray(timesteps, jnp.int32), jnp.asarray(coefficients, jnp.float32), noise)
    return jax.lax.scan(step, x, rows)[0]
