"""README.md of an export: the data card as people read it, with the header that Hugging Face's hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGEST = "1M<n<10M"
_LICENSE = """The licence of these networks, and that of the data that they were trained on, is for you to state: set \
`license` above."""


def text(card: Mapping[str, Any], usage: str) -> str:
    """The page of a card, see `facts.facts`.

    Args:
      card: JSON data.
      usage: how the files are read, Markdown.
    """
    parts = [
        _header(card),
        f"# {card['name']}",
        _summary(card),
        _splits(card),
        "## Networks\n\n" + _architecture(card),
        "## Reading\n\n" + usage + "\n\n" + _common(card),
    ]
    if card["generator"]:
        parts.append("## Generator\n\n" + _block(card["generator"]))
    if card["recipe"]:
        parts.append("## Recipe\n\n" + _table("setting", "value", card["recipe"]))
    parts += ["## Provenance\n\n" + _provenance(card), "## Licence\n\n" + _LICENSE]
    return "\n\n".join(parts) + "\n"


def _header(card: Mapping[str, Any]) -> str:
    size = next((name for limit, name in _SIZES if card["networks"] < limit), _LARGEST)
    lines = [
        "---",
        "license: unknown",
        f"pretty_name: {json.dumps(card['name'])}",
        f"size_categories: [{json.dumps(size)}]",
        "tags: [model-zoo, neural-network-weights, weight-space-learning, jaxweights]",
        "configs:",
        "- config_name: records",
        "  data_files: records.csv",
        "---",
    ]
    return "\n".join(lines)


def _summary(card: Mapping[str, Any]) -> str:
    parameters = card["architecture"]["num_params"]
    what = f"{card['networks']:,} networks of {parameters:,} parameters"
    if card["generator"]:
        return f"{what}, drawn from the generator {card['generator']['name']!r}. Written by jaxweights."
    return f"{what}, checkpoints of {card['runs']:,} training runs. Written by jaxweights."


def _splits(card: Mapping[str, Any]) -> str:
    lines = ["| split | runs | networks | test accuracy | 5 % to 95 % |", "|---|---|---|---|---|"]
    for name, split in card["splits"].items():
        found = split["accuracy"]
        if found is None:
            accuracy, between = "not known", ""
        else:
            spread = "" if found["sd"] is None else f" ± {found['sd']:.4f}"
            accuracy = f"{found['mean']:.4f}{spread}"
            between = f"{found['quantiles']['5%']:.4f} to {found['quantiles']['95%']:.4f}"
        lines.append(f"| {name} | {split['runs']:,} | {split['networks']:,} | {accuracy} | {between} |")
    return "\n".join(lines) + "\n\nMean ± standard deviation over the networks. No run is in two splits."


def _architecture(card: Mapping[str, Any]) -> str:
    architecture, inputs = card["architecture"], card["inputs"]
    lines = [_table("tensor", "shape", {t["name"]: t["shape"] for t in architecture["tensors"]})]
    if architecture["base"]:
        lines.append(
            f"These tensors differ; all others of the network are those of one base, `{architecture['base']}`: `base` "
            "has all its numbers in the order of its state dict, without counters of batches, `names` what differs."
        )
    if architecture["network"]:
        lines.append(_block(architecture["network"]))
    lines.append(f"Activation: {architecture['activation']}." + (f" Data: {inputs['data']}." if inputs["data"] else ""))
    if inputs["normalisation"]:
        lines.append(_normalisation(**inputs["normalisation"]))
    return "\n\n".join(lines)


def _normalisation(mean: list[float], std: list[float], full_scale: float | None = None) -> str:
    raw = "value" if full_scale is None or full_scale == 1 else f"value / {full_scale:g}"
    return f"A network's inputs are ({raw} − {mean}) / {std}, by channel." if mean else "Inputs are taken as they are."


def _common(card: Mapping[str, Any]) -> str:
    lines = [
        "`records.csv` has a line per network, in the order of the rows of the files: run, optimizer step, seed, "
        "split, test loss (nats) and accuracy, hyper-parameters. `spec.json` says what the entries of a flat vector "
        "mean: the tensors above one after the other, each with the output axis first, and which hidden units can be "
        "permuted. With jaxweights:",
        "    python -m launch.import_zoo --from=FOLDER --workdir=runs/imported",
    ]
    return "\n\n".join(lines)


def _provenance(card: Mapping[str, Any]) -> str:
    made, exported = card["provenance"]["made_with"], card["provenance"]["exported_with"]
    rows = {"exported": card["provenance"]["date"]}
    rows |= {f"exported with {name}": exported[name] for name in ("jaxweights", "git", "jax", "numpy")}
    if made:
        rows |= {f"made with {name}": value for name, value in made.items()}
    rows["checksum of the source"] = card["provenance"]["source"]
    check = "`sha256sum --check SHA256SUMS` compares every file; `card.json` has these facts for programs."
    return _table("", "", rows) + f"\n\n{check}"


def _table(first: str, second: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {first} | {second} |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).replace("|", "\\|")


def _block(value: Any) -> str:
    return "```json\n" + (value if isinstance(value, str) else json.dumps(value, indent=1)) + "\n```"
