"""The cart-pole and its policies: mechanics by Lagrange's equations, episodes by a plain loop, the published actor."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import data, parallel, tasks
from jaxweights.environments import CartPole
from jaxweights.errors import UserError
from jaxweights.evaluation import episodes, evaluate

FREE = CartPole(time_step=1e-3, substeps=1)


@functools.cache
def network():
    return tasks.build({"name": "actor"}, (4,), 1)


@functools.cache
def initialised():
    """A hundred fresh policies."""
    return np.asarray(jax.jit(jax.vmap(network().init))(jax.random.split(jax.random.key(0), 100)))


@functools.cache
def policies():
    """Five of them with larger outputs, so that they act."""
    weights = initialised()[:5].copy()
    weights[:, -33:-1] *= 300
    return weights


def random_states(count):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (count, 4)).astype(np.float32) * np.array([3, 4, 3, 6], np.float32)[None, :]


def test_accelerations_solve_the_equations_of_motion():
    """d/dt of the momenta of L = T - V, a 2x2 linear system, solved in float64."""
    environment, states = CartPole(), random_states(50)
    forces = np.linspace(-400, 400, 50, dtype=np.float32)
    found = np.stack(environment.accelerations(jnp.asarray(states), jnp.asarray(forces)), axis=-1)
    m, length, inertia = environment.pole_mass, environment.pole_centre, environment.pole_inertia
    for state, force, accelerations in zip(states.astype(np.float64), forces, found, strict=True):
        _, _, angle, turning = state
        coupling = m * length * np.cos(angle)
        masses = np.array([[environment.cart_mass + m, coupling], [coupling, inertia + m * length**2]])
        right = np.array(
            [force + m * length * turning**2 * np.sin(angle), m * environment.gravity * length * np.sin(angle)]
        )
        # float32 against float64, accelerations of up to 500.
        np.testing.assert_allclose(accelerations, np.linalg.solve(masses, right), rtol=1e-4, atol=1e-3)


def test_energy_is_conserved_without_a_force():
    def energy(state):
        _, speed, angle, turning = np.asarray(state, np.float64).T
        m, length = FREE.pole_mass, FREE.pole_centre
        kinetic = 0.5 * (FREE.cart_mass + m) * speed**2 + 0.5 * (FREE.pole_inertia + m * length**2) * turning**2
        return kinetic + m * length * (speed * turning + FREE.gravity) * np.cos(angle)

    states = jnp.asarray(random_states(20) * np.float32(0.5))
    after = jax.jit(lambda s: jax.lax.fori_loop(0, 1000, lambda i, s: FREE.step(s, jnp.zeros(20))[0], s))(states)
    assert np.abs(after - states).max() > 1
    # A second at a thousand steps; the method is of first order, energies are of the order of ten.
    np.testing.assert_allclose(energy(after), energy(states), atol=0.1)


def test_a_pushed_cart_gains_momentum_and_force_is_limited():
    environment = CartPole(pole_mass=1e-6)
    state, _, _ = environment.step(jnp.zeros(4), jnp.float32(0.25))
    np.testing.assert_allclose(state[1], 0.25 * 400 / 1.0 * 0.0166, rtol=1e-4)
    full, more = (environment.step(jnp.zeros(4), jnp.float32(a))[0] for a in (-1.0, -7.0))
    assert np.array_equal(full, more) and full[1] < 0


@pytest.mark.parametrize(
    "state, failed",
    [
        ([2.9, 0.0, 0.0, 0.0], False),
        ([-3.1, 0.0, 0.0, 0.0], True),
        ([0.0, 0.0, 1.5, 0.0], False),
        ([0.0, 0.0, -1.6, 0.0], True),
        ([0.0, 0.0, np.nan, 0.0], True),
    ],
)
def test_reward_and_failure_are_the_published_ones(state, failed):
    after, reward, found = CartPole().step(jnp.array(state), jnp.float32(0.0))
    assert bool(found) == failed
    x, v, angle, turning = np.asarray(after)
    expected = -2.0 if failed else 1 - angle**2 - 0.01 * abs(v) - 0.005 * abs(turning)
    np.testing.assert_allclose(reward, expected, rtol=1e-6)


def test_initial_states_fill_their_ranges():
    states = data.load("cartpole").train_images
    assert states.shape == (1024, 4) and states.dtype == np.float32
    ranges = np.array([1.0, 2.5, 1.0, 2.5])
    assert (np.abs(states).max(axis=0) <= ranges).all() and (np.abs(states).max(axis=0) > 0.98 * ranges).all()
    assert (np.abs(states.mean(axis=0)) < 5 * ranges / np.sqrt(3 * 1024)).all()
    np.testing.assert_array_equal(
        data.load("cartpole", test_limit=5).test_images, data.load("cartpole").test_images[:5]
    )
    with pytest.raises(UserError, match="has no images"):
        data.load("cartpole", crop=3)


def test_the_actor_is_the_published_one():
    """1,250 parameters, `log_std` first; orthogonal layers of gains sqrt 2, sqrt 2 and 0.01; PyTorch's biases."""
    spec = network().spec
    sizes = [1, 128, 32, 1024, 32, 32, 1]
    assert [leaf.size for leaf in spec.leaves] == sizes and spec.num_params == 1250
    assert [(g.size, g.scaling) for g in spec.groups] == [(32, "none")] * 2
    params = spec.unflatten(initialised()[0])
    assert params["log_std"] == 0
    first, second, last = (np.asarray(params["actor"][f"fc{i}"]["weight"]) for i in (1, 2, 3))
    np.testing.assert_allclose(first.T @ first, 2 * np.eye(4), atol=1e-5)
    np.testing.assert_allclose(second @ second.T, 2 * np.eye(32), atol=1e-5)
    np.testing.assert_allclose(last @ last.T, [[1e-4]], rtol=1e-4)
    for i, fan_in in ((1, 4), (2, 32)):
        largest = np.abs(params["actor"][f"fc{i}"]["bias"]).max() * np.sqrt(fan_in)
        assert 0.8 < largest < 1  # of 32 uniform draws: below 0.8 with probability 0.0008


