"""Convolution and 2x2 max-pooling of many small networks at once, as one matrix product per layer.

`jax.vmap` over per-model kernels turns `lax.conv_general_dilated` into a grouped convolution, which no backend runs
well. Here a convolution is one product `band.T @ patches` per layer:

* The output map is cut into tiles of `th x tw` positions. The inputs that one tile sees, `(th + kh - 1) * (tw + kw - 1)`
  positions of every channel, are one column of `patches`.
* The kernel is spread into the `band`, a matrix from these inputs to all positions of the tile (a piece of the Toeplitz
  matrix of the convolution; its structural zeros are multiplied too, which costs less than the copies that it saves).
* The rows of the product are ordered (dy, dx, y, x, o), with (dy, dx) the position inside a pooling window. So 2x2
  max-pooling is the maximum of four contiguous blocks. The bias, the same for a whole window, is added after it.

Activations are batch-minor, `[C, H, W, B]`: every copy, maximum and activation then runs over contiguous examples
whatever the tile is, the product of one layer is the input of the next without a transposition, and a model axis added
by `vmap` in front of the weights alone stays in front, so that the first layer of all models on a common batch is
one product `[models * rows, inputs] @ [inputs, tiles * B]`. `to_batch_minor` and `flatten` are the two ends of a network.

The kernels are float32 `[kh, kw, C, O]` (HWIO), stride 1, no padding: what Flax and `lax` call VALID.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxweights.errors import UserError

IMPLEMENTATIONS = ("banded", "lax")
_DIMENSIONS = ("CHWN", "HWIO", "CHWN")


@dataclasses.dataclass(frozen=True)
class Plan:
    """How one layer is computed.

    Attributes:
      implementation: "banded" (this module's matrix product) or "lax" (`lax.conv_general_dilated` and
        `lax.reduce_window`).
      tile: rows and columns of convolution outputs that one column of patches produces; unused by "lax".
    """

    implementation: str
    tile: tuple[int, int] = (1, 1)


@dataclasses.dataclass(frozen=True)
class _Costs:
    """Prices of one backend: multiply-adds, copied patch values, product values, in units of one another.

    A product is charged for `rows` and `inputs` rounded up to `granule`, the width of the vector or matrix unit.
    """

    multiply: float
    patch: float
    output: float
    band: float
    granule: int
