"""What is known of networks: where they come from and how they were made, for their data card."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import population, provenance, state_dicts
from jaxweights.exporting.networks import Contents, runs_of
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

_QUANTILES = (0, 5, 25, 50, 75, 95, 100)
_LISTED = 16  # values, before only their range is given
BASE = "base.npz"
_UNKNOWN = "unknown"
_OF_ZOO = ("seed", "task", "data", "net", "zoo")
"""Sections of a config that a zoo is made by."""
_OF_IMPORT = ("source", "layout", "recipe", "taken_for")


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where networks come from.

    Attributes:
      name: of the zoo or of the generator.
      config: settings that they were made by; nested, empty where nothing is known.
      made: provenance of their store: versions, data set, standardisation.
      digest: checksum of all networks there, before any were selected.
      generator: name, settings and verdict of the generator; None for networks that were trained.
      base: file of the network whose other tensors all networks share, see `nets.PartialNet.save`; None where the
        vectors are whole networks.
    """

    name: str
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    digest: str = ""
    generator: Mapping[str, Any] | None = None
    base: pathlib.Path | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings of the zoo by dotted name."""
        return provenance.flat_config({key: self.config[key] for key in _OF_ZOO if key in self.config})

    @property
    def imported(self) -> Mapping[str, Any]:
        """What was known of networks that were imported, see `layouts.importing`."""
        known = self.made.get("recipe")
        return known if isinstance(known, Mapping) else {}

    @property
    def activation(self) -> str:
        """Activation of the networks."""
        net = self.config.get("net")
        own = net.get("activation") if isinstance(net, Mapping) else ""
        return own or self.imported.get("activation") or _UNKNOWN

    @property
    def normalisation(self) -> Mapping[str, Any] | None:
        """`mean` and `std` by channel, and `full_scale`, by which raw values are divided first, as far as they are
        known; see `Dataset.inputs`."""
        return self.made.get("inputs") or self.imported.get("normalisation")


def meaning(spec: WeightSpec, origin: Origin) -> dict[str, Any]:
    """JSON data on what vectors mean, as `launch.audit` and `launch.import_zoo` take it (--spec)."""
    known, data = origin.normalisation, origin.config.get("data")
    normalisation: Any = _UNKNOWN
    if known is not None:
        plain = not any(known["mean"]) and all(std == 1 for std in known["std"])
        normalisation = "none" if plain else {name: list(known[name]) for name in ("mean", "std")}
    name = data.get("name", "") if isinstance(data, Mapping) else origin.imported.get("data", "")
    return {"activation": origin.activation, "normalisation": normalisation, "data": name, **spec.to_json()}


def facts(contents: Contents, origin: Origin) -> dict[str, Any]:
    """JSON data on the networks of an export."""
    networks = contents.networks
    return {
        "name": origin.name,
        "networks": len(networks),
        "runs": len(np.unique(runs_of(networks))),
        "splits": {split: _split(networks, split) for split in np.unique(networks.records["split"]).tolist()},
        "architecture": _architecture(networks.spec, origin),
        "inputs": _inputs(origin),
        "seeds": _seeds(networks, origin),
        "recipe": origin.recipe,
        "hyper": {name: _values(column) for name, column in networks.hyper().items()},
        "generator": origin.generator,
        "provenance": {
            "source": origin.digest,
            "imported": {key: origin.made.get(key) for key in _OF_IMPORT} if origin.imported else None,
            "made_with": origin.made.get("versions"),
            "exported_with": provenance.versions(),
        },
    }


def _split(networks: Population, split: str) -> dict[str, Any]:
    """Sizes, steps, accuracies and losses of one split."""
    here = networks.records["split"] == split
    records = {name: column[here] for name, column in networks.records.items()}
    runs = runs_of(networks)[here]
    last = population.last_checkpoints({"run": runs, "step": records["step"]})
    found = {"networks": int(here.sum()), "runs": len(np.unique(runs)), "steps": _values(records["step"])}
    for name in ("accuracy", "loss"):
        found[name] = _statistics(records[name])
        found[f"{name}_of_last_checkpoints"] = _statistics(records[name][last])
    return found


def _statistics(values: np.ndarray) -> dict[str, Any] | None:
    """Mean, standard deviation and quantiles of those that are finite; None for none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    quantiles = np.percentile(known, _QUANTILES)
    return {
        "networks": len(known),
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if len(known) > 1 else None,
        "quantiles": {f"{q}%": float(value) for q, value in zip(_QUANTILES, quantiles, strict=True)},
    }


def _values(column: np.ndarray) -> dict[str, Any]:
    """The values of a column, or where there are many, the first and the last."""
    found = np.unique(column)
    if not np.isfinite(found).all():
        return {"finite": False}
    return {"values": found.tolist()} if len(found) <= _LISTED else {"from": found[0].item(), "to": found[-1].item()}


def _architecture(spec: WeightSpec, origin: Origin) -> dict[str, Any]:
    names = state_dicts.torch_names(spec)
    return {
        "num_params": spec.num_params,
        "network": origin.config.get("net") or origin.made.get("network"),
        "activation": origin.activation,
        "base": None if origin.base is None else BASE,
        "tensors": [
            {"leaf": leaf.name, "name": names[leaf.name], "shape": list(leaf.stored_shapes[-1])} for leaf in spec.leaves
        ],
        "hidden_units": [{"units": group.size, "rescaling": group.scaling} for group in spec.groups],
    }


def _inputs(origin: Origin) -> dict[str, Any]:
    """The data set, and what is done to its values before the network sees them."""
    data = origin.config.get("data")
    return {
        "settings": data if isinstance(data, Mapping) else None,
        "data": origin.made.get("data"),
        "normalisation": origin.normalisation,
    }


def _seeds(networks: Population, origin: Origin) -> dict[str, Any]:
    return {
        "experiment": origin.config.get("seed"),
        "networks": _values(networks.records["seed"]),
        "runs": _values(networks.records["run"]),
    }