def test_policies_of_images_are_refused():
    with pytest.raises(UserError, match="Set data.name to cartpole"):
        tasks.build({"name": "actor"}, (8, 8, 1), 10)


def test_orthogonal_matrices_have_no_preferred_sign():
    """Uniform on the orthogonal group, of which the diagonal of a QR decomposition without its sign is not."""
    second = network().spec.unflatten(initialised())["actor"]["fc2"]["weight"]
    values = np.asarray(jnp.diagonal(second, axis1=1, axis2=2))
    # Entries have variance 2 / 32; the mean of 3,200 nearly independent ones.
    assert abs(values.mean()) < 4 * np.sqrt(2 / 32 / values.size)


def test_means_are_those_of_a_plain_selu_network_and_do_not_depend_on_the_order_of_units():
    net, vector = network(), policies()[0].astype(np.float64)
    parts = np.split(vector, np.cumsum([1, 128, 32, 1024, 32, 32]))
    x = random_states(6).astype(np.float64)
    for weight, bias, width in ((parts[1], parts[2], 32), (parts[3], parts[4], 32)):
        x = x @ weight.reshape(width, -1).T + bias
        x = 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x))
    expected = x @ parts[5] + parts[6]
    apply = jax.jit(net.apply)
    found = apply(policies()[0], random_states(6))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-4)
    moved = net.spec.permute(policies()[0], net.spec.random_permutation(jax.random.key(1)))
    assert not np.array_equal(moved, policies()[0])
    np.testing.assert_allclose(apply(moved, random_states(6)), found, rtol=1e-4, atol=1e-4)


def test_evaluation_equals_one_episode_at_a_time(mesh, monkeypatch):
    """Blocks of two, so that the last one is padded."""
    monkeypatch.setattr(episodes, "block_size", lambda backend: 2)
    episodes._plan.cache_clear()
    net, weights, dataset = network(), policies(), data.load("cartpole", test_limit=11)
    result = evaluate(net, weights, dataset.test_images, dataset.test_labels, mesh)
    episodes._plan.cache_clear()
    environment = net.module.environment
    step = jax.jit(lambda v, s: environment.step(s, net.apply(v, environment.observe(s))[:, 0]))
    lengths = np.zeros((5, 11), int)
    for i, vector in enumerate(weights):
        states, total, alive = jnp.asarray(dataset.test_images), np.zeros(11), np.ones(11, bool)
        for _ in range(environment.episode):
            states, reward, failed = step(vector, states)
            total += np.where(alive, reward, 0)
            lengths[i] += alive
            alive &= ~np.asarray(failed)
        assert np.array_equal(np.unpackbits(result.errors[i])[:11].astype(bool), ~alive)
        assert result.accuracy[i] == alive.mean()
        # Chaotic only as long as an episode lasts, and float32 sums of its rewards.
        np.testing.assert_allclose(-result.loss[i], total.mean(), rtol=1e-3)
    assert len(np.unique(lengths)) > 3  # the policies are not all alike


def test_the_published_limits_end_an_episode():
    """A policy of zeros lets the pole fall; one that pushes to one side leaves the track; NaN is undefined."""
    net, states = network(), 0.1 * data.load("cartpole", test_limit=8).test_images
    still = np.zeros(1250, np.float32)
    right = still.copy()
    right[-1] = 1.0
    broken = np.full(1250, np.nan, np.float32)
    result = evaluate(net, np.stack([still, right, broken]), states, np.zeros(8), parallel.make_mesh(1))
    assert (result.accuracy == 0).all() and (np.unpackbits(result.errors, axis=1) == 1).all()
    assert result.loss[0] < -20 and 0 < result.loss[1] < 10 and np.isnan(result.loss[2])
