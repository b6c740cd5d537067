"""What `host_climbing` runs on a core, compiled by Numba: one file, because Numba sees the changes of that alone when
it decides whether what it compiled before still holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from jaxweights.auditing.alignment.climbing import TIE

FIRST, LAST, MIDDLE = 0, 1, 2
"""Where a tensor has the axis of a group: before all others, behind them, or between them."""


def _compiled(**settings: Any) -> Callable[[Callable], Any]:
    """Compiles a function once for all later runs; it lets other threads of Python run."""
    return numba.njit(nogil=True, cache=True, error_model="numpy", **settings)


# Sums and minima in any order, which makes them vector instructions; numbers are finite or infinite, none is NaN.
_vectorised = _compiled(fastmath={"reassoc", "nsz", "nnan"})


@_compiled()
def climb(plan, ours, theirs, state, scratch):
    """Matches pairs one after the other."""
    groups = len(plan.groups)
    begun, before = np.empty(groups, np.bool_), np.empty(groups, np.bool_)
    for pair in range(len(ours)):
        begun[:] = False
        while state.active[pair]:
            known, left = state.known[pair], state.open[pair]
            before[:] = known
            first = 0
            for place in range(groups):
                group = plan.order[place, 0]
                if left[group]:
                    if not begun[group]:
                        _begin(plan, group, ours[pair], theirs[pair], scratch)
                        begun[group] = True
                    _update(plan, group, ours[pair], theirs[pair], state, pair, scratch)
                if plan.order[place, 1]:
                    for learned in range(first, place + 1):
                        _learn(plan.members, known, plan.order[learned, 0])
                    first = place + 1
            if not before.all():
                left[:] = True
            if (known == before).all():
                known[:] = True
            state.sweeps[pair] -= 1
            state.active[pair] = left.any() and state.sweeps[pair] > 0


@_compiled()
def _learn(members, known, group):
    """Notes that a group is known where a tensor says something of it, all of whose other groups are known."""
    for leaf in range(len(members)):
        others = members[leaf, group]
        for other in range(len(known)):
            others &= other == group or known[other] or not members[leaf, other]
        known[group] |= others


@_compiled()
def _begin(plan, group, ours, theirs, scratch):
    """Lays out what of ours needs it, and takes the products of the tensors that a group alone reorders."""
    of = plan.groups[group]
    products = scratch.matrices[group, : of.size * of.size].reshape(of.size, of.size)
    products[:] = 0
    orders, signs = np.empty(0, np.int32), np.empty(0, np.int8)
    for number in range(of.first, of.end):
        use = plan.uses[number]
        if use.form == MIDDLE:
            _lay_out(plan, number, of.size, ours, orders, signs, scratch, scratch.ours[use.laid :])
        if use.alone:
            _add_products(plan, number, of.size, ours, theirs, orders, signs, scratch, products)


@_compiled()
def _update(plan, group, ours, theirs, state, pair, scratch):
    """Assigns the units of a group of one pair anew, and keeps that where the pair gains by it."""
    of, orders, signs = plan.groups[group], state.permutations[pair], state.signs[pair]
    end, area = of.start + of.size, of.size * of.size
    own, sign, prices = orders[of.start : end], signs[of.start : end], state.prices[pair, of.start : end]
    scores = scratch.matrices[-2, :area].reshape(of.size, of.size)
    costs = scratch.matrices[-1, :area].reshape(of.size, of.size)
    scores[:] = scratch.matrices[group, :area].reshape(of.size, of.size)
    for number in range(of.first, of.end):
        if not plan.uses[number].alone and _says(plan, number, group, state.known[pair]):
            _add_products(plan, number, of.size, ours, theirs, orders, signs, scratch, scores)
    state.open[pair, group] = False
    if not _mass(scores) < np.inf:
        return  # what float32 cannot hold says nothing
    _state_costs(scores, own, of.signed, costs)
    _assign(costs, prices, np.isnan(prices[0]), own, scratch.units, scratch.lengths)
    columns = scratch.units[1, : of.size]
    if not _gains(scores, costs, own, columns, sign, of.signed):
        return
    # The score is quadratic in an order that a tensor has twice: a better assignment may be a worse match.
    quadratic = plan.neighbours[group, group]
    match = _match(plan, group, ours, theirs, orders, signs, scratch) if quadratic else 0.0
    old, flipped = own.copy(), sign.copy()
    for unit in range(of.size):
        if of.signed:
            sign[unit] = -1 if scores[unit, columns[unit]] < 0 else 1
        own[unit] = columns[unit]
    if quadratic and _match(plan, group, ours, theirs, orders, signs, scratch) <= match:
        own[:], sign[:] = old, flipped
        return
    state.open[pair] |= plan.neighbours[group]


@_compiled()
def _gains(scores, costs, own, columns, sign, signed):
    """Whether an assignment is better than the present match by more than rounding."""
    gain, mass = 0.0, 0.0
    for unit in range(len(own)):
        matched, present = -costs[unit, columns[unit]], -costs[unit, own[unit]]
        if signed:
            present = (-present if scores[unit, own[unit]] < 0 else present) * sign[unit]
        gain, mass = gain + matched - present, mass + abs(matched)
    return gain > TIE * mass


@_compiled()
def _says(plan, number, group, known):
    """Whether all other groups of a tensor are known."""
    found, use = True, plan.uses[number]
    for axis in range(use.first, use.end):
        other = plan.axes[axis].group
        found &= other < 0 or other == group or known[other]
    return found


@_compiled()
def _add_products(plan, number, size, ours, theirs, orders, signs, scratch, scores):
    """Adds the inner products of a tensor's slices, ours by theirs in order, to scores `[n, n]`."""
    use = plan.uses[number]
    width, span = use.width, slice(use.offset, use.offset + size * use.width)
    first, second = ours[span], theirs[span]
    if use.form == MIDDLE:
        first = scratch.ours[use.laid : use.laid + size * width]
    if use.form == MIDDLE or not use.alone:
        _lay_out(plan, number, size, theirs, orders, signs, scratch, scratch.theirs)
        second = scratch.theirs[: size * width]
    if use.form == LAST:
        scores += np.dot(first.reshape(width, size).T, second.reshape(width, size))
    else:
        scores += np.dot(first.reshape(size, width), second.reshape(size, width).T)


