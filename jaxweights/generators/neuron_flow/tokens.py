"""A weight vector as neurons: every number belongs to one hidden unit, or to the outputs."""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.spec import FIXED, Leaf, WeightSpec


class Kind(NamedTuple):
    """Tokens of equal meaning: the units of one group, or the one token of what belongs to no unit.

    Attributes:
      index: `[tokens, size]` int64 places in the flat vector.
      group: number of the group, or -1.
    """

    index: np.ndarray
    group: int


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class NeuronTokens:
    """One token for every hidden unit; static in pytrees.

    A tensor belongs to the units that it writes (weights into a unit, its bias), else to those that it reads (weights
    of the outputs), else to the last token (biases of the outputs). So the units of the last hidden layer hold what
    enters and what leaves them, as those of a network of one hidden layer do.

    Attributes:
      spec: meaning of the vector.
    """

    spec: WeightSpec

    @functools.cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The units of every group, then the rest, if there is any."""
        parts: dict[int, list[np.ndarray]] = {}
        for leaf, span in self.spec.spans():
            index = np.arange(span.start, span.stop).reshape(leaf.stored_axes)
            group, place = _owner(leaf)
            rows = 1 if group == FIXED else self.spec.groups[group].size
            parts.setdefault(group, []).append(np.moveaxis(index, place, 0).reshape(rows, -1))
        order = sorted(parts, key=lambda group: (group == FIXED, group))
        return tuple(Kind(np.concatenate(parts[group], axis=1), group) for group in order)

    @property
    def num_params(self) -> int:
        """Length of the flat vector, P."""
        return self.spec.num_params

    @property
    def num_tokens(self) -> int:
        """Tokens of one vector."""
        return sum(len(kind.index) for kind in self.kinds)

    def split(self, x: jax.Array) -> list[jax.Array]:
        """Vectors `[n, P]` to one array `[n, tokens, size]` per kind."""
        return [x[:, kind.index.reshape(-1)].reshape(-1, *kind.index.shape) for kind in self.kinds]

    def join(self, parts: list[jax.Array]) -> jax.Array:
        """Inverse of `split`."""
        whole = jnp.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        return whole[:, self._places]

    @functools.cached_property
    def _places(self) -> np.ndarray:
        return np.argsort(np.concatenate([kind.index.reshape(-1) for kind in self.kinds]))


def _owner(leaf: Leaf) -> tuple[int, int]:
    """The group that a tensor belongs to and the place of its axis among the stored ones."""
    for wanted in (1, -1):
        for place, axis in enumerate(leaf.order):
            if leaf.groups[axis] != FIXED and leaf.roles[axis] == wanted:
                return leaf.groups[axis], place
    return FIXED, 0
