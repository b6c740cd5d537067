"""Everything that is registered keeps its word: generators, presets, networks, tasks and studies are tested as soon as
they stand in their registry. What a new entry forgets is said in a sentence."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import generators, nets, parallel, settings, studies, tasks
from jaxweights.bias import collections, transformations
from jaxweights.generators import GENERATORS, PRESETS, Augmented, Autoencoding, LearnedGenerator, Prompted
from jaxweights.population import Population
from jaxweights.report.studies import PARTS
from jaxweights.training import StageTrainer
from jaxweights.zoo import Recipe

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params
LEARNED = [kind for kind, made in GENERATORS.items() if issubclass(made, LearnedGenerator)]
CLOSED = [kind for kind in GENERATORS if kind not in LEARNED]
SAMPLES = 6
OTHERS = np.array([4, 1, 1, 0, 4, 5])  # among other samples, by the same program
ROUNDING = 1e-5  # of sums of float32 numbers of order one in another order


def check_settings(kind, **values):
    """A class of settings is documented, and its instances make the round trip through mappings and config files."""
    undocumented = [f.name for f in dataclasses.fields(kind) if f.name not in settings.documentation(kind)]
    assert not undocumented, f'{kind.__name__} does not say under "Attributes:" what {undocumented} are.'
    made = kind(**values)
    assert settings.make(kind, settings.plain(made)) == made
    assert settings.make(kind, settings.config_dict(made).to_dict()) == made
    return made


@functools.cache
def population():
    """Eight runs of two checkpoints each."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, P)).astype(np.float32)
    run, step = np.arange(16) // 2, np.arange(16) % 2 * 10
    return Population.create(weights, NET.spec, run=run, step=step, loss=rng.uniform(1, 2, 16), accuracy=run / 8)


def check_samples(samples, count=SAMPLES):
    weights, parents = np.asarray(samples.weights), np.asarray(samples.parents)
    assert weights.shape == (count, P) and weights.dtype == np.float32 and np.isfinite(weights).all()
    assert parents.shape == (count,) and (parents >= -1).all() and (parents < len(population())).all()


@pytest.mark.parametrize("kind", GENERATORS)
def test_generators_are_whole_and_their_settings_documented(kind):
    made = GENERATORS[kind]
    lacking = ", ".join(sorted(made.__abstractmethods__))
    assert not inspect.isabstract(made), f"{made.__name__} does not define {lacking}; see generators.base."
    generator = check_settings(made, name="x", **made.TINY)
    assert generators.kind_of(generator) == kind and generator.section == "generators.x"
    assert generators.build("x", {"kind": kind, **made.TINY}) == generator
    assert check_settings(made).name == kind, f"The default of {made.__name__}.name is not its kind, {kind!r}."
    if isinstance(generator, LearnedGenerator):
        assert made.TINY, f"{made.__name__} has no TINY: settings under which it trains and samples in a moment."
        unknown = made.SAMPLING - {f.name for f in dataclasses.fields(made)}
        assert not unknown, f"{made.__name__}.SAMPLING names {sorted(unknown)}, which are no fields of it."
        tokens = generator.num_tokens(NET.spec)
        assert tokens is None or 1 <= tokens <= 2 * P + 10


@pytest.mark.parametrize("kind", CLOSED)
def test_closed_form_generators_draw_one_network_per_key(kind, tmp_path):
    values = dict(GENERATORS[kind].TINY)
    if kind == "file":
        np.savez(tmp_path / "mine.npz", weights=population().weights)
        values["path"] = str(tmp_path / "mine.npz")
    generator = generators.build("x", {"kind": kind, **values})
    state, keys = generator.fit(population()), jax.random.split(jax.random.key(0), SAMPLES)
    program = jax.jit(generator.sample)
    rows = np.arange(2) if kind == "file" else OTHERS  # networks of a file come in its order
    whole, others = (program(state, k) for k in (keys, keys[rows]))
    check_samples(whole)
    np.testing.assert_allclose(others.weights, np.asarray(whole.weights)[rows], atol=ROUNDING)


