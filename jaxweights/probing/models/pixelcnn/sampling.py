"""Drawing images pixel by pixel: by a pass of the whole network for each, or with cached activations.

With a cache (Ramachandran et al. 2017) all passes together cost about as much as one: a row of the vertical stream is
computed when that row begins, a pixel of the horizontal stream when it is reached. What the row above adds to a pixel,
and what the vertical stream adds, are products of whole rows. Coarser maps are computed at every second row and column
of the finer ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxweights.nn.dense import matmul
from jaxweights.probing.models.pixelcnn import cache
from jaxweights.probing.models.pixelcnn.network import (
    Architecture,
    concat_elu,
    gated,
    grown_pixels,
    grown_rows,
    network,
    with_ones,
)

Choose = Callable[[jax.Array, Any], tuple[jax.Array, Any]]
"""`(outputs [n, num_outputs], inputs of the pixel) -> (pixel [n, C], anything)`."""


def naive(a: Architecture, params: Mapping[str, Any], shape: tuple[int, ...], choose: Choose, inputs: Any) -> Any:
    """What `cached` returns, by a pass of the whole network for every pixel; the reference for tests and benchmarks."""
    height, width, _ = shape[1:]

    def step(images, given):
        place, own = given
        row, column = place // width, place % width
        outputs = network(a, params, images)[0][:, row, column]
        pixel, found = choose(outputs, own)
        return images.at[:, row, column].set(pixel), found

    flat = jax.tree.map(lambda x: x.reshape(height * width, *x.shape[2:]), inputs)
    found = lax.scan(step, jnp.zeros(shape), (jnp.arange(height * width), flat))[1]
    return jax.tree.map(lambda x: x.reshape(height, width, *x.shape[1:]), found)


def cached(a: Architecture, params: Mapping[str, Any], shape: tuple[int, ...], choose: Choose, inputs: Any) -> Any:
    """Goes through the pixels in the order of rows.

    Args:
      a: sizes.
      params: parameters of the network.
      shape: `(n, H, W, C)` of the images.
      choose: says what a pixel is, from what the network says of it; and what to keep of it.
      inputs: pytree of arrays `[H, W, ...]`, of which `choose` gets the pixel's.

    Returns:
      What `choose` kept, with leading axes `[H, W]`.
    """
    w, (n, height, width, channels) = cache.plain(a, params), shape

    def row(carry, given):
        canvas, vertical, buffers = carry
        number, own = given
        # Borders: two rows above, and a column on both sides.
        above = lax.dynamic_slice_in_dim(canvas, number, 2, axis=1)
        start, base = _stem_rows(w.stem, above, number)
        vertical, bases, _ = _rows(w, 0, start, number, vertical, buffers)

        def pixel(carry, given):
            line, buffers = carry  # the pixels of this row so far, with a border on the left
            column, own = given
            left = jnp.stack([above[:, 1], line], axis=1)
            left = lax.dynamic_slice_in_dim(left, column, 1, axis=2).reshape(n, -1)
            own_stem = jnp.where(column > 0, _affine(left, w.stem["left"]), 0.0)
            start = lax.dynamic_index_in_dim(base, column, 1, keepdims=False) + own_stem
            found, last = _pixel(w, 0, start, number, column, buffers, bases)
            both = enumerate(zip(buffers, found, strict=True))
            buffers = tuple(cache.written(buffer, x, column >> level) for level, (buffer, x) in both)
            outputs = _affine(jax.nn.elu(last), w.out)
            chosen, kept = choose(outputs, own)
            line = lax.dynamic_update_slice(line, with_ones(chosen)[:, None], (0, column + 1, 0))
            return (line, buffers), kept

        line = jnp.zeros_like(canvas[:, 0])
        (line, buffers), kept = lax.scan(pixel, (line, buffers), (jnp.arange(width), own))
        return (lax.dynamic_update_slice(canvas, line[:, None], (0, number + 2, 0, 0)), vertical, buffers), kept

    canvas = jnp.zeros((n, height + 2, width + 2, channels + 1))
    vertical = tuple(cache.empty_rows(a, level, n, width >> level) for level in range(a.levels))
    buffers = tuple(cache.empty_buffer(a, level, n, width >> level) for level in range(a.levels))
    return lax.scan(row, (canvas, vertical, buffers), (jnp.arange(height), inputs))[1]


def _affine(x: jax.Array, p: Mapping[str, jax.Array]) -> jax.Array:
    """`[..., in]` times weights whose inputs are `[..., in]` in all, plus the bias."""
    return matmul(x, p["w"].reshape(-1, p["w"].shape[-1])) + p["b"].reshape((1,) * (x.ndim - 1) + (-1,))


def _row_of(w: jax.Array, row: int) -> jax.Array:
    """One row of windows `[h, w, in, out]` as a matrix."""
    return w[row].reshape(-1, w.shape[-1])


# The vertical stream: rows `[n, W, filters]`.


def _stem_rows(p: Mapping[str, Any], above: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The first maps of a row, without what the horizontal one gets from the pixel to the left; from the two rows above
    `[n, 2, W + 2, C + 1]`."""
    size = above.shape[2] - 2
    taps = [above[:, i, j : j + size] for i in range(2) for j in range(3)]
    vertical = _affine(jnp.concatenate(taps, axis=-1), p["vertical"])
    horizontal = _affine(jnp.concatenate(taps[3:], axis=-1), p["above"])
    return jnp.where(number > 0, vertical, 0.0), jnp.where(number > 0, horizontal, 0.0)


