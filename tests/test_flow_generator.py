"""Flow matching on weights: forms of networks, the exact field, what training starts from, sizes as published."""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxweights import evaluation, generators, nets, parallel, studies, tasks
from jaxweights import flow as flows
from jaxweights.errors import UserError
from jaxweights.experiment import plan
from jaxweights.generators import canonical, selection
from jaxweights.generators.flow import Flow, exact
from jaxweights.generators.flow.graph import Graph
from jaxweights.nn import normalization
from jaxweights.population import Population
from jaxweights.spec import FIXED, Leaf, WeightSpec
from jaxweights.studies.base import Estimation, Subject
from jaxweights.training import StageTrainer

NET = tasks.build({"name": "mlp", "hidden": (4, 3)}, (2, 2, 1), 2)
P = NET.spec.num_params
MESH = parallel.make_mesh(1)
TINY = {"width": 8, "time_width": 2, "steps": 5, "batch_size": 4, "sampling_steps": 2}


def population(count=10, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(count, P)).astype(np.float32)
    return Population.create(weights, NET.spec, run=np.arange(count), step=0, loss=1.0, accuracy=0.5)


def symmetric_copies(row, seed=0):
    """A network and others of its function `[6, P]`."""
    spec, out = NET.spec, [row]
    for key in jax.random.split(jax.random.key(seed), 5):
        permuted = spec.permute(jnp.asarray(row), spec.random_permutation(key))
        out.append(spec.rescale(permuted, spec.random_scales(key)))
    return np.stack(out)


@pytest.mark.parametrize(
    "hidden, settings, count",
    [
        ((32, 32), {"width": 512}, 27_471_690),
        ((32, 32), {"width": 64}, 3_432_234),
        ((32, 32), {"width": 512, "components": 99}, 404_515),
        ((128, 128), {"width": 512}, 121_542_090),
        ((32, 32), {"width": 1024, "time_width": 128, "components": 99}, 1_406_947),  # ResNet-18's
    ],
)
def test_sizes_are_the_published_ones(hidden, settings, count):
    net = tasks.build({"name": "mlp", "hidden": hidden}, (28, 28, 1), 10)
    assert plan.num_params(Flow(order="none", **settings), net) == count


def test_forms_see_through_symmetries_and_keep_functions():
    """Copies of one network have one balanced form; units of norm 1 keep the function up to the outputs' factor."""
    networks, x = population(6), np.random.default_rng(1).normal(size=(7, 2, 2, 1)).astype(np.float32)
    form, rows = canonical.Form.of(networks, "mean", "balanced")
    copies = Population.create(symmetric_copies(networks.weights[2]), NET.spec, run=np.arange(6), step=0)
    np.testing.assert_allclose(form(copies), rows[[2] * 6], atol=2e-5)  # sums in float32
    outputs = jax.vmap(NET.apply, (0, None))
    np.testing.assert_allclose(outputs(rows, x), outputs(networks.weights, x), atol=2e-5)
    unit, rows = canonical.Form.of(networks, "first", "unit")
    places = canonical.spheres(NET.spec)
    for own in places.hidden:
        np.testing.assert_allclose(np.linalg.norm(rows[:, own], axis=2), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(rows[:, places.output], axis=1), 1, rtol=1e-6)
    before, after = outputs(networks.weights, x), outputs(rows, x)
    factor = before / after
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1], factor.shape), rtol=1e-3)
    assert np.exp(np.log(factor[:, 0, 0]).mean()) == pytest.approx(unit.gain, rel=1e-3)
    tanh = tasks.build({"name": "mlp", "hidden": (3,), "activation": "tanh"}, (2, 2, 1), 2)
    with pytest.raises(UserError, match="ReLU"):
        canonical.spheres(tanh.spec)


def test_checkpoints_of_a_run_have_the_order_of_its_last():
    rng, networks = np.random.default_rng(2), population(6)
    noise = 0.3 * rng.normal(size=networks.weights.shape).astype(np.float32)
    run, step = np.tile(np.arange(6), 2), np.repeat([5, 0], 6)
    both = Population.create(np.concatenate([networks.weights, noise]), NET.spec, run=run, step=step)
    form, rows = canonical.Form.of(both, "first", "none")
    alone = form(both.select(np.arange(6)))
    np.testing.assert_array_equal(rows[:6], alone)
    order = [np.flatnonzero(a == b)[0] for a, b in zip(rows[1][:, None], [networks.weights[1]] * P, strict=True)]
    np.testing.assert_array_equal(rows[7], noise[1][order])


