"""The training loop: devices change nothing, resume is bitwise, NaN stops, averages and closed forms come out right."""

import dataclasses
import gc
import os
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxweights import interruption, parallel, tasks
from jaxweights.errors import UserError
from jaxweights.generators.base import LearnedGenerator, Samples, Stage
from jaxweights.population import Population
from jaxweights.training import StageTrainer, train_generator

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
P = NET.spec.num_params


@dataclasses.dataclass(frozen=True)
class Denoiser(LearnedGenerator):
    """A linear denoiser: the smallest learned generator with noise, batch statistics and two stages."""

    name: str = "denoiser"
    steps: int = 30
    batch_size: int = 8
    learning_rate: float = 0.1
    ema_decay: float | None = None
    poison: int = -1  # step at which the loss turns NaN

    def prepare(self, training):
        mean = training.weights.mean(axis=0)
        return training.weights - mean, {"mean": mean}

    def stages(self):
        optimizer = optax.sgd(self.learning_rate)
        return tuple(
            Stage(n, self.steps, self.batch_size, optimizer, self._init, self._loss, self.ema_decay)
            for n in ("first", "second")
        )

    def _init(self, key, done):
        offset = done["first"]["params"]["b"] if "first" in done else jnp.zeros(P)
        return {"w": 0.1 * jax.random.normal(key, (P, P)), "b": offset}, {"mean": jnp.zeros(P), "count": jnp.int32(0)}

    def _loss(self, params, model_state, done, batch, keys, axis_name):
        noisy = batch + 0.1 * jax.vmap(lambda k: jax.random.normal(k, (P,)))(keys)
        mean = noisy.mean(axis=0)
        mean = mean if axis_name is None else jax.lax.pmean(mean, axis_name)
        out = (noisy - mean[None, :]) @ params["w"] + params["b"][None, :]
        loss = jnp.mean((out - batch) ** 2)
        if self.poison >= 0:
            loss = jnp.where(model_state["count"] == self.poison, jnp.nan, loss)
        state = {"mean": 0.9 * model_state["mean"] + 0.1 * mean, "count": model_state["count"] + 1}
        return loss, (state, {"bias": jnp.sum(params["b"])})

    def sample(self, state, inputs):
        noise = jax.vmap(lambda k: jax.random.normal(k, (P,)))(inputs)
        weights = noise @ state["second"]["params"]["w"] + state["constants"]["mean"][None, :]
        return Samples(weights, jnp.full(inputs.shape, -1, jnp.int32))


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(40, P)).astype(np.float32)


def train(generator, rows, path, devices=1, log=None, **options):
    return train_generator(
        generator,
        Population.create(rows, NET.spec),
        parallel.make_mesh(devices),
        key=jax.random.key(1),
        path=path,
        log=log.append if log is not None else lambda row: None,
        **options,
    )


def leaves(state):
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(state)}


def test_eight_devices_equal_one(tmp_path, rows):
    """The trap: averaging gradients outside of the differentiated loss would multiply them by the number of devices."""
    one, eight = (leaves(train(Denoiser(), rows, tmp_path / str(d), d)) for d in (1, 8))
    assert one.keys() == eight.keys()
    for name in one:
        # Thirty steps of sums in another order.
        np.testing.assert_allclose(one[name], eight[name], atol=2e-6, err_msg=name)


def test_a_step_is_plain_gradient_descent(rows):
    generator = Denoiser(steps=1)
    data, constants = generator.prepare(Population.create(rows, NET.spec))
    trainer = StageTrainer(
        generator.stages()[0], data, {"constants": constants}, parallel.make_mesh(8), jax.random.key(5), "x"
    )
    before = jax.tree.map(np.asarray, trainer.init())
    after, metrics = trainer.advance(trainer.init(), 1)
    # The batch is what makes the two agree; recover the gradient from the update and compare its loss with the logged
    # one.
    key = jax.random.fold_in(jax.random.key(5), 1)
    from jaxweights import shuffle

    indices = shuffle.batch_indices(jax.random.key_data(jax.random.fold_in(key, 0)), jnp.int32(0), 8, 40)
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, 1), 0), 8)

    def loss(params):
        noisy = data[indices] + 0.1 * jax.vmap(lambda k: jax.random.normal(k, (P,)))(keys)
        return jnp.mean(
            ((noisy - noisy.mean(axis=0)[None, :]) @ params["w"] + params["b"][None, :] - data[indices]) ** 2
        )

    value, gradient = jax.value_and_grad(loss)(before.params)
    np.testing.assert_allclose(metrics["loss"][0], value, rtol=1e-5)
    for name in ("w", "b"):
        np.testing.assert_allclose(after.params[name], before.params[name] - 0.1 * gradient[name], atol=1e-6)


