"""WeightSpec: the meaning of a flat weight vector, and its changes that preserve the network's function."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

FIXED = -1  # group of axes that are not permuted (inputs, outputs, kernel offsets)
SCALINGS = ("none", "positive", "sign")

Array = TypeVar("Array", jax.Array, np.ndarray)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter tensor of a network and its place in the flat vector.

    Attributes:
      name: path in the parameter tree, joined by "/", e.g. "fc1/weight".
      shape: shape in the parameter tree, e.g. `(10, 784)` for a dense layer's weight.
      axes: factors of `shape` that the symmetry acts on; equal to `shape` except for a dense layer after a flattened
        feature map, whose input axis `H * W * C` is listed as `(H, W, C)`, so that permuting channels permutes blocks.
      groups: one integer per entry of `axes`; axes with the same integer permute together, `FIXED` ones do not.
      roles: one integer per entry of `axes`: +1 where the layer writes the group (outputs; a rescaling multiplies), -1
        where it reads the group (inputs; a rescaling divides), 0 where `groups` is `FIXED`.
      order: order of `axes` in the flat vector. Kernels are stored output axis first, as in PyTorch's state dicts, so
        that a unit's incoming weights are contiguous and published vectors can be read without conversion.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    groups: tuple[int, ...]
    roles: tuple[int, ...]
    order: tuple[int, ...]

    def __post_init__(self):
        if not len(self.axes) == len(self.groups) == len(self.roles) == len(self.order):
            raise ValueError(f"Leaf {self.name}: axes, groups, roles and order must have one entry per axis.")
        if math.prod(self.axes) != math.prod(self.shape):
            raise ValueError(f"Leaf {self.name}: axes {self.axes} do not factor the shape {self.shape}.")
        if sorted(self.order) != list(range(len(self.axes))):
            raise ValueError(f"Leaf {self.name}: order {self.order} is not a permutation of its axes.")

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)

    @property
    def stored_axes(self) -> tuple[int, ...]:
        """`axes` in the order in which the flat vector lays them out."""
        return tuple(self.axes[i] for i in self.order)

    @property
    def stored_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that a state dict may have it in: the output axis first, and flattened where a dense layer reads a
        feature map."""
        return (self.stored_axes,) if len(self.axes) == len(self.shape) else (self.stored_axes, self.shape)

    def to_flat(self, value: jax.Array) -> jax.Array:
        """`[..., *shape]` to `[..., size]` in flat order."""
        lead = value.shape[: value.ndim - len(self.shape)]
        value = value.reshape(lead + self.axes)
        order = tuple(range(len(lead))) + tuple(len(lead) + i for i in self.order)
        return value.transpose(order).reshape(lead + (self.size,))

    def from_flat(self, flat: Array) -> Array:
        """Inverse of `to_flat`."""
        lead = flat.shape[:-1]
        value = flat.reshape(lead + self.stored_axes)
        inverse = np.argsort(self.order)
        order = tuple(range(len(lead))) + tuple(len(lead) + int(i) for i in inverse)
        return value.transpose(order).reshape(lead + self.shape)


@dataclasses.dataclass(frozen=True)
class Group:
    """Hidden units that may be permuted together.

    Attributes:
      size: number of units (channels, neurons).
      scaling: rescaling of a unit that preserves the function: "positive" (ReLU-like), "sign" (odd activation without
        max-pooling before it), or "none".
    """

    size: int
    scaling: str = "none"

    def __post_init__(self):
        if self.scaling not in SCALINGS:
            raise ValueError(f"Unknown scaling {self.scaling!r}; known: {', '.join(SCALINGS)}.")