def _rows(
    w: cache.Weights,
    level: int,
    u: jax.Array,
    number: jax.Array,
    kept: tuple[cache.Rows, ...],
    buffers: tuple[cache.Buffer, ...],
) -> tuple[tuple[cache.Rows, ...], tuple[cache.Bases, ...], jax.Array]:
    """The vertical stream in one row, from a level on.

    Args:
      w: weights.
      level: the level.
      u: `[n, W, filters]` first map of the level.
      number: row of the image.
      kept: of this level and the deeper ones.
      buffers: of the horizontal stream, which still hold the row above.

    Returns:
      What is kept, what the horizontal stream gets at these levels, and the last map of this one.
    """
    own, above = kept[0], buffers[0].rows()
    new: list[list[tuple[jax.Array, jax.Array]]] = [[], []]
    skips, bases = [u], []
    layers = iter(range(len(own.down) + len(own.up)))

    def base(p, u):
        i = next(layers)
        x, hidden = concat_elu(above[2 * i]), concat_elu(above[2 * i + 1])
        size = 2 * u.shape[-1]
        first = _above(x, p["first"]) + matmul(concat_elu(u), p["skip"]["w"][:size])
        bases.append((first + p["skip"]["b"][None, None], _above(hidden, p["second"])))

    for p, before in zip(w.down[level], own.down, strict=True):
        u, kept_row = _row_layer(p["vertical"], u, None, before)
        new[0].append(kept_row)
        skips.append(u)
        base(p["horizontal"], u)
    last, grown, shrunk, further = skips[-1], None, None, ((), ())
    if own.grown is None:
        u = skips.pop()
    else:
        shrink, grow = w.shrink[level + 1], w.grow[level + 1]

        def deeper():
            start = _row_window(shrink["vertical"], own.last, last, 2)
            below = _strided_above(shrink["horizontal"], above[-1])
            found, bases, out = _rows(w, level + 1, start, number, kept[1:], buffers[1:])
            both = grown_rows(out[:, None], grow["vertical"]["w"]) + grow["vertical"]["b"][None, None, None]
            return found, bases, below, jnp.moveaxis(both, 1, 0)

        def same():
            below = jnp.zeros((u.shape[1] // 2, u.shape[0], u.shape[2]))
            return kept[1:], tuple(cache.no_bases(buffer) for buffer in buffers[1:]), below, own.grown

        at_level = number >> level
        *further, shrunk, grown = lax.cond(at_level % 2 == 0, deeper, same)
        u = grown[at_level % 2]
    for p, before in zip(w.up[level], own.up, strict=True):
        skip = skips.pop()
        u, kept_row = _row_layer(p["vertical"], u, skip, before)
        new[1].append(kept_row)
        base(p["horizontal"], u)
    firsts, seconds = (jnp.moveaxis(jnp.stack(x), 2, 0) for x in zip(*bases, strict=True))
    found = (cache.Rows(new[0], last, new[1], grown), *further[0])
    return found, (cache.Bases(firsts, seconds, shrunk), *further[1]), u


def _row_layer(p, u, skip, before):
    """A gated layer of the vertical stream in one row, and what the next row needs of it."""
    old, old_hidden = before
    hidden = _row_window(p["first"], concat_elu(old), concat_elu(u))
    if skip is not None:
        hidden = hidden + _affine(concat_elu(skip), p["skip"])
    y = _row_window(p["second"], concat_elu(old_hidden), concat_elu(hidden))
    return u + gated(y), (u, hidden)


def _row_window(p, old, new, stride=1):
    """Windows `[2, 3]` over the last row and this one."""
    size, rows = old.shape[1], [jnp.pad(x, ((0, 0), (1, 1), (0, 0))) for x in (old, new)]
    return _affine(jnp.concatenate([x[:, j : j + size : stride] for x in rows for j in range(3)], axis=-1), p)


def _above(row, p):
    """What the row above adds to windows `[2, 2]`, and the bias."""
    beside = jnp.pad(row[:, :-1], ((0, 0), (1, 0), (0, 0)))
    y = matmul(jnp.concatenate([beside, row], axis=-1), _row_of(p["w"], 0))
    return y + p["b"][None, None]


def _strided_above(p, row):
    """The same in steps of 2, as `[W / 2, n, filters]`."""
    beside = jnp.pad(row[:, 1:-1:2], ((0, 0), (1, 0), (0, 0)))
    y = matmul(jnp.concatenate([beside, row[:, ::2]], axis=-1), _row_of(p["w"], 0))
    return jnp.moveaxis(y + p["b"][None, None], 1, 0)


# The horizontal stream: pixels `[n, filters]`.


def _pixel(
    w: cache.Weights,
    level: int,
    x: jax.Array,
    number: jax.Array,
    column: jax.Array,
    buffers: tuple[cache.Buffer, ...],
    bases: tuple[cache.Bases, ...],
) -> tuple[tuple[cache.Buffer, ...], jax.Array]:
    """The horizontal stream at one pixel, from a level on.

    Args:
      w: weights.
      level: the level.
      x: `[n, filters]` first map of the level.
      number: row of the image.
      column: column of the image.
      buffers: of this level and the deeper ones.
      bases: of the same.

    Returns:
      What belongs into the buffers at this pixel, of every level, and the last map of this one. At pixels that a deeper
      level skips that is what its buffers hold: so they are written in every case, in place.
    """
    own, row, at = buffers[0], number >> level, column >> level
    left = jnp.where(at > 0, cache.at(own.maps, jnp.maximum(at - 1, 0)), 0.0)
    beside, first, second = concat_elu(left), cache.at(bases[0].first, at), cache.at(bases[0].second, at)
    skips, kept = [x], []

    def layer(p, x, skip):
        i = len(kept) // 2
        hidden = first[i] + _same_row(p["first"], beside[2 * i], concat_elu(x))
        if skip is not None:
            hidden = hidden + matmul(concat_elu(skip), p["skip"]["w"][2 * x.shape[-1] :])
        kept.extend([x, hidden])
        return x + gated(second[i] + _same_row(p["second"], beside[2 * i + 1], concat_elu(hidden)))

    for p in w.down[level]:
        x = layer(p["horizontal"], x, None)
        skips.append(x)
    last, grown, further = x, None, ()
    if own.grown is None:
        x = skips.pop()
    else:
        shrink, grow = w.shrink[level + 1]["horizontal"], w.grow[level + 1]["horizontal"]
        held, shrunk = own.grown, bases[0].shrunk
        assert shrunk is not None  # as `grown`, it is None at the last level alone

        def deeper():
            start = cache.at(shrunk, at // 2) + _same_row(shrink, left[-1], last)
            found, out = _pixel(w, level + 1, start, number, column, buffers[1:], bases[1:])
            return found, grown_pixels(out, grow["w"]) + grow["b"][None, None, None]

        def same():
            columns = (cache.column_of(b, column >> (level + 1 + i)) for i, b in enumerate(buffers[1:]))
            return tuple(columns), cache.at(held, at // 2)

        further, grown = lax.cond((row % 2 == 0) & (at % 2 == 0), deeper, same)
        x = lax.dynamic_slice(grown, (0, row % 2, at % 2, 0), (grown.shape[0], 1, 1, grown.shape[3]))[:, 0, 0]
    for p in w.up[level]:
        x = layer(p["horizontal"], x, skips.pop())
    return (cache.Buffer(jnp.stack([*kept, last]), grown), *further), x


def _same_row(p, left, x):
    """What the pixel to the left and the pixel itself add to windows `[2, 2]`."""
    return matmul(jnp.concatenate([left, x], axis=-1), _row_of(p["w"], 1))
