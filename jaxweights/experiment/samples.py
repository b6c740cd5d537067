"""The stages that train the generators and draw networks from them."""

from __future__ import annotations

import functools
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxweights import data, generators, nets, population, processes, store
from jaxweights.errors import UserError
from jaxweights.evaluation import recalibrated
from jaxweights.experiment import zoo
from jaxweights.experiment.context import Context

_SMALL = 1 << 22  # numbers of training networks of which every generator may keep a copy


def state(context: Context, opened: store.PopulationStore, name: str) -> Any:
    """The state of a generator that has a training of its own; trains what is not on disk yet."""

    every = np.flatnonzero(opened.records["split"] == population.TRAIN)
    return context.state(name, opened.view(zoo.training_rows(context, opened)), opened.view(every))


def train(context: Context) -> list[str]:
    """Trains every learned generator, and tries every closed-form one on the training networks; returns their
    names."""
    opened = zoo.open_zoo(context)
    names = [name for name, (_, trained) in context.generators.items() if name == trained]
    for name in names:
        state(context, opened, name)
    return names


def run(context: Context, names: Iterable[str] | None = None) -> dict[str, store.PopulationStore]:
    """Draws and evaluates `num_samples` networks from every generator, or those of the names, whose samples are not
    there yet."""
    missing = processes.agreed(_missing(context, names))
    if missing:
        opened = zoo.open_zoo(context)
        with ThreadPoolExecutor(1) as pool:
            ahead = _ahead(context, opened, missing, pool)
            for name in dict.fromkeys(context.generators[name][1] for name in missing):
                if isinstance(context.generators[name][0], generators.LearnedGenerator):
                    state(context, opened, name)  # all are trained before the first one is sampled
            for name in missing:
                fitted = ahead.pop(name, None)
                trained = fitted.state if fitted else state(context, opened, context.generators[name][1])
                compiled = fitted.program.result() if fitted else None
                path = context.workdir / "samples" / name
                with context.folder.timed(f"sample {name}"):
                    _draw(context, opened, context.generators[name][0], trained, path, compiled)
    return stores(context, names)


class _Fitted(NamedTuple):
    """A closed-form generator's state, and its program, which is being compiled."""

    state: Any
    program: Future


def _ahead(
    context: Context, opened: store.PopulationStore, missing: Sequence[str], pool: ThreadPoolExecutor
) -> dict[str, _Fitted]:
    """Closed-form generators of small zoos, compiled by a thread while learned ones train. That thread runs nothing:
    programs of several devices may wait for those of one for ever."""
    chosen = {name: context.generators[name][0] for name in missing}
    learned = {n for n, g in chosen.items() if not isinstance(g, generators.ClosedFormGenerator)}
    size = len(zoo.training_rows(context, opened)) * opened.spec.num_params
    if not learned or size > _SMALL or processes.count() > 1:
        return {}
    fitted = {}
    for name in [name for name in chosen if name not in learned]:
        keys, fit = context.sample_keys(chosen[name].name), state(context, opened, name)
        lowered = functools.partial(_compiled, generators.sampler(chosen[name]), fit, keys)
        fitted[name] = _Fitted(fit, pool.submit(lowered))
    return fitted


def _compiled(program: Any, fit: Any, keys: jax.Array) -> Any:
    return program.lower(fit, keys).compile()


def stores(context: Context, names: Iterable[str] | None = None) -> dict[str, store.PopulationStore]:
    """The samples of every generator, or those of the names, complete.

    Raises:
      UserError: some are missing; says what to run.
    """
    missing = _missing(context, names)
    if missing:
        raise UserError(
            f"The workdir {context.workdir} has no samples of {', '.join(missing)}. Run launch.sample (or launch.run) "
            "first."
        )
    chosen = context.generators if names is None else names
    return {name: store.PopulationStore.open(context.workdir / "samples" / name) for name in chosen}


def _missing(context: Context, names: Iterable[str] | None) -> list[str]:
    def complete(name: str) -> bool:
        path = context.workdir / "samples" / name
        if not (path / store.INDEX).exists():
            return False
        opened = store.PopulationStore.open(path, drop_missing=True)
        if "origin" in opened.provenance:
            context.check_origin(f"sample {name}", opened.provenance["origin"], path)
        return opened.complete

    return [name for name in (context.generators if names is None else names) if not complete(name)]


