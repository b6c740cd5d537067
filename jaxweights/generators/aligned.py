"""Baselines that mix training networks of which the hidden units are brought into one order first, on the devices.

Weight matching as in git-re-basin (Ainsworth et al. 2023, arXiv 2209.04836): given the orders of all other groups, the
best order of one group is a linear assignment. It starts from tensors whose other axes are known already, inputs and
outputs first. With one group of units it is exact.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from optax.assignment import hungarian_algorithm

from jaxweights import parallel
from jaxweights.auditing.canonical import balance, stored_groups
from jaxweights.generators.base import Samples, Training, keys_for
from jaxweights.generators.baselines import Baseline, Static
from jaxweights.nn.normalization import is_statistic
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec

_SWEEPS = 30
_TIE = 1e-6  # of the score: what float32 products may gain by rounding
_AT_ONCE = 1 << 22  # numbers of the networks that are matched at once


@dataclasses.dataclass(frozen=True)
class Aligned(Baseline):
    """Mixtures in the space of balanced networks, see `auditing.canonical`: of rescaled copies one is the other."""

    least: ClassVar[int] = 2

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training rows, balanced."""
        self.check(Training.of(training))
        weights = balance(training.spec, training.weights[:])
        return {"weights": jnp.asarray(weights, jnp.float32), "spec": Static(training.spec)}


