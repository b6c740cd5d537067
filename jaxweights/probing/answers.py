"""What a model makes, in words: copies, averages of modes, new combinations; by rules on the judged numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COPIES, NEW, PLACED = 0.2, 0.1, 0.25
"""Distance to the nearest training example, over that of fresh ones, below which samples are copies; share of samples
in cells that were not trained on, above which they are new combinations; largest total variation between the marginals
of single features, trained and generated, at which features are said to be learnt."""


def of_models(probes: Mapping[str, Mapping[str, Any]], nearest: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Answers for every model.

    Args:
      probes: judged, by probe and model, see `study.run`.
      nearest: distances to the nearest training example by model and design.

    Returns:
      By model: `copies`, `averages` and `combinations`, each True, False or None where no probe says; and `text`.
    """
    return {model: of_model({k: v[model] for k, v in probes.items()}, nearest[model]) for model in nearest}


def of_model(judged: Mapping[str, Any], nearest: Mapping[str, Any]) -> dict[str, Any]:
    """Answers for one model, see `of_models`."""
    found = {"copies": _copies(nearest), "averages": _averages(judged), "combinations": _combinations(judged)}
    return found | {"text": _text(found, judged)}


def _copies(nearest: Mapping[str, Any]) -> bool | None:
    """Whether the intervals of most designs lie below `COPIES`."""
    known = [one["ci95"][1] < COPIES for one in nearest.values() if one["value"] is not None]
    return sum(known) > len(known) / 2 if known else None


def _averages(judged: Mapping[str, Any]) -> bool | None:
    """Whether values between trained ones come out more often than single outputs say, where a test has power."""
    holds = [
        one["holds"]
        for found in judged.values()
        if "mixtures" in found
        for one in found["mixtures"].values()
        if "holds" in one and one["power"]
    ]
    return any(holds) if holds else None


def _combinations(judged: Mapping[str, Any]) -> bool | None:
    """Whether, on the longest list, features are right one by one and cells are new."""
    curves = [found["numbers"] for found in judged.values() if "numbers" in found]
    known = [new_share(list(curve.values())[-1]) for curve in curves]
    return any(new > NEW and placed for new, placed in known) if known else None


def new_share(entry: Mapping[str, Any]) -> tuple[float, bool]:
    """Share of samples in cells of the grid that were not trained on, and whether single features are as trained."""
    new = 1 - sum(entry[name]["value"] for name in ("mass", "outside", "undefined"))
    single = entry["marginals"].get("1", entry["joint"])["value"]
    return new, single < PLACED


def _text(found: Mapping[str, Any], judged: Mapping[str, Any]) -> str:
    words = {
        "copies": ("copies of training examples", "no copies"),
        "averages": ("averages of near modes", "no averages of modes"),
        "combinations": ("new combinations of trained values", "no new combinations"),
    }
    told = [words[name][0] for name in words if found[name]]
    denied = [words[name][1] for name in words if found[name] is False]
    silent = [name for name in words if found[name] is None]
    parts = [", ".join(told)] * bool(told) + [", ".join(denied)] * bool(denied)
    parts += [f"nothing is known of {', '.join(silent)}"] * bool(silent)
    curves = [v["numbers"] for v in judged.values() if "numbers" in v]
    if curves:
        n, entry = list(curves[0].items())[-1]
        new, _ = new_share(entry)
        away = entry["outside"]["value"] + entry["undefined"]["value"]
        parts.append(
            f"of N = {n}: {100 * entry['mass']['value']:.0f} % in training cells, {100 * new:.0f} % in other cells, "
            f"{100 * away:.0f} % in none"
        )
    return "; ".join(parts)