@pytest.mark.parametrize("kind", LEARNED)
def test_learned_generators_train_and_sample(kind):
    """Two steps of every stage (a warm-up may begin at a rate of 0); samples do not depend on what they are drawn
    together with."""
    generator = generators.build("x", {"kind": kind, **GENERATORS[kind].TINY})
    assert isinstance(generator, LearnedGenerator)
    data, constants = generator.prepare(population())
    state = {"constants": constants}
    mesh = parallel.make_mesh(1)
    for stage in generator.stages():
        trainer = StageTrainer(stage, data, state, mesh, jax.random.key(1), f"x/{stage.name}")
        before = jax.tree.map(np.asarray, trainer.init())
        after, metrics = trainer.advance(trainer.init(), 2)
        assert np.isfinite(np.asarray(metrics["loss"])[:2]).all(), f"A loss of {kind}/{stage.name} is not finite."
        moved = jax.tree.map(lambda a, b: bool((np.asarray(a) != b).any()), after.params, before.params)
        assert any(jax.tree.leaves(moved)), f"Training of {kind}/{stage.name} changes nothing."
        state[stage.name] = {"params": after.params, "model_state": after.model_state}
    state = jax.tree.map(np.asarray, state) | generator.finish(jax.tree.map(np.asarray, state), data)
    keys, starts = jax.random.split(jax.random.key(2), SAMPLES), population().select(np.arange(0, 16, 2))
    inputs, program = generator.inputs(state, keys, starts), jax.jit(generator.sample)
    whole = program(state, inputs)
    check_samples(whole)
    others = program(state, jax.tree.map(lambda x: x[OTHERS], inputs))
    np.testing.assert_allclose(others.weights, np.asarray(whole.weights)[OTHERS], atol=ROUNDING)
    if "variances" in settings.plain(generator):
        floor = np.where(np.arange(P) % 2, -np.inf, 0.1).astype(np.float32)
        inside = program({**state, "constants": {**state["constants"], "variance_floor": floor}}, inputs)
        np.testing.assert_allclose(inside.weights, np.maximum(whole.weights, floor[None, :]), atol=ROUNDING)
    check_abilities(generator, state, keys)


def check_abilities(generator, state, keys):
    """What a generator can do besides."""
    weights = jnp.asarray(population().weights[:SAMPLES])
    if isinstance(generator, Autoencoding):
        latents = jax.jit(generator.encode)(state, weights)
        assert latents.ndim == 2 and jax.eval_shape(generator.decode, state, latents).shape == weights.shape
        assert {"kind", "mode"} <= set(generator.sampling)
    if isinstance(generator, Prompted):
        name, value = generator.asked
        metric = generator.metric(population(), "the networks")[:SAMPLES]
        assert isinstance(name, str) and isinstance(value, float) and metric.dtype == np.float32
        fixed = generator.deterministic()
        assert type(fixed) is type(generator)
        improve = jax.jit(lambda keys: fixed.improve(state, weights, metric, metric, keys, initial=weights))
        np.testing.assert_array_equal(improve(keys), improve(keys[::-1]))
    if isinstance(generator, Augmented):
        assert generator.copies >= 1
    assert studies.of_generator(generator) in {None, *studies.STUDIES}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_possible(name):
    kind, values = PRESETS[name]
    made = generators.build(name, {"kind": kind, **values})
    default = GENERATORS[kind](name=name)
    same = [field for field in values if getattr(made, field) == getattr(default, field)]
    assert set(same) <= _AS_PUBLISHED.get(name, set()), f"The preset {name} repeats the defaults of {same}."