@_compiled()
def _lay_out(plan, number, size, vector, orders, signs, scratch, laid):
    """A tensor with its other axes in order: `[F, n]` where the group's axis is the last, else `[n, F]`."""
    use, places, factors = plan.uses[number], scratch.places[0], scratch.factors[0]
    width = _places(plan, number, orders, signs, places, factors)
    if use.form == LAST:
        _gather(vector[use.offset :], places, factors, width, 1, size, 1, size, laid)
    else:
        _gather(vector[use.offset :], places, factors, width, use.stride, size, width, 1, laid)


@_vectorised
def _gather(vector, places, factors, width, stride, size, unit_step, place_step, laid):
    if place_step == 1:
        for unit in range(size):
            for place in range(width):
                laid[unit * unit_step + place] = vector[unit * stride + places[place]] * factors[place]
    else:
        for place in range(width):
            for unit in range(size):
                laid[place * place_step + unit] = vector[places[place] + unit] * factors[place]


@_compiled()
def _places(plan, number, orders, signs, places, factors):
    """Where the other axes of a tensor lie, and with which sign, in an order; as stored where there is none."""
    places[0], factors[0], count = 0, 1, 1
    for axis in range(plan.uses[number].first, plan.uses[number].end):
        own = plan.axes[axis]
        for outer in range(count - 1, -1, -1):
            start, factor = places[outer], factors[outer]
            for inner in range(own.size - 1, -1, -1):
                at, sign = inner, factor
                if own.group >= 0 and len(orders):
                    unit = plan.groups[own.group].start + inner
                    at, sign = orders[unit], factor * signs[unit]
                places[outer * own.size + inner] = start + at * own.stride
                factors[outer * own.size + inner] = sign
        count *= own.size
    return count


@_compiled()
def _match(plan, group, ours, theirs, orders, signs, scratch):
    """Inner product of the tensors that a group and others reorder."""
    total, of, leaf = 0.0, plan.groups[group], -1
    plain, moved, factors = scratch.places[0], scratch.places[1], scratch.factors[1]
    for number in range(of.first, of.end):
        use = plan.uses[number]
        if use.alone or use.leaf == leaf:
            continue
        leaf = use.leaf
        width = _places(plan, number, orders[:0], signs[:0], plain, scratch.factors[0])
        _places(plan, number, orders, signs, moved, factors)
        for unit in range(of.size):
            first, part = use.offset + unit * use.stride, 0.0
            second = use.offset + orders[of.start + unit] * use.stride
            for place in range(width):
                part += ours[first + plain[place]] * theirs[second + moved[place]] * factors[place]
            total += part * signs[of.start + unit]
    return total


@_compiled()
def squared_distances(plan, ours, theirs, orders, signs, places, factors, found):
    """Squared distances `[S]`, float64, of networks and others in order; see `reordering.squared_distances`.

    Args:
      plan: that of the spec.
      ours, theirs: `[S, P]`.
      orders, signs: `[S, U]`; `[S, 0]` for networks as they are.
      places, factors: memory, see `_Scratch`.
      found: `[S]` the result.
    """
    for pair in range(len(ours)):
        found[pair] = 0
        for number in range(plan.groups[-1].end, len(plan.uses)):
            use = plan.uses[number]
            count = _places(plan, number, orders[pair], signs[pair], places[0], factors[0])
            span = slice(use.offset, use.offset + count * use.stride)
            found[pair] += _squared(ours[pair, span], theirs[pair, span], places[0], factors[0], count, use.stride)


