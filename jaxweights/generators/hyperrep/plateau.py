"""PyTorch's reduction of the learning rate on a plateau, for Hyper-Representations."""

from __future__ import annotations

import dataclasses
from typing import Literal

import optax


@dataclasses.dataclass(frozen=True)
class Plateau:
    """PyTorch's ReduceLROnPlateau; `HyperRep` says what each field is, there under `scheduler_...`."""

    every: int
    factor: float
    patience: int
    threshold: float
    threshold_mode: Literal["rel", "abs"]
    cooldown: int
    min_learning_rate: float

    def transformation(self, learning_rate: float) -> optax.GradientTransformationExtraArgs:
        """Reduces once more looks than the patience bring nothing, for the steps after; goes after the optimizer."""
        relative = self.threshold_mode == "rel"
        inner = optax.contrib.reduce_on_plateau(
            factor=self.factor,
            patience=self.patience + 1,
            rtol=self.threshold if relative else 0.0,
            atol=0.0 if relative else self.threshold,
            cooldown=self.cooldown,
            accumulation_size=self.every,
            min_scale=self.min_learning_rate / learning_rate,
        )

        def update(updates, state, params=None, **extra):
            _, new_state = inner.update(updates, state, params, **extra)
            return optax.tree.scale(state.scale, updates), new_state

        return optax.GradientTransformationExtraArgs(inner.init, update)
