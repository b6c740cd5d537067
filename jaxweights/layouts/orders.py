"""Orders of the numbers of a network in published arrays, and ours: tensor by tensor, as in its state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from jaxweights.errors import UserError

STATE_DICT, WEIGHTS_FIRST, TRANSPOSED = "state_dict", "deepweightflow", "weightflow"
ORDERS = (STATE_DICT, WEIGHTS_FIRST, TRANSPOSED)
"""As in the state dict; all tensors with "weight" in their name, then all others (DeepWeightFlow,
`weight_space_objects.py`); the same with matrices as `[in, out]` (weightflow, `utils/data.py`)."""


def index(shapes: Mapping[str, tuple[int, ...]], order: str) -> np.ndarray:
    """`[P]` int64: where a row of an order has the numbers of our order, so that `row[index]` is ours.

    Args:
      shapes: shapes by name in the order of the state dict.
      order: of `ORDERS`.

    Raises:
      UserError: an unknown order.
    """
    if order not in ORDERS:
        raise UserError(f"There is no order {order!r} of numbers; there are {', '.join(ORDERS)}.")
    names = list(shapes)
    if order != STATE_DICT:
        names = [name for name in names if "weight" in name] + [name for name in names if "weight" not in name]
    places, start = {}, 0
    for name in names:
        size = math.prod(shapes[name])
        place = np.arange(start, start + size)
        if order == TRANSPOSED and len(shapes[name]) == 2:
            place = place.reshape(shapes[name][::-1]).T.ravel()
        places[name] = place
        start += size
    return np.concatenate([places[name] for name in shapes])
