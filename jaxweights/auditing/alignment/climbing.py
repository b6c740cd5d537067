"""Coordinate ascent of weight matching on the devices, many pairs of networks at once.

Given the orders of all other groups, the best order of one group is a linear assignment. Its scores are batched
products, in which the network whose units move is laid out so that only whole slices change places; products of tensors
that one group alone reorders (first layers, by far the largest) do not change and are taken once. Groups that share no
tensor do not see each other and are updated at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxweights import parallel
from jaxweights.auditing.alignment.assignment import completed, first_choice
from jaxweights.auditing.alignment.canonical import by_group, stored_groups, unit_offsets
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import FIXED, WeightSpec

_CACHED = 1 << 16  # numbers of the pairs whose scores are taken at once on a CPU
TIE = 1e-6  # of the largest score, or of the score of a match: what float32 products may gain or lose by rounding


class State(NamedTuple):
    """Where the search for the match of every pair is.

    Attributes:
      permutations: `[S, U]` int32, group after group: unit u of the matched network is unit `permutations[u]`.
      signs: `[S, U]` int8, which units changed sign.
      prices: `[S, U]` float32 of the units in assignments, see `assign`; NaN before the first.
      known: `[S, G]` booleans, groups whose order says something of others.
      open: `[S, G]` booleans, groups whose neighbours changed since their own order was found.
      active: `[S]` booleans, pairs with such groups and sweeps left.
      sweeps: `[S]` int32, sweeps that are left.
    """

    permutations: Any
    signs: Any
    prices: Any
    known: Any
    open: Any
    active: Any
    sweeps: Any

    def rows(self, rows: np.ndarray) -> State:
        """That of some pairs."""
        return State(*(x[rows] for x in self))


class _Tensor(NamedTuple):
    """A tensor that several groups reorder, as seen from one of them.

    Attributes:
      leaf: number of the leaf.
      place: axis of `leaf.stored_axes` that is that group's own.
      others: axes of tensors `[S, ...]` with that axis last that are reordered too, with their groups.
    """

    leaf: int
    place: int
    others: tuple[tuple[int, int], ...]


@functools.cache
def neighbours(spec: WeightSpec) -> tuple[frozenset[int], ...]:
    """By group, those that share a tensor with it; itself where a tensor has it twice."""
    found: list[set[int]] = [set() for _ in spec.groups]
    for leaf in spec.leaves:
        members = [group for group in leaf.groups if group != FIXED]
        for group in members:
            found[group] |= {other for other in members if other != group or members.count(group) > 1}
    return tuple(map(frozenset, found))


@functools.cache
def phases(spec: WeightSpec) -> tuple[tuple[int, ...], ...]:
    """The groups in sets that are updated at once: no two of a set share a tensor."""
    sets: list[list[int]] = []
    for group, others in enumerate(neighbours(spec)):
        others = others - {group}
        free = next((members for members in sets if not others & set(members)), None)
        if free is None:
            sets.append([group])
        else:
            free.append(group)
    return tuple(map(tuple, sets))


@functools.cache
def grows(spec: WeightSpec) -> bool:
    """Whether all groups are known in the end if none is at first, see `State.known`."""
    known = np.zeros((1, len(spec.groups)), bool)
    for _ in spec.groups:
        known = learned(spec, known, range(len(spec.groups)), np)
    return bool(known.all())


def learned(spec: WeightSpec, known, groups, xp) -> Any:
    """What is known `[S, G]` after an update of some groups: those of which a tensor says something, all of its other
    groups being known."""
    columns = [known[:, g] for g in range(len(spec.groups))]
    for group in groups:
        for leaf in spec.leaves:
            if group in leaf.groups and not is_statistic(leaf.name):
                others = [known[:, g] for g in set(leaf.groups) - {group, FIXED}]
                columns[group] = columns[group] | functools.reduce(xp.logical_and, others, xp.ones_like(columns[group]))
    return xp.stack(columns, axis=1)


def pair_bytes(spec: WeightSpec) -> int:
    """Memory that a climb takes per pair."""
    seen = sum(spec.leaves[t.leaf].size for tensors in _tensors(spec).values() for t in tensors)
    return 16 * spec.num_params + 16 * seen + 24 * sum(group.size**2 for group in spec.groups)


@functools.cache
def climb_program(spec: WeightSpec, mesh: Mesh) -> Callable[..., State]:
    """Builds the program that sweeps over all groups of a block of pairs, spread over devices.

    It takes `ours` and `theirs` `[S, P]` float32, a `State`, and a number of pairs `[devices]`, and sweeps until no
    more than so many pairs of a device are active.
    """

    def program(ours, theirs, state, few):
        return climb(spec, ours, theirs, state, few[0])

    split = PartitionSpec(parallel.AXIS)
    return jax.jit(jax.shard_map(program, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))


def climb(spec: WeightSpec, ours: jax.Array, theirs: jax.Array, state: State, few: Any = 0) -> State:
    """Sweeps over all groups of pairs `[S, P]`, float32, until no more than a few are active."""
    constants, moving = _prepared(spec, ours, theirs)

    def unfinished(state):
        return jnp.sum(state.active, dtype=jnp.int32) > few

    return jax.lax.while_loop(unfinished, lambda state: _sweep(spec, constants, moving, state), state)


def unordered(spec: WeightSpec, count: int, sweeps: int) -> State:
    """Where the search for the matches of so many pairs starts that knows no order."""
    groups = [jnp.arange(group.size, dtype=jnp.int32) for group in spec.groups]
    permutations = jnp.tile(jnp.concatenate(groups)[None], (count, 1))
    signs, prices = jnp.ones(permutations.shape, jnp.int8), jnp.full(permutations.shape, jnp.nan, jnp.float32)
    known, left = jnp.zeros((count, len(groups)), bool), jnp.full(count, sweeps, jnp.int32)
    return State(permutations, signs, prices, known, ~known, left > 0, left)


def reordered(spec: WeightSpec, rows: jax.Array, permutations: Any, signs: Any = None) -> jax.Array:
    """Networks `[S, P, ...]`, each in an order and with signs `[S, U]` of its own; None leaves signs as they are."""
    orders, flips = by_group(spec, permutations), None if signs is None else by_group(spec, signs)
    parts = []
    for leaf, span in spec.spans():
        values = rows[:, span].reshape((len(rows), *leaf.stored_axes, *rows.shape[2:]))
        axes = [(axis, group) for axis, group in enumerate(stored_groups(leaf), 1) if group != FIXED]
        parts.append(_in_order(spec, values, axes, orders, flips).reshape((len(rows), -1, *rows.shape[2:])))
    return jnp.concatenate(parts, axis=1)


@functools.cache
def _tensors(spec: WeightSpec) -> dict[int, list[_Tensor]]:
    """By group, the tensors that other groups, or it once more, reorder too."""
    found: dict[int, list[_Tensor]] = {group: [] for group in range(len(spec.groups))}
    for number, leaf in enumerate(spec.leaves):
        groups = stored_groups(leaf)
        places = [p for p, g in enumerate(groups) if g != FIXED]
        if is_statistic(leaf.name) or len(places) < 2:
            continue
        for place in places:
            others = tuple((p + 1 - (p > place), groups[p]) for p in places if p != place)
            found[groups[place]].append(_Tensor(number, place, others))
    return found


# Within the program. Tensors are in stored order, `[S, ...]`; scores of a group are `[S, n, n]`, ours by theirs.


def _prepared(spec: WeightSpec, ours: jax.Array, theirs: jax.Array) -> tuple[list, list]:
    """Per group, the products of the tensors that it alone reorders, and the others of both networks."""
    constants: list[Any] = [jnp.zeros((len(ours), g.size, g.size)) for g in spec.groups]
    pairs = []
    for leaf, span in spec.spans():
        groups = stored_groups(leaf)
        pairs.append([x[:, span].reshape((len(x), *leaf.stored_axes)) for x in (ours, theirs)])
        places = [p for p, g in enumerate(groups) if g != FIXED]
        if not is_statistic(leaf.name) and len(places) == 1:
            constants[groups[places[0]]] += _products(*_laid_out(pairs[-1], places[0]))
    return constants, [[_laid_out(pairs[t.leaf], t.place) for t in tensors] for tensors in _tensors(spec).values()]


def _laid_out(pair: list, place: int) -> tuple[jax.Array, jax.Array]:
    """A tensor of both networks `[S, ...]` with an axis as `_products` takes it."""
    return jnp.moveaxis(pair[0], 1 + place, 1), jnp.moveaxis(pair[1], 1 + place, -1)


def _products(ours: jax.Array, theirs: jax.Array) -> jax.Array:
    """Inner products `[S, n, n]` of all slices along ours' first axis `[S, n, ...]` and theirs' last `[S, ..., n]`."""
    ours, theirs = ours.reshape(*ours.shape[:2], -1), theirs.reshape(len(theirs), -1, theirs.shape[-1])
    return jnp.einsum("sif,sfj->sij", ours, theirs, precision=jax.lax.Precision.HIGHEST)


def _sweep(spec: WeightSpec, constants: list, moving: list, state: State) -> State:
    """Updates every group of the active pairs once."""
    learning = ~jnp.all(state.known, axis=1)
    before = state.known
    for groups in phases(spec):

        def update(state, groups=groups):
            for size in sorted({spec.groups[g].size for g in groups}):
                state = _update(spec, [g for g in groups if spec.groups[g].size == size], constants, moving, state)
            return state

        wanted = functools.reduce(jnp.logical_or, (state.open[:, g] for g in groups)) & state.active
        state = jax.lax.cond(jnp.any(wanted), update, lambda state: state, state)
        state = state._replace(known=learned(spec, state.known, groups, jnp))
    settled = jnp.all(state.known == before, axis=1, keepdims=True)
    sweeps = state.sweeps - state.active
    left = state.open | learning[:, None]
    active = state.active & jnp.any(left, axis=1) & (sweeps > 0)
    return state._replace(known=state.known | settled, open=left, active=active, sweeps=sweeps)


def _update(spec: WeightSpec, groups: list[int], constants: list, moving: list, state: State) -> State:
    """Assigns the units of some groups of one size, which share no tensor, anew.

    Problems of active pairs are put together chunk by chunk, which stay in the cache, and solved all at once.
    """
    count, size = len(state.active), spec.groups[groups[0]].size
    lines = jnp.arange(size, dtype=jnp.int32)
    chunk = _chunk(spec, groups, count)
    length = chunk * -(-count // chunk)
    lead, flips = len(groups) * length, any(spec.groups[g].scaling == "sign" for g in groups)
    problems = (
        jnp.zeros((lead, size, size)),
        jnp.tile(lines[None], (lead, 1)),
        jnp.zeros((lead, size)),
        *((jnp.zeros((lead, size, size), bool),) if flips else ()),
    )
    places = []
    for number, group in enumerate(groups):
        wanted = state.active & state.open[:, group]
        order = jnp.argsort(~wanted, stable=True).astype(jnp.int32)
        places.append(number * length + jnp.argsort(order))
        rows = jnp.pad(order, (0, length - count), constant_values=count - 1)
        number_wanted = jnp.sum(wanted, dtype=jnp.int32)

        def add(step, problems, group=group, rows=rows, start=number * length, number_wanted=number_wanted):
            chosen = jax.lax.dynamic_slice_in_dim(rows, step * chunk, chunk)
            constant, tensors, part = jax.tree.map(lambda x: x[chosen], (constants[group], moving[group], state))
            scores = _scores(spec, group, constant, tensors, part)
            own, prices = (jnp.asarray(by_group(spec, x)[group]) for x in (part.permutations, part.prices))
            costs = _costs(spec, group, scores, own)
            owner, prices = first_choice(costs, prices, own)
            # What fills the last chunk is left alone.
            owner = jnp.where(step * chunk + jnp.arange(chunk)[:, None] < number_wanted, owner, lines[None])
            found = costs, owner, prices, *((scores < 0,) if flips else ())
            return tuple(
                jax.lax.dynamic_update_slice_in_dim(x, y, start + step * chunk, 0)
                for x, y in zip(problems, found, strict=True)
            )

        problems = jax.lax.fori_loop(0, -(-number_wanted // chunk), add, problems)
    columns, prices = completed(*problems[:3])
    for group, place in zip(groups, places, strict=True):
        scores, found = [problems[0], *problems[3:]], (columns[place], prices[place])
        state = _improved(spec, group, scores, place, found, moving, state)
    return state


def _improved(
    spec: WeightSpec,
    group: int,
    scores: list[jax.Array],
    place: jax.Array,
    found: tuple[jax.Array, jax.Array],
    moving: list,
    state: State,
) -> State:
    """The state with a new assignment of a group where a pair gains by it.

    Args:
      spec: meaning of the vectors.
      group: number of the group.
      scores: `[Q, n, n]` costs of all problems, and whether their scores are negative where units may change sign.
      place: `[S]` the problems of the pairs.
      found: columns and prices `[S, n]`.
      moving: see `_prepared`.
      state: that of the pairs.
    """
    columns, prices = found
    order, sign, before = (by_group(spec, x)[group] for x in (state.permutations, state.signs, state.prices))
    at = place[:, None], jnp.arange(columns.shape[1], dtype=jnp.int32)[None]
    present, matched = (-scores[0].at[*at, x].get(mode="promise_in_bounds") for x in (order, columns))
    changed = state._replace(permutations=_with_part(spec, group, state.permutations, columns))
    if spec.groups[group].scaling == "sign":
        below, negative = (scores[1].at[*at, x].get(mode="promise_in_bounds") for x in (order, columns))
        present = jnp.where(below, -present, present) * sign
        sign = jnp.where(negative, -1, 1).astype(sign.dtype)
        changed = changed._replace(signs=_with_part(spec, group, state.signs, sign))
    wanted = state.active & state.open[:, group]
    better = wanted & (jnp.sum(matched - present, axis=1) > TIE * jnp.sum(jnp.abs(matched), axis=1))
    if group in neighbours(spec)[group]:
        # The score is quadratic in an order that a tensor has twice: a better assignment may be a worse match.
        better &= _match(spec, group, moving, changed) > _match(spec, group, moving, state)
    kept = [jnp.where(better[:, None], new, old) for new, old in zip(changed[:2], state[:2], strict=True)]
    prices = _with_part(spec, group, state.prices, jnp.where(wanted[:, None], prices, before))
    left = jnp.where(wanted[:, None], _reopened(spec, group, state.open, better), state.open)
    return state._replace(permutations=kept[0], signs=kept[1], prices=prices, open=left)


def _chunk(spec: WeightSpec, groups: list[int], count: int) -> int:
    """Pairs whose scores are taken at once."""
    if jax.default_backend() != "cpu":
        return count
    seen = max(sum(spec.leaves[t.leaf].size for t in _tensors(spec)[g]) for g in groups)
    numbers = 2 * seen + 4 * spec.groups[groups[0]].size ** 2
    return max(1, min(count, _CACHED // numbers))


def _scores(spec: WeightSpec, group: int, total: jax.Array, tensors: list, state: State) -> jax.Array:
    """The scores `[S, n, n]` of a group, theirs' units as they are stored, from those that do not change."""
    orders, signs = by_group(spec, state.permutations), by_group(spec, state.signs)
    for tensor, (ours, theirs) in zip(_tensors(spec)[group], tensors, strict=True):
        weight = jnp.ones(len(theirs))
        theirs = _in_order(spec, theirs, tensor.others, orders, signs)
        for _, other in tensor.others:
            if other != group:
                weight = weight * state.known[:, other]
        total = total + weight[:, None, None] * _products(ours, theirs)
    return total


