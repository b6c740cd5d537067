"""The environment of policies: the cart-pole as pure functions of arrays, for any number of carts at once."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class CartPole:
    """A pole on a cart that a continuous force keeps upright: the task of G.pt's policies (arXiv 2209.12892).

    A state `[4]` is the position of the cart (m), its velocity (m/s), the angle of the pole from upright (rad) and its
    angular velocity (rad/s); an action is a number whose clip to -1 ... 1 is a share of the largest force.

    Time step, substeps, force, limits, reward, episode length, initial states and clips are those of the published task
    (its configuration and code). That one runs in the rigid-body simulator PhysX, which is not reproduced: here the
    equations of motion of a cart without friction and a rigid pole are integrated by the semi-implicit Euler method,
    without PhysX's damping and its limit on joint velocities. The published repository does not contain the cart
    itself; masses and lengths are those of the cart-pole of Isaac Gym's examples, whose pole is a homogeneous box of
    0.04 x 0.06 x 1 m. There, too, an environment that has ended is reset within its next step, whose action is lost;
    here at once.

    Attributes:
      cart_mass, pole_mass: kg.
      pole_centre: distance from the joint to the pole's centre of mass, m.
      pole_inertia: moment of inertia about the centre of mass, kg m^2.
      gravity: m/s^2.
      largest_force: N.
      time_step: time between actions, s.
      substeps: integration steps per time step.
      track: the episode has failed when the cart is farther than this from the origin, m.
      lean: the episode has failed when the pole leans more than this, rad.
      failure_reward: reward of the step in which the episode fails.
      episode: steps after which an episode ends.
      position_range, velocity_range: initial positions (m, rad) and velocities are uniform up to these magnitudes.
      largest_observation: limit that observations are clipped to.
    """

    cart_mass: float = 1.0
    pole_mass: float = 1.0
    pole_centre: float = 0.47
    pole_inertia: float = (1.0**2 + 0.06**2) / 12
    gravity: float = 9.81
    largest_force: float = 400.0
    time_step: float = 0.0166
    substeps: int = 2
    track: float = 3.0
    lean: float = math.pi / 2
    failure_reward: float = -2.0
    episode: int = 500
    position_range: float = 0.1
    velocity_range: float = 0.25
    largest_observation: float = 5.0

    def initial(self, uniform):
        """States `[..., 4]` of as many uniform draws from [0, 1)."""
        spread = np.array([self.position_range, self.velocity_range] * 2, np.float32)
        return (2 * uniform - 1) * spread.reshape((1,) * (uniform.ndim - 1) + (4,))

    def observe(self, state: jax.Array) -> jax.Array:
        """Observations of states `[..., 4]`."""
        return jnp.clip(state, -self.largest_observation, self.largest_observation)

    def accelerations(self, state: jax.Array, force: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of the cart (m/s^2) and of the pole (rad/s^2), `[...]`, for states `[..., 4]` and forces `[...]` (N).

        The textbook equations (Barto, Sutton and Anderson 1983, without friction), for a pole of any inertia.
        """
        angle, turning = state[..., 2], state[..., 3]
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        mass, moment = self.cart_mass + self.pole_mass, self.pole_mass * self.pole_centre
        pushed = (force + moment * turning**2 * sine) / mass
        length = self.pole_centre + self.pole_inertia / moment - moment * cosine**2 / mass
        angular = (self.gravity * sine - cosine * pushed) / length
        return pushed - moment * angular * cosine / mass, angular

    def step(self, state: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One time step.

        Args:
          state: `[..., 4]` float32.
          action: `[...]` float32.

        Returns:
          The next states, the rewards `[...]`, and whether the episodes have failed `[...]`; states that are not
          finite have.
        """
        force = self.largest_force * jnp.clip(action, -1.0, 1.0)
        dt = self.time_step / self.substeps
        for _ in range(self.substeps):
            linear, angular = self.accelerations(state, force)
            speed, turning = state[..., 1] + dt * linear, state[..., 3] + dt * angular
            state = jnp.stack([state[..., 0] + dt * speed, speed, state[..., 2] + dt * turning, turning], axis=-1)
        position, speed, angle, turning = (state[..., i] for i in range(4))
        failed = ~((jnp.abs(position) <= self.track) & (jnp.abs(angle) <= self.lean))
        reward = 1.0 - angle**2 - 0.01 * jnp.abs(speed) - 0.005 * jnp.abs(turning)
        return state, jnp.where(failed, self.failure_reward, reward), failed
