"""A study in one folder: every model is trained on every designed training set once and kept; then the numbers and the
page."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import files, locks, parallel, processes, provenance, settings
from jaxweights.errors import UserError
from jaxweights.probing import answers, page, weights
from jaxweights.probing.images import Images
from jaxweights.probing.settings import NULL, ProbingSettings, parse
from jaxweights.probing.subject import Subject
from jaxweights.probing.trials import ESTIMATOR, EXAMPLES, Plan, Trial, Work

CONFIG, RESULT, ACCURACY = "config.json", "metrics.json", "estimator.json"
_ACCURACY = 1  # added to the seed, of examples that the estimator is tried on


def subject_of(options: ProbingSettings, seed: int) -> Subject:
    """What a config probes.

    Raises:
      UserError: data, an estimator or models that cannot be used.
    """
    kind = options.data.get("kind")
    return weights.Networks(options) if kind in weights.NETWORKS else Images(options, seed)


def run(config: Mapping[str, Any], workdir: pathlib.Path | str, mesh: Mesh | None = None) -> dict[str, Any]:
    """Trains every model on every training set that is not done, and writes the numbers and the page.

    Args:
      config: `seed` and a section `probing`, see `ProbingSettings`.
      workdir: folder of the study: `examples/` and `trials/` (measured features), `estimator/`, `metrics.json`,
        `figures/`, `report.html`, and `timing.json`, the seconds of every model.
      mesh: devices; None for all of this process.

    Returns:
      The content of `metrics.json`: `estimators.<feature>.accuracy`, on examples whose features are known;
      `probes.<probe>.<model>`, see the judges of `probes`, for every model and "heldout", fresh training examples in
      the place of samples; `nearest.<model>.<design>`, the distance to the nearest training example over that of fresh
      examples; `answers.<model>`, see `answers`; `losses`, `settings` and `versions`.

    Raises:
      UserError: a config that cannot be used, a design that no example can have, a folder of another study, or
        trainings that follow each other in a job of several processes.
    """
    options, folder, seed = parse(config), pathlib.Path(workdir), int(config.get("seed", 0))
    if processes.count() > 1 and not options.together:
        raise UserError(
            "probing.together is False: trainings follow each other over the devices of one process, but this job has "
            f"{processes.count()}. Run it in one process, or set probing.together to True."
        )
    subject, probes = subject_of(options, seed), options.chosen_probes()
    plan = Plan.of(probes, subject, seed)
    with processes.in_turn("folder of the study"):
        files.make_dir(folder)
    with locks.locked(folder):
        with processes.in_turn("config of the study"):
            claim(folder, {"seed": seed, "probing": settings.plain(options)})
        work = Work(subject, plan, options, seed, folder, parallel.resolve(mesh))
        subject.fit(work.mesh, files.make_dir(folder / ESTIMATOR))
        with processes.in_turn("accuracy of the estimator"):
            accuracy = _accuracy(work)
        for model in sorted(options.models):
            missing = processes.agreed(work.missing(model))
            if missing:
                work.train(model, missing)
            processes.barrier(f"trainings of {model}")
        result = collect(work, accuracy)
        if processes.is_first():
            files.write_json(folder / RESULT, result)
            page.write(folder, result, _pictures(work))
        processes.barrier("study")
    return result


def claim(folder: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Binds the folder to a study, or refuses it where another one has begun there."""
    path = folder / CONFIG
    if path.exists() and (folder / EXAMPLES).exists():
        provenance.refuse_another(path, facts, "study")
    else:
        files.write_json(path, json.loads(json.dumps(facts)))


def _accuracy(work: Work) -> dict[str, Any]:
    """How right the estimator is; measured once and kept."""
    place = work.folder / ACCURACY
    if not place.exists():
        n, folder = work.options.num_heldout, work.folder / ESTIMATOR
        found = work.subject.accuracy(n, work.seed + _ACCURACY, work.mesh, folder)
        numbers = ("value", "ci95", "n")
        table = {
            name: {"accuracy": {k: one[k] for k in numbers}, **{k: v for k, v in one.items() if k not in numbers}}
            for name, one in found.items()
        }
        files.write_json(place, table)
    return files.read_json(place, "table of an estimator's accuracy", f"Remove {place} and run again.")


def collect(work: Work, accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """All that was found, as it is in `metrics.json`."""
    names = [*sorted(work.options.models), NULL]
    judged: dict[str, dict[str, Any]] = {}
    for probe, kind in work.options.chosen_probes().items():
        own, known = work.plan.asked[probe], work.plan.names[probe]
        judged[probe] = {}
        for model in names:
            of = None if model == NULL else model
            judged[probe][model] = kind.judge(own, {name: work.measured(of, known[name]) for name in own})
    models = sorted(work.options.models)
    nearest = {m: {d: work.nearest(m, d) for d in work.plan.designs} for m in models}
    return {
        "kind": work.subject.KIND,
        "estimators": dict(accuracy),
        "probes": judged,
        "nearest": nearest,
        "answers": answers.of_models(judged, nearest),
        "losses": {m: {d: _losses(work, m, d) for d in work.plan.designs} for m in models},
        "designs": {name: len(design) for name, design in work.plan.designs.items()},
        "settings": _facts(work),
        "models": work.subject.describe(work.mesh),
        "versions": provenance.versions(),
    }


def _facts(work: Work) -> dict[str, Any]:
    """What was asked for."""
    kinds = {name: {"kind": one.KIND, **settings.plain(one)} for name, one in work.options.chosen_probes().items()}
    sizes = {k: getattr(work.options, k) for k in ("num_train", "num_heldout", "num_samples", "seeds")}
    return json.loads(json.dumps({**work.subject.facts, "probes": kinds, "sizes": sizes, "seed": work.seed}))


def _losses(work: Work, model: str, design: str) -> list[float | None]:
    """Losses of the last steps; None where there is none or it is not finite."""
    found = [float(work.read(model, Trial(design, s))["loss"]) for s in range(work.options.seeds)]
    return [loss if np.isfinite(loss) else None for loss in found]


def _pictures(work: Work) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Training and generated pictures by model and design, of the first training; none where there is nothing to
    see."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for model in sorted(work.options.models):
        for design in work.plan.designs:
            one = work.read(model, Trial(design, 0))
            if "shown" in one:
                found.setdefault(model, {})[design] = {"trained": one["trained"], "generated": one["shown"]}
    return found
