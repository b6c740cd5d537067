"""Which parameters of a training samples are drawn with: the last ones, or the best of all steps, kept as it goes.

"luckiest" is the published choice of DeepWeightFlow: those that follow the step with the smallest loss of its batch of
eight, which is a lottery over noise and times. "heldout" asks runs that are not learned from, now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

Select = Literal["last", "heldout", "luckiest"]
CHOICES = 200
"""Times that held-out runs are asked in training, about."""


def held_out(select: Select, share: float, runs: int) -> int:
    """How many of so many training runs choose the parameters instead of being learned from."""
    if select != "heldout" or runs < 2:
        return 0
    return min(runs - 1, max(1, round(share * runs)))


def held(select: Select, share: float, runs: np.ndarray) -> np.ndarray:
    """Which rows, of the runs `[N]`, belong to those that choose the parameters, `[N]` bool."""
    known = np.unique(runs)
    order = np.random.default_rng(0).permutation(known)
    return np.isin(runs, order[: held_out(select, share, len(known))])


def start(select: Select, params: Any) -> dict[str, Any]:
    """The state of the choice before training."""
    if select == "last":
        return {}
    state = {"best": jax.tree.map(jnp.copy, params), "loss": jnp.float32(jnp.inf)}
    if select == "luckiest":
        return {**state, "next": jnp.bool_(False)}
    return {**state, "step": jnp.int32(0), "last": jnp.float32(0)}


def after_batch(state: dict[str, Any], params: Any, loss: jax.Array, axis_name: Any) -> dict[str, Any]:
    """The state after the loss of a batch: with the parameters of before its step, which the last step gave."""
    params, loss = jax.lax.stop_gradient((params, loss))
    if axis_name is not None:
        loss = jax.lax.pmean(loss, axis_name)
    best = jax.tree.map(lambda new, old: jnp.where(state["next"], new, old), params, state["best"])
    lucky = loss < state["loss"]
    return {**state, "best": best, "loss": jnp.where(lucky, loss, state["loss"]), "next": lucky}


def after_step(state: dict[str, Any], params: Any, every: int, measure: Callable[[Any], jax.Array]) -> dict[str, Any]:
    """The state after a step, every so many of which parameters are measured and kept if they are the best."""
    params = jax.lax.stop_gradient(params)

    def compare(state: dict[str, Any]) -> dict[str, Any]:
        loss = measure(params)
        better = loss < state["loss"]
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state["best"])
        return {**state, "best": best, "loss": jnp.where(better, loss, state["loss"]), "last": loss}

    state = jax.lax.cond(state["step"] % every == 0, compare, lambda state: state, state)
    return {**state, "step": state["step"] + 1}


def chosen(select: Select, trained: Any) -> Any:
    """The chosen parameters of a finished stage."""
    state = trained["model_state"]
    if select == "last":
        return trained["params"]
    if select == "heldout":
        return state["best"]
    return jax.tree.map(lambda last, best: jnp.where(state["next"], last, best), trained["params"], state["best"])
