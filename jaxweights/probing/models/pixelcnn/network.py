"""PixelCNN++ (Salimans et al. 2017): the distribution of every pixel given those above it and to its left.

Two streams of maps: the vertical one sees the rows above a pixel, the horizontal one its own row to the left as well,
and what the vertical one found. Gated residual layers at several resolutions, down and up again, with skips from every
layer of the way down. Weights are normalised (Salimans & Kingma 2016): `kernel = g v / |v|`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxweights.nn.convolution import Borders, convolve
from jaxweights.nn.dense import biased, matmul
from jaxweights.nn.dropout import drop, keep
from jaxweights.nn.parameters import normal, uniform_draws
from jaxweights.probing.models.pixelcnn import logistics

DOWN: Borders = ((1, 0), (1, 1))  # of windows of 2 x 3: the row above, and a column on both sides
DOWN_RIGHT: Borders = ((1, 0), (1, 0))  # of 2 x 2: the row above and the column to the left
_V_STD = 0.05
_GATE_SCALE = 0.1  # initial standard deviation of what a layer adds, before its gate
_EPSILON = 1e-10

Params = Mapping[str, Any]
Layer = Callable[..., tuple[jax.Array, Any]]
"""`(parameters, product, scale) -> (maps, fitted)`, see `apply` and `fit`."""


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes.

    Attributes:
      resnets: gated residual layers of every stage; on the way up, all but the first stage have one more.
      filters: channels of the maps.
      mixtures: logistics of a pixel's distribution.
      levels: resolutions, each half of the one before.
    """

    resnets: int
    filters: int
    mixtures: int
    levels: int

    def ups(self, level: int) -> int:
        """Layers of the stage on the way up, one for every map of the way down that it gets."""
        return self.resnets + (level < self.levels - 1)


def concat_elu(x: jax.Array) -> jax.Array:
    """ELU of `x` and of `-x`, `[..., 2 C]`."""
    return jax.nn.elu(jnp.concatenate([x, -x], axis=-1))


def shapes(a: Architecture, channels: int) -> dict[str, Any]:
    """Shapes of the directions `v`, as a tree of the layers. A window is `[h, w, in, out]`, a dense layer `[in, out]`;
    layers of a stage are stacked along a first axis. A dense layer of a skip takes the stream's own `concat_elu` first,
    of the horizontal stream the vertical map's before its own skip's."""
    f = a.filters
    windows = {"vertical": (2, 3), "horizontal": (2, 2)}

    def stage(count: int, aux: Mapping[str, int]) -> dict[str, Any]:
        found = {}
        for stream, window in windows.items():
            found[stream] = {"first": (count, *window, 2 * f, f), "second": (count, *window, 2 * f, 2 * f)}
            if stream in aux:
                found[stream]["skip"] = (count, aux[stream], f)
        return found

    out: dict[str, Any] = {
        "stem": {
            "vertical": (2, 3, channels + 1, f),
            "above": (1, 3, channels + 1, f),
            "left": (2, 1, channels + 1, f),
        },
        "out": (f, logistics.num_outputs(channels, a.mixtures)),
    }
    for level in range(a.levels):
        out[f"down_{level}"] = stage(a.resnets, {"horizontal": 2 * f})
        out[f"up_{level}"] = stage(a.ups(level), {"vertical": 2 * f, "horizontal": 4 * f})
        if level:
            out[f"shrink_{level}"] = {stream: (*window, f, f) for stream, window in windows.items()}
            out[f"grow_{level}"] = {stream: (*window, f, f) for stream, window in windows.items()}
    return out


def initial(key: jax.Array, a: Architecture, images: jax.Array) -> dict[str, Any]:
    """Parameters with random directions, whose lengths and biases give every layer's values mean 0 and a fixed standard
    deviation over a batch.

    Args:
      key: PRNG key.
      a: sizes.
      images: `[B, H, W, C]` levels in [-1, 1].
    """
    leaves, treedef = jax.tree.flatten(shapes(a, images.shape[-1]), is_leaf=lambda x: isinstance(x, tuple))
    ends = np.cumsum([0, *map(math.prod, leaves)]).tolist()
    draws = normal(_V_STD)(uniform_draws(key, (ends[-1],)))
    parts = [draws[end : end + math.prod(s)].reshape(s) for end, s in zip(ends, leaves, strict=False)]
    return network(a, jax.tree.unflatten(treedef, [{"v": part} for part in parts]), images, layer=fit)[1]


