"""Flow matching: solvers of a velocity have their orders, agree where it is constant, and end where paths end."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import flow

START = np.array([[1.0, -2.0, 0.5]], np.float32)


@pytest.mark.parametrize("solver, order, steps", [("euler", 1, 16), ("heun", 2, 8), ("rk4", 4, 6)])
def test_solvers_have_their_order(solver, order, steps):
    """Twice the steps make the error of dx/dt = 2 x cos 2t smaller by 2 ** order; its solution is x exp(sin 2t)."""
    exact = START * np.exp(np.sin(2.0))

    def velocity(x, times):
        return 2 * x * jnp.cos(2 * flow.along(times, x))

    errors = [np.abs(flow.solve(velocity, START, flow.grid(n), solver) - exact).max() for n in (steps, 2 * steps)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.35)


def test_a_hundred_times_are_99_steps_and_constant_velocities_arrive_by_any_solver():
    data, noise = np.array([[3.0, 0.0, -1.0]], np.float32), START
    times = flow.grid(99)
    assert len(times) == 100 and times[0] == 0 and times[-1] == 1
    for solver in ("euler", "rk4"):
        end = flow.solve(lambda x, times: jnp.broadcast_to(data - noise, x.shape), noise, times, solver)
        np.testing.assert_allclose(end, data, atol=1e-5)  # 99 sums in float32
    np.testing.assert_allclose(flow.between(noise, data, np.float32([0.25])), 0.75 * noise + 0.25 * data, rtol=1e-6)
