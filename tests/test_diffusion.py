"""Diffusion: the samplers recover a known Gaussian, the parameterisations are one, a sample depends on its key
alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import diffusion as dif

MEAN, STD = np.array([[1.5, -0.5, 0.2]], np.float32), np.array([[0.3, 1.0, 0.05]], np.float32)


def optimal(diffusion):
    """The exact best prediction for independent normal data, in closed form: E[x0 | x_t] of a linear Gaussian model."""

    def predict(x, timesteps):
        bar = jnp.asarray(diffusion.alpha_bars, jnp.float32)[timesteps][:, None]
        gain = jnp.sqrt(bar) * STD**2 / (bar * STD**2 + 1 - bar)
        x0 = MEAN + gain * (x - jnp.sqrt(bar) * MEAN)
        return diffusion.convert(x0, x, timesteps, "x0", diffusion.prediction)

    return predict


@pytest.mark.parametrize(
    "sampler, prediction, dimensions",
    [
        (dif.sample_ddpm, "epsilon", 3),
        (lambda *a: dif.sample_ddpm(*a, variance="fixed_large"), "x0", 3),
        (lambda *a: dif.sample_ddim(*a), "v", 3),
        # A hundred steps cannot resolve the third dimension, whose deviation is 0.05.
        (lambda *a: dif.sample_ddim(*a, steps=100, eta=0.5), "x0", 2),
    ],
    ids=["ddpm_small", "ddpm_large", "ddim", "ddim_strided"],
)
def test_samplers_recover_a_known_gaussian(sampler, prediction, dimensions):
    diffusion = dif.Diffusion(dif.linear_schedule(1000), prediction)
    n = 4000
    keys = jax.random.split(jax.random.key(0), n)
    samples = np.asarray(jax.jit(lambda k: sampler(diffusion, optimal(diffusion), k, (3,)))(keys))
    # Five standard errors of a mean, and 5 % + sampling error (2 / sqrt(2 n) = 2 %) of a deviation for the finite
    # number of steps.
    assert (np.abs(samples.mean(axis=0) - MEAN) < 5 * STD / np.sqrt(n) + 0.01 * STD + 0.002).all()
    assert (np.abs(samples.std(axis=0) / STD - 1) < 0.08)[0, :dimensions].all()
    assert np.abs(np.corrcoef(samples.T)[~np.eye(3, dtype=bool)]).max() < 5 / np.sqrt(n)


def test_schedules_have_their_published_ends():
    linear = dif.Diffusion(dif.linear_schedule(1000))
    assert np.sqrt(linear.alpha_bars[-1]) == pytest.approx(0.00635, abs=5e-6)
    for steps, end in [(10, 0.951), (100, 0.603), (2000, 4.0e-5)]:
        assert np.sqrt(dif.Diffusion(dif.linear_schedule(steps)).alpha_bars[-1]) == pytest.approx(end, rel=1e-2)
    cosine = dif.Diffusion(dif.cosine_schedule(100))
    assert cosine.betas.max() == 0.999 and (np.diff(cosine.alpha_bars) < 0).all()
    assert linear.posterior_variance[0] == 0 and (linear.posterior_variance <= linear.betas).all()
    assert linear.reverse_variance("fixed_large")[0] == linear.posterior_variance[1]


@pytest.mark.parametrize("schedule", [dif.linear_schedule, dif.cosine_schedule])
def test_parameterisations_agree(schedule):
    rng = np.random.default_rng(0)
    x0, noise = (jnp.asarray(rng.normal(size=(50, 4)).astype(np.float32)) for _ in range(2))
    t = jnp.asarray(rng.integers(0, 45, 50).astype(np.int32))
    truth = {kind: dif.Diffusion(schedule(50), kind).target(x0, noise, t) for kind in ("x0", "epsilon", "v")}
    diffusion = dif.Diffusion(schedule(50))
    x_t = diffusion.add_noise(x0, noise, t)
    for source in truth:
        for destination in truth:
            found = diffusion.convert(truth[source], x_t, t, source, destination)
            # Division by a small signal or noise rate magnifies rounding; the rates here are above 0.01.
            np.testing.assert_allclose(found, truth[destination], atol=2e-3, err_msg=f"{source} to {destination}")


def test_full_ddim_with_eta_one_is_ddpm():
    diffusion = dif.Diffusion(dif.linear_schedule(40, 1e-3, 0.3))
    keys = jax.random.split(jax.random.key(1), 6)
    given = {
        "initial": jax.random.normal(jax.random.key(2), (6, 3)),
        "noise": jax.random.normal(jax.random.key(3), (40, 6, 3)),
    }
    a = dif.sample_ddpm(diffusion, optimal(diffusion), keys, (3,), **given)
    b = dif.sample_ddim(diffusion, optimal(diffusion), keys, (3,), eta=1.0, **given)
    np.testing.assert_allclose(a, b, atol=2e-5)  # forty float32 steps in two formulations


def test_ddim_without_eta_draws_nothing_after_the_start():
    diffusion = dif.Diffusion(dif.linear_schedule(40, 1e-3, 0.3))
    initial = jax.random.normal(jax.random.key(2), (4, 3))
    runs = [
        dif.sample_ddim(
            diffusion, optimal(diffusion), jax.random.split(jax.random.key(s), 4), (3,), steps=10, initial=initial
        )
        for s in (0, 1)
    ]
    assert np.array_equal(*runs)
    assert dif.ddim_timesteps(40, 10).tolist() == list(range(39, -1, -4))


def test_a_sample_depends_on_its_key_alone():
    diffusion = dif.Diffusion(dif.linear_schedule(30, 1e-3, 0.3))
    keys = jax.random.split(jax.random.key(0), 8)
    together = dif.sample_ddpm(diffusion, optimal(diffusion), keys, (3,))
    alone = dif.sample_ddpm(diffusion, optimal(diffusion), keys[jnp.array([6, 1])], (3,))
    np.testing.assert_allclose(alone, together[jnp.array([6, 1])], atol=1e-6)
    assert len(np.unique(np.asarray(together)[:, 0])) == 8


def test_the_loss_of_the_best_prediction_is_the_posterior_variance():
    """For x0-prediction of the known Gaussian the expected loss is E_t[std² (1 - bar) / (bar std² + 1 - bar)]."""
    diffusion = dif.Diffusion(dif.linear_schedule(50, 1e-3, 0.2), "x0")
    n = 40_000
    x0 = MEAN + STD * jax.random.normal(jax.random.key(0), (n, 3))
    value = dif.loss(diffusion, optimal(diffusion), x0, jax.random.split(jax.random.key(1), n))
    bar = diffusion.alpha_bars[:, None]
    expected = (STD**2 * (1 - bar) / (bar * STD**2 + 1 - bar)).mean()
    assert float(value) == pytest.approx(expected, rel=0.03)  # 40,000 squared errors: about 1 % each way


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        dif.Diffusion(np.array([0.1, 1.5]))
    with pytest.raises(ValueError, match="prediction"):
        dif.Diffusion(dif.linear_schedule(5), "noise")
    with pytest.raises(ValueError, match="1 to 5 steps"):
        dif.ddim_timesteps(5, 6)
