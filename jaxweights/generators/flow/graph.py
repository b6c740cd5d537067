"""weightflow's network (Erdogan 2025, arXiv 2504.03710): a relational transformer of a perceptron as a graph.

Nodes are the inputs and units of a perceptron, with their biases; there is an edge for every pair of nodes, with the
weight between them where there is one. All nodes attend to all, so one network costs the square of its nodes.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.nn.activations import gelu
from jaxweights.nn.dense import Dense
from jaxweights.nn.normalization import LayerNorm
from jaxweights.nn.parameters import FAN_IN_UNIFORM, INITIALISERS, Initialiser, normal, parameter
from jaxweights.spec import WeightSpec

_XAVIER = Initialiser(INITIALISERS["xavier_uniform"].kernel, lambda u, i, o: jnp.zeros_like(u))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Graph:
    """A perceptron as a graph; static in pytrees.

    Attributes:
      spec: of a chain of dense layers with biases.

    Raises:
      UserError: another network.
    """

    spec: WeightSpec

    def __post_init__(self) -> None:
        weights, biases = self._leaves
        pairs = itertools.pairwise(self._sizes)
        fits = [leaf.shape == (after, before) for (leaf, _), (before, after) in zip(weights, pairs, strict=True)]
        if not weights or len(weights) != len(biases) or len(self.spec.leaves) != 2 * len(weights) or not all(fits):
            raise UserError(
                "A graph transformer sees perceptrons, of dense layers with biases one after the other, and "
                f"{self.spec.leaves[0].name} belongs to another network. Set network to 'mlp'."
            )

    @property
    def num_nodes(self) -> int:
        """Inputs and units."""
        return sum(self._sizes)

    @property
    def num_inputs(self) -> int:
        """Nodes without a bias, the first ones."""
        return self._sizes[0]

    @functools.cached_property
    def edges(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """From which node and to which every weight leads, and its place in the flat vector, `[E]` each."""
        sources, targets, places = [], [], []
        starts = np.cumsum([0, *self._sizes])
        for layer, (leaf, span) in enumerate(self._leaves[0]):
            target, source = np.indices(leaf.shape)
            sources.append(starts[layer] + source.ravel())
            targets.append(starts[layer + 1] + target.ravel())
            places.append(np.arange(span.start, span.stop))
        return np.concatenate(sources), np.concatenate(targets), np.concatenate(places)

    @functools.cached_property
    def biases(self) -> np.ndarray:
        """Places of the biases in the flat vector, one for every node but the inputs."""
        return np.concatenate([np.arange(span.start, span.stop) for _, span in self._leaves[1]])

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Which position every node has, `[N]`: hidden units of one layer share theirs."""
        sizes = self._sizes
        parts, count = [np.arange(sizes[0])], sizes[0]
        for size in sizes[1:-1]:
            parts, count = [*parts, np.full(size, count)], count + 1
        return np.concatenate([*parts, count + np.arange(sizes[-1])])

    @functools.cached_property
    def _leaves(self):
        spans = list(self.spec.spans())
        return [(a, s) for a, s in spans if len(a.shape) == 2], [(a, s) for a, s in spans if len(a.shape) == 1]

    @functools.cached_property
    def _sizes(self) -> tuple[int, ...]:
        shapes = [leaf.shape for leaf, _ in self._leaves[0]]
        return (*[shape[1] for shape in shapes[:1]], *[shape[0] for shape in shapes])


