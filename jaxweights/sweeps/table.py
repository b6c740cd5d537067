"""A sweep as tables: CSV of runs and of recipes, and lines for a terminal."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxweights import tasks
from jaxweights.sweeps.outcome import short

_NAMED = 10  # recipes with diverged runs that are named
_NONE = "-"


def runs_csv(result: Mapping[str, Any]) -> str:
    """One line per run: recipe, settings, seed, test accuracy (a share), loss, and whether it diverged."""
    columns = {name: values for name, values in result["runs"].items() if name not in ("recipe", "seed")}
    head = ["recipe", *short(result), "seed", *columns]
    rows = zip(result["runs"]["recipe"], result["runs"]["seed"], *columns.values(), strict=True)
    values = [_values(recipe) for recipe in result["recipes"]]
    return _csv(head, ([recipe, *values[recipe], seed, *map(_cell, rest)] for recipe, seed, *rest in rows))


def recipes_csv(result: Mapping[str, Any]) -> str:
    """One line per recipe: settings, runs, how many diverged and which, mean and 95 % interval of the test accuracy of
    the others, the best run, mean loss."""
    head = ["recipe", *short(result), "runs", "diverged", "diverged_seeds"]
    head += ["accuracy_mean", "accuracy_low", "accuracy_high", "accuracy_best", "best_seed", "loss_mean"]
    rows = []
    for number, one in enumerate(result["recipes"]):
        found = one["accuracy"] or dict.fromkeys(("mean", "low", "high", "best", "best_seed"))
        seeds = " ".join(map(str, one["diverged"]))
        row = [number, *_values(one), one["runs"], len(one["diverged"]), seeds]
        rows.append(row + [found[k] for k in ("mean", "low", "high", "best", "best_seed")] + [one["loss"]])
    return _csv(head, rows)


def text(result: Mapping[str, Any]) -> str:
    """The sweep for a terminal: what ran, what diverged, the best recipes, and flags that train the first of them."""
    return "\n".join([*counts(result), "", *aligned(best_rows(result)), *_flags(result)])


def counts(result: Mapping[str, Any]) -> list[str]:
    """How many runs and recipes there are, and which diverged."""
    recipes, what = result["recipes"], "trainings" if result["generator"] else "runs"
    programs = "1 compiled program" if result["programs"] == 1 else f"{result['programs']:,} compiled programs"
    out = [f"{sum(r['runs'] for r in recipes):,} {what} of {len(recipes):,} recipes, {programs}."]
    bad = [i for i, recipe in enumerate(recipes) if recipe["diverged"]]
    if bad:
        diverged = sum(len(recipes[i]["diverged"]) for i in bad)
        named = ", ".join(map(str, bad[:_NAMED])) + (", ..." if len(bad) > _NAMED else "")
        out.append(
            f"{diverged:,} {what} of {len(bad):,} recipes diverged (recipes {named}; recipes.csv has all). They are in "
            "no mean, and their recipes are not among the best."
        )
    if not result["best"]:
        out.append("Every recipe has runs that diverged, so none is the best. Lower the learning rates.")
    return out


def best_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of the best recipes."""
    column = tasks.get(result["task"]).terms.column
    rows = [["recipe", *short(result), f"{column}, 95 % interval", "best run", "loss"]]
    for number in result["best"]:
        one = result["recipes"][number]
        found, ends = one["accuracy"], ""
        if found["low"] is not None:
            ends = f" [{100 * found['low']:.2f}, {100 * found['high']:.2f}]"
        loss = _NONE if one["loss"] is None else f"{one['loss']:.4g}"
        row = [str(number), *map(shown, one["values"].values()), f"{100 * found['mean']:.2f}{ends}"]
        rows.append([*row, f"{100 * found['best']:.2f} (seed {found['best_seed']})", loss])
    return rows if len(rows) > 1 else []


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def shown(value: Any) -> str:
    """A value of a setting in a table."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(shown, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def flags_of(values: Mapping[str, Any]) -> list[str]:
    """The flags that set the values of a recipe in a config."""
    out = []
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            value = repr(tuple(value)).replace(" ", "")
            out.append(f"--config.{name}='{value}'")
        else:
            out.append(f"--config.{name}={value}")
    return out


def _flags(result: Mapping[str, Any]) -> list[str]:
    if not result["best"]:
        return []
    first = result["best"][0]
    return ["", f"recipe {first} as flags:", "  " + " ".join(flags_of(result["recipes"][first]["values"]))]


def _values(recipe: Mapping[str, Any]) -> list[Any]:
    return [shown(v) if isinstance(v, (list, tuple)) else v for v in recipe["values"].values()]


def _cell(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else json.dumps(value) if isinstance(value, dict) else value


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return out.getvalue()