def test_resume_is_bitwise(tmp_path, rows):
    log_full, log_first, log_rest = [], [], []
    full = train(Denoiser(steps=40), rows, tmp_path / "full", 8, log_full, checkpoint_every=10)
    with pytest.raises(
        UserError, match=r"denoiser/first is not finite at step 36; the last good checkpoint is step 30"
    ):
        train(Denoiser(steps=40, poison=35), rows, tmp_path / "cut", 8, log_first, checkpoint_every=10)
    resumed = train(Denoiser(steps=40), rows, tmp_path / "cut", 8, log_rest, checkpoint_every=10)
    a, b = leaves(full), leaves(resumed)
    for name in a:
        assert np.array_equal(a[name], b[name]), name
    merged = {(r["stage"], r["step"]): r for r in log_first + log_rest}
    assert merged == {(r["stage"], r["step"]): r for r in log_full}
    assert log_rest[0]["step"] == 31


def test_sigterm_saves_and_exits_with_143(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(interruption, "_noted", False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before, log = signal.getsignal(signal.SIGTERM), []

    def end_at_six(row):
        log.append(row)
        if row["step"] == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    arguments = Population.create(rows, NET.spec), parallel.make_mesh(8)
    options = {"key": jax.random.key(1), "path": tmp_path}
    interruption.install()
    try:
        with pytest.raises(SystemExit) as ended:
            train_generator(Denoiser(), *arguments, **options, log=end_at_six)
        assert ended.value.code == 143
        last = log[-1]["step"]
        with pytest.raises(SystemExit):  # not in training: at once
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    monkeypatch.setattr(interruption, "_noted", False)
    resumed = leaves(train_generator(Denoiser(), *arguments, **options, log=log.append))
    assert [row["step"] for row in log if row["stage"] == "first"] == list(range(1, 31)) and 6 <= last < 30
    full = leaves(train(Denoiser(), rows, None, 8))
    assert all(np.array_equal(full[name], resumed[name]) for name in full)


def test_sigterm_is_not_lost_where_exceptions_are(monkeypatch):
    """As in callbacks of Python's collector, of which JAX has one."""
    monkeypatch.setattr(interruption, "_noted", False)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before, sent = signal.getsignal(signal.SIGTERM), []

    def end_once(phase, info):
        if not sent:
            sent.append(phase)
            os.kill(os.getpid(), signal.SIGTERM)

    interruption.install()
    gc.callbacks.append(end_once)
    try:
        with pytest.raises(SystemExit) as ended:
            gc.collect()
            time.sleep(20)
        assert ended.value.code == 143 and sent
    finally:
        gc.callbacks.remove(end_once)
        signal.signal(signal.SIGTERM, before)


def test_trainings_of_equal_settings_share_their_programs(rows):
    """Whatever their data and seed; of other settings, sizes or stages they do not."""
    mesh = parallel.make_mesh(1)

    def programs(left_out=0, number=0, seed=0, **settings):
        generator = Denoiser(**settings)
        data, constants = generator.prepare(Population.create(rows[left_out:] + seed, NET.spec))
        stage, key = generator.stages()[number], jax.random.key(seed)
        return StageTrainer(stage, data, {"constants": constants}, mesh, key, "x", (generator, number)).programs

    first = programs()
    assert programs(seed=1) is first
    others = [programs(steps=29), programs(left_out=1), programs(number=1)]
    assert len({id(p) for p in (first, *others)}) == 4
    assert not [x for x in jax.tree.leaves(vars(first)) if isinstance(x, jax.Array | np.ndarray) and np.size(x) > 1]


def test_a_finished_fit_is_loaded_not_repeated(tmp_path, rows):
    first = leaves(train(Denoiser(), rows, tmp_path / "x"))
    log = []
    again = leaves(train(Denoiser(), rows, tmp_path / "x", log=log))
    assert not log and all(np.array_equal(first[k], again[k]) for k in first)


def test_ema_is_the_moving_average(tmp_path, rows):
    plain = [leaves(train(Denoiser(steps=n), rows, tmp_path / f"plain{n}"))["['first']['params']['b']"] for n in (1, 2)]
    ema = leaves(train(Denoiser(steps=2, ema_decay=0.75), rows, tmp_path / "ema"))["['first']['params']['b']"]
    expected = np.zeros(P)
    for b in plain:
        expected = 0.75 * expected + 0.25 * b
    np.testing.assert_allclose(ema, expected, atol=1e-7)


@pytest.mark.usefixtures("eight_devices")
def test_uneven_batches_use_the_devices_that_divide_them(rows):
    generator = Denoiser(batch_size=6)
    data, constants = generator.prepare(Population.create(rows, NET.spec))
    trainer = StageTrainer(
        generator.stages()[0], data, {"constants": constants}, parallel.make_mesh(8), jax.random.key(0), "x"
    )
    assert trainer.mesh.size == 6


def test_too_few_rows_are_refused(tmp_path, rows):
    with pytest.raises(UserError, match="batches of 41, but there are only 40"):
        train(Denoiser(batch_size=41), rows, tmp_path)