# What small presets say though the default is the same: it belongs to their own choice of sizes.
_AS_PUBLISHED = {
    "pdiff_small": {"input_noise"},
    "hyperrep_small": {"identical_blocks"},
}


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_networks_compute_the_same_under_their_symmetries(name):
    entry = nets.NETWORKS[name]
    check_settings(entry.settings)
    assert any(name in task.networks for task in tasks.TASKS.values()), f"No task takes the network {name}."
    net = tiny_network(name)
    spec = net.spec
    assert jax.eval_shape(net.init, jax.random.key(0)).shape == (spec.num_params,)
    assert type(spec).from_json(spec.to_json()) == spec
    rng = np.random.default_rng(0)
    # Random weights, not initial ones, which are zero in places; positive, as running variances have to be.
    vector = np.float32(0.2 + np.abs(0.3 * rng.normal(size=spec.num_params))) * np.float32(
        np.where(statistics(spec), 1, rng.choice([-1, 1], spec.num_params))
    )
    x = rng.normal(size=(4, *entry.tiny_input)).astype(np.float32)

    @jax.jit
    def outputs(vector, key):
        permuted = spec.permute(vector, spec.random_permutation(key))
        rescaled = spec.rescale(vector, spec.random_scales(key))
        return jax.vmap(net.apply, in_axes=(0, None))(jnp.stack([vector, permuted, rescaled]), x), permuted, rescaled

    found, permuted, rescaled = outputs(vector, jax.random.key(3))
    assert found.shape[1:] == (4, net.num_classes) and np.isfinite(found).all()
    # Sums over hidden units in another order, through up to a dozen layers.
    np.testing.assert_allclose(found[1:], np.stack([found[0]] * 2), atol=2e-5 * np.abs(found).max(), err_msg=name)
    assert not spec.groups or (np.asarray(permuted) != vector).any(), f"No permutation moves a weight of {name}."
    assert {g.scaling for g in spec.groups} <= {"none"} or (np.asarray(rescaled) != vector).any()


def tiny_network(name, task=None):
    entry = nets.NETWORKS[name]
    outputs = 3 if len(entry.tiny_input) == 3 else 1
    return tasks.build({"name": name, **entry.tiny}, entry.tiny_input, outputs, task)


def statistics(spec):
    """Which entries are running statistics."""
    mask = np.zeros(spec.num_params, bool)
    for leaf, span in spec.spans():
        mask[span] = "running" in leaf.name
    return mask


@pytest.mark.parametrize("name", studies.STUDIES)
def test_studies_have_settings_and_a_part_of_the_page(name):
    made = check_settings(studies.STUDIES[name].settings)
    assert made.section == f"studies.{name}"
    assert name in PARTS, f"The study {name} has no part of the page; add it to report.studies.PARTS."
    assert studies.make({})[name] == made


@pytest.mark.parametrize("name", tasks.TASKS)
def test_tasks_are_whole_and_their_settings_documented(name):
    task = tasks.get(name)
    assert task.name == name
    check_settings(task.data_settings)
    chosen = check_settings(task.zoo_settings)
    unknown = set(task.networks) - set(nets.NETWORKS)
    assert not unknown, f"The task {name} takes {sorted(unknown)}, which are no registered networks."
    assert task.default_network in task.networks
    net = tiny_network(task.default_network, task)
    program = task.program(net, Recipe.from_settings(chosen, 256), 256)
    assert not inspect.isabstract(type(program)) and program.default_lanes("cpu") >= 1
    step, forward = task.operations(net, program.recipe)
    assert step > forward > 0


@pytest.mark.parametrize("kind", [*transformations.TRANSFORMATIONS, *collections.SOURCES])
def test_transformations_and_sources_are_whole_and_documented(kind):
    made = {**transformations.TRANSFORMATIONS, **collections.SOURCES}[kind]
    assert not inspect.isabstract(made) and kind == made.KIND
    check_settings(made)
    if issubclass(made, transformations.Transformation):
        assert transformations.make({"kind": kind, **made.TINY}) == check_settings(made, **made.TINY)
