"""A comparison of collections in one folder: every transformation is tried once and kept; then the numbers and the
page."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxweights import files, locks, parallel, processes, provenance, settings
from jaxweights.bias import cells, page
from jaxweights.bias.cells import Cell
from jaxweights.bias.images import Images
from jaxweights.bias.settings import SECTIONS, WEIGHTS, BiasSettings, parse
from jaxweights.bias.subject import Subject
from jaxweights.bias.weights.networks import Networks
from jaxweights.errors import UserError

CONFIG, RESULT = "config.json", "metrics.json"


def run(
    config: Mapping[str, Any], workdir: pathlib.Path | str, data_dir: str | None = None, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Tries every transformation of every set that is not done, and writes the numbers and the page.

    Args:
      config: `seed` and a section `bias`, see `BiasSettings`; for collections of networks also `task`, `data`, `net`
        and `zoo`, as in an experiment.
      workdir: folder of the comparison: `cells/`, `metrics.json`, `figures/`, `report.html`, and `timing.json`, the
        seconds of every cell.
      data_dir: folder of data sets that are not embedded.
      mesh: devices; None for all of this process.

    Returns:
      The content of `metrics.json`: `chance`, `collections`, `transformations` by name, each with what
      `protocol.summary` says; the same for further `sets`; `classifier`, `sizes` and `versions`.

    Raises:
      UserError: a config that cannot be used, collections that cannot be compared, or a folder of another comparison.
    """
    options, folder, seed = parse(config), pathlib.Path(workdir), int(config.get("seed", 0))
    subject = _subject(options, config, folder, data_dir, mesh)
    with processes.in_turn("folder of the comparison"):
        files.make_dir(folder)
    with locks.locked(folder):
        with processes.in_turn("config of the comparison"):
            sections = {key: config[key] for key in SECTIONS if key in config}
            facts = {"seed": seed, "bias": settings.plain(options), **sections}
            claim(folder, facts, begun=(folder / cells.FOLDER).exists())
        return finish(subject, folder, mesh)


def _subject(
    options: BiasSettings, config: Mapping[str, Any], folder: pathlib.Path, data_dir: str | None, mesh: Mesh | None
) -> Subject:
    """What a config compares."""
    seed = int(config.get("seed", 0))
    if options.kind == WEIGHTS:
        return Networks(options, config, seed, data_dir, folder, mesh)
    return Images(options, seed, data_dir, folder / "transformed")


def finish(subject: Subject, folder: pathlib.Path, mesh: Mesh | None = None) -> dict[str, Any]:
    """Does what is missing of a comparison in a folder that is bound to it already, see `run`.

    Args:
      subject: what is compared.
      folder: exists, and is locked by the caller.
      mesh: devices; None for all of this process.
    """
    subject.check()
    for of, examples in subject.sets().items():
        missing = processes.agreed(
            [n for n in subject.transformations if cells.kept(folder, Cell(of, n), examples) is None]
        )
        if missing:
            cells.Work.of_set(subject, of, folder, parallel.resolve(mesh)).train(missing)
    processes.barrier("cells")
    result = {**_collect(folder, subject, parallel.resolve(mesh)), "versions": provenance.versions()}
    if processes.is_first():
        files.write_json(folder / RESULT, result)
        page.write(folder, result, _examples(folder, subject), _attention(folder, subject))
    processes.barrier("comparison")
    return result


def claim(folder: pathlib.Path, facts: Mapping[str, Any], begun: bool = True) -> None:
    """Binds the folder to a comparison, or refuses it where another one has begun there."""
    path = folder / CONFIG
    if begun and path.exists():
        provenance.refuse_another(path, facts, "comparison")
    else:
        files.write_json(path, json.loads(json.dumps(facts)))


def _collect(folder: pathlib.Path, subject: Subject, mesh: Mesh) -> dict[str, Any]:
    """All cells as they are in `metrics.json`."""
    found = {}
    for of, examples in subject.sets().items():
        tried = {}
        for name, facts in subject.transformations.items():
            kept = cells.kept(folder, Cell(of, name), examples)
            if kept is None:
                raise UserError(f"{cells.path(folder, Cell(of, name))} vanished. Run the same command again.")
            tried[name] = {"settings": dict(facts), **{k: v for k, v in kept.items() if k != "data"}}
        found[of] = {"chance": 1 / examples.num_classes, **examples.facts, "transformations": tried}
        found[of] |= {"named": named} if (named := cells.named(folder, subject, of, mesh)) else {}
    main = next(iter(found))
    classifier = {"kind": subject.classifier.KIND, **settings.plain(subject.classifier)}
    sizes = {k: getattr(subject.sizes, k) for k in ("repeats", "controls", "num_train", "num_validation", "seed")}
    others = {of: one for of, one in found.items() if of != main}
    return {"kind": subject.KIND, "main": main, **found[main], "sets": others, "classifier": classifier, "sizes": sizes}


def _examples(folder: pathlib.Path, subject: Subject) -> dict[tuple[str, str], np.ndarray]:
    """Example pictures of the cells that have some."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for cell in (Cell(of, name) for of in subject.sets() for name in subject.transformations):
        path = cells.path(folder, cell, "npz")
        if path.exists():
            cure = f"Remove {cells.path(folder, cell)} and run the same command again."
            found[cell] = files.read_npz(path, "examples of a transformation", cure)["shown"]
    return found


def _attention(folder: pathlib.Path, subject: Subject) -> dict[str, dict[str, np.ndarray]]:
    """Grad-CAM of the sets that have it, see `cells.Work`."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for cell in (Cell(of, name) for of in subject.sets() for name in subject.transformations):
        path = cells.path(folder, cell, cells.ATTENTION)
        if path.exists():
            cure = f"Remove {cells.path(folder, cell)} and run the same command again."
            found.setdefault(cell.of, files.read_npz(path, "Grad-CAM of a classifier", cure))
    return found