@dataclasses.dataclass(frozen=True)
class Tokens:
    """A tokenisation: positions of the flat entries in a padded token matrix.

    Attributes:
      index: `[tokens, width]` int32 indices into the flat vector; padding points at entry 0.
      mask: `[tokens, width]` bool, False on padding.
    """

    index: np.ndarray
    mask: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[np.ndarray], width: int) -> Tokens:
        """Tokens of flat places, each at most `width` of them, padded at the end."""
        index = np.zeros((len(rows), width), np.int32)
        mask = np.zeros((len(rows), width), bool)
        for i, row in enumerate(rows):
            index[i, : len(row)] = row
            mask[i, : len(row)] = True
        return cls(index, mask)

    def tokenise(self, vectors: jax.Array) -> jax.Array:
        """`[..., P]` to `[..., tokens, width]`, zero on padding."""
        return jnp.where(self.mask, jnp.take(vectors, self.index, axis=-1), jnp.zeros((), vectors.dtype))

    def detokenise(self, tokens: jax.Array) -> jax.Array:
        """`[..., tokens, width]` to `[..., P]`; padding is ignored."""
        flat = tokens.reshape(tokens.shape[:-2] + (-1,))
        return jnp.take(flat, self._position, axis=-1)

    @functools.cached_property
    def _position(self) -> np.ndarray:
        slots = np.flatnonzero(self.mask.ravel())
        position = np.empty(slots.size, np.int32)
        position[self.index.ravel()[slots]] = slots
        return position


