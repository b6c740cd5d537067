"""Named features of networks: numbers that say something by themselves, for ranked coefficients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.bias.weights.base import Architecture, WeightTransformation, matrices, transform
from jaxweights.bias.weights.units import unit_squares
from jaxweights.evaluation import Evaluator, recalls
from jaxweights.nets.base import TaskNet
from jaxweights.nets.mlp import MLP
from jaxweights.nn.normalization import is_statistic
from jaxweights.population import Population

_SMALL = 0.05  # of a matrix's root mean square: smaller weights count as none
_UNUSED = 1e-2  # of the largest unit's product of norms: units with less pass nothing on
_TINY = 1e-12

_OF_MATRICES = ("norm", "spectral norm", "stable rank", "sparsity", "sign balance", "kurtosis")
_OF_VECTORS = ("norm", "sign balance")


@dataclasses.dataclass(frozen=True)
class Features(WeightTransformation):
    """Named features of the weights alone.

    Of every matrix: the Frobenius norm, the spectral norm, the stable rank (the ratio of their squares), the share of
    weights below 5 % of the root mean square, the share of positive minus that of negative weights, and the excess
    kurtosis. Of every vector: norm and sign balance. Of every group of hidden units: the share of units that pass
    nothing on, whose norms of incoming and outgoing weights multiply to less than 1 % of the largest unit's.
    """

    KIND: ClassVar[str] = "features"
    DECOMPOSES: ClassVar[bool] = True
    KEEPS: ClassVar[str] = "named features of every tensor"

    def names(self, of: Architecture) -> list[str]:
        """Names of the features, in order."""
        found = [f"{kind} of {m.leaf.name}" for m in matrices(of.spec) for kind in _OF_MATRICES]
        found += [f"{kind} of {leaf.name}" for leaf, _ in _vectors(of) for kind in _OF_VECTORS]
        return found + [f"unused units of hidden layer {i + 1}" for i in range(len(of.spec.groups))]

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """One number per name."""
        found = [x for m in matrices(of.spec) for x in _of_matrix(m.of(row))]
        for _, span in _vectors(of):
            found += [jnp.linalg.norm(row[span]), jnp.mean(jnp.sign(row[span]))]
        written, read = (unit_squares(of.spec, row, role) for role in (1, -1))
        for squares in (w * r for w, r in zip(written, read, strict=True)):
            found.append(jnp.mean(squares <= _UNUSED**2 * squares.max()))
        return jnp.stack(found)


def _of_matrix(matrix: jax.Array) -> list[jax.Array]:
    squares, largest = jnp.sum(jnp.square(matrix)), jnp.linalg.svd(matrix, compute_uv=False)[0]
    centred = matrix - matrix.mean()
    variance = jnp.mean(jnp.square(centred))
    return [
        jnp.sqrt(squares),
        largest,
        squares / jnp.maximum(jnp.square(largest), _TINY),
        jnp.mean(jnp.abs(matrix) < _SMALL * jnp.sqrt(squares / matrix.size)),
        jnp.mean(jnp.sign(matrix)),
        jnp.mean(centred**4) / jnp.maximum(variance**2, _TINY) - 3.0,
    ]


def _vectors(of: Architecture) -> list:
    """Leaves with one axis and their spans, without running statistics."""
    return [(leaf, span) for leaf, span in of.spec.spans() if len(leaf.axes) == 1 and not is_statistic(leaf.name)]


class Named(NamedTuple):
    """Named features.

    Attributes:
      names: F names.
      values: `[N, F]` float64, finite.
    """

    names: list[str]
    values: np.ndarray

    def beside(self, other: Named) -> Named:
        """These features and others of the same networks."""
        return Named(self.names + other.names, np.concatenate([self.values, other.values], axis=1))


class Examples(NamedTuple):
    """What networks are evaluated on.

    Attributes:
      inputs: `[T, ...]` float32, standardised.
      targets: `[T, ...]` labels.
    """

    inputs: np.ndarray
    targets: np.ndarray


def of_weights(weights: Any, of: Architecture, mesh: Mesh | None = None) -> Named:
    """Features of weights `[N, P]` alone, see `Features`."""
    kind = Features()
    return Named(kind.names(of), transform(kind, weights, of, jax.random.key(0), mesh=mesh).astype(np.float64))


def of_training(networks: Population) -> Named:
    """What the records of networks say that is finite for all of them: the step that they are of."""
    steps = networks.records["step"]
    if (steps < 0).any():
        return Named([], np.zeros((len(networks), 0)))
    return Named(["step"], steps[:, None].astype(np.float64))


def of_function(
    net: TaskNet, weights: Any, test: Examples, train: Examples | None = None, mesh: Mesh | None = None
) -> Named:
    """What networks do on their own data: quality and loss on test examples, loss on training examples, recall of every
    class, and the share of hidden units of dense layers that are never active.

    Args:
      net: the task network, with its task.
      weights: `[N, P]`.
      test: examples of the collection that the networks are of.
      train: training examples; None where they are not at hand.
      mesh: devices; None for all.
    """
    mesh = parallel.resolve(mesh)
    found = Evaluator(net, test.inputs, test.targets, mesh)(weights)
    columns = {net.task.terms.quality: found.accuracy, "test loss": found.loss}
    if train is not None:
        columns["training loss"] = Evaluator(net, train.inputs, train.targets, mesh)(weights).loss
    if np.issubdtype(test.targets.dtype, np.integer) and test.targets.ndim == 1:
        labels = np.unique(test.targets)
        columns |= {f"recall of class {k}": x for k, x in zip(labels, recalls(found, test.targets).T, strict=True)}
    for name, share in _inactive(net, weights, test.inputs, mesh).items():
        columns[f"dead units of {name}"] = share
    # Losses of networks without outputs are no numbers; a classifier takes them for the worst there is.
    values = [np.where(np.isfinite(x), x, np.max(x, initial=0.0, where=np.isfinite(x))) for x in columns.values()]
    return Named(list(columns), np.stack(values, axis=1).astype(np.float64))


def _inactive(net: TaskNet, weights: Any, inputs: np.ndarray, mesh: Mesh) -> dict[str, np.ndarray]:
    """Shares `[N]` of units that no input activates, by the name of the dense layer with a ReLU-like activation that
    alone writes them."""
    layers = dense_layers(net)
    if not layers:
        return {}

    examples = 1 if isinstance(net.module, MLP) else 0  # the axis of the outputs that examples lie on

    def shares(inputs: jax.Array, rows: jax.Array) -> jax.Array:
        def one(row):
            variables, x = {"params": net.spec.unflatten(row)}, net.resized(inputs)
            seen: Any = net.module.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])[1]
            return jnp.stack([jnp.mean(jnp.max(_layer(seen, name), axis=examples) <= 0) for name in layers])

        return jax.lax.map(one, rows, batch_size=16)

    found = np.asarray(parallel.map_rows(shares, mesh)(jnp.asarray(inputs), np.asarray(weights[:], np.float32)))
    return {name: found[:, i] for i, name in enumerate(layers)}


def dense_layers(net: TaskNet) -> Sequence[str]:
    """Names of dense layers whose outputs go into a ReLU-like activation: they alone write a group that may be rescaled
    by positive numbers."""
    writers: dict[int, set[str]] = {}
    for leaf in net.spec.leaves:
        for group, role in zip(leaf.groups, leaf.roles, strict=True):
            if role == 1:
                writers.setdefault(group, set()).add(leaf.name.rpartition("/")[0])
    dense = {m.leaf.name.rpartition("/")[0] for m in matrices(net.spec) if len(m.leaf.shape) == 2}
    alone = {g: next(iter(names)) for g, names in writers.items() if len(names) == 1}
    return [name for g, name in sorted(alone.items()) if name in dense and net.spec.groups[g].scaling == "positive"]


def _layer(seen: Any, name: str) -> jax.Array:
    """What a layer put out."""
    node = seen["intermediates"]
    for part in name.split("/"):
        node = node[part]
    return node["__call__"][0]