def test_the_exact_field_is_the_mean_velocity_of_paths():
    """Against Monte Carlo: the mean of w - x0 over paths whose points lie near x, in two dimensions."""
    rng = np.random.default_rng(0)
    data, std, sigma, t = np.float32([[1.0, 0.5], [-0.8, 0.4], [0.2, -1.0]]), 0.7, 0.3, 0.6
    which, noise = rng.integers(3, size=400_000), std * rng.normal(size=(400_000, 2))
    x = (1 - t) * noise + t * data[which] + sigma * rng.normal(size=noise.shape)
    for point in np.float32([[0.3, 0.1], [-0.5, 0.3]]):
        near = np.square(x - point).sum(axis=1) < 0.05**2
        velocity = (data[which] - noise)[near]
        found = exact.field(jnp.asarray(point[None]), jnp.float32([t]), data, std, sigma)[0]
        np.testing.assert_allclose(velocity.mean(axis=0), found, atol=5 * velocity.std() / near.sum() ** 0.5 + 0.01)


@pytest.mark.parametrize("steps", [1, 7])
def test_the_copier_ends_on_training_networks_on_any_grid(steps):
    networks = population()
    copier = generators.build("x", {"kind": "copier", "sampling_steps": steps, "order": "none"})
    samples = copier.sample(copier.fit(networks), jax.random.split(jax.random.key(0), 20))
    distances = cdist(np.asarray(samples.weights), networks.weights)
    if steps == 1:  # one step leads to their mean
        np.testing.assert_allclose(samples.weights, np.tile(networks.weights.mean(axis=0), (20, 1)), atol=1e-5)
    else:
        assert distances.min(axis=1).max() < 1e-5
        np.testing.assert_array_equal(distances.argmin(axis=1), samples.parents)
        assert len(set(np.asarray(samples.parents).tolist())) > 3


@functools.cache
def trained(**settings):
    """A generator of TINY size, its data, its states before training and after every step, and the losses."""
    generator = Flow(**{**TINY, **settings})
    data, constants = generator.prepare(population())
    stage = generator.stages()[0]
    trainer = StageTrainer(stage, data, {"constants": constants}, MESH, jax.random.key(1), "x")
    state, losses, states = trainer.init(), [], []
    for step in range(stage.steps + 1):
        found = {"params": state.params, "model_state": state.model_state}
        states.append({"constants": constants, "flow": jax.tree.map(np.array, found)})
        if step < stage.steps:
            state, metrics = trainer.advance(state, 1)
            losses.append(float(metrics["loss"][0]))
    return generator, data, states, losses


PUBLISHED = {"components": 0, "select": "luckiest", "source": "table", "order": "none", "learning_rate": 1e-2}


def test_before_training_the_velocity_is_zero_and_samples_are_noise():
    """The first loss is the mean square of what paths lead along; sources have the deviation of the data."""
    generator, data, states, losses = trained(**PUBLISHED)
    assert losses[0] == pytest.approx(np.square(data).mean() + data.var(), rel=0.3)
    keys = jax.random.split(jax.random.key(0), 6)
    noise = generator.noise(states[0]["constants"], keys)
    samples = jax.jit(generator.sample)(states[0], keys)
    np.testing.assert_allclose(samples.weights, generator.decode(states[0]["constants"], noise), atol=1e-6)
    assert noise.std() == pytest.approx(data.std(), rel=0.2)


def test_principal_components_of_all_networks_lose_none_and_leave_their_affine_hull_never():
    generator, data, states, _ = trained(**PUBLISHED)
    assert data.shape == (10, 9)
    weights = population().weights
    np.testing.assert_allclose(generator.decode(states[-1]["constants"], jnp.asarray(data)), weights, atol=1e-5)
    samples = np.asarray(jax.jit(generator.sample)(states[-1], jax.random.split(jax.random.key(0), 6)).weights)
    centre = weights.mean(axis=0, dtype=np.float64)
    inside = (samples - centre) @ np.linalg.pinv(weights - centre) @ (weights - centre)
    np.testing.assert_allclose(inside, samples - centre, atol=1e-4)
    with pytest.raises(UserError, match="span 9"):
        Flow(**TINY, components=10, select="last").check(generators.base.Training(10, 1, NET.spec))