@dataclasses.dataclass(frozen=True)
class WeightSpec:
    """The meaning of a flat weight vector `[P]`: leaves in order, and the symmetry groups of its hidden units.

    Flatten, unflatten, permute, rescale and tokenise are pure, accept leading batch axes, and compose with `jit` and
    `vmap`; `flatten(unflatten(v))` is exactly `v`.

    Attributes:
      leaves: parameter tensors in flat order.
      groups: the permutation groups that the leaves' axes refer to by position.
    """

    leaves: tuple[Leaf, ...]
    groups: tuple[Group, ...] = ()

    def __post_init__(self):
        names = [leaf.name for leaf in self.leaves]
        if len(set(names)) != len(names):
            raise ValueError(f"Leaf names must be unique, got {names}.")
        for leaf in self.leaves:
            for size, group, role in zip(leaf.axes, leaf.groups, leaf.roles, strict=True):
                if group == FIXED:
                    continue
                if not 0 <= group < len(self.groups) or self.groups[group].size != size:
                    raise ValueError(f"Leaf {leaf.name}: axis of size {size} does not fit group {group}.")
                if role not in (-1, 1):
                    raise ValueError(f"Leaf {leaf.name}: the role of a permuted axis is +1 or -1, got {role}.")

    @property
    def num_params(self) -> int:
        """Length of the flat vector, P."""
        return sum(leaf.size for leaf in self.leaves)

    @functools.cached_property
    def offsets(self) -> tuple[int, ...]:
        """Start of every leaf in the flat vector, and P at the end."""
        return tuple(int(x) for x in np.cumsum([0] + [leaf.size for leaf in self.leaves]))

    def spans(self) -> list[tuple[Leaf, slice]]:
        """Every leaf with its slice of the flat vector."""
        return [
            (leaf, slice(a, b)) for leaf, a, b in zip(self.leaves, self.offsets[:-1], self.offsets[1:], strict=True)
        ]

    def subset(self, names: Collection[str]) -> WeightSpec:
        """The spec of vectors of some leaves alone, in this spec's order.

        Unless these are all leaves, no axis can be permuted or rescaled: other leaves that read or write the same
        hidden units would have to change with them.

        Raises:
          ValueError: a name that no leaf has, or no names.
        """
        unknown = set(names) - {leaf.name for leaf in self.leaves}
        if unknown or not names:
            raise ValueError(f"No leaves of this spec: {sorted(unknown)}." if unknown else "A subset needs leaves.")
        chosen = tuple(leaf for leaf in self.leaves if leaf.name in names)
        if len(chosen) == len(self.leaves):
            return self
        return WeightSpec(
            tuple(
                dataclasses.replace(leaf, groups=(FIXED,) * len(leaf.axes), roles=(0,) * len(leaf.axes))
                for leaf in chosen
            )
        )

    def flatten(self, params: Mapping[str, Any]) -> jax.Array:
        """Nested parameter dict with leaves `[..., *shape]` to vectors `[..., P]`."""
        parts = []
        for leaf in self.leaves:
            value: Any = params
            for key in leaf.name.split("/"):
                value = value[key]
            parts.append(leaf.to_flat(value))
        return jnp.concatenate(parts, axis=-1)

    def unflatten(self, vectors: jax.Array) -> dict[str, Any]:
        """Vectors `[..., P]` to a nested parameter dict with leaves `[..., *shape]`."""
        if vectors.shape[-1] != self.num_params:
            raise ValueError(f"A weight vector of this spec has {self.num_params} entries, got shape {vectors.shape}.")
        params: dict[str, Any] = {}
        for leaf, span in self.spans():
            *path, last = leaf.name.split("/")
            node = params
            for key in path:
                node = node.setdefault(key, {})
            node[last] = leaf.from_flat(vectors[..., span])
        return params

    def permutation_index(self, permutations: Sequence[jax.Array]) -> jax.Array:
        """The `[P]` gather index of a permutation of the hidden units.

        Args:
          permutations: one `[size]` integer array per group; new unit `i` is old unit `permutations[g][i]`.

        Returns:
          `[P]` int32; `vector[..., index]` computes the same function as `vector`.
        """
        if len(permutations) != len(self.groups):
            raise ValueError(f"Expected {len(self.groups)} permutations, one per group, got {len(permutations)}.")
        parts = []
        for leaf, span in self.spans():
            index = jnp.arange(span.start, span.stop, dtype=jnp.int32).reshape(leaf.stored_axes)
            for position, axis in enumerate(leaf.order):
                if leaf.groups[axis] != FIXED:
                    # Clipped, as filling what is out of bounds is another pass.
                    index = jnp.take(index, permutations[leaf.groups[axis]], axis=position, mode="clip")
            parts.append(index.reshape(-1))
        return jnp.concatenate(parts)

    def permute(self, vectors: jax.Array, permutations: Sequence[jax.Array]) -> jax.Array:
        """Vectors `[..., P]` with their hidden units reordered; the function stays the same."""
        return jnp.take(vectors, self.permutation_index(permutations), axis=-1)

    def random_permutation(self, key: jax.Array) -> tuple[jax.Array, ...]:
        """One uniformly random permutation per group."""
        keys = [jax.random.fold_in(key, i) for i in range(len(self.groups))]
        return tuple(jax.random.permutation(k, g.size) for k, g in zip(keys, self.groups, strict=True))

    def rescale(self, vectors: jax.Array, scales: Sequence[jax.Array]) -> jax.Array:
        """Multiplies the weights that write each unit and divides those that read it.

        Args:
          vectors: `[..., P]`.
          scales: one `[size]` array per group: ones where `Group.scaling` is "none", positive numbers where it is
            "positive", plus or minus one where it is "sign". The values are not checked (they may be traced).

        Returns:
          `[..., P]` vectors of the same function (up to rounding).
        """
        if len(scales) != len(self.groups):
            raise ValueError(f"Expected {len(self.groups)} arrays of scales, one per group, got {len(scales)}.")
        parts = []
        for leaf in self.leaves:
            factor = jnp.ones(leaf.stored_axes, vectors.dtype)
            for position, axis in enumerate(leaf.order):
                if leaf.groups[axis] == FIXED:
                    continue
                scale = scales[leaf.groups[axis]] ** leaf.roles[axis]
                shape = [1] * len(leaf.axes)
                shape[position] = leaf.axes[axis]
                factor = factor * scale.reshape(shape)
            parts.append(factor.reshape(-1))
        factors = jnp.concatenate(parts)
        return vectors * factors.reshape((1,) * (vectors.ndim - 1) + (-1,))

    def random_scales(self, key: jax.Array, log_std: float = 0.5) -> tuple[jax.Array, ...]:
        """Random function-preserving scales: log-normal for "positive" groups, random signs for "sign" groups."""
        scales = []
        for i, group in enumerate(self.groups):
            k = jax.random.fold_in(key, i)
            if group.scaling == "positive":
                scales.append(jnp.exp(log_std * jax.random.normal(k, (group.size,))))
            elif group.scaling == "sign":
                scales.append(jax.random.rademacher(k, (group.size,), dtype=jnp.float32))
            else:
                scales.append(jnp.ones((group.size,)))
        return tuple(scales)

    def tokens(self, scheme: str, chunk: int = 0) -> Tokens:
        """A tokenisation of the flat vector.

        Args:
          scheme: "neuron" (one token per output unit of a layer: its incoming weights, then its bias and whatever else
            the layer keeps per unit), "chunk" (consecutive entries of a leaf in pieces of `chunk`, G.pt), or "tensor"
            (one token per leaf, HyperDiffusion).
          chunk: longest piece of the "chunk" scheme.

        Raises:
          ValueError: unknown scheme, or a chunk below 1.
        """
        if scheme == "neuron":
            rows = self._neuron_rows()
        elif scheme == "chunk":
            if chunk < 1:
                raise ValueError("The chunk tokenisation needs chunk >= 1.")
            rows = [
                np.arange(start, min(start + chunk, span.stop))
                for _, span in self.spans()
                for start in range(span.start, span.stop, chunk)
            ]
        elif scheme == "tensor":
            rows = [np.arange(span.start, span.stop) for _, span in self.spans()]
        else:
            raise ValueError(f"Unknown tokenisation {scheme!r}; known: neuron, chunk, tensor.")
        return Tokens.of(rows, max(len(row) for row in rows))

    def _neuron_rows(self) -> list[np.ndarray]:
        rows = []
        layers: dict[str, list[tuple[Leaf, slice]]] = {}
        for leaf, span in self.spans():
            layers.setdefault(leaf.name.rpartition("/")[0], []).append((leaf, span))
        for name, members in layers.items():
            # A vector or a dense layer's matrix may have its units in several axes (attention's: heads, places in one).
            sizes = [next(iter(leaf.shape if len(leaf.shape) < 3 else leaf.stored_axes), 1) for leaf, _ in members]
            units = set(sizes)
            if len(units) != 1:
                raise ValueError(f"Layer {name!r} has tensors of {sorted(units)} units: no neuron tokens.")
            parts = [np.arange(span.start, span.stop).reshape(sizes[0], -1) for _, span in members]
            rows += list(np.concatenate(parts, axis=1))
        return rows

    def units(self, group: int) -> tuple[np.ndarray, np.ndarray]:
        """Flat indices that belong to the units of one group.

        Returns:
          `(units, rest)`: `[size, features]` flat indices that belong to each unit (incoming weights, bias, outgoing
          weights), and the `[R]` other indices.

        Raises:
          ValueError: a tensor has the group on more than one axis.
        """
        parts, rest = [], []
        for leaf, span in self.spans():
            index = np.arange(span.start, span.stop).reshape(leaf.stored_axes)
            positions = [p for p, axis in enumerate(leaf.order) if leaf.groups[axis] == group]
            if not positions:
                rest.append(index.ravel())
            elif len(positions) == 1:
                parts.append(np.moveaxis(index, positions[0], 0).reshape(self.groups[group].size, -1))
            else:
                raise ValueError(f"Leaf {leaf.name} has group {group} on several axes.")
        return np.concatenate(parts, axis=1), np.concatenate(rest) if rest else np.zeros(0, np.int64)

    def to_json(self) -> dict[str, Any]:
        """A JSON-serialisable description from which `from_json` rebuilds an equal spec."""
        return {
            "leaves": [dataclasses.asdict(x) for x in self.leaves],
            "groups": [dataclasses.asdict(x) for x in self.groups],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> WeightSpec:
        """Inverse of `to_json`."""

        def leaf(item):
            return Leaf(name=item["name"], **{k: tuple(item[k]) for k in ("shape", "axes", "groups", "roles", "order")})

        return cls(tuple(leaf(x) for x in data["leaves"]), tuple(Group(**x) for x in data["groups"]))