def _costs(spec: WeightSpec, group: int, scores: jax.Array, order: Any) -> jax.Array:
    """Costs of an assignment; the present match is the cheaper by what rounding may pretend."""
    worth = jnp.abs(scores) if spec.groups[group].scaling == "sign" else scores
    slack = TIE * jnp.max(jnp.abs(scores), axis=(1, 2), keepdims=True)
    present = order[:, :, None] == jnp.arange(scores.shape[1], dtype=jnp.int32)[None, None, :]
    return jnp.where(present, -slack, 0.0) - worth


def _reopened(spec: WeightSpec, group: int, left: jax.Array, changed: jax.Array) -> jax.Array:
    """What is open `[S, G]` after an update of a group: its neighbours where it changed, and not the group itself."""
    groups = range(len(spec.groups))
    own = jnp.array([[g == group for g in groups]])
    others = jnp.array([[g in neighbours(spec)[group] for g in groups]])
    return (left & ~own) | (changed[:, None] & others)


def _match(spec: WeightSpec, group: int, moving: list, state: State) -> jax.Array:
    """Inner products `[S]` of the tensors that a group and others reorder."""
    total = jnp.zeros(len(state.active))
    orders, signs = by_group(spec, state.permutations), by_group(spec, state.signs)
    seen = set()
    for tensor, (ours, theirs) in zip(_tensors(spec)[group], moving[group], strict=True):
        if tensor.leaf not in seen:
            axes = (*tensor.others, (theirs.ndim - 1, group))
            theirs = _in_order(spec, theirs, axes, orders, signs)
            total += jnp.sum(jnp.moveaxis(ours, 1, -1) * theirs, axis=tuple(range(1, ours.ndim)))
        seen.add(tensor.leaf)
    return total


def _in_order(
    spec: WeightSpec, values: jax.Array, axes: Iterable[tuple[int, int]], orders: list, signs: list | None
) -> jax.Array:
    """A tensor `[S, ...]` with the units along some axes, given with their groups, in order and with signs."""
    for axis, group in axes:
        values = _taken(values, orders[group], axis)
        if signs is not None and spec.groups[group].scaling == "sign":
            shape = [len(values)] + [1] * (values.ndim - 1)
            shape[axis] = -1
            values = values * signs[group].reshape(shape).astype(jnp.float32)
    return values


def _taken(values: jax.Array, order: Any, axis: int) -> jax.Array:
    """Every pair's values `[S, ...]` in an order of its own `[S, n]` along an axis."""
    return jax.vmap(functools.partial(jnp.take, axis=axis - 1, mode="clip"))(values, order)


def _with_part(spec: WeightSpec, group: int, units: jax.Array, part: jax.Array) -> jax.Array:
    """An array over all hidden units `[S, U]` with other values for those of a group."""
    start, stop = unit_offsets(spec)[group : group + 2].tolist()
    return units.at[:, start:stop].set(part)