def test_the_luckiest_parameters_are_those_after_the_smallest_loss_of_a_batch():
    _, _, states, losses = trained(**PUBLISHED)
    kept = []
    for steps in range(1, len(losses) + 1):
        lucky = int(np.argmin(losses[:steps]))
        found = selection.chosen("luckiest", states[steps]["flow"])
        jax.tree.map(np.testing.assert_array_equal, found, states[lucky + 1]["flow"]["params"])
        kept.append(lucky + 1 < steps)
    assert any(kept), "the last step is always the luckiest: nothing is tested"


def test_held_out_runs_choose_parameters_and_are_not_learned_from():
    """Every second step is measured; the best of these is kept, whatever comes later."""
    generator = Flow(**TINY, order="none", validation=0.3)
    data, constants = generator.prepare(population())
    assert len(data) == 7 and len(constants["validation"]) == 3 and cdist(data, constants["validation"]).min() > 0
    path = np.float32([3, 2, -1, 0, 5, 9])  # parameters after each step, best at 0; odd steps are not looked at
    state = selection.start("heldout", path[0])
    for value in path:
        state = selection.after_step(state, value, 2, lambda x: jnp.square(x))
    assert (state["best"], state["loss"], state["last"], state["step"]) == (-1, 1, 25, 6)
    assert selection.chosen("heldout", {"params": path[-1], "model_state": state}) == -1


def test_flows_of_several_classes_are_told_the_classes_of_networks():
    """Networks keep their classes through the choice of held-out runs; samples have the asked one, or as training."""
    kind = np.array([3, 8, 3, 3, 8, 3, 3, 3, 8, 3])
    networks = dataclasses.replace(population(), records={**population().records, "property/kind": kind})
    generator = Flow(**TINY, order="none", classes="property/kind", validation=0.3, class_width=3)
    data, constants = generator.prepare(networks)
    held = constants["validation"]
    for part in (data, held):
        rows = cdist(part.networks, networks.weights).argmin(axis=1)
        np.testing.assert_array_equal(np.array([3, 8])[part.classes], kind[rows])
    stage, keys = generator.stages()[0], jax.random.split(jax.random.key(0), 1000)
    params, model_state = jax.eval_shape(stage.init, keys[0], {"constants": constants})
    assert params["classes"].shape == (2, 3)
    state = {"constants": constants, "flow": {"params": params, "model_state": model_state}}
    drawn = generator.inputs(state, keys, networks)
    assert np.mean(drawn["classes"]) == pytest.approx(0.3, abs=0.06)
    asked = generator.replace(asked=8.0)
    np.testing.assert_array_equal(asked.inputs(state, keys, networks)["classes"], 1)
    assert jax.eval_shape(asked.sample, state, drawn).weights.shape == (1000, P)
    batch = jax.tree.map(lambda x: x[:4], data)
    assert (
        jax.eval_shape(lambda p, m: stage.loss(p, m, state, batch, keys[:4], None)[0], params, model_state).shape == ()
    )
    with pytest.raises(UserError, match=r"set it to one of \[3.0, 8.0\]"):
        generator.replace(asked=5.0).inputs(state, keys, networks)
    with pytest.raises(UserError, match="column of numbers"):
        generator.replace(classes="split").prepare(networks)


def test_graph_transformers_have_the_published_size_and_see_perceptrons():
    """The released network has 145,769 with a readout of whole graphs, which velocities do not use."""
    net = tasks.build({"name": "mlp", "hidden": (10,)}, (28, 28, 1), 10)
    generator = generators.build("x", generators.preset("weightflow"))
    assert plan.num_params(generator, net) == 134_088
    small = generator.replace(graph_width=4, graph_layers=1, batch_size=4)
    data, constants = small.prepare(population())
    stage, keys = small.stages()[0], jax.random.split(jax.random.key(0), 4)
    params, model_state = jax.eval_shape(stage.init, keys[0], {"constants": constants})
    state = {"constants": constants, "flow": {"params": params, "model_state": model_state}}
    loss = jax.eval_shape(lambda p, m: stage.loss(p, m, state, data[:4], keys, None)[0], params, model_state)
    assert loss.shape == ()
    assert jax.eval_shape(small.sample, state, keys).weights.shape == (4, P)
    cnn = tasks.build({"name": "cnn"}, (28, 28, 1), 10)
    with pytest.raises(UserError, match="perceptrons"):
        Graph(cnn.spec)