@_compiled(fastmath={"reassoc", "nsz"})
def _squared(ours, theirs, places, factors, count, length):
    """Sum of squared differences of so many stretches of a length."""
    total = 0.0
    if length == 1:
        for place in range(count):
            total += (np.float64(ours[place]) - np.float64(theirs[places[place]]) * factors[place]) ** 2
        return total
    for place in range(count):
        first, second = place * length, places[place]
        for step in range(length):
            total += (np.float64(ours[first + step]) - np.float64(theirs[second + step]) * factors[place]) ** 2
    return total


@_compiled(fastmath={"reassoc", "nsz"})
def _mass(scores):
    """Sum of all magnitudes: not finite where a score is not."""
    total = np.float32(0)
    for row in range(len(scores)):
        for column in range(len(scores)):
            total += abs(scores[row, column])
    return total


@_vectorised
def _state_costs(scores, own, signed, costs):
    """Costs of an assignment; the present match is the cheaper by what rounding may pretend."""
    size, largest = len(scores), np.float32(0)
    for row in range(size):
        for column in range(size):
            worth = abs(scores[row, column])
            largest = max(largest, worth)
            costs[row, column] = -worth if signed else -scores[row, column]
    for row in range(size):
        costs[row, own[row]] -= np.float32(TIE) * largest


@_vectorised
def _assign(costs, prices, fresh, own, units, lengths):
    """Gives every row a column at the least total cost.

    Args:
      costs: `[n, n]` finite float32.
      prices: `[n]` of the columns, of an earlier, similar problem; those of this one afterwards.
      fresh: whether there are none.
      own: `[n]` columns that rows prefer among equally cheap ones.
      units: see `_Scratch`; the columns of the rows are the result.
      lengths: memory.
    """
    size = len(costs)
    owner, columns = units[0, :size], units[1, :size]
    if fresh:
        prices[:] = np.inf
        for row in range(size):
            for column in range(size):
                prices[column] = min(prices[column], costs[row, column])
    owner[:], columns[:] = size, size
    for row in range(size):
        reduced = lengths[0, :size]
        least = np.float32(np.inf)
        for column in range(size):
            reduced[column] = costs[row, column] - prices[column]
            least = min(least, reduced[column])
        chosen = own[row]
        if reduced[chosen] <= least:
            if owner[chosen] < size:
                columns[owner[chosen]] = size
        else:
            chosen = _first(reduced, least)
            if owner[chosen] < size:
                continue
        owner[chosen], columns[row] = row, chosen
    for row in range(size):
        if columns[row] == size:
            _serve(row, costs, prices, units, lengths)


@_vectorised
def _first(values, least):
    """The first place of a value that is no larger."""
    found = np.int32(len(values))
    for place in range(len(values)):
        found = min(found, np.int32(place) if values[place] <= least else np.int32(len(values)))
    return found


@_vectorised
def _serve(row, costs, prices, units, lengths):
    """Gives a row a column along the shortest path of exchanges."""
    size = np.int32(len(costs))
    owner, columns, before, path = units[0], units[1], units[2], units[3]
    slack, length, old = lengths[0], lengths[1], lengths[2]
    for column in range(size):
        slack[column] = np.inf
    holder, last, base, count = row, size, np.float32(0), 0
    least = np.float32(np.inf)
    while True:
        # Three plain loops, without a call: views and calls cost as much as a loop does.
        for column in range(size):
            longer, shortest, previous = costs[holder, column] - prices[column] - base, slack[column], before[column]
            before[column] = last if longer < shortest else previous
            slack[column] = longer if longer < shortest else shortest
        least = np.float32(np.inf)
        for column in range(size):
            least = min(least, slack[column])
        last = size
        for column in range(size):
            last = min(last, np.int32(column) if slack[column] <= least else size)
        if owner[last] == size:
            break
        holder = owner[last]
        path[count], length[count], old[count] = last, least, prices[last]
        base = costs[holder, last] - prices[last] - least
        slack[last], prices[last] = np.inf, -np.inf  # no path to it will be shorter
        count += 1
    for place in range(count):
        prices[path[place]] = old[place] + length[place] - least
    while before[last] < size:
        owner[last] = owner[before[last]]
        columns[owner[last]] = last
        last = before[last]
    owner[last], columns[row] = row, last
