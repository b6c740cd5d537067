"""Many assignment problems at once on the devices: who gets which column, at the least total cost?

Shortest augmenting paths with prices (Jonker and Volgenant 1987): a row holds a column that is cheapest for it at the
present prices, and rows that hold none are served one after the other along the shortest path of exchanges. Every
problem is at its own row and its own step of a path, and all advance by one step at a time; solved ones are put aside
after every few steps.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

_CACHED = 1 << 13  # numbers of every kind that the problems in work have on a CPU
_TAIL = 4  # where no more than one in so many slots is busy, steps of fewer slots are taken
_ROUND = 0.5  # steps per row, after which solved problems are put aside


class _Search(NamedTuple):
    """Where problems are, one a line `[L]`; no row and no column are the number `n`.

    Attributes:
      problem: their numbers.
      root: the row that is served, n where all are.
      owner: `[L, n]` the row that holds a column; prices: `[L, n]` of the columns.
      slack: `[L, n]` how much longer the shortest paths to the columns are than the last one was when it was reached,
        infinite for columns that were reached before; before: `[L, n]` the column before on them.
      at: the column that was reached last, n at the root.
      passed: how much longer its path is than that of the column before it.
      line: the row that holds it, or is served, among the rows of all problems.
      back: whether columns change hands along the path that was found.
    """

    problem: jax.Array
    root: jax.Array
    owner: jax.Array
    prices: jax.Array
    slack: jax.Array
    before: jax.Array
    at: jax.Array
    passed: jax.Array
    line: jax.Array
    back: jax.Array


def assign(costs: jax.Array, prices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solves assignment problems, exactly up to the rounding of float32.

    Args:
      costs: `[Q, n, n]` float32 costs of a row's having a column.
      prices: `[Q, n]` float32 of the columns where the search starts, or NaN, see `first_choice`.

    Returns:
      `[Q, n]` int32, the column of every row, and `[Q, n]` prices at which no row wants another column.
    """
    own = jnp.arange(costs.shape[1], dtype=jnp.int32)
    return completed(costs, *first_choice(costs, prices, jnp.tile(own[None], (len(costs), 1))))