def test_settings_that_do_not_go_together_are_refused():
    for changes in (
        {"geometry": "spheres"},
        {"ema_decay": 0.9},
        {"final_learning_rate": 1.0},
        {"sphere_loss": "published"},
        {"network": "graph"},
        {"asked": 1.0},
    ):
        with pytest.raises(UserError):
            Flow(**changes)
    assert dataclasses.replace(Flow(), sampling_steps=5) != Flow()
    assert flows.grid(Flow().sampling_steps).shape == (100,)


class Exact(Flow):
    """A flow that has become the copying field."""

    def velocity(self, state, classes=None):
        constants = state["constants"]
        return lambda x, t: exact.field(x, t, state["networks"], constants["source_std"], self.sigma)


def test_the_study_tells_a_copier_from_a_flow_that_knows_nothing():
    """A copier's distance is zero and it is nearer to itself everywhere; a zero velocity's is as long as that field."""
    networks, dataset = population(), cast(Any, None)  # which it does not look at
    for kind, far in ((Exact, 0.0), (Flow, 1.0)):
        generator = kind(**TINY, order="none", select="last")
        learned, constants = generator.prepare(networks)
        params = {"out": {"bias": np.zeros(P, np.float32)}}
        if kind is Flow:
            params = generator.stages()[0].init(jax.random.key(0), {"constants": constants})[0]
        state = {"constants": constants, "flow": {"params": params, "model_state": {}}}
        subject = Subject(
            generator, state | generator.finish(state, learned), NET, dataset, networks, population(7, 1), 1, {}, {}
        )
        found, arrays = studies.copying.run(subject, studies.copying.CopyingSettings(times=2), Estimation(20, 0, MESH))
        heldout = found["heldout"]
        assert heldout["distance"]["n"] == 7 and arrays["train/loss"].shape == (10, 2)
        assert (heldout["distance"]["mean"] > 0) == bool(far)
        if kind is Exact:
            assert heldout["nearer"]["mean"] == 1 and heldout["loss"]["mean"] == heldout["exact"]["mean"]
            assert found["train"]["loss"]["mean"] < 0.1 * heldout["loss"]["mean"]


def test_running_statistics_are_not_generated_but_taken_from_images():
    """Flows leave them at the mean; recalibrated, they are the means of those of 128 images."""
    names = ("weight", "bias", "running_mean", "running_var")
    spec = WeightSpec(tuple(Leaf(name, (3,), (3,), (FIXED,), (0,), (0,)) for name in names))
    net = nets.TaskNet("norm", normalization.BatchNorm(), spec, (2, 2, 3), 3)
    rng = np.random.default_rng(0)
    weights = np.abs(rng.normal(size=(12, 12))).astype(np.float32)
    images = rng.normal(2, 3, size=(300, 2, 2, 3)).astype(np.float32)
    found = evaluation.recalibrated(net, weights, images)
    np.testing.assert_array_equal(found[:, :6], weights[:, :6])
    batches = images[:256].reshape(2, -1, 3).astype(np.float64)
    expected = np.concatenate([batches.mean(axis=(0, 1)), batches.var(axis=1, ddof=1).mean(axis=0)])
    np.testing.assert_allclose(found[:, 6:], np.tile(expected, (12, 1)), rtol=1e-5)
    networks = Population.create(weights, spec, run=np.arange(12), step=0)
    generator = Flow(**TINY, select="last")
    data, constants = generator.prepare(networks)
    np.testing.assert_array_equal(data, weights[:, :6])
    decoded = np.asarray(generator.decode(constants, jnp.asarray(data)))
    np.testing.assert_array_equal(decoded[:, :6], data)
    np.testing.assert_allclose(decoded[:, 6:], np.tile(weights[:, 6:].mean(axis=0), (12, 1)), rtol=1e-6)
    np.testing.assert_array_equal(generator.encode(constants, weights), data)
    assert (
        generator.recalibration == ("train", 10_000) and generator.replace(statistics="generate").recalibration is None
    )
