"""`jw.export`: networks of a workdir, a store, a file or memory for other programs."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxweights import exporting, files, settings, tasks
from jaxweights.api import sources
from jaxweights.errors import UserError
from jaxweights.exporting import selection
from jaxweights.exporting.networks import blocks, columns, raw
from jaxweights.population import Population, TaskExamples
from jaxweights.spec import WeightSpec
from jaxweights.store import INDEX, PopulationStore
from jaxweights.zoo.bulk import BASE

_ZOO, _SAMPLES, _METRICS = "zoo", "samples", "metrics.json"  # in a workdir


def export(
    source: Any,
    to: pathlib.Path | str,
    format: str,
    *,
    what: str = selection.ALL,
    select: Mapping[str, Any] | None = None,
    spec: WeightSpec | pathlib.Path | str | None = None,
    name: str = "",
    recipe: Mapping[str, Any] | None = None,
    data_dir: str | None = None,
) -> pathlib.Path:
    """Writes networks into a folder for other programs, with a data card and checksums.

    The folder appears once it is whole. The same call again leaves it as it is, after it compared every file with its
    checksum.

    Args:
      source: workdir of an experiment, folder of a stored population, or an `.npz` or safetensors file of networks, see
        `jw.audit`; or a population. Weights of stores are read piece by piece.
      to: the new folder.
      format: see `exporting.FORMATS`.
      what: "all", "train" or "heldout"; of a workdir also "generated:NAME", the samples of a generator. Diverged
        networks are in none.
      select: which of them, see `exporting.Selection`.
      spec: what the vectors mean, or a JSON file of that, for sources that do not know it.
      name: title of the data card; that of the source by default.
      recipe: settings that the networks were trained by, for the card, where the source does not know them.
      data_dir: folder of the data set of a workdir's networks, where that is not embedded. The format model_zoos has
        its images, and what networks make of them; without them, both are left out, and the program says so.

    Returns:
      The folder.

    Raises:
      UserError: no such source, networks or format, a folder with something else in it, or another data set than
        that of the networks.
    """
    layout = exporting.get(format)
    chosen = settings.make(exporting.Selection, select or {})
    if spec is not None and not isinstance(spec, WeightSpec):
        spec = sources.spec(spec)
    networks, origin, what = _opened(source, what, spec)
    origin = dataclasses.replace(origin, name=name or origin.name, config={**(recipe or {}), **origin.config})
    examples = _examples(networks, origin, data_dir) if layout.EXAMPLES else None
    networks = chosen.of(networks, what)
    request: dict[str, Any] = {"format": format, "what": what, "select": settings.plain(chosen)}
    if examples is not None:
        request["images"] = True
    place = pathlib.Path(to).expanduser()
    return exporting.export(place, layout, exporting.Contents(networks, origin.recipe, examples), origin, request)


def _examples(networks: Population, origin: exporting.Origin, data_dir: str | None) -> TaskExamples | None:
    """What networks classify; None, and a line that says why, where that is not known or not at hand."""
    reason, found = "the source does not say what the networks were trained for", networks.examples
    try:
        found = found or _loaded(origin, data_dir)
    except UserError as error:
        if data_dir is not None:
            raise
        reason = str(error)
    if found is not None and (found.net.spec != networks.spec or found.net.task != tasks.get("classification")):
        found, reason = None, "the networks are no whole classifiers"
    if found is None:
        print(f"export: without images and what networks make of those of the training: {reason}", file=sys.stderr)
    return found


def _loaded(origin: exporting.Origin, data_dir: str | None) -> TaskExamples | None:
    """The data set of an experiment and its network; None for other sources."""
    config = origin.config
    if not {"task", "data", "net"} <= set(config) or origin.base is not None:
        return None
    task = tasks.get(config["task"])
    given = settings.make(task.data_settings, config["data"])
    runs = config["zoo"]["num_runs"] + config["zoo"]["num_heldout"]
    dataset = task.load(given, net=config["net"], runs=runs, data_dir=data_dir)
    if _print(dataset.source) != _print(origin.made["data"]):
        raise UserError(
            f"The networks were trained on another data set ({origin.made['data']}) than there is in data_dir "
            f"({dataset.source}). Give the folder of theirs."
        )
    return TaskExamples(task.build(config["net"], dataset.train_images.shape[1:], dataset.num_classes), dataset)


def _print(source: str) -> str:
    """The checksum of a data set's content, see `Dataset.source`."""
    return source.rpartition("blake2b ")[2]