def _cure(generator: generators.Generator, workdir: pathlib.Path) -> str:
    """What to do about samples that are not finite, though the training networks are."""
    if not isinstance(generator, generators.LearnedGenerator):
        return f"Its settings are too large for these networks: lower them ({generator.section})."
    drawn = ", ".join(sorted(generator.SAMPLING))
    return (
        f"Its loss was finite in training ({workdir / 'metrics.jsonl'}), so its samples grow as they are drawn. Change "
        f"how ({drawn}), or train another generator: the same settings under another name, changed."
    )


def _draw(
    context: Context, opened: store.PopulationStore, generator, trained, path: pathlib.Path, compiled: Any = None
) -> None:
    """Draws the samples of this process, one chunk of the store, and waits for those of the others."""
    with processes.in_turn(f"samples of {generator.name}"):
        target = _target(context, generator, path)
    target.collect()
    own, drawn = processes.share(context.settings.num_samples), None
    missing = processes.index() not in target.chunk_ids and own.start < own.stop
    with processes.together(f"drawing from {generator.name}"):
        if missing:
            drawn = _drawn(context, opened, generator, trained, own, compiled)
    _refuse_undefined(context, generator, drawn)
    with processes.together(f"evaluation of {generator.name}"):
        if drawn is not None:
            target.append(processes.index(), _evaluated(context, opened, generator, *drawn))
    target.finish()


def _target(context: Context, generator, path: pathlib.Path) -> store.PopulationStore:
    """The store of samples; one that as many processes have begun is gone on with."""
    parts = {"processes": processes.count()}
    if (path / store.INDEX).exists():
        target = store.PopulationStore.open(path, drop_missing=True)
        if target.provenance.get("processes", 1) == processes.count():
            return target
        shutil.rmtree(path)
    return store.PopulationStore.create(path, context.net.spec, context.provenance(f"sample {generator.name}") | parts)


def _drawn(context: Context, opened: store.PopulationStore, generator, trained, own: slice, compiled: Any):
    """Weights `[n, P]` and parents `[n]` of some of the samples."""
    spec = context.net.spec

    def measure(weights: np.ndarray) -> population.Population:
        result = context.evaluate(weights)
        return population.Population.create(weights, spec, accuracy=result.accuracy, loss=result.loss)

    keys = context.sample_keys(generator.name)
    samples = generators.draw(generator, trained, keys, zoo.starts(opened), measure, context.mesh, own, compiled)
    return _recalibrated(context, generator, np.asarray(samples.weights)), np.asarray(samples.parents)


def _recalibrated(context: Context, generator: generators.Generator, weights: np.ndarray) -> np.ndarray:
    """Samples with running statistics from where the generator wants them; of networks that are generated in part, as
    they are."""
    wanted, net = generator.recalibration, context.net
    if wanted is None or isinstance(net, nets.PartialNet):
        return weights
    dataset = context.dataset
    images = dataset.train_images if wanted.split == "train" else dataset.test_images
    standardised = data.standardise(images[: wanted.images], dataset.scale, dataset.shift)
    return recalibrated(net, weights, np.asarray(standardised), context.mesh)


def _refuse_undefined(context: Context, generator, drawn: tuple[np.ndarray, np.ndarray] | None) -> None:
    """Raises `UserError` in all processes where any of them drew weights that are not finite."""
    own = 0 if drawn is None else int(np.sum(~np.isfinite(drawn[0]).all(axis=1)))
    undefined = sum(processes.gathered(own))
    if undefined:
        raise UserError(
            f"{undefined} of {context.settings.num_samples} networks sampled from {generator.name!r} have weights that "
            f"are not finite. {_cure(generator, context.workdir)}"
        )


def _evaluated(context: Context, opened: store.PopulationStore, generator, weights, parents) -> population.Population:
    """Samples with their records; parents are rows of the zoo."""
    rows, spec = zoo.training_rows(context, opened), context.net.spec
    derived = opened.view(rows).derive(weights, parents, generator.name)
    result = context.evaluate(weights)
    parents = np.where(parents >= 0, rows[parents], -1)  # rows of the zoo's store, not of the training subset
    records = {**derived.records, "parent": parents, "accuracy": result.accuracy, "loss": result.loss}
    return population.Population(derived.weights, spec, records)
