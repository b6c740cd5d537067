"""The calibration: every kind of zoo, every seed, every control; thresholds on some zoos, rates on others."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import auditing, files, parallel, processes, provenance
from jaxweights.auditing import AuditSettings, Thresholds
from jaxweights.calibration import cells, pools, rates
from jaxweights.calibration.kinds import CALIBRATION, KINDS, PARTS, REPORT
from jaxweights.calibration.pools import Sizes
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.progress import Progress
from jaxweights.settings import plain

RESULT = "calibration.json"
AUDIT = AuditSettings(bootstrap=100, barriers=0)

_DEFAULT = "default"
_CURE = "Remove it and run launch.calibrate again."


def run(
    folder: pathlib.Path,
    kinds: Sequence[str] = tuple(KINDS),
    seeds: int = 20,
    tuning_seeds: int = 10,
    sizes: Sizes | None = None,
    audit: AuditSettings = AUDIT,
    mesh: Mesh | None = None,
    anew: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    """Calibrates the audit, or does what is missing of it.

    Args:
      folder: of pools, measurements, verdicts and `calibration.json`. What is there is not done again.
      kinds: names among `KINDS`.
      seeds: experiments of every kind that rates are reported of.
      tuning_seeds: those that thresholds are chosen on.
      sizes: networks of an experiment.
      audit: how to measure and judge.
      mesh: devices; None for all.
      anew: whether verdicts are made again from the measurements that are there, for other rules or thresholds.
      **changes: further arguments of `train_zoo` for all kinds, for miniatures.

    Returns:
      JSON data: `kinds`, `counts` by part, kind and control, `sweep` of the thresholds on the calibration's zoos, and
      what was run.

    Raises:
      UserError: unknown kinds, too few seeds or runs.
    """
    unknown = [name for name in kinds if name not in KINDS]
    if unknown or not kinds or min(seeds, tuning_seeds) < 1:
        wrong = f"There is no kind of zoo {unknown[0]!r}" if unknown else "There is nothing to calibrate"
        raise UserError(f"{wrong}; give kinds among {', '.join(KINDS)} and at least one seed.")
    sizes, mesh = sizes or Sizes(), parallel.resolve(mesh)
    facts: dict[str, Any] = {}
    judged: dict[str, dict[str, list[dict[str, Any]]]] = {part: {} for part in PARTS}
    each = {REPORT: seeds, CALIBRATION: tuning_seeds}
    work = [(part, name) for part in each for name in kinds if part in KINDS[name].parts]
    with Progress(sum(each[part] for part, _ in work), "calibration", "experiments") as bar:
        for part, name in work:
            place = files.make_dir(folder / name / part)
            networks = pools.pool(KINDS[name], part, place / "pool", mesh, **changes)
            facts.setdefault(name, {})[part] = _described(networks)
            judged[part][name] = []
            for seed in range(each[part]):
                one = _Experiment(name, part, seed, place / f"seed_{seed:03d}", sizes, audit, mesh)
                judged[part][name].append(one.verdicts(networks, anew))
                bar.update(sum(len(v) for p in judged.values() for v in p.values()), name)
    result = {
        "sizes": plain(sizes),
        "audit": plain(audit),
        "thresholds": plain(auditing.THRESHOLDS),
        "seeds": each,
        "kinds": facts,
        "counts": {part: _counts(found) for part, found in judged.items()},
        "summary": {part: rates.summary(_by_kind(found)) for part, found in judged.items() if found},
        "sweep": _sweep(judged[CALIBRATION]) if judged[CALIBRATION] else [],
        "versions": provenance.versions(),
    }
    with processes.together("calibration"):
        if processes.is_first():
            files.write_json(folder / RESULT, result)
    return result


@dataclasses.dataclass(frozen=True)
class _Experiment:
    """One experiment in its folder.

    Attributes:
      name, part, seed: its kind of zoo, its part and its random seed.
      folder: of its measurements and verdicts.
      sizes, audit, mesh: see `run`.
    """

    name: str
    part: str
    seed: int
    folder: pathlib.Path
    sizes: Sizes
    audit: AuditSettings
    mesh: Mesh

    def verdicts(self, networks: Population, anew: bool) -> dict[str, Any]:
        """Verdicts of all controls by choice of thresholds: "default", and `NAME=VALUE` on the calibration's zoos."""
        path = self.folder.with_suffix(".json")
        settings = self._settings()
        if processes.agreed(path.exists()) and not anew:
            stored = files.read_json(path, "table of verdicts", _CURE)
            if stored.get("settings") == settings:
                return stored["verdicts"]
        kind = KINDS[self.name]
        parts = pools.divide(kind, networks, self.sizes, self.seed)
        cell = cells.measure(kind, parts, self.seed, self.audit, self.mesh, self.folder)
        found = {_DEFAULT: cells.judge(cell, self.audit)}
        for name, value, thresholds in self._tried():
            same = thresholds == auditing.THRESHOLDS
            found[_key(name, value)] = found[_DEFAULT] if same else cells.judge(cell, self.audit, thresholds)
        with processes.together("verdicts"):
            if processes.is_first():
                files.write_json(path, {"settings": settings, "verdicts": found})
        return found

    def _tried(self) -> list[tuple[str, float, Thresholds]]:
        """The thresholds to try beside the defaults."""
        return list(rates.settings()) if self.part == CALIBRATION else []

    def _settings(self) -> dict[str, Any]:
        """What verdicts depend on, beside the rules; those of other settings are made again."""
        made_of = {
            "sizes": plain(self.sizes),
            "audit": plain(self.audit),
            "probe": KINDS[self.name].probe,
            "controls": list(rates.JUDGED),
            "thresholds": plain(auditing.THRESHOLDS),
            "tried": [_key(name, value) for name, value, _ in self._tried()],
        }
        return json.loads(json.dumps(made_of))


def _key(name: str, value: float) -> str:
    return f"{name}={value:g}"


def _described(networks: Population) -> dict[str, Any]:
    accuracy = networks.records["accuracy"]
    return {
        "runs": len(np.unique(networks.records["run"])),
        "parameters": networks.spec.num_params,
        "accuracy": [float(x) for x in np.quantile(accuracy, [0.05, 0.5, 0.95])],
    }


def _by_kind(judged: dict[str, list[dict[str, Any]]], key: str = _DEFAULT) -> dict[str, dict[str, rates.Count]]:
    return {name: rates.counts([cell[key] for cell in found]) for name, found in judged.items()}


def _counts(judged: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found = _by_kind(judged)
    return {kind: {name: one.to_json() for name, one in counted.items()} for kind, counted in found.items()}


def _sweep(judged: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The summary of every value of every threshold, the others at their defaults."""
    return [
        {"threshold": name, "value": value, **rates.summary(_by_kind(judged, _key(name, value)))}
        for name, value, _ in rates.settings()
    ]
