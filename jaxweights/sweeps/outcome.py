"""What a sweep found: one row per run, one per recipe, and the best recipes. Runs that diverged are counted and named,
and are in no mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from jaxweights.auditing.statistics import CONFIDENCE
from jaxweights.sweeps.plan import Plan

BEST = 10  # recipes that are shown
_OWN = ("lanes", "data")  # of a cell, not of its runs


def collect(plan: Plan, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Puts the cells together.

    Args:
      plan: the sweep.
      found: results of all cells in order.

    Returns:
      JSON data: `task`, `generator`, `axes` (with `traced`), `seeds`, `programs`, `runs` (columns `recipe`, `seed`,
      `accuracy`, `loss`, `diverged`, and what else there is of them), `recipes` (`values`, `runs`, `diverged` (seeds),
      `accuracy` with `mean`, `low`, `high` (Student's 95 % interval over seeds), `best` and `best_seed`, `loss`; None
      where all runs diverged), `best` (numbers of the best recipes in which no run diverged) and `data`.
    """
    recipes = np.concatenate([cell.recipes for cell in plan.cells])
    seeds = np.concatenate([cell.seeds for cell in plan.cells])
    order = np.lexsort((seeds, recipes))  # groups may take turns among recipes
    columns = {name: [x for cell in found for x in cell[name]] for name in found[0] if name not in _OWN}
    runs = {"recipe": recipes[order].tolist(), "seed": seeds[order].tolist()}
    runs |= {name: [values[i] for i in order] for name, values in columns.items()}
    summaries = _summaries(plan, runs)
    return {
        "task": plan.task.name,
        "generator": plan.generator,
        "axes": [{**axis.to_json(), "traced": axis.name in plan.traced} for axis in plan.axes],
        "seeds": plan.settings.seeds,
        "programs": len(plan.groups),
        "runs": runs,
        "recipes": summaries,
        "best": _ranked(summaries),
        "data": sorted({cell["data"] for cell in found}),
    }


def _summaries(plan: Plan, runs: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    shape = (len(plan.recipes), plan.settings.seeds)
    bad = np.array(runs["diverged"], bool).reshape(shape)
    accuracy = np.array(runs["accuracy"], float).reshape(shape)
    loss = np.array([np.nan if x is None else x for x in runs["loss"]], float).reshape(shape)
    return [
        {
            "values": dict(recipe),
            "runs": shape[1],
            "diverged": np.flatnonzero(bad[i]).tolist(),
            "accuracy": _summary(accuracy[i], ~bad[i]),
            "loss": float(loss[i, ~bad[i]].mean()) if not bad[i].all() else None,
        }
        for i, recipe in enumerate(plan.recipes)
    ]


def _summary(values: np.ndarray, good: np.ndarray) -> dict[str, Any] | None:
    """Mean and Student's interval of the runs that did not diverge; None where there are none."""
    if not good.any():
        return None
    kept, best = values[good], int(np.argmax(np.where(good, values, -np.inf)))
    out: dict[str, Any] = {"mean": float(kept.mean()), "low": None, "high": None}
    if len(kept) > 1:
        half = special.stdtrit(len(kept) - 1, 0.5 + CONFIDENCE / 2) * kept.std(ddof=1) / np.sqrt(len(kept))
        out |= {"low": float(kept.mean() - half), "high": min(float(kept.mean() + half), 1.0)}
    return {**out, "best": float(values[best]), "best_seed": best}


def _ranked(summaries: Sequence[Mapping[str, Any]]) -> list[int]:
    """The best recipes in which no run diverged, by their mean accuracy; among equals the first."""
    whole = [i for i, one in enumerate(summaries) if not one["diverged"]]
    return sorted(whole, key=lambda i: -summaries[i]["accuracy"]["mean"])[:BEST]


def short(result: Mapping[str, Any]) -> list[str]:
    """The axes' names without what all of them share, where they stay distinct."""
    names = [axis["name"] for axis in result["axes"]]
    last = [name.rpartition(".")[2] for name in names]
    return last if len(set(last)) == len(last) else names
