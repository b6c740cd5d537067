"""What a study is, without drawing or training anything."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights.probing.features import Feature
from jaxweights.probing.settings import parse
from jaxweights.probing.study import subject_of
from jaxweights.probing.trials import Plan, Trial, trial_path


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a config with a section `probing`.

    Args:
      config: see `ProbingSettings`.

    Returns:
      JSON data: `data` and `estimator` (kinds), `features` (values and bins of each), `probes` (kinds and names of
      their training sets), `designs` (combinations in each, equal ones once), `trainings` of every model, `sizes`, and
      `models`: `kind`, and of learned ones `num_params` and `stages`, see `images.described`.

    Raises:
      UserError: see `study.run`.
    """
    options, seed = parse(config), int(config.get("seed", 0))
    subject, probes = subject_of(options, seed), options.chosen_probes()
    plan, settings = Plan.of(probes, subject, seed), subject.facts
    learned = subject.describe()
    return {
        "data": settings["data"]["kind"],
        "estimator": settings.get("estimator", {}).get("kind", "exact"),
        "features": {f.name: _feature(f) for f in subject.features},
        "probes": {name: {"kind": one.KIND, "designs": list(plan.names[name])} for name, one in probes.items()},
        "designs": {name: len(design) for name, design in plan.designs.items()},
        "trainings": len(plan.designs) * options.seeds,
        "sizes": {k: getattr(options, k) for k in ("num_train", "num_heldout", "num_samples", "seeds")},
        "models": {name: {"kind": one["kind"], **learned.get(name, {})} for name, one in settings["models"].items()},
    }


def _feature(feature: Feature) -> dict[str, Any]:
    return {"values": list(feature.values), "bins": feature.bins}


def rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The description line by line: names and texts."""
    sizes = facts["sizes"]
    lines = [("data", facts["data"]), ("estimator", facts["estimator"])]
    for name, one in facts["features"].items():
        lines.append((f"feature {name}", ", ".join(f"{v:g}" for v in one["values"])))
    for name, one in facts["probes"].items():
        lines.append((f"probe {name}", f"{one['kind']} on {', '.join(one['designs'])}"))
    for name, one in facts["models"].items():
        lines.append((f"model {name}", _model(one)))
    lines.append(
        ("training sets", f"{len(facts['designs'])} of {sizes['num_train']:,} examples, {sizes['seeds']} times")
    )
    lines.append(("trainings", f"{facts['trainings']:,} of every model, {sizes['num_samples']:,} samples of each"))
    return lines


def _model(one: Mapping[str, Any]) -> str:
    if "stages" not in one:
        return one["kind"]
    parts = [f"{one['kind']}, {one['num_params']:,} parameters"]
    for name, stage in one["stages"].items():
        extra = f" and {stage['auxiliary_params']:,} for training alone" if stage["auxiliary_params"] else ""
        parts.append(f"{name}: {stage['steps']:,} steps of {stage['batch_size']:,} examples{extra}")
    return "; ".join(parts)


def done(config: Mapping[str, Any], folder: pathlib.Path) -> str:
    """How many trainings of a study are kept in a folder."""
    options, seed = parse(config), int(config.get("seed", 0))
    plan = Plan.of(options.chosen_probes(), subject_of(options, seed), seed)
    trials = [Trial(name, s) for name in plan.designs for s in range(options.seeds)]
    there = sum(trial_path(folder, model, t).exists() for model in options.models for t in trials)
    return f"{there} of {len(trials) * len(options.models)} trainings"
