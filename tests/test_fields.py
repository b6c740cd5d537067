"""Neural fields: the published network and encoding, the plateau schedule and early stop, fits of known shapes that do
not depend on company, and evaluation against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import zoos

from jaxweights import data, parallel, tasks, zoo
from jaxweights.data.signals import Signals
from jaxweights.errors import UserError
from jaxweights.evaluation import evaluate, fields
from jaxweights.nets.field import encode, encode_columns
from jaxweights.zoo.fields import EarlyStopping, Plateau

POINTS = 1024


@functools.cache
def network(dimensions=3, outputs=1, **settings):
    return tasks.build({"name": "field", "hidden": (16, 16), **settings}, (dimensions,), outputs)


@functools.cache
def spheres(count=5, dimensions=3):
    """Balls of several radii around the origin; every one has points of its own."""
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (count, POINTS, dimensions)).astype(np.float32)
    radii = np.linspace(0.3, 0.45, count)
    inside = np.linalg.norm(points, axis=-1) < radii[:, None]
    names = tuple(f"ball {r:.2f}" for r in radii)
    return Signals("occupancy", names, points, np.packbits(inside, axis=1), np.zeros((count, 0, 3), np.float32))


@functools.cache
def pictures(count=3, channels=2):
    """Ramps of several slopes on one grid of 32 x 32 pixels."""
    axis = (np.arange(32, dtype=np.float32) + 0.5) / 32 - 0.5
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(1, -1, 2)
    slopes = np.linspace(-1, 1, count * channels, dtype=np.float32).reshape(count, 1, channels)
    values = 0.5 + 0.5 * slopes * points[:, :, :1]
    return Signals("image", tuple("abc"[:count]), points, values, np.zeros((count, 0, 3), np.float32))


def dataset(signals):
    rng = np.random.default_rng(1)
    probes = rng.uniform(-0.5, 0.5, (203, signals.dimensions)).astype(np.float32)
    labels = (np.linalg.norm(probes, axis=1)[:, None] < np.array([[0.3, 0.42]])).astype(np.uint8)
    ones, zeros = np.ones(signals.dimensions, np.float32), np.zeros(signals.dimensions, np.float32)
    return data.Dataset(
        "test", probes, labels, probes, labels, signals.channels, ones, zeros, "made", signals=signals, unseen=None
    )


def recipe(**changes):
    config = {
        "steps": 24,
        "batch_size": 128,
        "optimizer": "adam",
        "schedule": "plateau",
        "start": "first_weights",
        "learning_rate": 0.01,
        "momentum": 0.0,
    }
    return zoos.recipe("field", POINTS, **config | changes)


LONG = {"steps": 200, "schedule": "cosine"}  # one program for all tests that use it: rates and scales are inputs


def train(path, signals, net=None, devices=8, num_runs=3, num_heldout=2, the_recipe=None, **settings):
    mesh = parallel.make_mesh(devices)
    return zoo.train_zoo(
        net or network(),
        the_recipe or recipe(),
        dataset(signals),
        mesh,
        path=path,
        seed=3,
        num_runs=num_runs,
        num_heldout=num_heldout,
        provenance={},
        **settings,
    )


@functools.cache
def random_vectors(net, count=5):
    return 3 * np.asarray(jax.jit(jax.vmap(net.init))(jax.random.split(jax.random.key(0), count)))


@pytest.mark.parametrize("dimensions, parameters", [(3, 36737), (4, 37889), (2, 35585)])
def test_parameter_counts_are_the_published_ones(dimensions, parameters):
    spec = tasks.build({"name": "field"}, (dimensions,), 1).spec
    assert spec.num_params == parameters
    assert [leaf.size for leaf in spec.leaves][1:] == [128, 16384, 128, 16384, 128, 128, 1]
    assert [(g.size, g.scaling) for g in spec.groups] == [(128, "positive")] * 3


def test_encoding_is_the_published_one():
    points = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    exact = points.astype(np.float64)
    expected = np.concatenate([exact] + [g(f * exact) for f in (1, 2, 4, 8) for g in (np.sin, np.cos)], axis=1)
    np.testing.assert_allclose(encode(jnp.asarray(points), 4), expected, atol=1e-6)
    # Doubling an angle at most doubles the error of its sine, and quadruples that of its cosine.
    np.testing.assert_allclose(encode_columns(jnp.asarray(points.T), 4).T, expected, atol=4e-6)


def test_a_vector_is_the_concatenated_state_dict():
    """Weights `[out, in]` row by row, each followed by its bias, through a plain NumPy network."""
    net, rng = network(), np.random.default_rng(0)
    state = []
    for inputs, outputs in ((27, 16), (16, 16), (16, 1)):
        state += [rng.normal(size=(outputs, inputs)), rng.normal(size=outputs)]
    points = rng.uniform(-0.5, 0.5, (7, 3)).astype(np.float32)
    x = np.asarray(encode(jnp.asarray(points), 4), np.float64)
    for i in (0, 2, 4):
        x = (np.maximum(x, 0) if i else x) @ state[i].T + state[i + 1]
    vector = np.concatenate([t.ravel() for t in state]).astype(np.float32)

    @jax.jit
    def outputs(vector):
        moved = net.spec.permute(vector, net.spec.random_permutation(jax.random.key(1)))
        scaled = net.spec.rescale(vector, net.spec.random_scales(jax.random.key(2)))
        return jax.vmap(net.apply, (0, None))(jnp.stack([vector, moved, scaled]), points)

    np.testing.assert_allclose(outputs(vector), np.stack([x] * 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "sine"])
def test_initial_weights_fill_the_published_ranges(activation):
    net = tasks.build({"name": "field", "activation": activation, "signal": "image"}, (2,), 3)
    params = net.spec.unflatten(jax.jit(net.init)(jax.random.key(0)))
    for i in range(4):
        weight, bias = params[f"layers_{i}"]["weight"], params[f"layers_{i}"]["bias"]
        inputs = weight.shape[1]
        bound = inputs**-0.5
        if activation == "sine":
            bound = np.sqrt(6 / inputs) / 30 if i else 1 / inputs
        assert 0.97 * bound < np.abs(weight).max() <= bound  # of at least 256 draws: below with probability 4e-4
        assert np.abs(bias).max() <= inputs**-0.5


def test_a_siren_does_not_change_under_signs_of_its_units():
    net = network(2, 2, signal="image", activation="sine")
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (9, 2)).astype(np.float32)
    vector = random_vectors(net)[0] / 3

    @jax.jit
    def flipped_and_outputs(vector):
        flipped = net.spec.rescale(vector, net.spec.random_scales(jax.random.key(1)))
        return flipped, net.apply(flipped, points), net.apply(vector, points)

    flipped, of_flipped, outputs = flipped_and_outputs(vector)
    assert not np.array_equal(flipped, vector)
    np.testing.assert_allclose(of_flipped, outputs, atol=1e-5)


@pytest.mark.parametrize("settings", [(), (("signal", "image"), ("activation", "sine"))])
def test_training_sees_the_same_function_and_gradient(settings):
    """Columns with hand-written gradients against the module and automatic ones."""
    net = network(2, 1, **dict(settings))
    points = jnp.asarray(np.random.default_rng(0).uniform(-0.5, 0.5, (40, 2)), jnp.float32)
    vector = jnp.asarray(random_vectors(net)[0])

    def columns(vector):
        return net.module.columns(net.spec.unflatten(vector), points.T, "float32")[0]

    plain, fast = (
        jax.jit(jax.value_and_grad(lambda v, f=f: jnp.sum(jnp.sin(f(v)))))(vector)
        for f in (lambda v: net.apply(v, points)[:, 0], columns)
    )
    # float32 sums of 40 terms, through sines of up to 60 for a SIREN of thrice the usual weights.
    np.testing.assert_allclose(fast[0], plain[0], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fast[1], plain[1], rtol=1e-2, atol=2e-3 * float(jnp.abs(plain[1]).max()))


def torch_plateau(losses, rate, plateau):
    """ReduceLROnPlateau of PyTorch 2 in its mode "min" with threshold 0, cooldown 0 and eps 1e-8, and the published
    early stop; rates after every epoch."""
    best, waited, bad, rates = np.inf, 0, 0, []
    for loss in losses:
        better = loss < best
        best, waited, bad = min(best, loss), 0 if better else waited + 1, 0 if better else bad + 1
        if waited > plateau.patience:
            new = max(rate * plateau.factor, plateau.min_rate)
            rate, waited = new if rate - new > 1e-8 else rate, 0
        rates.append(rate)
        if bad == plateau.stop_patience:
            break
    return rates


@pytest.mark.parametrize("seed", range(4))
def test_plateau_is_that_of_pytorch(seed):
    rng = np.random.default_rng(seed)
    losses = (np.exp(-np.arange(300) / 60) + 0.3 * rng.uniform(size=300)).astype(np.float32)
    losses[250:] = np.float32(losses.min())  # equal ones are not better
    plateau = Plateau(factor=0.5, patience=3, min_rate=1e-4, stop_patience=25)

    def epoch(descent, loss):
        new = descent.end_epoch(loss, plateau)
        new = jax.tree.map(lambda a, b: jnp.where(descent.done, a, b), descent, new)
        return new, (new.rate, new.done)

    descent, (rates, done) = jax.jit(lambda x: jax.lax.scan(epoch, EarlyStopping.start(0.01), x))(losses)
    expected = torch_plateau(losses, 0.01, plateau)
    assert 20 < descent.epochs == len(expected) < 300 and not done[len(expected) - 2] and done[len(expected) - 1]
    np.testing.assert_allclose(rates[: len(expected)], expected, rtol=1e-5)
    assert len(np.unique(np.float32(expected))) > 3


@pytest.mark.usefixtures("bitwise")
def test_balls_are_fitted_and_runs_are_the_same_in_any_company(tmp_path):
    """Bit for bit: chunks, device count and neighbours change nothing, nor does an interruption."""
    signals, the_recipe = spheres(), recipe(**LONG)
    many = train(tmp_path / "a", signals, the_recipe=the_recipe)
    assert (many.records["fit_iou"] > 0.9).all() and (many.records["fit_loss"] < 0.2).all()
    assert (many.records["step"] == 200).all() and (many.records["epochs"] == 200 // 8).all()
    assert (many.records["accuracy"] > 0.6).all()  # of their like: balls of other radii
    few = train(tmp_path / "b", signals, devices=1, chunk_size=1, num_runs=2, num_heldout=1, the_recipe=the_recipe)
    assert np.array_equal(few.weights[:], many.weights[:3])
    assert not np.array_equal(many.weights[0], many.weights[1])
    for chunk in (1, 0):  # of which the other one has, or has not, the weights to start from
        (tmp_path / "b" / f"weights-{chunk:05d}.npy").unlink()
        again = train(tmp_path / "b", signals, devices=1, num_runs=2, num_heldout=1, the_recipe=the_recipe)
        assert np.array_equal(again.weights[:], many.weights[:3])


def test_all_runs_start_from_the_last_weights_of_the_first(tmp_path):
    """After no step of learning rate above zero, they are these."""
    store = train(tmp_path / "zoo", spheres(), the_recipe=recipe(learning_rate=0.0, **LONG))
    fresh = zoos.trainer(network(), recipe(start="own"), POINTS, parallel.make_mesh(1)).init(3, np.arange(5))
    assert all(np.array_equal(row, fresh.params[0]) for row in store.weights[:])
    assert len(np.unique(np.asarray(fresh.params), axis=0)) == 5


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_run_that_is_done_stands_still(lanes):
    """Its weights are those after its last epoch, also beside runs that go on."""
    the_recipe = recipe(steps=800, start="own", plateau={"stop_patience": 1})
    trainer = zoos.trainer(network(), the_recipe, POINTS, parallel.make_mesh(1), lanes)
    runs = np.arange(3)
    samples = trainer.select(spheres(), runs)
    state, weights = trainer.advance(trainer.init(3, runs), samples, np.array([0, 800]))
    epochs = np.asarray(state.opt_state[1].epochs)
    assert (epochs < 100).all() and len(np.unique(epochs)) > 1
    columns = trainer.columns(state, samples, np.asarray(weights)[:, 0])
    np.testing.assert_array_equal(columns["step"], 8 * epochs)
    for run in runs:
        _, again = trainer.advance(trainer.init(3, runs), samples, np.array([0, 8 * epochs[run]]))
        assert np.array_equal(again[run], weights[run])


def test_steps_are_those_of_a_plain_loop():
    """Against optax on the module, its float32 products in another order: a hundred roundings of the weights."""
    mesh, net, runs = parallel.make_mesh(1), network(), np.arange(1)
    trainer = zoos.trainer(net, recipe(schedule="constant"), POINTS, mesh)
    samples = trainer.select(spheres(), runs)
    state = trainer.init(3, runs)
    words, vector = state.words[0], state.params[0]
    values = np.unpackbits(spheres().values[0]).astype(np.float32)
    own = jax.tree.map(lambda x: x[0], samples)
    optimizer = optax.adam(0.01)

    @jax.jit
    def step(vector, opt_state, points, values):
        def loss(v):
            return jnp.sum(optax.sigmoid_binary_cross_entropy(net.apply(v, points)[:, 0], values))

        updates, opt_state = optimizer.update(jax.grad(loss)(vector), opt_state)
        return optax.apply_updates(vector, updates), opt_state

    opt_state, seen = optimizer.init(vector), []
    for i in range(8):
        points, inside = (np.asarray(x) for x in trainer.program.batch(own, words, jnp.int32(i)))
        rows = [int(np.flatnonzero((spheres().points[0] == p).all(axis=1))[0]) for p in points.T]
        assert np.array_equal(values[rows], inside[0])
        seen += rows
        vector, opt_state = step(vector, opt_state, points.T, inside[0])
    _, weights = trainer.advance(state, samples, np.array([0, 8]))
    np.testing.assert_allclose(weights[0, 0], vector, atol=2e-4)
    # With replacement: of 1,024 draws from 1,024 about 1 - 1/e are distinct, with a deviation of 10.
    assert abs(len(set(seen)) - 647) < 60


@pytest.mark.parametrize("kind", ["image", "siren", "moving"])
def test_other_fields_learn(tmp_path, kind):
    signals, changes, column = pictures(), {"learning_rate": 0.003}, "fit_psnr"
    if kind == "moving":
        signals, changes, column = spheres(3, 4), {"dtype": "bfloat16"}, "fit_iou"
    settings = {"signal": signals.kind, "activation": "sine" if kind == "siren" else "relu"}
    net = network(signals.dimensions, signals.channels, **settings)
    the_recipe = recipe(steps=150, schedule="constant", start="shared", **changes)
    store = train(tmp_path / "zoo", signals, net, 1, 2, 1, the_recipe)
    fresh = np.asarray(zoos.trainer(net, the_recipe, POINTS, parallel.make_mesh(1)).init(3, np.arange(3)).params)
    assert np.array_equal(fresh[0], fresh[2])
    before = fields.fit_quality(net, fresh, signals.points, signals.values, parallel.make_mesh(1))
    assert (store.records["fit_loss"] < 0.3 * before.loss).all()
    assert (store.records[column] > before.quality).all()


def test_evaluation_equals_numpy(mesh):
    """203 probe points, which neither tiles nor bytes divide; a broken field is empty and has no loss."""
    net, probes = network(), dataset(spheres())
    weights = random_vectors(net).copy()
    weights[2] = np.nan
    outputs = np.stack([np.asarray(net.apply(v, probes.test_images))[:, 0] for v in weights])
    occupied = outputs > 0
    result = evaluate(net, weights, probes.test_images, probes.test_labels, mesh)
    assert np.array_equal(result.errors, np.packbits(occupied, axis=1)) and 0 < occupied[[0, 1, 3, 4]].mean() < 1
    both = (occupied[:, :, None] & (probes.test_labels[None] > 0)).sum(axis=1)
    either = (occupied[:, :, None] | (probes.test_labels[None] > 0)).sum(axis=1)
    np.testing.assert_allclose(result.accuracy, (both / either).max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(result.loss, np.where(np.arange(5) == 2, np.nan, 1 - result.accuracy))


@pytest.mark.parametrize("kind", ["occupancy", "image"])
def test_fit_quality_equals_numpy(mesh, monkeypatch, kind):
    """In tiles that do not divide the points, with points of their own and shared."""
    monkeypatch.setattr(fields, "_TILE", 400)
    signals = spheres() if kind == "occupancy" else pictures()
    net = network(signals.dimensions, signals.channels, signal=kind)
    weights = random_vectors(net)[: len(signals)]
    fit = fields.fit_quality(net, weights, signals.points, signals.values, mesh)
    for i, vector in enumerate(weights):
        outputs = np.asarray(net.apply(vector, signals.points[i % len(signals.points)]), np.float64)
        if kind == "image":
            error = np.mean((outputs - signals.values[i]) ** 2)
            np.testing.assert_allclose([fit.loss[i], fit.quality[i]], [error, -10 * np.log10(error)], rtol=1e-4)
            continue
        inside = np.unpackbits(signals.values[i])[:POINTS] > 0
        loss = np.logaddexp(0, outputs[:, 0]) - outputs[:, 0] * inside
        found, inside = outputs[POINTS // 2 :, 0] > 0, inside[POINTS // 2 :]
        np.testing.assert_allclose(fit.loss[i], loss.mean(), rtol=1e-4)
        np.testing.assert_allclose(fit.quality[i], (found & inside).sum() / (found | inside).sum(), rtol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"snapshots": (0, -1)}, "no setting zoo.snapshots"),
        ({"random_snapshots": 3}, "no setting zoo.random_snapshots"),
        ({"batch_order": "shared"}, "no setting zoo.batch_order"),
        ({"plateau": {"factor": 2}}, "zoo.plateau.factor is 2"),
        ({"plateau": {"cooldown": 2}}, "there are factor, patience"),
        ({"dtype": "int8"}, "zoo.dtype is 'int8'"),
    ],
)
def test_impossible_recipes_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "zoo", spheres(), the_recipe=recipe(**changes))
    assert not (tmp_path / "zoo").exists()


def test_a_diverged_first_run_is_reported(tmp_path):
    with pytest.raises(UserError, match="Run 0, from whose last weights"):
        train(tmp_path / "zoo", spheres(), the_recipe=recipe(init_scale=1e18, **LONG))


def test_data_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(UserError, match="9 runs needs as many signals, but the data set has 5"):
        train(tmp_path / "zoo", spheres(), num_runs=7)
    with pytest.raises(UserError, match="net.signal is 'image'"):
        train(tmp_path / "zoo", spheres(), network(3, 1, signal="image"))
    with pytest.raises(UserError, match="does not take the network 'mlp'"):
        tasks.build({"name": "mlp"}, (3,), 1, "field")
    for settings, shape, outputs, message in (
        ({}, (8, 8, 1), 10, "inputs of shape"),
        ({}, (3,), 2, "has one output"),
        ({"activation": "tanh"}, (3,), 1, "set it to one of relu, sine"),
        ({"hidden": ()}, (3,), 1, "at least 1 entry"),
        ({"octaves": -1}, (3,), 1, "net.octaves is -1"),
    ):
        with pytest.raises(UserError, match=message):
            tasks.build({"name": "field", **settings}, shape, outputs)