def first_choice(costs: jax.Array, prices: jax.Array, own: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gives columns to rows for which they are cheapest, without exchanges.

    Args:
      costs: `[Q, n, n]` float32.
      prices: `[Q, n]` float32 of the columns, as of an earlier, similar problem, or NaN; the lowest costs of every
        column are the other choice.
      own: `[Q, n]` int32 columns that rows prefer among equally cheap ones.

    Returns:
      `[Q, n]` int32, the row of every column, n where it has none, and `[Q, n]` prices, both of the choice with fewer
      rows without a column.
    """
    size = costs.shape[1]
    other = jnp.min(costs, axis=1)
    prices = jnp.where(jnp.isnan(prices), other, prices)
    mine = own[:, :, None] == jnp.arange(size, dtype=jnp.int32)[None, None, :]
    return _owners(costs, prices, own, mine), prices


def completed(costs: jax.Array, owner: jax.Array, prices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Serves the rows that have no column yet along shortest paths of exchanges.

    Args:
      costs: `[Q, n, n]` float32.
      owner, prices: `[Q, n]`, see `first_choice`; problems of which all columns have a row are left alone.

    Returns:
      See `assign`.
    """
    count, size, _ = costs.shape
    slots = min(count, max(_CACHED // size, 1)) if jax.default_backend() == "cpu" else count
    lots = -(-count // slots)
    slots = -(-count // lots)
    # Behind the problems there may be some that are none, to fill the last chunk.
    waiting, owner, prices = (_lengthened(x, lots * slots) for x in (_inverse(owner) == size, owner, prices))
    following = _following(waiting)
    start = _started(owner, prices, following[:, 0], count)
    rows = costs.reshape(count * size, size)

    def unfinished(search):
        return jnp.any(search.root < size)

    def in_round(state):
        return (state[0] < max(int(_ROUND * size), 8)) & unfinished(state[1])

    def step(state):
        number, search, reduced = state
        return number + 1, *_step(search, reduced, rows, following)

    def one_round(search):
        order = jnp.argsort(search.root == size, stable=True)
        search = _Search(*(x[order] for x in search))
        busy = jnp.sum(search.root < size, dtype=jnp.int32)

        def chunk(number, search, slots=slots):
            part = _Search(*(jax.lax.dynamic_slice_in_dim(x, number * slots, slots) for x in search))
            _, part, _ = jax.lax.while_loop(in_round, step, (jnp.int32(0), part, jnp.zeros((slots + 1, size))))
            updated = zip(search, part, strict=True)
            return _Search(*(jax.lax.dynamic_update_slice_in_dim(x, y, number * slots, 0) for x, y in updated))

        def chunks(search):
            return jax.lax.fori_loop(0, (busy + slots - 1) // slots, chunk, search)

        if slots < _TAIL:
            return chunks(search)
        few = slots // _TAIL
        return jax.lax.cond(busy > few, chunks, lambda search: chunk(0, search, few), search)

    found = jax.lax.while_loop(unfinished, one_round, start)
    place = jnp.argsort(found.problem)[:count]
    return _inverse(found.owner[place]), found.prices[place]


def _lengthened(values: jax.Array, count: int) -> jax.Array:
    """Values `[Q, n]` with lines of zeros behind them."""
    return jnp.pad(values, ((0, count - len(values)), (0, 0)))


def _owners(costs: jax.Array, prices: jax.Array, own: jax.Array, mine: jax.Array) -> jax.Array:
    """Gives every column to a row that it is cheapest for, to its own where that is one of them; `[Q, n]`."""
    size = costs.shape[1]
    lines = jnp.arange(size, dtype=jnp.float32)
    reduced = costs - prices[:, None, :]
    # A row's own column comes first, and the own row of a column: its number less n is smaller than all others.
    cheapest = _least(
        reduced <= jnp.min(reduced, axis=2)[:, :, None],
        jnp.where(mine, -1.0, lines[None, None, :]),
        axis=2,
    )
    claimed = jnp.where(cheapest < 0, own, cheapest)[:, :, None] == lines.astype(jnp.int32)[None, None, :]
    found = _least(claimed, lines[None, :, None] - jnp.where(mine, float(size), 0.0), axis=1)
    return jnp.where(found < 0, found + size, found)


def _least(chosen: jax.Array, numbers: jax.Array, axis: int) -> jax.Array:
    """The least number of those chosen along an axis, int32, and the length of the axis where none is.

    Minima of floats are several times as fast as those of integers on CPUs.
    """
    size = chosen.shape[axis]
    return jnp.min(jnp.where(chosen, numbers, float(size)), axis=axis).astype(jnp.int32)


def _following(waiting: jax.Array) -> jax.Array:
    """The first row at or behind each that waits for a column, `[L, n + 1]`; n where there is none."""
    size = waiting.shape[1]
    rows = jnp.where(waiting, jnp.arange(size, dtype=jnp.int32)[None, :], size)
    return jax.lax.cummin(jnp.pad(rows, ((0, 0), (0, 1)), constant_values=size), axis=1, reverse=True)


def _inverse(owner: jax.Array) -> jax.Array:
    """The column of every row, `[Q, n]`, n where it has none, from the row of every column."""
    lines = jnp.arange(owner.shape[1], dtype=jnp.int32)
    return _least(owner[:, None, :] == lines[None, :, None], lines[None, None, :].astype(jnp.float32), axis=2)


def _started(owner: jax.Array, prices: jax.Array, root: jax.Array, count: int) -> _Search:
    """Every problem at its first row to serve; what lies behind so many problems is solved."""
    slots, size = owner.shape
    problem, none = jnp.arange(slots, dtype=jnp.int32), jnp.zeros(slots)
    return _Search(
        problem=problem,
        root=jnp.where(problem < count, root, size),
        owner=owner,
        prices=prices,
        slack=jnp.zeros((slots, size)),
        before=owner,
        at=jnp.full(slots, size, jnp.int32),
        passed=none,
        line=jnp.minimum(problem, count - 1) * size + jnp.minimum(root, size - 1),
        back=none > 0,
    )


def _step(search: _Search, reduced: jax.Array, rows: jax.Array, following: jax.Array) -> tuple[_Search, jax.Array]:
    """Extends the paths of every problem by one column, or moves one column along a path that was found.

    Args:
      search: where the problems are.
      reduced: `[L + 1, n]` memory for costs less prices.
      rows: `[Q * n, n]` costs of the rows of all problems.
      following: `[Q, n + 1]`, see `_following`.
    """
    size = rows.shape[1]
    lines = jnp.arange(size, dtype=jnp.int32)[None, :]
    at, back = search.at[:, None], search.back
    place, at_root = jnp.minimum(search.at, size - 1), at == size
    running = search.root < size
    extends = running & ~back

    # Written into memory with a line to spare: a gather by itself is spread over threads, which takes longer than it.
    costs = rows.at[search.line].get(mode="promise_in_bounds") - search.prices
    reduced = jax.lax.dynamic_update_slice(reduced, costs, (0, 0))
    costs = reduced[:-1]

    # Extends: paths over the row that holds the column reached last, or that is served.
    ahead = costs - jnp.where(at_root, 0.0, _pick(costs, place)[:, None])
    final = ~at_root & ((lines == at) | (search.slack == jnp.inf))
    known = jnp.where(final | at_root, jnp.inf, search.slack - search.passed[:, None])
    shorter = ~final & (ahead < known)
    slack = jnp.where(shorter, ahead, known)
    lowest = jnp.min(slack, axis=1)
    reached = _least(slack <= lowest[:, None], lines.astype(jnp.float32), axis=1)
    passed = jnp.where(extends, lowest, 0.0)

    # Moves: the row that holds the column before gets this one.
    arrived = jnp.where(back, _pick(search.before, place), reached)
    holder = _pick(search.owner, jnp.minimum(arrived, size - 1))
    served = back & (arrived == size) & running
    taker = jnp.where(served, search.root, holder)
    moves = (back & running)[:, None] & (lines == at)
    after = following.at[search.problem, jnp.minimum(search.root, size - 1) + 1].get(mode="promise_in_bounds")
    root = jnp.where(served, after, search.root)
    row = jnp.minimum(jnp.where(served, root, holder), size - 1)
    search = search._replace(
        root=root,
        owner=jnp.where(moves, taker[:, None], search.owner),
        prices=jnp.where(slack == jnp.inf, search.prices - passed[:, None], search.prices),
        slack=slack,
        before=jnp.where(shorter & extends[:, None], at, search.before),
        at=arrived,
        passed=passed,
        line=jnp.minimum(search.problem * size + row, len(rows) - 1),
        back=(back | (extends & (holder == size))) & ~served,
    )
    return search, reduced


def _pick(values: jax.Array, place: jax.Array) -> jax.Array:
    """One number of every line `[L]`."""
    return jnp.take_along_axis(values, place[:, None], axis=1, mode="promise_in_bounds")[:, 0]
