"""Sequences that are too long for attention over all tokens: windows with context on both sides (section 3.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Lengths = Literal["any", "published"]
"""Sequences that can be cut: any, or those on which the published code does not stop."""


class Windows(NamedTuple):
    """How a sequence is cut into windows of one length.

    Attributes:
      starts: `[windows]` int32 numbers of their first tokens.
      length: tokens of a window, content and context.
      places: `[tokens]` int32: where each token is content, in the windows one after the other.
    """

    starts: np.ndarray
    length: int
    places: np.ndarray


def whole(tokens: int) -> Windows:
    """One window of all tokens."""
    return Windows(np.zeros(1, np.int32), tokens, np.arange(tokens, dtype=np.int32))


def with_halo(tokens: int, content: int, halo: int) -> Windows:
    """Windows of `content` tokens with `halo` others on both sides; the first and the last have all their context on
    one side. A sequence that is shorter than a window is one of its own."""
    length = min(tokens, content + 2 * halo)
    first = np.arange(0, tokens, content)
    starts = np.clip(first - halo, 0, tokens - length)
    every = np.arange(tokens)
    window = every // content
    return Windows(starts.astype(np.int32), length, (window * length + every - starts[window]).astype(np.int32))


def misfit(tokens: int, content: int, halo: int) -> str | None:
    """Why the published code stops on a sequence of this length; None where it does not.

    It wants windows of full length, within the sequence: also those whose content is not the first or the last.
    """
    if halo >= content:
        return f"a halo of {halo} is not smaller than the window of {content}"
    if tokens < content + 2 * halo:
        return f"{tokens} tokens are fewer than a window of {content} with {halo} on both sides"
    rest = tokens % content
    if tokens > 2 * content and 0 < rest < halo:
        return (
            f"the last but one of windows of {content} with {halo} on both sides ends after the last of {tokens} tokens"
        )
    return None


def apply(
    function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, positions: jax.Array, windows: Windows
) -> jax.Array:
    """A function of windows on whole sequences, window by window, all sequences together.

    Args:
      function: `(x [n, length, ...], positions [1, length, 3]) -> [n, length, ...]`.
      x: `[n, tokens, ...]`.
      positions: `[tokens, 3]`.
      windows: how the sequences are cut.

    Returns:
      `[n, tokens, ...]`.
    """
    if len(windows.starts) == 1:
        return function(x, positions[None])

    def one(start: jax.Array) -> jax.Array:
        return function(
            lax.dynamic_slice_in_dim(x, start, windows.length, 1),
            lax.dynamic_slice_in_dim(positions, start, windows.length, 0)[None],
        )

    found = jnp.moveaxis(lax.map(one, jnp.asarray(windows.starts)), 0, 1)
    return found.reshape(found.shape[0], -1, *found.shape[3:])[:, windows.places]
