"""Kernel densities of latents, as published and as meant."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Density = Literal["token", "individual", "joint"]
"""What one density is of: the latent of a token, a single number, or all latents of a network."""
Mode = Literal["independent", "faithful"]

_SEED = 42  # of every density of the published code


class Draw(NamedTuple):
    """Drawn latents.

    Attributes:
      latents: `[n, tokens, latent_dim]` float32.
      parents: `[n]` int32 prompts that they are near, or -1 where they are near several.
    """

    latents: np.ndarray
    parents: np.ndarray


def draw(prompts: np.ndarray, keys: jax.Array, density: Density, mode: Mode, bandwidth: float) -> Draw:
    """Draws from Gaussian kernel densities of latents.

    Args:
      prompts: `[M, tokens, latent_dim]` float32 latents of networks.
      keys: `[n]` typed PRNG keys. In faithful mode the draws depend on their number alone.
      density: what a density is of.
      mode: whether every density is drawn from on its own, or all with the same seed.
      bandwidth: standard deviation of the kernels.
    """
    if mode == "faithful":
        return _faithful(prompts, len(keys), density, bandwidth)
    latents, rows = _independent(prompts, keys, density, bandwidth)
    parents = np.asarray(rows) if density == "joint" else np.full(len(keys), -1)
    return Draw(np.asarray(latents), parents.astype(np.int32))


@functools.partial(jax.jit, static_argnums=2)
def _independent(
    prompts: jax.Array, keys: jax.Array, density: Density, bandwidth: float
) -> tuple[jax.Array, jax.Array]:
    """Latents, and the row of each one's first number."""
    networks, tokens, size = prompts.shape
    shape = {"joint": (1, 1), "token": (tokens, 1), "individual": (tokens, size)}[density]

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        choice, noise = jax.random.split(key)
        rows = jax.random.randint(choice, shape, 0, networks)
        centres = prompts[rows, jnp.arange(tokens)[:, None], jnp.arange(size)[None, :]]
        return centres + bandwidth * jax.random.normal(noise, (tokens, size)), rows[0, 0]

    return jax.vmap(one)(keys)


def _faithful(prompts: np.ndarray, count: int, density: Density, bandwidth: float) -> Draw:
    """scikit-learn's draws of all densities: first all rows, then all noise, from the same seed each."""
    _, tokens, size = prompts.shape
    rng = np.random.RandomState(_SEED)
    rows = (rng.uniform(0.0, 1.0, count) * len(prompts)).astype(np.int64)
    shape = {"joint": (count, tokens, size), "token": (count, 1, size), "individual": (count, 1, 1)}[density]
    latents = prompts[rows].astype(np.float64) + bandwidth * rng.normal(size=shape)
    return Draw(latents.astype(np.float32), rows.astype(np.int32))
