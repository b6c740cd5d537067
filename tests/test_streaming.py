"""Training sets that are read as they are needed: the same examples, the same training, and memory that is bounded."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_training import NET, Denoiser, P, leaves

from jaxweights import generators, parallel, store, streaming
from jaxweights.errors import Diverged
from jaxweights.generators import GENERATORS, LearnedGenerator
from jaxweights.generators import rows as rows_lib
from jaxweights.population import Population
from jaxweights.training import StageTrainer, train_generator

N = 50
LEARNED = [
    kind for kind, made in GENERATORS.items() if issubclass(made, LearnedGenerator) and made(**made.TINY).reads_disk
]


class Counting(store.LazyRows):
    """Rows on disk that know how many were read at a time."""

    def __init__(self, weights):
        super().__init__(weights, np.arange(len(weights)))
        self.read = []

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        self.read.append(len(found))
        return found


@pytest.fixture(scope="module")
def training():
    rng = np.random.default_rng(0)
    facts = {"loss": rng.random(N), "accuracy": rng.random(N), "run": np.arange(N) // 5, "step": np.arange(N) % 5}
    return Population.create(rng.normal(size=(N, P)).astype(np.float32), NET.spec, **facts)


@dataclasses.dataclass(frozen=True)
class Streamed(Denoiser):
    """The smallest generator, whose examples no device may keep."""

    def stages(self):
        return tuple(dataclasses.replace(stage, data_memory=1e-9) for stage in super().stages())


def train(generator, training, path=None, **options):
    log = []
    options |= {"key": jax.random.key(1), "path": path, "log": log.append}
    return leaves(train_generator(generator, training, parallel.make_mesh(2), **options)), log


def test_training_that_reads_ahead_is_training(tmp_path, training, monkeypatch):
    """Bit for bit, in blocks of a few steps, resumed in the middle of one, too."""
    resident, log = train(Denoiser(steps=30), training)
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 7 * 8 * 4 * P)
    with pytest.raises(Diverged, match="step 16; the last good checkpoint is step 10"):
        train(Streamed(steps=30, poison=15), training, tmp_path, checkpoint_every=10)
    resumed, rest = train(Streamed(steps=30), training, tmp_path, checkpoint_every=10)
    assert log[10:] == rest
    for name, value in resident.items():
        np.testing.assert_array_equal(resumed[name], value, name)


def test_no_more_is_read_than_two_blocks_and_no_device_keeps_the_set(training, monkeypatch):
    monkeypatch.setattr(streaming, "_BLOCK_BYTES", 3 * 8 * 4 * P)
    others = jax.live_arrays()  # of other tests; kept, so that no new one has the place of an old one
    stage, rows = Streamed().stages()[0], Counting(training.weights)
    trainer = StageTrainer(stage, rows, {"constants": {}}, parallel.make_mesh(8), jax.random.key(0), "x")
    state, step = trainer.init(), 0
    before = sum(rows.read)
    assert before == 0
    while step < 9:
        assert trainer.most(step) == 3 - step % 3
        state, _ = trainer.advance(state, trainer.most(step))
        step += 3
        assert sum(rows.read) <= 8 * (step + 3) and max(rows.read) <= 3  # a device's rows of a block
    trainer.close()
    known = {id(x) for x in others}
    assert not [x for x in jax.live_arrays() if x.shape == training.weights.shape and id(x) not in known]


@pytest.mark.parametrize("kind", LEARNED)
def test_generators_get_the_examples_that_they_would_get(kind, training, monkeypatch):
    made = generators.build("x", {"kind": kind, **GENERATORS[kind].TINY, "data_memory": 1e-9})
    assert isinstance(made, LearnedGenerator)
    on_disk = dataclasses.replace(training, weights=Counting(training.weights))
    data, constants = made.prepare(training)
    lazy, known = made.prepare(on_disk)
    jax.tree.map(np.testing.assert_array_equal, (streaming.whole(lazy), known), (data, constants))
    monkeypatch.setattr(rows_lib, "_BLOCK_BYTES", 8 * P * 7)
    again = made.prepare(on_disk)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, constants)

    stage = made.stages()[0]
    mesh = parallel.make_mesh(2)
    trainer = StageTrainer(stage, lazy, {"constants": constants}, mesh, jax.random.key(3), "x")
    assert trainer.most(0) <= streaming.MOST_STEPS and stage.data_memory == 1e-9

    def choose(data, step):
        rows = (step + jnp.arange(4, dtype=jnp.int32) * 3) % N
        return stage.gather(data, rows, jax.random.split(jax.random.fold_in(jax.random.key(2), step), 4))

    place = NamedSharding(mesh, PartitionSpec(None, parallel.AXIS))
    stream = streaming.Stream(lazy, choose, place, 4, 5)
    wanted = [choose(jax.tree.map(jnp.asarray, data), jnp.int32(step)) for step in range(5)]
    block = stream.block(0)
    assert stream.left(0) == 5
    jax.tree.map(lambda x, *y: np.testing.assert_array_equal(np.asarray(x), np.stack(y)), block, *wanted)
    stream.close()
