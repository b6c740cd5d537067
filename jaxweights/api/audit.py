"""`jw.audit`: the audit of weight vectors from anywhere."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import arrays as array_checks
from jaxweights import auditing, generators, parallel, population, provenance, studies
from jaxweights.api import arguments, evaluators, sources
from jaxweights.api.result import AuditResult
from jaxweights.auditing import MIN_HELDOUT, AuditSettings, Subject, symmetry
from jaxweights.auditing.alignment import twins
from jaxweights.bias.weights import Architecture
from jaxweights.errors import UserError
from jaxweights.generators import kind_of
from jaxweights.generators.aligned import AlignedInterpolation, Soup
from jaxweights.generators.baselines import (
    Average,
    Baseline,
    Copy,
    Gaussian,
    Interpolation,
    Noise,
    PCAGaussian,
)
from jaxweights.population import Population
from jaxweights.settings import make, plain
from jaxweights.spec import WeightSpec

GENERATED = "generated"
"""Name of the series where only one is given."""
BASELINES = (
    "noise_low",
    "noise_high",
    "average",
    "interpolation",
    "gaussian",
    "pca_gaussian",
    "aligned_interpolation",
    "soup",
)
ALIGNED = ("aligned_interpolation", "soup")
"""Baselines that are those without alignment for networks without symmetries."""
CONTROLS = ("copy", "noised_copy", "permuted_copy", "rescaled_copy", "sign_flipped_copy")
NOISE = {"noised_copy": 0.05, "noise_low": 0.1, "noise_high": 0.5}
"""Standard deviations of noise in units of the spread between training networks (root mean square over parameters of
the standard deviation over networks). Copies with noise of less than 0.47 lie within a third of the distance between
independent networks."""
_REPEATS = 3  # trainings that show what gives networks away
_AVERAGED = 16  # networks of an average, as published
_MOST_SAMPLES = 512  # of a baseline or control: these are known, and a search costs as much for them as for samples


def audit(
    train: Any,
    heldout: Any,
    generated: Any,
    *,
    spec: WeightSpec | str | os.PathLike[str] | None = None,
    predict: Callable[[Any, Any], Any] | None = None,
    test: tuple[Any, Any] | None = None,
    predictions: Any = None,
    task: str = "classification",
    batched: bool = False,
    baselines: bool | Iterable[str] = True,
    controls: bool = True,
    giveaway: bool | Mapping[str, Any] = False,
    seed: int = 0,
    mesh: Mesh | None = None,
    settings: AuditSettings | None = None,
    **changes: Any,
) -> AuditResult:
    """Tests whether generated networks are copies or mixtures of the training networks, or new.

    Every series is measured against the training networks, and held-out networks, which the generator has never seen,
    are the null: what independent training gives. Baselines (noise, averages, Gaussians, interpolations) and controls
    (copies of training networks, with noise, with their hidden units reordered; half of the held-out networks) are
    added to the series.

    With weights alone the audit rests on distances. With `predict` and `test`, `predictions`, or populations that carry
    their own evaluation, it also compares accuracies and errors.

    Args:
      train: `[N, P]` weight vectors that the generator was trained on: NumPy, JAX, or anything with `__array__`; a
        `Population`; or the path of a file that `formats.read` reads, with `weights` `[N, P]` or a list of state dicts,
        or of a stored population. Rows of an array count as independent runs; a population tells its runs by its
        records. Of a file with a column `split` the training networks are taken, and for `heldout` the held-out ones.
      heldout: `[M, P]` likewise, at least 8 networks trained in the same way that the generator has not seen. Of a
        population with several checkpoints per run one is used: the last, or, if training networks are of several
        steps, one at a step like theirs.
      generated: `[n, P]` likewise, or several series by name, `{"mine": a, "theirs": b}`.
      spec: what the vectors mean, with the symmetries of the hidden units, or the path of a JSON file with its
        `to_json()`; None for the training population's, if any. With it, files may hold a tensor `[N, ...]` per leaf.
      predict: `(weights [P], inputs) -> predictions` in any framework: gets one flat float32 vector and the inputs of
        `test` and returns scores or probabilities `[T, K]` or class numbers `[T]`; of a regression numbers `[T]`.
      test: inputs, handed to `predict` as they are, and labels or targets `[T]`.
      predictions: instead of `predict` and `test`, by any framework: `{"train": ..., "heldout": ..., "labels": [T]}`,
        likewise for every generated series ("generated" where only one is given), or the path of a file of
        these arrays. Of every network scores or probabilities `[n, T, K]`, class numbers `[n, T]`,
        or of a regression numbers `[n, T]`. Copies have the predictions of their parents; baselines and noised copies,
        which nobody has run, are audited by their weights alone.
      task: what `predict` or the predictions are of: "classification" or "regression". Of the latter R² takes the
        place of the accuracy, and an error is a residual larger than the median distance of the targets from their
        mean.
      batched: whether `predict` takes several vectors `[n, P]` at a time (at most 64) and returns `[n, T, K]` or
        `[n, T]`.
      baselines: names among `BASELINES`; True for all (those with alignment where there are symmetries), False for
        none.
      controls: whether copies of training networks are audited besides.
      giveaway: whether a classifier tells the samples of every series and baseline from held-out networks, after
        transformations that keep only part of them: the section "What gives them away" of the report, and
        `studies.giveaway` of the numbers. True for three repeats, or settings by name, `{"repeats": 5}`, see
        `studies.giveaway.GiveawaySettings`.
      seed: random seed of baselines, controls, bootstrap and classifiers.
      mesh: devices; None for all.
      settings: how to measure.
      **changes: fields of `AuditSettings`, e.g. `bootstrap=200`.

    Returns:
      Verdicts, numbers, figures and report.

    Raises:
      UserError: arrays of the wrong shape or with values that are not finite, networks of different sizes, fewer than 8
        held-out networks, held-out networks that are training networks, unknown settings or names; the message names
        the argument.
    """
    seed = arguments.seed(seed)
    meaning = sources.spec(spec) if sources.is_path(spec) else spec
    if meaning is not None:
        meaning = arguments.instance(
            meaning, WeightSpec, "spec", "give a WeightSpec, the path of its JSON file, or None"
        )
    if settings is not None:
        arguments.instance(settings, AuditSettings, "settings", "give AuditSettings, or None")
    chosen = make(AuditSettings, {**plain(settings or AuditSettings()), **changes})
    asked = _giveaway(giveaway)
    trained = _training(train, meaning)
    null, checkpoints = _null(heldout, trained, seed)
    rows, duplicates = auditing.distinct(trained)
    compared = trained.select(rows) if duplicates else trained
    series = _series(generated, trained)
    added = _added(baselines, controls, trained)
    taken = [name for name in series if name in added or name in auditing.RESERVED]
    if taken:
        raise UserError(f"generated has a series {taken[0]!r}, which is a name of the audit itself. Rename it.")
    count = min(max(map(len, series.values())), _MOST_SAMPLES)
    if predictions is None:
        evaluate = evaluators.by_function(trained, predict, test, task, batched)
    else:
        given = {"train": trained, "heldout": null if checkpoints is None else checkpoints}
        evaluate = evaluators.by_predictions(given, series, predictions, predict if test is None else test, task)
    drawn = {name: _draw(one, trained, count, seed) for name, one in added.items()}
    evaluators.share(evaluate, trained, {name: drawn[name] for name, one in added.items() if isinstance(one, Copy)})
    subject = Subject(
        train=compared,
        duplicates=duplicates,
        heldout=null,
        generated={**series, **drawn},
        controls=tuple(name for name in added if name in CONTROLS),
        baselines=tuple(name for name in added if name in BASELINES),
        heldout_checkpoints=checkpoints,
        evaluate=evaluate,
        task=evaluators.task_of(evaluate),
    )
    coordinates = auditing.SeriesCoordinates(compared, parallel.resolve(mesh))
    measured = auditing.measure(subject, chosen, mesh, coordinates=coordinates)
    metrics = auditing.describe(subject, measured, chosen, seed, mesh, coordinates)
    for name, one in added.items():
        metrics["series"][name]["kind"] = kind_of(one)
    if studies.giveaway.asked(asked):
        compared = {name: networks for name, networks in subject.generated.items() if name not in subject.controls}
        estimation = studies.Estimation(chosen.bootstrap, seed, parallel.resolve(mesh))
        of = Architecture(trained.spec, evaluators.net_of(evaluate))
        told = studies.giveaway.tell_apart(subject.train, null, compared, of, asked, estimation)
        metrics["studies"] = {"giveaway": {"study": "giveaway", **told}}
    metrics["versions"] = provenance.versions()
    return AuditResult(metrics, measured, subject, evaluators.examples(evaluate, trained), seed, chosen.bootstrap)


def _giveaway(asked: bool | Mapping[str, Any]) -> studies.giveaway.GiveawaySettings:
    """The settings of what gives networks away; `repeats` is 0 where it is not asked for."""
    if isinstance(asked, bool):
        asked = {} if asked else {"repeats": 0}
    if not isinstance(asked, Mapping):
        raise UserError(f"giveaway is {asked!r}; give True, False, or settings by name, e.g. {{'repeats': 3}}.")
    return make(studies.giveaway.GiveawaySettings, {"repeats": _REPEATS, **asked}, "giveaway")


def _population(networks: Any, what: str, spec: WeightSpec | None, split: str = "") -> Population:
    """Networks from anywhere as a population of float32 weights, without runs where there is none.

    Args:
      networks: an array, a population, or the path of one.
      what: name of the networks in messages.
      spec: what a row means, where it is known.
      split: which split of a file is meant, where it has one.

    Raises:
      UserError: another shape, values that are no finite numbers, or another size than the spec's.
    """
    if sources.is_path(networks):
        networks = sources.networks(networks, what, spec, split)
    if isinstance(networks, Population):
        if not len(networks):
            raise UserError(f"{what} is empty: it has no rows. Give at least one weight vector.")
        weights = array_checks.narrow(np.asarray(networks.weights[:]), what)
        found = dataclasses.replace(networks, weights=weights)
        found = found if spec is None else dataclasses.replace(found, spec=spec)
    else:
        array = array_checks.as_array(networks, what)
        if array.ndim != 2 or 0 in array.shape:
            raise UserError(f"{what} has shape {array.shape}; give [N, P]: one flat weight vector per row.")
        known = spec is not None and spec.num_params == array.shape[1]
        found = population.from_array(array, what, spec if known else None)
        found = dataclasses.replace(found, records={**found.records, "run": np.full(len(found), -1)})
    size = found.weights.shape[1]
    if spec is not None and spec.num_params != size:
        raise UserError(f"{what} has {size:,} parameters per network, but spec describes {spec.num_params:,}.")
    population.check_finite(found.weights, what)
    return found


def _with_runs(networks: Population, first: int = 0) -> Population:
    """The population with its runs numbered from `first`; rows without a run are runs of their own."""
    run = networks.records["run"]
    run = np.where(run >= 0, run, run.max(initial=0) + 1 + np.arange(len(run)))
    run = first + np.unique(run, return_inverse=True)[1].reshape(-1)
    return dataclasses.replace(networks, records={**networks.records, "run": run})


def _training(train: Any, spec: WeightSpec | None) -> Population:
    found = _population(train, "train", spec, population.TRAIN)
    if (found.records["split"] == population.HELDOUT).any():
        raise UserError("train holds networks of the held-out split. Give the training split alone, e.g. zoo.train.")
    if len(found) < 2:
        raise UserError("train has one row, but training networks are compared with one another; give at least two.")
    return found if (found.records["run"] >= 0).all() else _with_runs(found)


def _null(heldout: Any, train: Population, seed: int) -> tuple[Population, Population | None]:
    """One held-out network per run, and all of their checkpoints where there are more."""
    named = train.spec if sources.is_path(heldout) and len(train.spec.leaves) > 1 else None
    found = given = _population(heldout, "heldout", named, population.HELDOUT)
    _check_size(found, "heldout", train)
    found = _with_runs(dataclasses.replace(found, spec=train.spec), 1 + int(train.records["run"].max()))
    _refuse_common_runs(given, train)
    runs, steps = found.records["run"], train.records["step"]
    rows = np.flatnonzero(population.last_checkpoints(found.records))
    if len(rows) < len(found) and steps.min() < steps.max():
        rows = auditing.at_training_steps(found.records, steps, seed)
    if len(rows) < MIN_HELDOUT:
        kind = "rows" if len(rows) == len(runs) else "runs"
        raise UserError(
            f"heldout has {len(rows)} {kind}, but an audit needs at least {MIN_HELDOUT}: they show how far networks of "
            "independent training are from the training networks, and half of them are judged against the other half."
        )
    copies = np.flatnonzero(twins.equal_weights(found.weights, train.weights, train.spec))
    if copies.size:
        raise UserError(
            f"heldout has {len(copies)} networks that are in train (first: row {copies[0]}). Held-out networks have to "
            "be new to the generator."
        )
    return found.select(rows), found if len(rows) < len(found) else None


def _refuse_common_runs(heldout: Population, train: Population) -> None:
    """Raises `UserError` for checkpoints of one run on both sides. Runs are known by number and seed."""

    def known(networks: Population) -> set[tuple[int, int]]:
        pairs = zip(networks.records["run"].tolist(), networks.records["seed"].tolist(), strict=True)
        return {(run, seed) for run, seed in pairs if run >= 0 and seed >= 0}

    both = sorted(known(heldout) & known(train))
    if both:
        raise UserError(
            f"train and heldout have checkpoints of {len(both)} common runs (first: run {both[0][0]}, seed "
            f"{both[0][1]}). Hold out whole runs, e.g. zoo.heldout; where these are runs of different zoos, number "
            "them differently."
        )


def _series(generated: Any, train: Population) -> dict[str, Population]:
    """The given series by name."""
    several = isinstance(generated, Mapping)
    given: Mapping[Any, Any] = generated if several else {GENERATED: generated}
    if not given:
        raise UserError("generated is empty; give at least one series of networks.")
    found = {}
    for name, networks in given.items():
        if not isinstance(name, str) or not name:
            raise UserError(f"generated has a series {name!r}; name series by text.")
        what = f'generated["{name}"]' if several else "generated"
        one = _population(
            networks, what, train.spec if sources.is_path(networks) and len(train.spec.leaves) > 1 else None
        )
        _check_size(one, what, train)
        found[name] = dataclasses.replace(one, spec=train.spec)
    return found


def _check_size(networks: Population, what: str, train: Population) -> None:
    ours, theirs = networks.weights.shape[1], train.weights.shape[1]
    if ours != theirs:
        raise UserError(
            f"{what} has {ours:,} parameters per network, train has {theirs:,}. Only networks of one architecture can "
            "be compared."
        )


def _added(baselines: bool | Iterable[str], controls: bool, train: Population) -> dict[str, Baseline]:
    """Generators of the baselines that are asked for, and of the controls, by series."""
    if isinstance(baselines, str) or not isinstance(baselines, (bool, Iterable)):
        raise UserError(f"baselines is {baselines!r}; give True, False, or a list of {', '.join(BASELINES)}.")
    every = [name for name in BASELINES if train.spec.groups or name not in ALIGNED]
    names = (every if baselines else ()) if isinstance(baselines, bool) else tuple(baselines)
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise UserError(f"There is no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}.")
    spread = float(np.sqrt(train.weights.var(axis=0, dtype=np.float64).mean()))
    noise = {name: Noise(name=name, sigma=share * spread) for name, share in NOISE.items()}
    known: dict[str, Baseline] = {
        **noise,
        "average": Average(k=min(_AVERAGED, len(train))),
        "interpolation": Interpolation(),
        "gaussian": Gaussian(),
        "pca_gaussian": PCAGaussian(),
        "aligned_interpolation": AlignedInterpolation(),
        "soup": Soup(k=min(_AVERAGED, len(train))),
        "copy": Copy(),
        "permuted_copy": Copy(name="permuted_copy", permute=True),
        "rescaled_copy": Copy(name="rescaled_copy", rescale=True),
        "sign_flipped_copy": Copy(name="sign_flipped_copy", flip=True),
    }
    copies = symmetry.applicable(CONTROLS, train.spec) if controls else []
    return {name: known[name] for name in (*names, *copies)}


def _draw(generator: Baseline, train: Population, count: int, seed: int) -> Population:
    """Networks of a baseline or control; they do not depend on which others there are."""
    number = (*BASELINES, *CONTROLS).index(generator.name)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), count)
    drawn = generators.sampler(generator)(generator.fit(train), keys)
    return train.derive(np.asarray(drawn.weights), np.asarray(drawn.parents), generator.name)