class GraphTransformer(nn.Module):
    """The velocity of perceptrons.

    Attributes:
      graph: the perceptron.
      width: features of nodes and edges, besides the time.
      layers: blocks.
      heads: heads of attention.
      published: whether edges that have a weight see 1 instead of the time, as released; else all see the time.
    """

    graph: Graph
    width: int
    layers: int
    heads: int
    published: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, times: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Maps `[n, P]` at `times` `[n]` to `[n, P]`."""
        del keys
        graph, count = self.graph, len(x)
        sources, targets, places = graph.edges
        size, inputs = graph.num_nodes, graph.num_inputs
        edges = jnp.zeros((count, size, size)).at[:, sources, targets].set(x[:, places])[..., None]
        nodes = jnp.concatenate([jnp.zeros((count, inputs)), x[:, graph.biases]], axis=1)[..., None]
        edges = self._dense("edge_in")(self._features(edges, "edge"))
        nodes = self._dense("node_in")(self._features(nodes, "node"))
        table = parameter(self, "positions", (int(graph.groups.max()) + 1, self.width), normal(1.0))
        nodes = nodes + table[graph.groups][None]
        edge_times = jnp.broadcast_to(times[:, None, None, None], (count, size, size, 1))
        if self.published:
            edge_times = edge_times.at[:, sources, targets].set(1.0)
        node_times = jnp.broadcast_to(times[:, None, None], (count, size, 1)).at[:, :inputs].set(1.0)
        edges = jnp.concatenate([edges, edge_times], axis=3)
        nodes = jnp.concatenate([nodes, node_times], axis=2)
        for number in range(self.layers):
            nodes, edges = Block(self.width, self.heads, name=f"block_{number}")(nodes, edges)
        found = self._outputs(edges[:, sources, targets], "edge_out"), self._outputs(nodes[:, inputs:], "node_out")
        order = np.argsort(np.concatenate([places, graph.biases]))
        return jnp.concatenate(found, axis=1)[:, order]

    def _features(self, x: jax.Array, name: str) -> jax.Array:
        for number in range(3):
            x = self._dense(f"{name}_{number}")(nn.silu(x) if number else x)
        return x

    def _outputs(self, x: jax.Array, name: str) -> jax.Array:
        for number in range(2):
            x = nn.relu(self._dense(f"{name}_{number}")(x))
        return Dense(1, FAN_IN_UNIFORM, convention="flax", name=f"{name}_2")(x)[..., 0]

    def _dense(self, name: str) -> Dense:
        return Dense(self.width, FAN_IN_UNIFORM, convention="flax", name=name)


class Block(nn.Module):
    """Attention of nodes that sees the edges between them, then an update of these (Diao and Loynd 2023, relational
    attention; normalised afterwards).

    Attributes:
      width: features of queries and of hidden layers.
      heads: heads of attention.
    """

    width: int
    heads: int

    @nn.compact
    def __call__(self, nodes: jax.Array, edges: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps nodes `[n, N, C]` and edges `[n, N, N, C]` to such."""
        size = nodes.shape[-1]
        attended = _dense(size, "mixed")(self._attention(nodes, edges))
        nodes = _norm("node_norm_0")(nodes + attended)
        nodes = _norm("node_norm_1")(nodes + self._two_layers(nodes, "node"))
        read = jnp.concatenate([edges, jnp.swapaxes(edges, 1, 2)], axis=3)
        hidden = _dense(self.width, "edge_edges")(read)
        hidden = hidden + _dense(self.width, "edge_sources")(nodes)[:, :, None]
        hidden = hidden + _dense(self.width, "edge_targets")(nodes)[:, None]
        edges = _norm("edge_norm_0")(edges + _dense(size, "edge_update")(gelu(hidden)))
        return nodes, _norm("edge_norm_1")(edges + self._two_layers(edges, "edge"))

    def _attention(self, nodes: jax.Array, edges: jax.Array) -> jax.Array:
        count, size, features = nodes.shape
        heads, part = self.heads, self.width // self.heads
        of_nodes = _dense(3 * self.width, "node_queries", False)(nodes).reshape(count, size, heads, 3, part)
        of_edges = _dense(4 * self.width, "edge_queries", False)(edges).reshape(count, size, size, heads, 4, part)
        queries = of_nodes[:, :, None, :, 0] + of_edges[..., 0, :]
        keys = of_nodes[:, None, :, :, 1] + of_edges[..., 1, :]
        values = of_nodes[:, None, :, :, 2] * of_edges[..., 3, :] + of_edges[..., 2, :]
        # The root of the whole width, not of a head's, as released.
        scores = jnp.sum(queries * keys, axis=-1) / self.width**0.5
        weights = jax.nn.softmax(scores, axis=2)
        mixed = jnp.einsum("bijh,bijhd->bihd", weights, values).reshape(count, size, self.width)
        return _dense(features, "attended")(mixed)

    def _two_layers(self, x: jax.Array, name: str) -> jax.Array:
        hidden = gelu(_dense(self.width, f"{name}_0", False)(x))
        return _dense(x.shape[-1], f"{name}_1")(hidden)


def _dense(features: int, name: str, bias: bool = True) -> Dense:
    return Dense(features, _XAVIER, bias, "flax", name=name)


def _norm(name: str) -> LayerNorm:
    return LayerNorm(name=name, convention="flax")
