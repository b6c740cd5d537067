"""What a transformation of weights is, and how thousands of networks are transformed at once."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import parallel
from jaxweights.errors import UserError
from jaxweights.nets.base import TaskNet
from jaxweights.nn.normalization import is_statistic
from jaxweights.settings import Settings
from jaxweights.spec import Leaf, WeightSpec

_BLOCK_BYTES = 64 << 20  # of networks and what is made of them, per dispatch
_MOST_FEATURES = 1 << 20  # of one network: more would be the weights of a classifier that nobody can train


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What weight vectors belong to.

    Attributes:
      spec: meaning of a vector.
      net: the task network, for transformations that ask what a network computes; None where it is not at hand.
    """

    spec: WeightSpec
    net: TaskNet | None = None


class Matrix(NamedTuple):
    """A leaf with more than one axis, as the matrix `[units, inputs]` that its layer multiplies by.

    Attributes:
      leaf: the leaf.
      span: its entries in the flat vector.
    """

    leaf: Leaf
    span: slice

    @property
    def shape(self) -> tuple[int, int]:
        """Units, and inputs of each: of a convolution all entries of its window."""
        units = self.leaf.stored_axes[0]
        return units, self.leaf.size // units

    def of(self, row: jax.Array) -> jax.Array:
        """The matrix `[units, inputs]` of a network `[P]`."""
        return row[self.span].reshape(self.shape)


def matrices(spec: WeightSpec) -> list[Matrix]:
    """The matrices and kernels of a spec, in flat order; running statistics are none."""
    return [Matrix(leaf, span) for leaf, span in spec.spans() if len(leaf.axes) > 1 and not is_statistic(leaf.name)]


@dataclasses.dataclass(frozen=True)
class WeightTransformation(Settings, abc.ABC):
    """What is kept of a network before a classifier is asked which collection it came from.

    The result of a network depends on the network, on what `fit` made, and on its own key alone.
    """

    KIND: ClassVar[str]
    """Its key in the registry."""
    NETWORK: ClassVar[bool] = False
    """Whether the result is a weight vector of the same architecture, which a classifier of networks can take."""
    DECOMPOSES: ClassVar[bool] = False
    """Whether it takes matrices apart: on CPU one network after the other, since batched decompositions of several
    devices may wait for one another's threads for ever (jaxlib 0.10)."""
    KEEPS: ClassVar[str]
    """What is kept of a network, for tables."""

    @property
    def section(self) -> str:
        """Where a config has these settings."""
        return f"bias.transformations.{self.KIND}"

    def check(self, of: Architecture) -> None:
        """Raises `UserError` where such networks have nothing that it could keep."""
        del of

    def fit(self, of: Architecture, weights: np.ndarray, key: jax.Array) -> Any:
        """What all networks share, a pytree of arrays: nothing, unless a class says otherwise.

        Args:
          of: what the vectors belong to.
          weights: `[N, P]` float32, networks of all collections alike.
          key: typed PRNG key.
        """
        del of, weights, key
        return ()

    @abc.abstractmethod
    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """The features `[D]` of one network `[P]`; pure, and mapped over networks.

        Args:
          of: what the vector belongs to.
          state: from `fit`.
          row: the network.
          key: its own typed PRNG key.
        """

    def refuse_network(self, why: str) -> NoReturn:
        """Raises the `UserError` of networks that have nothing to keep."""
        raise UserError(f"{self.section} does not fit these networks: {why}. Leave this transformation out.")

    def width(self, of: Architecture, state: Any) -> int:
        """Features of one network, D.

        Raises:
          UserError: more than any classifier could take.
        """
        row = jax.ShapeDtypeStruct((of.spec.num_params,), jnp.float32)
        key = jax.eval_shape(jax.random.key, 0)
        found = jax.eval_shape(functools.partial(self.apply, of), state, row, key)
        if found.size > _MOST_FEATURES:
            self.refuse_network(
                f"it would make {found.size:,} numbers of each, and at most {_MOST_FEATURES:,} are used"
            )
        return int(found.size)


class HostTransformation(WeightTransformation):
    """A transformation that is computed by other means than one program per network."""

    @abc.abstractmethod
    def rows(self, of: Architecture, state: Any, weights: np.ndarray, mesh: Mesh) -> np.ndarray:
        """The features `[N, D]` of networks `[N, P]`."""

    def apply(self, of: Architecture, state: Any, row: jax.Array, key: jax.Array) -> jax.Array:
        """Host transformations have no such program."""
        raise NotImplementedError


def transform(
    transformation: WeightTransformation,
    weights: Any,
    of: Architecture | WeightSpec,
    key: jax.Array,
    *,
    state: Any = None,
    mesh: Mesh | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Transforms networks, sharded over devices and in blocks that fit memory.

    Args:
      transformation: what is kept.
      weights: `[N, P]` finite float32; anything that slices to such rows.
      of: what the vectors belong to.
      key: typed PRNG key; network i gets that of its own number.
      state: from `fit`; None to fit on these networks.
      mesh: devices; None for all.
      progress: called with (networks done, N).

    Returns:
      `[N, D]` float32.

    Raises:
      UserError: see `WeightTransformation.check`.
    """
    of = Architecture(of) if isinstance(of, WeightSpec) else of
    transformation.check(of)
    mesh, own = parallel.resolve(mesh), jax.random.fold_in(key, 1)
    if state is None:
        state = transformation.fit(of, np.asarray(weights[:], np.float32), jax.random.fold_in(key, 0))
    if isinstance(transformation, HostTransformation):
        return transformation.rows(of, state, np.asarray(weights[:], np.float32), mesh)
    width = transformation.width(of, state)
    count, out = len(weights), np.empty((len(weights), width), np.float32)
    block = _block(of.spec.num_params + width, count, mesh.size)
    program = _program(transformation, of, mesh)
    for start in range(0, count, block):
        rows = np.asarray(weights[start : start + block], np.float32)
        numbers = np.arange(start, start + block, dtype=np.uint32)
        padded = np.concatenate([rows, np.repeat(rows[-1:], block - len(rows), axis=0)])
        out[start : start + len(rows)] = np.asarray(program((state, own), (padded, numbers)))[: len(rows)]
        if progress is not None:
            progress(start + len(rows), count)
    return out


def _block(floats: int, count: int, devices: int) -> int:
    """Networks of one dispatch: a multiple of the devices, and one size for all blocks."""
    most = max(devices, _BLOCK_BYTES // (4 * floats))
    even = math.ceil(count / math.ceil(count / most))
    return -(-even // devices) * devices


@functools.lru_cache(maxsize=64)
def _program(transformation: WeightTransformation, of: Architecture, mesh: Mesh):
    """The compiled transformation of a block."""

    def apply(shared: Any, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        state, key = shared

        def one(row, number):
            made = transformation.apply(of, state, row, jax.random.fold_in(key, number))
            return made.reshape(-1).astype(jnp.float32)

        if transformation.DECOMPOSES and jax.default_backend() == "cpu":
            return jax.lax.map(lambda pair: one(*pair), rows)
        return jax.vmap(one)(*rows)

    return parallel.map_rows(apply, mesh)
