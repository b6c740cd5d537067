"""Checks between fields that the settings of several generators have."""

from __future__ import annotations

from typing import Any


def heads(generator: Any) -> None:
    """Refuses a `width` that is no multiple of `heads`."""
    if generator.width % generator.heads:
        generator.refuse("width", f"it is not a multiple of the {generator.heads} heads, so change one of them")


def noise_schedule(generator: Any) -> None:
    """Refuses a `beta_end` below `beta_start`."""
    if generator.beta_end < generator.beta_start:
        generator.refuse("beta_end", f"set it to at least beta_start ({generator.beta_start})")


def sampling_steps(generator: Any) -> None:
    """Refuses `sampling_steps` above `num_timesteps`."""
    if (generator.sampling_steps or 0) > generator.num_timesteps:
        generator.refuse(
            "sampling_steps", f"set it between 1 and num_timesteps ({generator.num_timesteps}), or to None for all"
        )
