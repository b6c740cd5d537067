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

_CACHED = 1 << 14  # numbers of every kind that the problems in work have on a CPU
_ROUND = 1  # steps per row, after which solved problems are put aside


class _Search(NamedTuple):
    """Where problems are, one a line `[L]`; no row and no column are the number `n`.

    Attributes:
      problem: their numbers.
      running: which are not solved yet.
      owner: `[L, n]` the row that holds a column; prices: `[L, n]` of the columns.
      following: `[L, n + 1]`, see `_following`.
      root: the row that is served.
      lengths: `[L, n]` of the shortest paths to the columns; before: `[L, n]` the column before on them.
      done: `[L, n]` columns whose paths are final.
      at: the column that was reached last, n at the root; length: of its path.
      back: whether columns change hands along the path that was found.
    """

    problem: jax.Array
    running: jax.Array
    owner: jax.Array
    prices: jax.Array
    following: jax.Array
    root: jax.Array
    lengths: jax.Array
    before: jax.Array
    done: jax.Array
    at: jax.Array
    length: jax.Array
    back: jax.Array


def assign(costs: jax.Array, prices: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solves assignment problems, exactly up to the rounding of float32.

    Args:
      costs: `[Q, n, n]` float32 costs of a row's having a column.
      prices: `[Q, n]` float32 of the columns where the search starts, as of an earlier, similar problem, or NaN; the
        lowest costs of every column are the other choice.
      wanted: `[Q]` booleans; the other problems are left at the identity.

    Returns:
      `[Q, n]` int32, the column of every row, and `[Q, n]` prices at which no row wants another column.
    """
    count, size, _ = costs.shape
    lines = jnp.arange(size, dtype=jnp.int32)
    owner, prices = _first(costs, prices)
    owner = jnp.where(wanted[:, None], owner, lines[None, :])
    slots = min(count, max(_CACHED // size, 1)) if jax.default_backend() == "cpu" else count
    chunks = -(-count // slots)
    slots = -(-count // chunks)
    rows = costs.reshape(count * size, size)
    # Behind the problems there may be some that are none, to fill the last chunk.
    start = _started(*(_lengthened(x, chunks * slots) for x in (owner, prices, ~_holds(owner))))

    def unfinished(search):
        return jnp.any(search.running)

    def in_round(state):
        return (state[0] < max(_ROUND * size, 16)) & unfinished(state[1])

    def one_round(search):
        order = jnp.argsort(~search.running, stable=True)
        search = _Search(*(x[order] for x in search))

        def chunk(number, search):
            part = _Search(*(jax.lax.dynamic_slice_in_dim(x, number * slots, slots) for x in search))
            _, part = jax.lax.while_loop(in_round, lambda s: (s[0] + 1, _step(s[1], rows)), (jnp.int32(0), part))
            updated = zip(search, part, strict=True)
            return _Search(*(jax.lax.dynamic_update_slice_in_dim(x, y, number * slots, 0) for x, y in updated))

        busy = (jnp.sum(search.running, dtype=jnp.int32) + slots - 1) // slots
        return jax.lax.fori_loop(0, busy, chunk, search)

    found = jax.lax.while_loop(unfinished, one_round, start)
    place = jnp.argsort(found.problem)[:count]
    return _inverse(found.owner[place]), found.prices[place]


def _lengthened(values: jax.Array, count: int) -> jax.Array:
    """Values `[Q, n]` with lines of zeros behind them."""
    return jnp.pad(values, ((0, count - len(values)), (0, 0)))


def _first(costs: jax.Array, prices: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which row holds a column at first `[Q, n]`, and the prices, of the two choices with fewer rows without one."""
    other = jnp.min(costs, axis=1)
    prices = jnp.where(jnp.isnan(prices), other, prices)
    first, second = _first_owners(costs, prices), _first_owners(costs, other)
    size = costs.shape[1]
    better = (jnp.sum(second == size, axis=1) < jnp.sum(first == size, axis=1))[:, None]
    return jnp.where(better, second, first), jnp.where(better, other, prices)


def _first_owners(costs: jax.Array, prices: jax.Array) -> jax.Array:
    """Gives every column to a row that it is cheapest for, to its own where it is one of them; `[Q, n]`."""
    size = costs.shape[1]
    lines = jnp.arange(size, dtype=jnp.int32)
    reduced = costs - prices[:, None, :]
    lowest = jnp.min(reduced, axis=2)
    own = jnp.diagonal(reduced, axis1=1, axis2=2) <= lowest
    first = jnp.min(jnp.where(reduced <= lowest[:, :, None], lines[None, None, :], size), axis=2)
    claimed = jnp.where(own, lines[None, :], first)[:, :, None] == lines[None, None, :]
    claims = jnp.where(claimed, jnp.where(own, -1, lines[None, :])[:, :, None], size)
    lowest_row = jnp.min(claims, axis=1)
    return jnp.where(lowest_row < 0, lines[None, :], lowest_row)


def _holds(owner: jax.Array) -> jax.Array:
    """Which rows hold a column, `[Q, n]`."""
    lines = jnp.arange(owner.shape[1], dtype=jnp.int32)
    return jnp.any(owner[:, None, :] == lines[None, :, None], axis=2)


def _following(waiting: jax.Array) -> jax.Array:
    """The first row at or behind each that waits for a column, `[L, n + 1]`; n where there is none."""
    size = waiting.shape[1]
    rows = jnp.where(waiting, jnp.arange(size, dtype=jnp.int32)[None, :], size)
    return jax.lax.cummin(jnp.pad(rows, ((0, 0), (0, 1)), constant_values=size), axis=1, reverse=True)


def _inverse(owner: jax.Array) -> jax.Array:
    """The column of every row, `[Q, n]`, from the row of every column."""
    lines = jnp.arange(owner.shape[1], dtype=jnp.int32)
    return jnp.min(jnp.where(owner[:, None, :] == lines[None, :, None], lines[None, None, :], len(lines)), axis=2)


def _started(owner: jax.Array, prices: jax.Array, waiting: jax.Array) -> _Search:
    """Every problem at its first row to serve."""
    slots, size = owner.shape
    following, nothing = _following(waiting), jnp.zeros((slots, size))
    root = following[:, 0]
    return _Search(
        problem=jnp.arange(slots, dtype=jnp.int32),
        running=root < size,
        owner=owner,
        prices=prices,
        following=following,
        root=jnp.minimum(root, size - 1),
        lengths=nothing,
        before=owner,
        done=nothing > 0,
        at=jnp.full(slots, size, jnp.int32),
        length=jnp.zeros(slots),
        back=root < 0,
    )


def _step(search: _Search, rows: jax.Array) -> _Search:
    """Extends the paths of every problem by one column, or moves one column along a path that was found.

    Args:
      search: where the problems are.
      rows: `[Q * n, n]` costs of the rows of all problems.
    """
    size = rows.shape[1]
    lines = jnp.arange(size, dtype=jnp.int32)[None, :]
    at, back, at_root = jnp.minimum(search.at, size - 1), search.back, search.at == size
    extends, starts = search.running & ~back, at_root & ~back

    # Extends: paths over the row that holds the column reached last, or that is served.
    row = jnp.where(at_root, search.root, _pick(search.owner, at))
    reduced = rows.at[search.problem * size + row].get(mode="clip") - search.prices
    base = jnp.where(at_root, 0.0, _pick(reduced, at))
    lengths = reduced + (search.length - base)[:, None]
    done = search.done & ~starts[:, None]
    known = jnp.where(starts[:, None], jnp.inf, search.lengths)
    shorter = ~done & (lengths < known) & extends[:, None]
    known = jnp.where(shorter, lengths, known)
    ahead = jnp.where(done, jnp.inf, known)
    lowest = jnp.min(ahead, axis=1)
    # A column that nobody holds first.
    held = jnp.where(search.owner < size, size, 0)
    code = jnp.min(jnp.where(ahead <= lowest[:, None], lines + held, 2 * size), axis=1)
    found, reached = extends & (code < size), jnp.where(code < size, code, code - size)
    change = jnp.where(found[:, None] & done, known - lowest[:, None], 0.0)

    # Moves: the row that holds the column before gets this one.
    previous = _pick(search.before, at)
    from_root = previous == size
    taker = jnp.where(from_root, search.root, _pick(search.owner, jnp.minimum(previous, size - 1)))
    moves = (back & search.running)[:, None] & (lines == search.at[:, None])
    served = back & from_root & search.running
    root = jnp.where(served, _pick(search.following, search.root + 1), search.root)
    return search._replace(
        running=search.running & (root < size),
        owner=jnp.where(moves, taker[:, None], search.owner),
        prices=search.prices + change,
        root=jnp.minimum(root, size - 1),
        lengths=known,
        before=jnp.where(shorter, search.at[:, None], search.before),
        done=done | (extends[:, None] & (lines == reached[:, None])),
        at=jnp.where(back, previous, jnp.where(extends, reached, search.at)),
        length=jnp.where(extends, lowest, jnp.where(served, 0.0, search.length)),
        back=(back | found) & ~served,
    )


def _pick(values: jax.Array, place: jax.Array) -> jax.Array:
    """One number of every line `[L]`."""
    return jnp.take_along_axis(values, place[:, None], axis=1, mode="promise_in_bounds")[:, 0]
