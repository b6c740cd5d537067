"""Evaluation with a cache: stages of an experiment ask for the same networks again."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, parallel
from jaxweights.data.probe import ProbeSettings
from jaxweights.evaluation.accuracy import Evaluation, evaluate
from jaxweights.evaluation.base import PredictingEvaluator

_BYTES = 512 << 20  # of cached masks
_BLOCK_BYTES = 64 << 20  # of weights that are read and hashed at a time
_TILE = 128  # inputs that predictions are made of at a time


class Evaluator(PredictingEvaluator):
    """`evaluate` of one network on one test set, with a cache of the weight vectors that it has seen.

    Args:
      net: the task network.
      images: see `evaluate`.
      labels: see `evaluate`.
      mesh: devices; all by default.
    """

    def __init__(self, net: nets.TaskNet, images: np.ndarray, labels: np.ndarray, mesh: Mesh | None = None):
        self._arguments = (images, labels, mesh)
        self._net = net
        self._known: dict[bytes, tuple[np.float64, np.float64, np.ndarray]] = {}
        self._bytes = 0

    @property
    def net(self) -> nets.TaskNet:
        """The task network."""
        return self._net

    @property
    def examples(self) -> int:
        """Examples of the test set."""
        return len(self._arguments[1])

    def __call__(self, weights, progress: Callable[[int, int], None] | None = None) -> Evaluation:
        """Evaluates `[N, P]` float32 weight vectors, an array or anything that slices to one; see `evaluate`."""
        names = list(digests(weights))
        new = list({name: row for row, name in enumerate(names) if name not in self._known}.values())
        if len(new) == len(names):
            found = evaluate(self._net, weights, *self._arguments, progress)
            self._keep(names, found)
            return found
        fresh = {names[row]: i for i, row in enumerate(new)}
        if new:
            found = evaluate(self._net, weights[np.array(new)], *self._arguments, progress)
        rows = [
            (found.accuracy[fresh[name]], found.loss[fresh[name]], found.errors[fresh[name]])
            if name in fresh
            else self._known[name]
            for name in names
        ]
        if new:
            self._keep(list(fresh), found)
        accuracy, loss, errors = (np.stack(column) for column in zip(*rows, strict=True))
        return Evaluation(accuracy, loss, errors)

    def outputs(self, weights, count: int) -> np.ndarray:
        """Outputs `[N, count, K]` of weight vectors `[N, P]` on the first inputs of the test set."""
        return np.asarray(
            jax.jit(jax.vmap(self._net.apply, (0, None)))(np.asarray(weights), self._arguments[0][:count])
        )

    def predictions(self, weights, rows: np.ndarray) -> np.ndarray:
        """Predictions `[N, S, K]` float32 of weight vectors `[N, P]` for the inputs `rows` `[S]`."""
        inputs = np.asarray(self._arguments[0], np.float32)
        size = min(_TILE, len(inputs))
        mesh = parallel.resolve(self._arguments[2])
        program, models = _predicting(self._net, size, mesh)
        if len(weights) <= models:  # what one device computes anyway: others would compute padding
            mesh = parallel.first_device(mesh)
            program, models = _predicting(self._net, size, mesh)
        block = models * mesh.size
        out = np.empty((len(weights), len(rows), self._net.num_classes), np.float32)
        for start in range(0, len(weights), block):
            vectors = np.asarray(weights[start : start + block], np.float32)
            padded = parallel.pad_rows(vectors, block)
            for first in range(0, len(rows), size):
                chosen = rows[first : first + size]
                found = program((self._net.frozen, parallel.pad_rows(inputs[chosen], size)), padded)
                out[start : start + block, first : first + size] = np.asarray(found)[: len(vectors), : len(chosen)]
        return out

    def decisions(self, predictions: np.ndarray) -> np.ndarray | None:
        return self._net.task.decisions(self._net, predictions)

    def quality(self, predictions: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
        return self._net.task.quality(predictions, np.asarray(self._arguments[1])[rows])

    def losses(self, weights) -> np.ndarray:
        """Losses `[N]` of networks that will not be asked for again."""
        return evaluate(self._net, weights, *self._arguments).loss

    def probing(self, settings: ProbeSettings) -> Evaluator:
        if not settings.size:
            return self
        images, labels = self._net.task.probe_set(*self._arguments[:2], settings)
        return Evaluator(self._net, images, labels, self._arguments[2])

    def _keep(self, names: list[bytes], found: Evaluation) -> None:
        self._bytes += found.errors.nbytes
        if self._bytes > _BYTES:
            self._known.clear()
            self._bytes = found.errors.nbytes
        if found.errors.nbytes <= _BYTES:
            self._known.update(zip(names, zip(found.accuracy, found.loss, found.errors, strict=True), strict=True))


def digests(weights) -> Iterator[bytes]:
    """A hash of every row's content."""
    block = max(1, _BLOCK_BYTES // (4 * weights.shape[1]))
    for start in range(0, len(weights), block):
        for row in np.ascontiguousarray(weights[start : start + block], np.float32):
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


@functools.lru_cache(maxsize=8)
def _predicting(net: nets.TaskNet, inputs: int, mesh: Mesh):
    """The compiled predictions of a tile of inputs, and how many networks a device takes at a time."""
    budget = (16 if jax.default_backend() == "cpu" else 1024) << 20
    models = int(np.clip(budget // (4 * inputs * net.activation_size), 1, 64))

    def predict(state, vectors):
        bound = net.bind(state[0])
        outputs = jax.vmap(bound.apply, (0, None))(vectors, bound.prepare(state[1]))
        return net.task.predictions(net, outputs)

    return parallel.map_rows(predict, mesh), models