def kernel(p: Params, lead: int = 0) -> jax.Array:
    """The normalised weights of a layer, of layers that are stacked along `lead` axes."""
    axes = tuple(range(lead, p["v"].ndim - 1))
    direction = p["v"] * lax.rsqrt(jnp.sum(jnp.square(p["v"]), axis=axes, keepdims=True))
    return direction * p["g"].reshape(*p["g"].shape[:lead], *(1,) * len(axes), -1) if "g" in p else direction


def apply(p: Params, product: Callable[[jax.Array], jax.Array], scale: float = 1.0) -> tuple[jax.Array, None]:
    """A layer: the product of its weights with its inputs, and the bias."""
    del scale
    return biased(product(kernel(p)), p["b"]), None


def fit(p: Params, product: Callable[[jax.Array], jax.Array], scale: float = 1.0) -> tuple[jax.Array, Params]:
    """A layer of given directions, and its parameters: lengths and biases under which its values have mean 0 and
    standard deviation `scale`."""
    y = product(kernel(p))
    axes = tuple(range(y.ndim - 1))
    mean = jnp.mean(y, axis=axes)
    g = scale * lax.rsqrt(jnp.var(y, axis=axes) + _EPSILON)
    return biased(y * g.reshape((1,) * len(axes) + (-1,)), -mean * g), {"v": p["v"], "g": g, "b": -mean * g}


def network(
    a: Architecture,
    params: Params,
    images: jax.Array,
    masks: Params | None = None,
    rate: float = 0.0,
    layer: Layer = apply,
) -> tuple[jax.Array, Any]:
    """What describes the distribution of every pixel given the earlier ones, in the order of rows.

    Args:
      a: sizes.
      params: of `initial`.
      images: `[B, H, W, C]` levels in [-1, 1]; height and width are multiples of `2 ** (levels - 1)`.
      masks: of `dropout`, or None for no dropout.
      rate: probability of dropping a value.
      layer: `apply`, or `fit` for parameters that have directions alone.

    Returns:
      `[B, H, W, num_outputs]`, and the parameters that `fit` found.
    """
    masks, fitted = masks or {}, {}
    maps, fitted["stem"] = _stem(params["stem"], images, layer)
    skips = []

    def down(maps, given):
        p, kept = given
        return _pair(p, maps, None, kept, rate, layer)

    def up(maps, given):
        p, skip, kept = given
        maps, (_, done) = _pair(p, maps, skip, kept, rate, layer)
        return maps, done

    for level in range(a.levels):
        name = f"down_{level}"
        if level:
            maps, fitted[f"shrink_{level}"] = _shrink(params[f"shrink_{level}"], maps, layer)
        start = maps
        maps, (found, fitted[name]) = lax.scan(down, start, (params[name], masks.get(name)))
        skips.append(jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest])[::-1], start, found))
    skips[-1] = jax.tree.map(lambda x: x[1:], skips[-1])  # the last map is where the way up begins
    for level in reversed(range(a.levels)):
        name = f"up_{level}"
        if level < a.levels - 1:
            maps, fitted[f"grow_{level + 1}"] = _grow(params[f"grow_{level + 1}"], maps, layer)
        maps, fitted[name] = lax.scan(up, maps, (params[name], skips[level], masks.get(name)))
    last = jax.nn.elu(maps.horizontal)
    outputs, fitted["out"] = layer(params["out"], lambda w: matmul(last, w))
    return outputs, fitted


def dropout(keys: jax.Array, a: Architecture, height: int, width: int, rate: float) -> dict[str, Any]:
    """Which values of every layer are kept, `[layers, B, H, W, 2 filters]` of both streams by stage, for keys `[B]`.

    All masks are from one draw: drawing in every place multiplies the time to compile.
    """
    places = []
    for level in range(a.levels):
        size = (height >> level, width >> level, 2 * a.filters)
        places += [(f"down_{level}", (a.resnets, *size)), (f"up_{level}", (a.ups(level), *size))]
    ends = np.cumsum([0, *(2 * math.prod(shape) for _, shape in places)]).tolist()
    kept, out = keep(keys, (ends[-1],), rate), {}
    for (name, shape), first, end in zip(places, ends, ends[1:], strict=False):
        part = jnp.moveaxis(kept[:, first:end].reshape(len(keys), 2, *shape), 0, 2)
        out[name] = Maps(part[0], part[1])
    return out


class Maps(NamedTuple):
    """Maps `[B, H, W, filters]` of both streams."""

    vertical: jax.Array
    horizontal: jax.Array


def with_ones(images: jax.Array) -> jax.Array:
    """Images with a channel of ones, which tells them from the zeros around them."""
    return jnp.concatenate([images, jnp.ones_like(images[..., :1])], axis=-1)