def _opened(source: Any, what: str, spec: WeightSpec | None) -> tuple[Population, exporting.Origin, str]:
    """The networks of a source, where they come from, and which of them are wanted."""
    if isinstance(source, Population):
        networks = _with(source, spec)
        return networks, exporting.Origin("networks", digest=_digest(networks)), _split(what)
    if not sources.is_path(source):
        kind = type(source).__name__
        raise UserError(f"The networks are of type {kind}; give a population, or the path of a workdir, store or file.")
    place = pathlib.Path(source).expanduser()
    if (place / INDEX).exists():
        networks, origin = _stored(place, place.resolve().name, spec)
        return networks, origin, _split(what)
    if place.is_dir() and (place / _ZOO / INDEX).exists():
        return _of_workdir(place, what, spec)
    networks = sources.networks(place, "The source", spec)
    return networks, exporting.Origin(place.stem, digest=_digest(networks)), _split(what)


def _split(what: str) -> str:
    if what not in selection.SPLITS:
        raise UserError(
            f"There is nothing called {what!r} to export; give {', '.join(selection.SPLITS)}, or of a workdir "
            f"{selection.GENERATED}NAME for the samples of a generator."
        )
    return what


def _of_workdir(place: pathlib.Path, what: str, spec: WeightSpec | None) -> tuple[Population, exporting.Origin, str]:
    title = place.resolve().name
    if not what.startswith(selection.GENERATED):
        networks, origin = _stored(place / _ZOO, title, spec)
        return networks, origin, _split(what)
    name = what.removeprefix(selection.GENERATED)
    there = sorted(index.parent.name for index in place.glob(f"{_SAMPLES}/*/{INDEX}"))
    if name not in there:
        found = f"there are those of {', '.join(there)}" if there else "run launch.sample first"
        raise UserError(f"{place} has no samples of {name!r}; {found}.")
    networks, origin = _stored(place / _SAMPLES / name, f"{title}-{name}", spec)
    generator = {
        "name": name,
        "settings": origin.config.get("generators", {}).get(name),
        "verdict": _verdict(place, name),
    }
    return networks, dataclasses.replace(origin, generator=generator), selection.ALL


def _stored(place: pathlib.Path, name: str, spec: WeightSpec | None) -> tuple[Population, exporting.Origin]:
    """The networks of a store, which stay on disk."""
    opened = PopulationStore.open(place)
    if not opened.complete:
        raise UserError(f"The population in {place} is unfinished; run the program that makes it to its end.")
    networks, made = _with(opened.view(np.arange(len(opened))), spec), opened.provenance
    zoo = place.parent.parent / _ZOO if place.parent.name == _SAMPLES else place
    base = zoo / BASE if (zoo / BASE).exists() else None
    return networks, exporting.Origin(name, _config(made), made, opened.digest, base=base)


def _with(networks: Population, spec: WeightSpec | None) -> Population:
    """Networks with another meaning of their vectors, where one is given."""
    if spec is None:
        return networks
    if spec.num_params != networks.spec.num_params:
        raise UserError(
            f"The networks have {networks.spec.num_params:,} parameters, but spec describes {spec.num_params:,}. Give "
            "theirs, or none."
        )
    return dataclasses.replace(networks, spec=spec)


def _config(made: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a store was made by: those of an experiment, of `jw.train_zoo`, or of an import."""
    if "config" in made:
        return made["config"]
    network = made["recipe"].get("net") if "recipe" in made else made.get("network")
    found = {"seed": made.get("seed"), "zoo": made.get("zoo"), "net": network if isinstance(network, Mapping) else None}
    return {key: value for key, value in found.items() if value is not None}


def _verdict(workdir: pathlib.Path, name: str) -> Any:
    """What the audit said of a generator, if there was one."""
    path = workdir / _METRICS
    if not path.exists():
        return None
    cure = f"Remove {path} and run launch.audit (or launch.run) again."
    return (
        files.read_json(path, "table of audit results", cure, {"series": dict})["series"].get(name, {}).get("verdict")
    )


def _digest(networks: Population) -> str:
    """Checksum of networks that have none yet."""
    found = hashlib.sha256()
    for _, block in blocks(networks):
        found.update(raw(block))
    for name, column in columns(networks).items():
        found.update(name.encode())
        found.update(column.tobytes())
    return found.hexdigest()
