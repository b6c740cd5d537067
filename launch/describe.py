"""What an experiment is, without training or allocating anything.

python -m launch.describe --config=configs/digits.py [--json | --fields]
"""

from __future__ import annotations

import dataclasses
import json
import textwrap

from absl import flags

from launch import common, config_file, stages

_FIELDS = flags.DEFINE_boolean("fields", False, "Print every setting in force, its default and its meaning.")
_JSON = flags.DEFINE_boolean("json", False, "Print one JSON object instead of a table.")


def main(argv) -> None:
    """Prints the description."""
    del argv
    config = stages.config()
    common.setup_jax()
    from jaxweights.bias import annotations
    from jaxweights.bias import describe as comparisons
    from jaxweights.describe import describe
    from jaxweights.probing import describe as probing
    from jaxweights.probing import settings

    if _FIELDS.value:
        print(fields(config))
        return
    if annotations.is_one(config):
        print(json.dumps(annotations.facts(config), indent=1))
        return
    if settings.is_one(config):
        probes = probing.describe(config)
        print(json.dumps(probes, indent=1) if _JSON.value else common.aligned(probing.rows(probes)))
        return
    compares = "bias" in config
    facts = comparisons.describe(config) if compares else describe(config, stages.data_dir())
    lines = comparisons.rows if compares else rows
    print(json.dumps(facts, indent=1) if _JSON.value else common.aligned(lines(facts)))


def fields(config: dict) -> str:
    """Every setting in force with its value, its default where that is another, and its meaning."""
    lines = []
    for row in config_file.rows(config):
        default = "" if row.default in (row.value, dataclasses.MISSING) else f"  (default {row.default!r})"
        text = textwrap.fill(row.text, 118, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"{row.path} = {row.value!r}{default}\n{text}".rstrip())
    return "\n".join(lines)


def rows(facts: dict) -> list[tuple[str, str]]:
    """The description line by line: names and texts."""
    from jaxweights.progress import human

    zoo = facts["zoo"]
    lines = [
        (
            "data",
            f"{facts['data']['name']}, {facts['data']['train']} + {facts['data']['test']} "
            f"{facts['data']['inputs']} of {facts['data']['shape']}",
        ),
        *_base(facts["base"]),
        ("task network", f"{zoo['network']}, {zoo['num_params']:,} parameters"),
        ("runs", f"{zoo['num_runs']:,} training + {zoo['num_heldout']:,} held out{_training(zoo)}"),
        ("snapshots", f"{zoo['snapshots_per_run']} per run, {zoo['rows']:,} rows, {human(zoo['bytes'])}B"),
        ("operations", f"{human(zoo['operations'])}FLOP, peak memory about {human(zoo['peak_memory_bytes'])}B"),
    ]
    for name, g in facts["generators"].items():
        if not g["learned"]:
            lines.append((name, f"{g['name']}, closed form"))
            continue
        tokens = f"{g['tokens']} tokens, " if g["tokens"] else ""
        lines.append(
            (
                name,
                f"{g['name']}, {g['num_params']:,} parameters, {tokens}{g['steps']:,} steps, "
                f"{human(g['operations'])}FLOP, "
                f"peak memory about {human(g['peak_memory_bytes'])}B",
            )
        )
        for stage, s in g["stages"].items():
            extra = f" (and {s['auxiliary_params']:,} for training alone)" if s["auxiliary_params"] else ""
            work = f"{s['steps']:,} steps of {s['batch_size']} examples"
            if s["parameter_shards"] > 1:
                work += f", {human(s['state_bytes_per_device'])}B on each of {s['parameter_shards']} devices"
            lines.append((f"  {stage}", f"{s['num_params']:,} parameters{extra}, {work}"))
    lines.append(("samples", f"{facts['num_samples']} per generator"))
    if facts["lacks"]:
        lines.append(("not here", facts["lacks"]))
    return lines


def _training(zoo: dict) -> str:
    """How the runs of a zoo are trained, or where they come from."""
    if not zoo["steps"]:
        return "".join(f"; {note}" for note in [f"networks of {zoo['import_npz']}", *zoo["taken_for"]])
    return f", {zoo['steps']:,} steps of {zoo['batch_size']} examples"


def _base(base: dict | None) -> list[tuple[str, str]]:
    from jaxweights.progress import human

    if base is None:
        return []
    start = f"from {base['import_npz']}, " if base["import_npz"] else ""
    work = f"{base['epochs']} epochs of {base['batch_size']} examples a step, {human(base['operations'])}FLOP"
    statistics = f" and {base['num_statistics']:,} running statistics" if base["num_statistics"] else ""
    return [("base", f"{base['num_params']:,} parameters{statistics}, {start}{work}")]


if __name__ == "__main__":
    common.run_main(main)