def _stem(p: Params, images: jax.Array, layer: Layer) -> tuple[Maps, Any]:
    x = with_ones(images)
    parts = {"vertical": DOWN, "above": ((0, 0), (1, 1)), "left": ((1, 0), (0, 0))}
    found = {name: layer(p[name], _window(x, borders)) for name, borders in parts.items()}
    lower = {name: jnp.pad(y[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0))) for name, (y, _) in found.items()}
    right = jnp.pad(found["left"][0][:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
    return Maps(lower["vertical"], lower["above"] + right), {name: done for name, (_, done) in found.items()}


def _window(x: jax.Array, borders: Borders, stride: int = 1) -> Callable[[jax.Array], jax.Array]:
    return lambda w: convolve(x, w, stride, borders)


def _shrink(p: Params, maps: Maps, layer: Layer) -> tuple[Maps, Any]:
    vertical, one = layer(p["vertical"], _window(maps.vertical, DOWN, 2))
    horizontal, two = layer(p["horizontal"], _window(maps.horizontal, DOWN_RIGHT, 2))
    return Maps(vertical, horizontal), {"vertical": one, "horizontal": two}


def _grow(p: Params, maps: Maps, layer: Layer) -> tuple[Maps, Any]:
    vertical, one = layer(p["vertical"], lambda w: grown_rows(maps.vertical, w))
    horizontal, two = layer(p["horizontal"], lambda w: interleaved(grown_pixels(maps.horizontal, w)))
    return Maps(vertical, horizontal), {"vertical": one, "horizontal": two}


def grown_rows(x: jax.Array, w: jax.Array) -> jax.Array:
    """The transposed convolution of `[B, H, W, C]` with windows `[2, 3, C, F]` in steps of 2, `[B, 2 H, 2 W, F]`: even
    columns see the middle of one window, odd ones the sides of two."""
    right = jnp.pad(x[:, :, 1:], ((0, 0), (0, 0), (0, 1), (0, 0)))
    even = matmul(x, _beside(w[:, 1]))
    odd = matmul(jnp.concatenate([x, right], axis=-1), _beside(jnp.concatenate([w[:, 2], w[:, 0]], axis=1)))
    parts = [part.reshape(*part.shape[:-1], 2, 1, -1) for part in (even, odd)]
    return interleaved(jnp.concatenate(parts, axis=-2))


def grown_pixels(x: jax.Array, w: jax.Array) -> jax.Array:
    """Products of `[..., C]` with windows `[2, 2, C, F]`: the four pixels `[..., 2, 2, F]` that each pixel becomes."""
    y = matmul(x, _beside(w.reshape(4, *w.shape[2:])))
    return y.reshape(*x.shape[:-1], 2, 2, -1)


def interleaved(x: jax.Array) -> jax.Array:
    """`[B, H, W, 2, 2, F]` to `[B, 2 H, 2 W, F]`."""
    batch, height, width, _, _, features = x.shape
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, features)


def _beside(w: jax.Array) -> jax.Array:
    """`[k, in, out]` to `[in, k out]`."""
    return w.transpose(1, 0, 2).reshape(w.shape[1], -1)


def _pair(p: Params, maps: Maps, skip: Maps | None, kept: Maps | None, rate: float, layer: Layer):
    """One gated residual layer of each stream; returns the maps, and these again with the fitted parameters."""
    kept_v, kept_h = (None, None) if kept is None else kept
    aux = None if skip is None else concat_elu(skip.vertical)
    vertical, one = _gated(p["vertical"], maps.vertical, DOWN, aux, kept_v, rate, layer)
    aux = concat_elu(vertical)
    if skip is not None:
        aux = jnp.concatenate([aux, concat_elu(skip.horizontal)], axis=-1)
    horizontal, two = _gated(p["horizontal"], maps.horizontal, DOWN_RIGHT, aux, kept_h, rate, layer)
    maps = Maps(vertical, horizontal)
    return maps, (maps, {"vertical": one, "horizontal": two})


def _gated(p, x, borders, aux, kept, rate, layer):
    """A gated residual layer of `[B, H, W, filters]`, with the features `aux` of other maps, and its fitted
    parameters."""
    fitted = {}
    hidden, fitted["first"] = layer(p["first"], _window(concat_elu(x), borders))
    if aux is not None:
        added, fitted["skip"] = layer(p["skip"], lambda w: matmul(aux, w))
        hidden = hidden + added
    hidden = drop(concat_elu(hidden), kept, rate)
    y, fitted["second"] = layer(p["second"], _window(hidden, borders), _GATE_SCALE)
    return x + gated(y), fitted


def gated(y: jax.Array) -> jax.Array:
    """The first half of the channels, times the sigmoid of the others."""
    values, gates = jnp.split(y, 2, axis=-1)
    return values * jax.nn.sigmoid(gates)
