"""Image models: losses against their formulas, the order of updates, networks' sizes, lanes equal single trainings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxweights import parallel
from jaxweights.errors import UserError
from jaxweights.generators.base import Training
from jaxweights.lanes import LaneTrainer
from jaxweights.nn import strided
from jaxweights.population import Population
from jaxweights.probing import models
from jaxweights.probing.data import pixels
from jaxweights.probing.models import gan, networks, vae
from jaxweights.probing.models.base import SHAPE as BLANK
from jaxweights.training import train_generator

SHAPE = (8, 8, 3)


def images(count=6, shape=SHAPE):
    """Random images."""
    found = np.random.default_rng(0).random((count, *shape), np.float32)
    return Population.create(found.reshape(count, -1), pixels(shape), run=np.arange(count))


@pytest.mark.parametrize("kind", ["vae", "wgan", "flow"])
def test_lanes_of_a_model_train_on_rows_of_their_own(kind):
    """As single trainings do, up to rounding; and a sample depends on its own key alone."""
    extra = {} if kind == "flow" else {"size": "fc_tiny"}
    model = models.make("mine", {"kind": kind, **models.MODELS[kind].TINY, **extra})
    pool, rows = images(), np.array([[0, 2, 4, 5, 1], [5, 3, 0, 2, 1]])
    keys = jax.random.split(jax.random.key(3), 2)
    found = LaneTrainer(model, parallel.make_mesh(2)).run(pool, keys, {}, rows=rows)
    if kind == "wgan":  # with state, two optimizers and updates that are left out
        alone = train_generator(model, pool.select(rows[1]), parallel.make_mesh(1), key=keys[1])
        for a, b in zip(jax.tree.leaves(found.states[1]), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    assert found.finite.all()
    sample = jax.jit(model.sample)
    drawn = sample(found.states[0], jax.random.split(jax.random.key(1), 4))
    one = sample(found.states[0], jax.random.split(jax.random.key(1), 4)[np.array([2, 0, 0, 0])])
    np.testing.assert_allclose(one.weights[0], drawn.weights[2], atol=1e-5)
    assert drawn.weights.shape == (4, 192) and drawn.weights.min() >= 0 and drawn.weights.max() <= 1


@pytest.mark.parametrize("kind", models.MODELS)
def test_what_a_lane_finds_is_of_its_own_rows(kind):
    model, pool, rows = models.make("mine", {"kind": kind, **models.MODELS[kind].TINY}), images(), np.array([5, 0, 3])
    data, constants = model.prepare(pool)
    alone = model.prepare(pool.select(rows))[1]
    jax.tree.map(np.testing.assert_array_equal, model.constants_of(constants, data, rows), alone)


@pytest.mark.parametrize("size", [4, 5])
def test_halved_and_doubled_maps_are_those_of_convolutions(size):
    rng, names = np.random.default_rng(size), ("NHWC", "HWIO", "NHWC")
    x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((2, 6, 8, 3), (size, size, 3, 5)))
    whole, halved = (lax.conv_general_dilated(x, kernel, (s, s), "SAME", dimension_numbers=names) for s in (1, 2))
    doubled = lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "SAME", dimension_numbers=names)
    np.testing.assert_allclose(strided.same(x, kernel), whole, atol=2e-5)
    np.testing.assert_allclose(strided.half(x, kernel), halved, atol=2e-5)
    np.testing.assert_allclose(strided.double(x, kernel), doubled, atol=2e-5)


def test_the_vae_has_its_published_loss_and_annealing():
    rng = np.random.default_rng(0)
    real, found = rng.random((2, 3, 4, 4, 2))
    error = real - found
    expected = (error**2 + 0.5 * abs(error)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(vae.reconstruction(real, found), expected, rtol=1e-5)
    mean, sigma = rng.normal(size=(3, 5)), rng.random((3, 5)) + 0.1
    grid = np.linspace(-12, 12, 20_001)[:, None, None]
    density = np.exp(-(((grid - mean) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))
    ratio = (grid**2 - ((grid - mean) / sigma) ** 2) / 2 - np.log(sigma)
    integral = (density * ratio).sum(axis=(0, 2)) * (grid[1, 0, 0] - grid[0, 0, 0])
    np.testing.assert_allclose(vae.divergence(mean, sigma), integral, rtol=1e-4)
    model = vae.VAE(steps=200_000, beta=2.0)
    weights = [float(model.prior_weight(np.float32(s))) for s in (0, 50_000, 200_000)]
    np.testing.assert_allclose(weights, [0, 2 * (1 - np.exp(-1)) / (1 - np.exp(-4)), 2], rtol=1e-5)
    published = model.replace(published_annealing=True).prior_weight(np.float32(200_000))
    np.testing.assert_allclose(published, 2 * (1 - np.exp(-4)), rtol=1e-5)


def linear(self, params, seen, axis_name=None):
    """A critic whose slope is known."""
    return jnp.tensordot(seen, params, 3)


def test_penalty_epsilons_and_losses_of_a_linear_critic(monkeypatch):
    monkeypatch.setattr(gan.Adversarial, "score", linear)
    rng = np.random.default_rng(1)
    params, real, fake = rng.normal(size=SHAPE), rng.random((4, *SHAPE)), rng.random((4, *SHAPE))
    model = models.make("mine", {"kind": "wgan", "penalty": 7.0})
    keys, state = jax.random.split(jax.random.key(0), 4), {"step": 0, "key": np.array([1, 2], np.uint32)}
    value, metrics = model.critic_loss(params, real, fake, model.epsilons(state, keys), None)
    slope, scores = np.linalg.norm(params), [np.tensordot(x, params, 3).mean() for x in (real, fake)]
    np.testing.assert_allclose(value, 7 * (slope - 1) ** 2 - scores[0] + scores[1], rtol=1e-5)
    np.testing.assert_allclose(metrics["distance"], scores[0] - scores[1], rtol=1e-4)
    own, later = model.epsilons(state, keys), model.epsilons({**state, "step": 1}, keys)
    assert len(np.unique([own, later])) == 8
    published = model.replace(published_penalty=True)
    assert len(np.unique([published.epsilons({**state, "step": s}, keys) for s in (0, 1)])) == 2
    # At a critic without slope, the published root has no derivative.
    for one, finite in ((model, True), (published, False)):
        gradient = jax.grad(lambda p, one=one: one.critic_loss(p, real, fake, own, None)[0])(0 * params)
        assert np.isfinite(gradient).all() == finite
    logits = np.array([1.5, -0.5], np.float32)
    dcgan = models.make("mine", "dcgan")
    np.testing.assert_allclose(dcgan.generator_loss(logits), np.log1p(np.exp(-logits)).mean(), rtol=1e-5)


@pytest.mark.parametrize("same", [False, True])
def test_the_critic_moves_every_step_and_the_generator_every_second(same):
    """The published order: the same batch twice, then the next; generated images differ when latents do."""
    model = models.make("mine", {"kind": "wgan", **gan.WGAN.TINY, "same_batch": same, "steps": 2, "halving": 0.5})
    stage = model.stages()[0]
    assert stage.steps == 4 and stage.repeats == (2 if same else 1)
    params = {"generator": jnp.ones(3), "critic": jnp.ones(2)}
    state, moved = stage.optimizer.init(params), []
    for _ in range(4):
        updates, state = stage.optimizer.update(params, state, params)
        moved.append([float(updates["critic"][0]), float(updates["generator"][0])])
    # Adam's first steps along a constant gradient are the learning rate, which each part halves in its own time.
    expected = [[1, 0], [1, 1], [0.5, 0], [0.5, 0.5]]
    np.testing.assert_allclose(-np.array(moved) / model.learning_rate, expected, rtol=1e-4)


PARAMETERS = {"conv": 5.9e6, "small": 3.3e6, "large": 23e6, "fc": 16e6}


@pytest.mark.parametrize(("kind", "size"), [("vae", "conv"), *(("wgan", size) for size in networks.ARCHITECTURES)])
def test_networks_have_their_published_sizes(kind, size):
    shape = (16, 16, 3) if size == "fc_tiny" else (64, 64, 3)
    model = models.make("mine", {"kind": kind, "size": size})
    key = jax.eval_shape(lambda: jax.random.key(0))
    done = {"constants": {BLANK: jax.ShapeDtypeStruct(shape, np.float32)}}
    params, state = jax.eval_shape(model.stages()[0].init, key, done)
    count = sum(x.size for x in jax.tree.leaves(params["generator"]))
    assert count == pytest.approx(PARAMETERS.get(size, count), rel=0.03)
    assert bool(jax.tree.leaves(state["statistics"])) == (size in ("conv", "fc", "clevr"))


def test_images_that_networks_cannot_halve_are_refused():
    for values in ({"kind": "vae", "size": "conv"}, {"kind": "flow", "multiples": (1, 2, 2)}):
        with pytest.raises(UserError, match=r"probing\.models\.mine .* 20 x 20"):
            models.make("mine", values).check(Training(1000, 1, pixels((20, 20, 3))))


def test_published_samples_are_normalised_by_sampled_images(monkeypatch):
    """Statistics of 256 samples, the same for all that are drawn later."""
    narrow = dataclasses.replace(networks.ARCHITECTURES["fc_tiny"], dense=(6,), norm=True)
    monkeypatch.setitem(networks.ARCHITECTURES, "fc_tiny", narrow)
    model = vae.VAE(name="mine", size="fc_tiny", latents=3, sampled_statistics=True)
    params, statistics = model.start(jax.random.key(0), SHAPE)
    state = {"constants": {BLANK: np.zeros(SHAPE, np.float32)}}
    state["train"] = {"params": {"generator": params}, "model_state": {"statistics": statistics}}
    found = model.finish(state, None)["statistics"]["norm_0"]
    latents = model.noise(jax.random.split(jax.random.key(0), 256))
    units = latents @ params["dense_0"]["kernel"]
    np.testing.assert_allclose(found["mean"], units.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found["var"], units.var(axis=0, ddof=1), rtol=1e-4)
