"""Collections of networks: zoos that are trained here, populations that are there, and samples of generators."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import data as datasets
from jaxweights import generators, population, settings, store, tasks, zoo
from jaxweights.auditing.alignment.aligners import aligner
from jaxweights.auditing.distances import euclidean
from jaxweights.bias.weights.features import Examples
from jaxweights.errors import UserError
from jaxweights.nets.base import TaskNet
from jaxweights.population import Population
from jaxweights.settings import Settings, setting
from jaxweights.training import train_generator

_SECTIONS = ("data", "net", "zoo")
_DRAW, _TRAIN = 0, 1  # purposes of a generator's key


@dataclasses.dataclass(frozen=True)
class ZooSource(Settings):
    """A collection of networks.

    Attributes:
      data, net, zoo: what differs from the config's sections of these names.
      seed: added to the config's; zoos of one seed and one network begin with the same weights.
      path: folder of a population that is there, such as `zoo` in the workdir of an experiment, instead of training.
      split: which networks: of training runs, of held-out runs, or both.
      use: checkpoints of every run: the last, or all.
      generator: `kind` and settings of a generator; the collection are its samples, once it is fitted to the training
        runs.
      samples: samples of the generator.
    """

    SECTION: ClassVar[str] = "bias.sets"

    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    net: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    zoo: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = setting(0, at_least=0, at_most=2**31 - 1)
    path: str = ""
    split: Literal["all", "train", "heldout"] = "all"
    use: Literal["last", "all"] = "last"
    generator: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    samples: int = setting(256, at_least=1)


class Zoo(NamedTuple):
    """A collection as it was read.

    Attributes:
      networks: one row per network; `run` are the groups.
      groups: `[N]` text, what must not be on both sides of a split: the seed and run of a network, or of the one that a
        sample was made from.
      net: the task network; None for a population without one.
      test, train: examples of its data set; None likewise.
      source: provenance, in words.
      facts: further JSON data.
    """

    networks: Population
    groups: np.ndarray
    net: TaskNet | None
    test: Examples | None
    train: Examples | None
    source: str
    facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where zoos are trained and read.

    Attributes:
      sections: `task`, `data`, `net` and `zoo` of the config.
      seed: the config's.
      folder: folder of zoos and generators that are trained.
      data_dir: folder of data sets that are not embedded.
      mesh: devices.
    """

    sections: Mapping[str, Any]
    seed: int
    folder: pathlib.Path
    data_dir: str | None
    mesh: Mesh


def read(name: str, source: ZooSource, place: Place) -> Zoo:
    """Reads a collection; what is not there is trained.

    Args:
      name: of the collection, for messages.
      source: what it is.
      place: where.

    Raises:
      UserError: settings that cannot be used, files that are absent, or too few networks.
    """
    found = _read(name, source, place) if source.path else _trained(name, source, place)
    if source.generator:
        return _generated(name, source, found, place)
    chosen = found.networks
    kept = np.ones(len(chosen), bool) if source.use == "all" else population.last_checkpoints(chosen.records)
    split = chosen.records["split"]
    kept &= split != population.DIVERGED if source.split == "all" else split == source.split
    if not kept.any():
        raise UserError(f"The collection {name} has no networks of the split {source.split!r}; choose another.")
    return found._replace(networks=chosen.select(kept), groups=found.groups[kept])


def _read(name: str, source: ZooSource, place: Place) -> Zoo:
    path = pathlib.Path(source.path)
    if not (path / store.INDEX).exists():
        raise UserError(
            f"The collection {name} is to be read from {path}, which is no folder of a population. Give one that "
            "train_zoo or launch.train_zoo has written, e.g. runs/digits/zoo."
        )
    opened = store.PopulationStore.open(path)
    return Zoo(opened.read(), _groups(opened.read(), str(path)), None, None, None, f"networks of {path}", {})


class Plan(NamedTuple):
    """How a zoo is trained: the settings that it has in common with others, and its own."""

    task: tasks.Task
    data: Any
    zoo: Any
    net: Mapping[str, Any]


def plan(name: str, source: ZooSource, sections: Mapping[str, Any]) -> Plan:
    """How a collection is trained.

    Args:
      name: of the collection, for messages.
      source: what it has otherwise.
      sections: `task`, `data`, `net` and `zoo` of the config.

    Raises:
      UserError: settings that cannot be used.
    """
    task = tasks.get(sections.get("task", tasks.DEFAULT))
    merged = {key: {**sections.get(key, {}), **dict(getattr(source, key))} for key in _SECTIONS}
    chosen = settings.make(task.data_settings, merged["data"], f"data of {name}")
    recipe = settings.make(task.zoo_settings, merged["zoo"], f"zoo of {name}")
    return Plan(task, chosen, recipe, {"name": task.default_network, **merged["net"]})