@dataclasses.dataclass(frozen=True)
class AlignedInterpolation(Aligned):
    """Points at a uniform position on the segment between two different training networks, the second with its hidden
    units in the order and with the signs of the first's."""

    name: str = "aligned_interpolation"

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Mixtures; the parent is the nearer end."""
        weights, spec = state["weights"], state["spec"].value
        pairs = jax.vmap(lambda k: jax.random.choice(k, weights.shape[0], (2,), replace=False))(keys_for(keys, 0))
        t = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys_for(keys, 1))

        def mix(drawn):
            (first, second), position = drawn
            return (1 - position) * weights[first] + position * bring(spec, weights[first], weights[second])

        mixed = _in_parts(mix, (pairs, t), _AT_ONCE // spec.num_params)
        return Samples(mixed, jnp.where(t < 0.5, pairs[:, 0], pairs[:, 1]).astype(jnp.int32))


@dataclasses.dataclass(frozen=True)
class Soup(Aligned):
    """Means of `k` different training networks, all with their hidden units in the order of the first's.

    Attributes:
      k: networks per mean.
    """

    TINY: ClassVar[Mapping[str, Any]] = {"k": 3}

    name: str = "soup"
    k: int = setting(16, at_least=2)

    @property
    def least(self) -> int:  # type: ignore[override]
        """As many as one mean takes."""
        return self.k

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Means of rows drawn without replacement; no parents."""
        weights, spec = state["weights"], state["spec"].value
        chosen = jax.vmap(lambda k: jax.random.choice(k, weights.shape[0], (self.k,), replace=False))(keys)

        def mean(rows):
            first = weights[rows[0]]
            others = jax.vmap(functools.partial(bring, spec, first))(weights[rows[1:]])
            return (first + jnp.sum(others, axis=0)) / self.k

        averaged = _in_parts(mean, chosen, _AT_ONCE // (self.k * spec.num_params))
        return Samples(averaged, jnp.full(keys.shape, -1, jnp.int32))


def bring(spec: WeightSpec, ours: jax.Array, theirs: jax.Array) -> jax.Array:
    """A network with its hidden units in the order and with the signs of another's: the largest inner product that
    coordinate ascent finds. Running statistics move with their units and do not count.

    Args:
      spec: meaning of the vectors.
      ours: `[P]`.
      theirs: `[P]`, what is reordered.

    Returns:
      `[P]`, the same function as `theirs`.
    """
    if not spec.groups:
        return theirs
    a, b = (tuple(x[span].reshape(leaf.stored_axes) for leaf, span in spec.spans()) for x in (ours, theirs))

    def sweep(state):
        tensors, known, _, count = state
        improved, before = jnp.bool_(False), known
        for group in range(len(spec.groups)):
            tensors, known, better = _update(spec, group, a, tensors, known)
            improved |= better
        learning = ~jnp.all(before)
        # What no tensor tells of before others are known is taken as it is from then on.
        known = jnp.where(jnp.all(known == before), True, known)
        return tensors, known, improved | learning, count + 1

    state = sweep((b, jnp.zeros(len(spec.groups), bool), jnp.bool_(True), 0))
    if len(spec.groups) > 1 or _repeated(spec, 0):
        state = jax.lax.while_loop(lambda s: s[2] & (s[3] < _SWEEPS), sweep, state)
    return jnp.concatenate([tensor.reshape(-1) for tensor in state[0]])


def _update(
    spec: WeightSpec, group: int, ours: Sequence[jax.Array], theirs: tuple[jax.Array, ...], known: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array, jax.Array]:
    """Moves the units of one group to their best order; returns the tensors, the groups that are known then, and
    whether it was an improvement."""
    size, odd = spec.groups[group].size, spec.groups[group].scaling == "sign"
    scores, informed = jnp.zeros((size, size)), known[group]
    for leaf, a, b in zip(spec.leaves, ours, theirs, strict=True):
        groups = stored_groups(leaf)
        if is_statistic(leaf.name) or group not in groups:
            continue
        others = [known[g] for g in groups if g not in (group, FIXED)]
        weight = functools.reduce(jnp.logical_and, others, jnp.bool_(True))
        informed |= weight
        for place in (p for p, g in enumerate(groups) if g == group):
            rows = (jnp.moveaxis(x, place, 0).reshape(size, -1) for x in (a, b))
            scores += weight * jnp.einsum("if,jf->ij", *rows, precision="highest")
    order = _assignment(-jnp.abs(scores) if odd else -scores)
    matched = jnp.take_along_axis(scores, order[:, None], axis=1)[:, 0]
    gain = jnp.sum(jnp.abs(matched) if odd else matched) - jnp.trace(scores)
    better = gain > _TIE * jnp.sum(jnp.abs(matched))
    signs = jnp.where(matched < 0, -1.0, 1.0) if odd else None
    moved = tuple(
        _moved(stored_groups(leaf), group, b, order, signs) for leaf, b in zip(spec.leaves, theirs, strict=True)
    )
    if _repeated(spec, group):
        # The score is quadratic in an order that a tensor has twice: a better assignment may be a worse match.
        better &= _product(spec, ours, moved) > _product(spec, ours, theirs)
    kept = tuple(jnp.where(better, after, before) for after, before in zip(moved, theirs, strict=True))
    return kept, known.at[group].set(informed), better


def _moved(
    groups: Sequence[int], group: int, tensor: jax.Array, order: jax.Array, signs: jax.Array | None
) -> jax.Array:
    """A tensor with the units of one group in another order."""
    for place in (p for p, g in enumerate(groups) if g == group):
        tensor = jnp.take(tensor, order, axis=place)
        if signs is not None:
            tensor = tensor * signs.reshape([-1 if p == place else 1 for p in range(len(groups))])
    return tensor


def _product(spec: WeightSpec, ours: Sequence[jax.Array], theirs: Sequence[jax.Array]) -> jax.Array:
    """Inner product of two networks without their running statistics."""
    pairs = zip(spec.leaves, ours, theirs, strict=True)
    return jnp.sum(jnp.stack([jnp.sum(a * b) for leaf, a, b in pairs if not is_statistic(leaf.name)]))


def _assignment(costs: jax.Array) -> jax.Array:
    """The column of every row `[n]` in the cheapest assignment of costs `[n, n]`."""
    rows, columns = hungarian_algorithm(costs)
    return jnp.zeros(len(costs), rows.dtype).at[rows].set(columns)


def _repeated(spec: WeightSpec, group: int) -> bool:
    return any(leaf.groups.count(group) > 1 for leaf in spec.leaves)


def _in_parts(function: Callable[[Any], jax.Array], rows: Any, size: int) -> jax.Array:
    """`jax.vmap` over rows, at most so many at once."""
    count = jax.tree.leaves(rows)[0].shape[0]
    size = max(1, min(size, count))
    parts = jax.tree.map(lambda x: parallel.pad_rows(x, size).reshape(-1, size, *x.shape[1:]), rows)
    found = jax.lax.map(jax.vmap(function), parts)
    return found.reshape(-1, *found.shape[2:])[:count]
