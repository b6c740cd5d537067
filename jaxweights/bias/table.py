"""A comparison as tables: rows for a page, lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights.bias import published

_NONE = "-"


def rows(found: Mapping[str, Any], beside: bool = True) -> list[list[str]]:
    """Head and rows of a set, in percent: accuracy and control with their intervals, training accuracy, recall of every
    collection, and what was published for such a transformation.

    Args:
      found: `chance`, `collections` and `transformations` of `metrics.json`.
      beside: whether published accuracies are given; beside sets that were cut to show something they say nothing.
    """
    recalls = [f"recall of {name}" for name in found["collections"]]
    known = published_rows(found) if beside else dict.fromkeys(found["transformations"])
    last = ["published"] if any(known.values()) else []
    out = [["transformation", "accuracy", "sd", "control", "trained", *recalls, *last]]
    for name, one in found["transformations"].items():
        row = known[name]
        sd = one["accuracy"]["sd"]
        out.append(
            [
                name,
                interval(one["accuracy"]),
                _NONE if sd is None else f"{100 * sd:.1f}",
                interval(one["control"]),
                f"{100 * one['train_accuracy']:.1f}",
                *(f"{100 * recall:.1f}" for recall in one["recall"]),
                *([_NONE if row is None else f"{row.accuracy:.1f}"] if last else []),
            ]
        )
    return out


def published_rows(found: Mapping[str, Any]) -> dict[str, published.Row | None]:
    """What was published for each transformation of a set, with the same settings; None where nothing was.

    Args:
      found: `collections` and `transformations` of `metrics.json`.
    """
    side = min(next(iter(found["collections"].values())).get("shape", (published.SIDE,))[:2])
    return {name: published.row_of(one["settings"], side) for name, one in found["transformations"].items()}


def interval(found: Mapping[str, Any]) -> str:
    """An accuracy in percent with its interval."""
    low, high = found["ci95"]
    return f"{100 * found['value']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def coefficients(ranked: Mapping[str, Any], most: int = 8) -> list[list[str]]:
    """Head and rows of the largest coefficients of every collection.

    Args:
      ranked: of `ranking.rank`.
      most: coefficients of a collection.
    """
    out = [["collection", "feature", "coefficient per standard deviation"]]
    for name, entries in ranked["coefficients"].items():
        for place, entry in enumerate(entries[:most]):
            low, high = entry["ci95"]
            out.append([name * (place == 0), entry["feature"], f"{entry['value']:+.2f} [{low:+.2f}, {high:+.2f}]"])
    return out


def control_note(found: Mapping[str, Any]) -> str:
    """Whether the controls stay at chance, in a sentence."""
    beyond = [
        name
        for name, one in found["transformations"].items()
        if not one["control"]["ci95"][0] <= found["chance"] <= one["control"]["ci95"][1]
    ]
    count, chance = len(found["transformations"]), f"{100 * found['chance']:.1f} %"
    if not beyond:
        return f"The intervals of all {count} controls contain chance, {chance}."
    return (
        f"The intervals of {len(beyond)} of {count} controls ({', '.join(beyond)}) do not contain chance, {chance}; "
        "one in twenty does so by accident, and several at once, since all have the same subsets."
    )


def text(result: Mapping[str, Any]) -> str:
    """A comparison for a terminal."""
    lines = []
    for name, found in {result["main"]: result, **result["sets"]}.items():
        lines += [
            f"{name}: {' / '.join(found['collections'])}, accuracy in %",
            *aligned(rows(found, name == result["main"])),
        ]
        lines += [control_note(found), *found["notes"], ""]
        if "named" in found:
            lines += [
                f"named features: {interval(found['named']['accuracy'])} %",
                *aligned(coefficients(found["named"], 4)),
                "",
            ]
    return "\n".join(lines).rstrip()


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width, the first at the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