def _trained(name: str, source: ZooSource, place: Place) -> Zoo:
    task, chosen, recipe, net_config = plan(name, source, place.sections)
    runs = recipe.num_runs + recipe.num_heldout
    dataset = task.load(chosen, net=net_config, runs=runs, data_dir=place.data_dir)
    net = task.build(net_config, dataset.train_images.shape[1:], dataset.num_classes)
    facts = {"task": task.name, "seed": place.seed + source.seed, "zoo": settings.plain(recipe), "net": net_config}
    facts["data"] = dataset.source
    folder = place.folder / "zoos" / _digest(facts)
    opened = zoo.train_zoo(
        net,
        zoo.Recipe.from_settings(recipe, dataset.num_examples),
        dataset,
        place.mesh,
        path=folder,
        seed=facts["seed"],
        provenance=facts,
    )
    networks = opened.read()
    accuracy = networks.last().records["accuracy"]
    return Zoo(
        networks,
        _groups(networks, str(facts["seed"])),
        net,
        _examples(dataset.test_images, dataset.test_labels, dataset),
        _examples(dataset.train_images, dataset.train_labels, dataset) if dataset.signals is None else None,
        f"{len(accuracy):,} runs on {dataset.source}",
        {task.terms.quality: float(np.nanmean(accuracy))},
    )


def _examples(inputs: np.ndarray, targets: np.ndarray, dataset: Any) -> Examples:
    return Examples(np.asarray(datasets.standardise(inputs, dataset.scale, dataset.shift)), targets)


def _groups(networks: Population, origin: str) -> np.ndarray:
    return np.array([f"{origin}/{run}" for run in networks.records["run"]])


def _digest(facts: Mapping[str, Any]) -> str:
    """Name of the folder of a zoo or a generator."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()


def _generated(name: str, source: ZooSource, found: Zoo, place: Place) -> Zoo:
    """Samples of a generator that is fitted to the training runs of a zoo, and how near to these they are."""
    rows = np.flatnonzero(found.networks.records["split"] == population.TRAIN)
    if source.use == "last":
        rows = rows[population.last_checkpoints({k: found.networks.records[k][rows] for k in ("run", "step")})]
    training, generator = found.networks.select(rows), generators.build(name, source.generator)
    key = jax.random.fold_in(jax.random.key(place.seed), 3)
    if isinstance(generator, generators.ClosedFormGenerator):
        state = generator.fit(training)
    else:
        facts = {"generator": settings.plain(generator), "zoo": found.source, "seed": place.seed + source.seed}
        state = train_generator(
            generator,
            found.networks.select(found.networks.records["split"] == population.TRAIN)
            if generator.TRAJECTORIES
            else training,
            place.mesh,
            key=jax.random.fold_in(key, _TRAIN),
            path=place.folder / "generators" / _digest(facts),
        )
    keys = jax.random.split(jax.random.fold_in(key, _DRAW), source.samples)

    def measure(weights: np.ndarray) -> Population:
        return Population.create(weights, training.spec)

    drawn = generators.draw(generator, state, keys, found.networks.first(), measure, place.mesh)
    weights, parents = np.asarray(drawn.weights), np.asarray(drawn.parents)
    groups = np.array([found.groups[rows[p]] if p >= 0 else f"{name}/{i}" for i, p in enumerate(parents)])
    return found._replace(
        networks=training.derive(weights, parents, name),
        groups=groups,
        source=f"{len(weights):,} samples of {generators.kind_of(generator)}, fitted to {found.source}",
        facts=_nearness(weights, training, found.networks.heldout.last(), place.mesh),
    )


def _nearness(weights: np.ndarray, training: Population, heldout: Population, mesh: Mesh) -> dict[str, float]:
    """How near samples `[n, P]` are to training networks, since copies pass every transformation: the median distance
    to the nearest, its ratio to that of held-out runs, or without any to that of training networks to other runs, and
    the same ratio after alignment of hidden units where there are symmetries."""
    metrics: dict[str, Any] = {"": euclidean, "aligned_": aligner(training.spec, mesh)}
    runs, found = training.records["run"], {}
    for prefix, metric in metrics.items():
        if metric is None:
            continue
        own = float(np.median(metric.nearest(weights, training.weights, mesh=mesh).distances[:, 0]))
        if len(heldout):
            null = metric.nearest(heldout.weights, training.weights, mesh=mesh)
        else:
            null = metric.nearest(
                training.weights, training.weights, query_groups=runs, reference_groups=runs, mesh=mesh
            )
        found[f"{prefix}nearest_training_distance"] = own
        found[f"{prefix}nearest_ratio"] = own / float(np.median(null.distances[:, 0]))
    return found
