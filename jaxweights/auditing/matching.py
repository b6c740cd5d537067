"""Weight matching of many pairs of networks at once, for any spec: which hidden unit of one is which of the other?

Coordinate ascent as in git-re-basin (Ainsworth et al. 2023, arXiv 2209.04836): given the orders of all other groups,
the best order of one group is a linear assignment. Scores of all pairs are batched products on the devices; groups that
share no tensor do not see each other and are updated at once. Products of tensors that one group alone reorders (first
layers, by far the largest) do not change and are taken once. Assignments are solved exactly on the host, but only where
shortest paths on the device do not prove the present order optimal; signs of odd units are those of the matched scores.

With one group the result is exact. With more it is a local optimum: distances are upper bounds of the smallest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import linear_sum_assignment

from jaxweights import parallel
from jaxweights.auditing.canonical import by_group, stored_groups, unit_offsets
from jaxweights.auditing.reordering import squared_distances
from jaxweights.auditing.rows import MEMORY_BYTES, data_mesh, padded_rows, placed, row_blocks, rows_within
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, WeightSpec

GROWN, IDENTITY, RANDOM = "grown", "identity", "random"
"""Where a search starts: from tensors whose other axes are known already, inputs and outputs first; from the orders as
they are; from random orders."""

_AGAIN = 6  # starts where tensors say nothing of some groups before others are known, as of heads and places in them
_SWEEPS = 100
_PATHS = 6  # steps of the shortest paths that may prove an order optimal
_TIE = 1e-6  # of the largest score: what float32 products may gain or lose by rounding
_COPY = 1e-12  # squared distance over squared norm at which no other start is tried
_BLOCK_PAIRS = (64, 192, 512)  # pairs on the devices at a time; every size that occurs is a compiled program


@dataclass(frozen=True)
class Matches:
    """The best match that was found of every pair.

    Attributes:
      squared: `[S]` squared distances without running statistics, float64, computed from differences.
      permutations: `[S, U]` int64, group after group: unit u of the matched network is unit `permutations[u]`.
      signs: `[S, U]` int8, which units changed sign; ones where a group admits none.
    """

    squared: np.ndarray
    permutations: np.ndarray
    signs: np.ndarray

    def improve(self, spec, ours, theirs, permutations, signs) -> np.ndarray:
        """Takes other matches of the pairs where they are nearer; returns for which."""
        squared = squared_distances(spec, ours, theirs, permutations, signs)
        better = squared < self.squared
        self.squared[better] = squared[better]
        self.permutations[better], self.signs[better] = permutations[better], signs[better]
        return better


def match(
    spec: WeightSpec,
    ours: np.ndarray,
    theirs: np.ndarray,
    *,
    starts: Sequence[str] | None = None,
    sweeps: int = _SWEEPS,
    seed: int = 0,
    mesh: Mesh | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Matches:
    """Brings the hidden units of networks into the order of others, pair by pair.

    Args:
      spec: meaning of the vectors.
      ours: `[S, P]` finite floats.
      theirs: `[S, P]` likewise, the networks whose units are reordered.
      starts: where to start, any of `GROWN`, `IDENTITY` and `RANDOM`, any number of times; the best result counts. What
        a `GROWN` start cannot know is as it is at first, and random where it is repeated. By default one `GROWN` start,
        and more where it leaves groups unknown. A pair whose distance is zero up to rounding is not started again; one
        that is nearer as it is than after all starts is also searched from there, so that no distance exceeds that
        without reordering.
      sweeps: most sweeps over all groups from every start.
      seed: random seed of the starts.
      mesh: a mesh with the single axis "data" over which pairs are spread; `None` is all devices.
      memory_bytes: working memory beside inputs and results.

    Raises:
      ValueError: shapes that do not fit the spec, or an unknown start.
    """
    if ours.shape != theirs.shape or ours.ndim != 2 or ours.shape[1] != spec.num_params:
        raise ValueError(f"pairs of shapes {ours.shape} and {theirs.shape} do not fit {spec.num_params} parameters")
    if starts is None:
        starts = (GROWN,) * (1 if _grows(spec) else _AGAIN)
    if unknown := set(starts) - {GROWN, IDENTITY, RANDOM}:
        raise ValueError(f"unknown starts: {sorted(unknown)}")
    mesh, rng = data_mesh(mesh), np.random.default_rng(seed)
    count, units = len(ours), int(unit_offsets(spec)[-1])
    identity = np.tile(_identity(spec), (count, 1)), np.ones((count, units), np.int8)
    best = Matches(squared_distances(spec, ours, theirs, *identity), *identity)
    # Vectors in float32 on the host and the device and gathered, three copies of scores, float64 differences.
    pair_bytes = 40 * spec.num_params + 16 * sum(group.size**2 for group in spec.groups)
    size = rows_within(memory_bytes, pair_bytes, _block_pairs(count), mesh.size)
    for rows in row_blocks(count, size):
        climb = _Climb(spec, ours[rows], theirs[rows], size, mesh, sweeps)
        part = Matches(best.squared[rows], best.permutations[rows], best.signs[rows])
        untouched = np.full(len(part.squared), IDENTITY not in starts)
        smallest = _COPY * np.einsum("sp,sp->s", ours[rows], ours[rows], dtype=np.float64)
        for number, start in enumerate((*starts, *(IDENTITY,) * (IDENTITY not in starts))):
            active = part.squared > smallest
            if start not in starts:
                active &= untouched
            if active.any():
                untouched &= ~part.improve(
                    spec, ours[rows], theirs[rows], *climb(start, active, rng if start == RANDOM or number else None)
                )
    return best


@functools.cache
def phases(spec: WeightSpec) -> tuple[tuple[int, ...], ...]:
    """The groups in sets that are updated at once: no two of a set share a tensor."""
    neighbours: list[set[int]] = [set() for _ in spec.groups]
    for leaf in spec.leaves:
        members = set(leaf.groups) - {FIXED}
        for group in members:
            neighbours[group] |= members - {group}
    sets: list[list[int]] = []
    for group, others in enumerate(neighbours):
        free = next((members for members in sets if not others & set(members)), None)
        if free is None:
            sets.append([group])
        else:
            free.append(group)
    return tuple(map(tuple, sets))


def _block_pairs(count: int) -> int:
    """The smallest size of a block that holds some pairs, or the largest."""
    return next((size for size in _BLOCK_PAIRS if size >= count), _BLOCK_PAIRS[-1])


def _identity(spec: WeightSpec) -> np.ndarray:
    return np.concatenate([np.arange(group.size) for group in spec.groups])


class _Climb:
    """Coordinate ascent for one block of pairs, padded to a size that all blocks share."""

    def __init__(self, spec: WeightSpec, ours: np.ndarray, theirs: np.ndarray, size: int, mesh: Mesh, sweeps: int):
        self._spec, self._mesh, self._sweeps, self._count = spec, mesh, sweeps, len(ours)
        self._pair = ours, theirs
        placed_pair = [
            placed(mesh, padded_rows(np.asarray(x, np.float32), size), parallel.AXIS) for x in (ours, theirs)
        ]
        self._moving, self._constants = _prepare_program(spec, mesh)(*placed_pair)
        self._size, self._scores = size, _score_programs(spec, mesh)

    def __call__(
        self, start: str, active: np.ndarray, rng: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Climbs from one start; returns the orders and signs `[S, U]` of all pairs, of the active ones improved."""
        spec = self._spec
        # Rows beyond the pairs are padding.
        permutations = np.tile(_identity(spec), (self._size, 1))
        signs = np.ones(permutations.shape, np.int8)
        known = np.full(len(spec.groups), start != GROWN)
        if rng is not None and start != IDENTITY:
            for order in by_group(spec, permutations):
                order[:] = rng.permuted(order, axis=1)
        self._run(permutations, signs, known, active, self._sweeps)
        return permutations[: self._count], signs[: self._count]

    def _run(
        self, permutations: np.ndarray, signs: np.ndarray, known: np.ndarray, active: np.ndarray, sweeps: int
    ) -> None:
        """Sweeps over all groups until no active pair gains, in place."""
        while sweeps and active.any():
            rows = np.flatnonzero(active)
            smaller = _block_pairs(len(rows))
            if known.all() and smaller < self._size:  # the few that are left go on by themselves
                ours, theirs = self._pair
                rest = _Climb(self._spec, ours[rows], theirs[rows], smaller, self._mesh, sweeps)
                orders, flips = (padded_rows(x[rows], smaller) for x in (permutations, signs))
                rest._run(orders, flips, known, np.full(len(rows), True), sweeps)
                permutations[rows], signs[rows] = orders[: len(rows)], flips[: len(rows)]
                return
            learning = not known.all()
            improved, known = self._sweep(permutations, signs, known, active)
            active = active if learning else active & improved
            sweeps -= 1

    def _sweep(
        self, permutations: np.ndarray, signs: np.ndarray, known: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Updates every group of the active pairs once, in place; returns which pairs gained, and what is known now."""
        improved, before = np.zeros(self._count, bool), known
        for groups, program in zip(phases(self._spec), self._scores, strict=True):
            state = (placed(self._mesh, x, parallel.AXIS) for x in (permutations.astype(np.int32), signs))
            mask = placed(self._mesh, known.astype(np.float32))
            scores, optimal = program(self._moving, self._constants, *state, mask)
            proven = np.asarray(optimal)[: self._count]
            for place, group in enumerate(groups):
                rows = np.flatnonzero(active & ~proven[:, place])
                if len(rows):
                    improved[rows] |= self._update(group, rows, np.asarray(scores[place]), permutations, signs)
            informed = [g in groups and _informed(self._spec, g, known) for g in range(len(known))]
            known = known | np.array(informed)
        return improved, known if (known != before).any() else np.full(len(known), True)

    def _update(self, group: int, rows: np.ndarray, scores, permutations, signs) -> np.ndarray:
        """Solves the assignments of some pairs in place; returns which of them gained."""
        spec = self._spec
        odd, repeated = spec.groups[group].scaling == "sign", _repeated(spec, group)
        order, sign = by_group(spec, permutations)[group], by_group(spec, signs)[group]
        units, gained = np.arange(order.shape[1]), np.zeros(len(rows), bool)
        before = self._squared(rows, permutations, signs) if repeated else None
        old = order[rows].copy(), sign[rows].copy()
        for place, row in enumerate(rows):
            values = scores[row].astype(np.float64)
            now = (values.diagonal() * sign[row]).sum()
            chosen = linear_sum_assignment(-np.abs(values) if odd else -values)[1]
            matched = values[units, chosen]
            gain = (np.abs(matched) if odd else matched).sum() - now
            if gain > _TIE * np.abs(matched).sum():
                order[row], gained[place] = order[row][chosen], True
                if odd:
                    sign[row] = np.where(matched < 0, -1, 1)
        if before is not None:
            # The score is quadratic in an order that a tensor has twice: a better assignment may be a worse match.
            worse = self._squared(rows, permutations, signs) >= before
            order[rows[worse]], sign[rows[worse]] = old[0][worse], old[1][worse]
            gained &= ~worse
        return gained

    def _squared(self, rows: np.ndarray, permutations: np.ndarray, signs: np.ndarray) -> np.ndarray:
        ours, theirs = self._pair
        return squared_distances(self._spec, ours[rows], theirs[rows], permutations[rows], signs[rows])


def _repeated(spec: WeightSpec, group: int) -> bool:
    return any(leaf.groups.count(group) > 1 for leaf in spec.leaves)


@functools.cache
def _grows(spec: WeightSpec) -> bool:
    """Whether a `GROWN` start knows all groups in the end."""
    known = np.full(len(spec.groups), False)
    for _ in spec.groups:
        known = known | np.array([_informed(spec, group, known) for group in range(len(known))], bool)
    return bool(known.all())


def _informed(spec: WeightSpec, group: int, known: np.ndarray) -> bool:
    """Whether a tensor says something about a group, all of its other groups being known."""
    return any(
        group in leaf.groups and all(known[g] for g in leaf.groups if g not in (group, FIXED))
        for leaf in spec.leaves
        if not is_statistic(leaf.name)
    )


# Programs. Tensors are in stored order, `[S, ...]`; scores of a group are `[S, n, n]`, ours by theirs.


@functools.cache
def _prepare_program(spec: WeightSpec, mesh: Mesh) -> Callable[..., Any]:
    """Builds the program that returns the tensors of several groups, of both networks, and per group the products of
    the tensors that it alone reorders."""

    def prepare(ours, theirs):
        moving, constants = [], [jnp.zeros((len(ours), g.size, g.size)) for g in spec.groups]
        for leaf, span in spec.spans():
            groups = stored_groups(leaf)
            places = [p for p, g in enumerate(groups) if g != FIXED]
            if is_statistic(leaf.name) or not places:
                continue
            a, b = (x[:, span].reshape((len(x), *leaf.stored_axes)) for x in (ours, theirs))
            if len(places) == 1:
                constants[groups[places[0]]] += _products(a, b, places[0])
            else:
                moving.append((a, b))
        return moving, constants

    split = PartitionSpec(parallel.AXIS)
    return jax.jit(jax.shard_map(prepare, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))


@functools.cache
def _score_programs(spec: WeightSpec, mesh: Mesh) -> tuple[Callable[..., Any], ...]:
    """Builds one program per phase: the scores of its groups in the present order of theirs, so that the diagonal is
    the present match, and `[S, groups]` whether that is proven optimal."""
    leaves = [stored_groups(leaf) for leaf in spec.leaves if not is_statistic(leaf.name)]
    leaves = [groups for groups in leaves if sum(g != FIXED for g in groups) > 1]

    def scores_of(group, moving, constants, orders, signs, known):
        total = constants[group]
        for groups, (ours, theirs) in zip(leaves, moving, strict=True):
            for place in (p for p, g in enumerate(groups) if g == group):
                others = [(p, g) for p, g in enumerate(groups) if g != FIXED and p != place]
                weight = functools.reduce(jnp.multiply, [known[g] for _, g in others if g != group], 1.0)
                for p, g in others:
                    theirs = jax.vmap(functools.partial(jnp.take, axis=p))(theirs, orders[g])
                    if spec.groups[g].scaling == "sign":
                        shape = [len(theirs)] + [1] * len(groups)
                        shape[1 + p] = -1
                        theirs = theirs * signs[g].reshape(shape)
                total = total + weight * _products(ours, theirs, place)
        return jax.vmap(functools.partial(jnp.take, axis=1))(total, orders[group])

    def program(phase, moving, constants, permutations, signs, known):
        orders, signs = by_group(spec, permutations), by_group(spec, signs.astype(jnp.float32))
        found = [scores_of(g, moving, constants, orders, signs, known) for g in phase]
        optimal = [_optimal(x, signs[g], spec.groups[g].scaling == "sign") for g, x in zip(phase, found, strict=True)]
        return found, jnp.stack(optimal, axis=1)

    split, whole = PartitionSpec(parallel.AXIS), PartitionSpec()
    return tuple(
        jax.jit(
            jax.shard_map(
                functools.partial(program, phase),
                mesh=mesh,
                in_specs=(split, split, split, split, whole),
                out_specs=split,
                check_vma=False,
            )
        )
        for phase in phases(spec)
    )


def _products(ours: jax.Array, theirs: jax.Array, place: int) -> jax.Array:
    """Inner products `[S, n, n]` of all slices along one axis."""
    parts = [jnp.moveaxis(x, 1 + place, 1) for x in (ours, theirs)]
    parts = [x.reshape(x.shape[0], x.shape[1], -1) for x in parts]
    return jnp.einsum("sif,sjf->sij", *parts, precision=jax.lax.Precision.HIGHEST)


def _optimal(scores: jax.Array, signs: jax.Array, odd: bool) -> jax.Array:
    """Whether no exchange of units improves on the diagonal, `[S]`, as shortest paths prove.

    What a unit loses by another's place is the length of a step between them; an exchange is a cycle of steps, and it
    improves if its length is negative. Where path lengths settle there is no such cycle (they are a dual solution).
    Doubtful cases, within the rounding of scores or with long paths, count as not proven.
    """
    present = jnp.diagonal(scores, axis1=1, axis2=2) * signs
    values = jnp.abs(scores) if odd else scores
    slack = _TIE * jnp.max(jnp.abs(values), axis=(1, 2))
    steps = present[:, :, None] - values + slack[:, None, None]
    lengths = jnp.zeros(present.shape)
    for _ in range(_PATHS):
        before = lengths
        lengths = jnp.minimum(lengths, jnp.min(lengths[:, :, None] + steps, axis=1))
    return jnp.all(lengths == before, axis=1)
