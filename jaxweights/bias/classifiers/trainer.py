"""Training of source classifiers: all trials in one program.

Trials are split over the devices; on a device they are trained `Classifier.width` at a time under `vmap`, one group
after the other. A trial's outcome depends on its own rows and seed, not on the trials beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh, PartitionSpec

from jaxweights import nets, parallel, shuffle
from jaxweights.bias import gradcam
from jaxweights.bias.classifiers.base import Classifier
from jaxweights.bias.protocol import Outcome, Trial
from jaxweights.errors import Diverged, UserError
from jaxweights.nn.parameters import initialise

_DISPATCH_SECONDS = 1.0  # about, so that the bar moves
_BLOCK = 256  # examples per forward pass
_INIT, _ORDER = 0, 1  # purposes of a trial's key


class Lane(NamedTuple):
    """What makes a trial its own.

    Attributes:
      words: `[2]` uint32, of all of its randomness.
      train: `[m]` int32, rows of the stacked inputs.
      labels: `[m]` int32, their classes.
      validation: `[k]` int32, rows of the stacked inputs.
    """

    words: Any
    train: Any
    labels: Any
    validation: Any


class _State(NamedTuple):
    params: Any
    opt_state: Any
    scale: Any
    shift: Any


def train(
    classifier: Classifier,
    inputs: np.ndarray | jax.Array,
    trials: Sequence[Trial],
    num_classes: int,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Outcome]:
    """Trains the classifier of every trial, and asks it about the trial's validation rows.

    Trials with fewer rows than others see some of them more often in an epoch, so that all take the same steps.

    Args:
      classifier: its settings.
      inputs: `[T, n, ...]`, uint8 or float32, finite; of images `[T, n, H, W, C]`.
      trials: any number; each reads `inputs[trial.inputs]`.
      num_classes: K.
      mesh: devices; None for all.
      progress: called with steps done and steps in all, of all trials together.

    Raises:
      UserError: inputs that are not finite, or that the classifier cannot take.
      Diverged: a training whose weights are not finite.
    """
    if not trials:
        return []
    mesh, count, size = parallel.resolve(mesh), len(trials), inputs.shape[1]
    m, k = (max(len(rows) for rows in side) for side in zip(*((t.train, t.validation) for t in trials), strict=True))
    stacked = _stacked(inputs)
    program = _program(classifier, stacked.shape[1:], num_classes, (m, k), mesh)
    lanes = [_lane(trial, size, m, k) for trial in trials]
    lane = jax.tree.map(lambda *x: np.stack(x), *lanes)
    multiple = mesh.size * min(classifier.width(stacked.shape[1:]), -(-count // mesh.size))
    lane = jax.tree.map(lambda x: parallel.pad_rows(x, multiple), lane)
    lane = jax.device_put(lane, parallel.sharded(mesh))
    shared = jax.device_put(stacked, parallel.replicated(mesh))
    state, step, take = program.start(lane, shared), 0, 4
    while step < program.steps:
        take, begin = min(take, program.steps - step), time.monotonic()
        state = jax.block_until_ready(program.advance(state, lane, shared, jnp.int32(step), jnp.int32(take)))
        step += take
        take = int(np.clip(take * _DISPATCH_SECONDS / max(time.monotonic() - begin, 1e-6), 1, 8 * take))
        progress(step * count, program.steps * count)
    predicted, right, finite = (np.asarray(x)[:count] for x in program.ask(state, lane, shared))
    if not finite.all():
        raise Diverged(
            f"{int((~finite).sum())} of {count} trainings of the classifier {classifier.KIND} diverged. Lower "
            "bias.classifier.learning_rate."
        )
    explain = [
        functools.partial(_explained, program.module, state, i) if classifier.IMAGES else None for i in range(count)
    ]
    return [
        Outcome(p[: len(t.validation)], float(np.mean(r[: len(t.train)])), e)
        for t, p, r, e in zip(trials, predicted, right, explain, strict=True)
    ]


def _explained(
    module: nn.Module, state: _State, lane: int, examples: np.ndarray, classes: np.ndarray
) -> np.ndarray | None:
    """Grad-CAM of the classifier of a lane."""
    own = jax.tree.map(lambda x: jnp.asarray(np.asarray(x[lane])), state)  # of all devices on one
    found = gradcam.maps(module, own.params, _standardised(jnp.asarray(examples), own), jnp.asarray(classes))
    return None if found is None else np.asarray(found)


def _stacked(inputs: np.ndarray | jax.Array) -> np.ndarray | jax.Array:
    """Inputs `[T * n, ...]`."""
    if inputs.dtype != np.uint8 and not bool(np.isfinite(np.asarray(inputs)).all()):
        raise UserError("Some transformed examples are not finite. Look at the collections and the transformation.")
    return inputs.reshape((-1,) + inputs.shape[2:])


def _lane(trial: Trial, size: int, m: int, k: int) -> Lane:
    """A trial in arrays of the sizes that all have; its training rows are repeated in turn."""
    train, validation = np.resize(trial.train, m), np.resize(trial.validation, k)
    words = np.asarray(jax.random.key_data(jax.random.key(trial.seed)), np.uint32)
    first, labels = trial.inputs * size, np.asarray(trial.labels, np.int32)
    return Lane(words, (first + train).astype(np.int32), labels[train], (first + validation).astype(np.int32))


@dataclasses.dataclass(frozen=True, eq=False)
class _Program:
    """Compiled functions of lanes and inputs."""

    module: nn.Module
    steps: int
    start: Callable[..., Any]
    advance: Callable[..., Any]
    ask: Callable[..., Any]


@functools.lru_cache(maxsize=16)
def _program(classifier: Classifier, shape: tuple, num_classes: int, sizes: tuple[int, int], mesh: Mesh) -> _Program:
    module, batch = classifier.module(shape, num_classes), min(classifier.batch_size, sizes[0])
    steps = classifier.epochs * (sizes[0] // batch)
    optimizer = _optimizer(classifier, steps)

    def start(lane: Lane, shared: jax.Array) -> _State:
        key = jax.random.fold_in(jax.random.wrap_key_data(lane.words), _INIT)
        params = initialise(module, key, jnp.zeros((1, *shape)))["params"]
        return _State(params, optimizer.init(params), *classifier.standardisation(shared[lane.train]))

    def step(number: jax.Array, state: _State, lane: Lane, shared: jax.Array) -> _State:
        order = jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(lane.words), _ORDER))
        places = shuffle.batch_indices(order, number, batch, sizes[0])
        examples, labels = _standardised(shared[lane.train[places]], state), lane.labels[places]

        def loss(params):
            logits: Any = module.apply({"params": params}, examples)
            losses, smoothing = nets.cross_entropy(logits, labels), classifier.label_smoothing
            if smoothing:
                losses += smoothing * (jnp.mean(jax.nn.logsumexp(logits, -1, keepdims=True) - logits, -1) - losses)
            return jnp.mean(losses)

        updates, opt_state = optimizer.update(jax.grad(loss)(state.params), state.opt_state, state.params)
        return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    def advance(state: _State, lane: Lane, shared: jax.Array, first: jax.Array, count: jax.Array) -> _State:
        return jax.lax.fori_loop(first, first + count, lambda i, state: step(i, state, lane, shared), state)

    def classes(rows: jax.Array, state: _State, shared: jax.Array) -> jax.Array:
        def block(rows: jax.Array) -> jax.Array:
            logits: Any = module.apply({"params": state.params}, _standardised(shared[rows], state))
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)

        blocks = parallel.pad_rows(rows, min(_BLOCK, len(rows)))
        return jax.lax.map(block, blocks.reshape(-1, min(_BLOCK, len(rows)))).reshape(-1)[: len(rows)]

    def ask(state: _State, lane: Lane, shared: jax.Array):
        right = classes(lane.train, state, shared) == lane.labels
        sizes = [jnp.sum(x) for x in jax.tree.leaves(state.params)]
        return classes(lane.validation, state, shared), right, jnp.isfinite(jnp.stack(sizes)).all()

    width, split, whole = classifier.width(shape), PartitionSpec(parallel.AXIS), PartitionSpec()

    def compiled(one: Callable, lanes: int, others: int, donate: bool = False) -> Callable:
        specs = (split,) * lanes + (whole,) * others
        many = functools.partial(_many, one, lanes, width)
        body = jax.shard_map(many, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)
        return jax.jit(body, donate_argnums=(0,) if donate else ())

    return _Program(module, steps, compiled(start, 1, 1), compiled(advance, 2, 3, donate=True), compiled(ask, 2, 1))


def _many(one: Callable, lanes: int, width: int, *arguments: Any) -> Any:
    """A function of one lane for all lanes of a device; the first arguments are of lanes, the others shared."""
    own, shared = arguments[:lanes], arguments[lanes:]
    total = jax.tree.leaves(own)[0].shape[0]
    width = min(width, total)
    if width == 1:
        return jax.lax.map(lambda x: one(*x, *shared), own)
    grouped = jax.tree.map(lambda x: x.reshape((-1, width) + x.shape[1:]), own)
    out = jax.lax.map(lambda x: jax.vmap(lambda *x: one(*x, *shared))(*x), grouped)
    return jax.tree.map(lambda x: x.reshape((total,) + x.shape[2:]), out)


def _optimizer(classifier: Classifier, steps: int) -> optax.GradientTransformation:
    rising = min(round(classifier.warmup * steps), steps - 1)
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if rising else classifier.learning_rate, classifier.learning_rate, rising, steps
    )

    def matrices(params):
        return jax.tree.map(lambda x: x.ndim > 1, params)

    return optax.adamw(rate, weight_decay=classifier.weight_decay, mask=matrices)


def _standardised(examples: jax.Array, state: _State) -> jax.Array:
    return examples.astype(jnp.float32) * state.scale + state.shift
