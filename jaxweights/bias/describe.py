"""What a comparison of collections is, without reading or training anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights.bias.classifiers import Recipe
from jaxweights.bias.settings import parse
from jaxweights.nn import normalization


def describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a config with a section `bias`.

    Args:
      config: see `BiasSettings`.

    Returns:
      JSON data: `sets` (the names of the collections of each), `transformations` (their kinds), `trainings` in all,
      `classifier` (kind, epochs, batch size), and for the published recipe of every set `networks`: `num_params` and
      `num_statistics` of the network, and the `steps` of a training, None where they depend on the data.

    Raises:
      UserError: see `settings.parse`.
    """
    options = parse(config)
    classifier, made = options.chosen_classifier(), options.transformations
    order = sorted(options.sets.items(), key=lambda item: (item[0] != options.main, item[0]))
    names = {name: _collections(one, options.sets) for name, one in order}
    networks = {}
    if isinstance(classifier, Recipe):
        for name, of in names.items():
            net = classifier.network(3, len(of))
            learned = int(np.sum(normalization.trainable(net.spec)))
            rows = options.num_train * len(of)
            steps = classifier.epochs * (rows // classifier.batch_size) if rows else None
            networks[name] = {
                "name": net.name,
                "num_params": learned,
                "num_statistics": net.spec.num_params - learned,
                "steps": steps,
            }
    return {
        "sets": names,
        "transformations": {name: one if isinstance(one, str) else one["kind"] for name, one in made.items()},
        "trainings": len(names) * len(made) * (options.repeats + options.controls),
        "classifier": {"kind": classifier.KIND, "epochs": classifier.epochs, "batch_size": classifier.batch_size},
        "networks": networks,
    }


def _collections(one: Mapping[str, Any], sets: Mapping[str, Any]) -> list[str]:
    """The names of a set's collections; of a set that learns from another one, of that."""
    one = sets.get(one.get("learn", ""), one)
    return sorted(one.get("collections") or one.get("parts", ()))


def rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The description line by line: names and texts."""
    classifier, sets = facts["classifier"], facts["sets"]
    lines = [(f"set {name}", " / ".join(of)) for name, of in sets.items()]
    lines.append(("transformations", f"{len(facts['transformations'])}: {', '.join(facts['transformations'])}"))
    lines.append(
        (
            "classifier",
            f"{classifier['kind']}, {classifier['epochs']} epochs of batches of {classifier['batch_size']:,}",
        )
    )
    for name, net in facts["networks"].items():
        steps = f", {net['steps']:,} steps" if net["steps"] else ""
        statistics = f" and {net['num_statistics']:,} running statistics" * bool(net["num_statistics"])
        lines.append((f"network of {name}", f"{net['name']}, {net['num_params']:,} parameters{statistics}{steps}"))
    lines.append(("trainings", f"{facts['trainings']:,}"))
    return lines
