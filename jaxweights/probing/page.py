"""`report.html` of a study: what models make in feature space, in one file in the style of the report."""

from __future__ import annotations

import html
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import files
from jaxweights.probing import picture, published, table
from jaxweights.probing.weights import NETWORKS
from jaxweights.report import page, tables

NAME = "report.html"
_IMAGES = (
    "These are models of reduced size, on small images and for thousands instead of 200,000 steps; what they do need "
    "not be what the published ones did. A test of two values has no power where their gap is below the spread of a "
    "single one: the additive prediction then has one mode itself. It is marked so, and says nothing there. Where "
    "fresh training examples spread by themselves, the estimator does."
)


def write(
    folder: pathlib.Path,
    result: Mapping[str, Any],
    seen: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
) -> pathlib.Path:
    """Draws the figures and writes the page; the same results give the same bytes.

    Args:
      folder: of the study.
      result: content of `metrics.json`.
      seen: see `picture.draw`.

    Returns:
      Its path.
    """
    pictures, shown = picture.draw(result, seen, files.make_dir(folder / "figures")), result["settings"]
    parts = [
        page.section(
            "answers", "What the models make", tables.plain(table.nearest(result["nearest"], result["answers"]))
        ),
        *(page.figure(one) for one in pictures),
        *(_probe(name, found, shown["data"]["kind"]) for name, found in result["probes"].items()),
        page.section("estimators", "How features are measured", _estimators(result)),
        page.section("size", "What this size can show", f"<p>{html.escape(_size(result))}</p>"),
        *([page.section("published", "Published", _published())] if result["kind"] == "images" else []),
        page.section("models", "Models", tables.facts(result["models"]) if result["models"] else ""),
        page.section("settings", "Settings", tables.folded("every setting", tables.facts(shown))),
        page.section("versions", "Versions", tables.facts(result["versions"])),
    ]
    sizes = shown["sizes"]
    facts = (
        f"{len(shown['models'])} models ({', '.join(shown['models'])}) learn from {len(result['designs'])} designed "
        f"training sets of {sizes['num_train']:,} {result['kind']}, {sizes['seeds']} times each; features of "
        f"{sizes['num_samples']:,} samples stand beside those of training and fresh examples."
    )
    return page.write_parts(folder / NAME, f"Probing in feature space: {shown['data']['kind']}", facts, parts)


def _probe(name: str, by_model: Mapping[str, Any], data: str) -> str:
    content = "".join(tables.plain(rows) for rows in table.of_probe(by_model, data))
    note = "" if "numbers" not in next(iter(by_model.values())) else _faithful(by_model)
    return page.section(f"probe-{name}", f"Numbers: {name}", content + note)


def _faithful(by_model: Mapping[str, Any]) -> str:
    """The published measures, where they were asked for."""
    rows = [["model", "N", "published precision (coverage)", "published recall (purity)", "fails"]]
    for model, found in by_model.items():
        for n, one in found["numbers"].items():
            if "published" in one:
                known = [x for x in one["published"] if x is not None]
                means = [f"{np.mean([x[k] for x in known]):.2f}" if known else "-" for k in ("precision", "recall")]
                rows.append([model, n, *means, f"{len(one['published']) - len(known)} of {len(one['published'])}"])
    return tables.plain(rows) if len(rows) > 1 else ""


def _estimators(result: Mapping[str, Any]) -> str:
    note = (
        "Share of examples whose measured value falls into the bin of the exact one, with its 95 % interval, through "
        "the path that samples take."
    )
    return f"<p>{html.escape(note)}</p>{tables.plain(table.estimators(result['estimators']))}"


def _size(result: Mapping[str, Any]) -> str:
    weak = [
        f"{probe}, {model}: {', '.join(names)}"
        for probe, by_model in result["probes"].items()
        for model, found in by_model.items()
        if "mixtures" in found and (names := [k for k, one in found["mixtures"].items() if not one["power"]])
    ]
    power = f" Without power here: {'; '.join(weak)}." if weak else ""
    kind = result["settings"]["data"]["kind"]
    return (NETWORKS[kind].ABOUT if kind in NETWORKS else _IMAGES) + power


def _published() -> str:
    rows = [["training set", "what came out"], *map(list, published.STATEMENTS)]
    return f"<p>{html.escape(published.SOURCE)}.</p>{tables.plain(rows)}"
