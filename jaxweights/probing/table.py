"""The numbers of a study as rows of text, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxweights.bias.table import aligned
from jaxweights.probing import published

_NONE = "-"


def number(found: Mapping[str, Any], digits: int = 2) -> str:
    """A number with its interval."""
    if found["value"] is None:
        return _NONE
    low, high = found["ci95"]
    text = f"{found['value']:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def estimators(found: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of the estimators' accuracies."""
    rows = [["feature", "accuracy in %", "n", "mean error", "sd of the error"]]
    for name, one in found.items():
        low, high = (100 * x for x in one["accuracy"]["ci95"])
        errors = [_NONE if one[k] is None else f"{one[k]:+.4f}" for k in ("bias", "sd")]
        share = f"{100 * one['accuracy']['value']:.2f} [{low:.2f}, {high:.2f}]"
        rows.append([name, share, f"{one['accuracy']['n']:,}", errors[0], errors[1].lstrip("+")])
    return rows


def impulse(by_model: Mapping[str, Any], data: str = "") -> list[list[str]]:
    """Head and rows of impulse responses, with the published tallies of such data."""
    rows = [["model", "trained", "mean", "sd", "over held-out", "skew", "CV", "log-normal - normal", "undefined in %"]]
    for model, found in by_model.items():
        for value, one in found["values"].items():
            made, shape = one["generated"], one["log_normal"]
            rows.append(
                [
                    model,
                    value,
                    number(made["mean"]),
                    number(made["sd"], 3),
                    number(one["excess"]),
                    number(made["skew"]),
                    number(made["cv"], 3),
                    f"{number(shape, 3)} ({shape['favours']})",
                    f"{100 * made['undefined']:.1f}",
                ]
            )
    if next(iter(by_model.values()))["feature"] == "count":
        for one in published.TALLIES.get(data, ()):
            cells = [f"{one.mean:.2f}", f"{one.mean * one.cv:.2f}", _NONE, _NONE, f"{one.cv:.2f}", _NONE, _NONE]
            rows.append([f"published, n = {one.n:,}", f"{one.trained}", *cells])
    return rows


def weber(by_model: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of Weber's law."""
    rows = [["model", "mean CV", "exponent (1: Weber, 0: constant spread)", "p of equal CV", "values"]]
    for model, found in by_model.items():
        one = found["weber"]
        p = _NONE if one["p_constant"] is None else f"{one['p_constant']:.2g}"
        rows.append([model, number(one["cv"], 3), number(one["exponent"]), p, str(one["values"])])
    return rows


def mixtures(by_model: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of additivity or of prototypes."""
    first = next(iter(next(iter(by_model.values()))["mixtures"].values()))
    additive = "distance" in first
    names = ("distance", "null") if additive else ("mass", "additive", "enhancement")
    titles = ("total variation", "of the additive prediction") if additive else ("at the centre", "additive", "more")
    rows = [["model", "values", *titles, "beyond" if additive else "holds", "gap in sd", "power"]]
    for model, found in by_model.items():
        for values, one in found["mixtures"].items():
            gap = _NONE if one["gap"] is None else f"{one['gap']:.1f}"
            holds = one["beyond_null" if additive else "holds"]
            cells = [number(one[name], 3) for name in names]
            rows.append([model, values, *cells, _yes(holds), gap, _yes(one["power"])])
    return rows


def combinations(by_model: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of memorisation curves."""
    first = next(iter(by_model.values()))
    singles = [str(k) for k in next(iter(first["numbers"].values()))["marginals"]]
    titles = ["mass", "IoU", "chance", "purity", "reached", "cells", "joint TV"]
    rows = [["model", "N", *titles, *(f"TV of {k}" for k in singles), "to product", "undefined in %"]]
    for model, found in by_model.items():
        for n, one in found["numbers"].items():
            rows.append(
                [
                    model,
                    n,
                    number(one["mass"]),
                    number(one["iou"]),
                    f"{one['chance']:.2f}",
                    number(one["purity"]),
                    f"{one['reached']['value']:.2f}",
                    number(one["present"], 0),
                    number(one["joint"]),
                    *(number(one["marginals"][k]) for k in singles),
                    number(one["product"]),
                    f"{100 * one['undefined']['value']:.1f}",
                ]
            )
    return rows


def single(by_model: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of how far single features are from those of the training set, whatever the others are."""
    rows = [["model", "N", *(f"TV of {name}" for name in next(iter(by_model.values()))["features"])]]
    for model, found in by_model.items():
        for n, one in found["numbers"].items():
            rows.append([model, n, *(number(one["single"][name]) for name in found["features"])])
    return rows


def exceptions(by_model: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of exceptions."""
    names = ("rare", "kept", "unseen", "combined")
    rows = [["model", "share of the pair", "with trained values", "with others", "others that occur", "if independent"]]
    for model, found in by_model.items():
        rows.append([model, *(number(found[name], 3) for name in names), f"{found['independent']:.3f}"])
    return rows


def of_probe(by_model: Mapping[str, Any], data: str = "") -> list[list[list[str]]]:
    """The tables of a probe, by what it found."""
    first = next(iter(by_model.values()))
    if "values" in first:
        return [impulse(by_model, data), weber(by_model)]
    if "pair" in first:
        return [exceptions(by_model)]
    return [mixtures(by_model)] if "mixtures" in first else [combinations(by_model), single(by_model)]


def nearest(found: Mapping[str, Any], answers: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows of what models make, in words, beside the distances to training examples."""
    rows = [["model", "nearest training example over that of fresh ones, lowest and highest", "what it makes"]]
    for model, by_design in found.items():
        values = [one["value"] for one in by_design.values() if one["value"] is not None]
        span = f"{min(values):.2f} to {max(values):.2f}" if values else _NONE
        rows.append([model, span, answers[model]["text"]])
    return rows


def text(result: Mapping[str, Any]) -> str:
    """A study for a terminal."""
    lines = ["estimators", *aligned(estimators(result["estimators"])), ""]
    for probe, by_model in result["probes"].items():
        for rows in of_probe(by_model, result["settings"]["data"]["kind"]):
            lines += [probe, *aligned(rows), ""]
    lines += [f"{model}: {one['text']}" for model, one in result["answers"].items()]
    return "\n".join(lines)


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
