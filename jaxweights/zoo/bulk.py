"""Bulk training: a zoo chunk by chunk into a store, with progress, evaluation of every snapshot, and resume."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, parallel, population, processes, progress, traces
from jaxweights.data import Dataset, standardise
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation, Evaluator
from jaxweights.population import Population
from jaxweights.store import INDEX, PopulationStore
from jaxweights.zoo import widths
from jaxweights.zoo.recipe import Recipe
from jaxweights.zoo.trainer import Trainer, trainer_of

BASE = "base.npz"
"""What a population of partial networks keeps beside its chunks: the base that they are put into."""

_DISPATCH_SECONDS = 1.5  # steps per dispatch are chosen so that the bar moves about this often
_LONG_SECONDS = 20.0  # of training, after which the advice on devices is given
_CHUNK_BYTES = 256 << 20  # snapshots of one chunk in memory
_CHUNK_RUNS = 1024
_SLOTS = 16  # snapshots of a run per dispatch


@overload
def train_zoo(
    net: nets.TaskNet,
    recipe: Recipe,
    dataset: Dataset,
    mesh: Mesh | None = None,
    *,
    path: None = None,
    seed: int = 0,
    num_runs: int | None = None,
    num_heldout: int | None = None,
    chunk_size: int | None = None,
    lanes: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    evaluate: Callable[[np.ndarray], Evaluation] | None = None,
) -> Population: ...
@overload
def train_zoo(
    net: nets.TaskNet,
    recipe: Recipe,
    dataset: Dataset,
    mesh: Mesh | None = None,
    *,
    path: pathlib.Path | str,
    seed: int = 0,
    num_runs: int | None = None,
    num_heldout: int | None = None,
    chunk_size: int | None = None,
    lanes: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    evaluate: Callable[[np.ndarray], Evaluation] | None = None,
) -> PopulationStore: ...
def train_zoo(
    net: nets.TaskNet,
    recipe: Recipe,
    dataset: Dataset,
    mesh: Mesh | None = None,
    *,
    path: pathlib.Path | str | None = None,
    seed: int = 0,
    num_runs: int | None = None,
    num_heldout: int | None = None,
    chunk_size: int | None = None,
    lanes: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    evaluate: Callable[[np.ndarray], Evaluation] | None = None,
) -> PopulationStore | Population:
    """Trains runs `0 ... num_runs + num_heldout - 1` and keeps every snapshot; the last `num_heldout` runs are held
    out.

    Chunks that the store already has are not trained again, and the others come out bit for bit as in an uninterrupted
    call. Where all runs start from the last weights of run 0, that one is trained first. Runs with a non-finite weight
    or loss, or a weight above the recipe's limit, at any snapshot get the split "diverged".

    Args:
      net: task network, with its task; a `nets.PartialNet` for runs that start from a base, which is then kept beside
        the chunks.
      recipe: training of each run.
      dataset: training and test examples; loss and accuracy in the records are those of the test examples. For fields
        the signals, one per run, and the points of `evaluate`.
      mesh: devices, all by default.
      path: folder of the store; created, or resumed, and filled by all processes of a job. None to keep everything in
        memory, of every process.
      seed: random seed of the zoo.
      num_runs: runs of the training split; the recipe's by default, and so are the next three.
      num_heldout: runs of the held-out split.
      chunk_size: runs per chunk, 0 to choose by memory; rounded up to whole lanes and devices.
      lanes: models per vmap, 0 to choose by network and backend, on a CPU by a measurement where training takes more
        than a minute, see `widths.chosen`.
      provenance: JSON data to keep with the store.
      evaluate: evaluation of weights `[N, P]` on the test examples, such as an `evaluation.Evaluator` that is
        shared with other stages.

    Returns:
      The complete store; without a path the population of all snapshots, with the same rows and records, and with its
      evaluator.

    Raises:
      UserError: a recipe or a data set that this network cannot be trained with.
    """
    settings = recipe.settings
    trained: int = settings.num_runs if num_runs is None else num_runs
    total: int = trained + (settings.num_heldout if num_heldout is None else num_heldout)
    chunk: int = settings.chunk_size if chunk_size is None else chunk_size
    width: int = settings.lanes if lanes is None else lanes
    program = net.task.program(net, recipe, dataset.num_examples)
    program.check(dataset, total)
    mesh = parallel.make_mesh() if mesh is None else mesh
    path = None if path is None else pathlib.Path(path)
    store: PopulationStore | _Memory | None = None
    with processes.in_turn("zoo"):
        if path is not None and (path / INDEX).exists():
            store = PopulationStore.open(path, drop_missing=True)
            # Chunks and lanes of the first call, whatever machine this one runs on.
            chunk, width = store.provenance["chunk_size"], store.provenance["lanes"]
        trainer = trainer_of(program, mesh, width)
        if store is None:
            if path is not None or processes.count() == 1:  # else processes that keep all in memory might disagree
                trainer = widths.chosen(trainer, dataset, total)
            trainer, chunk = in_chunks(trainer, total, chunk, 1 if path is None else processes.count())
            if path is None:
                store = _Memory()
            else:
                facts = {**(provenance or {}), "chunk_size": chunk, "lanes": trainer.width}
                store = PopulationStore.create(path, net.spec, facts)
        if path is not None and isinstance(net, nets.PartialNet) and not (path / BASE).exists():
            net.save(path / BASE)
    missing = _missing(store, -(-total // chunk))
    if missing:
        if evaluate is None:
            images = np.asarray(standardise(dataset.test_images, dataset.scale, dataset.shift))
            evaluate = Evaluator(net, images, dataset.test_labels, mesh)
        _train_missing(trainer, dataset, seed, (trained, total, chunk), store, missing, evaluate)
    if not store.complete:
        store.finish()
        records = store.records
        diverged = np.unique(records["run"][records["split"] == population.DIVERGED])
        if len(diverged):
            names = ", ".join(str(r) for r in diverged[:5])
            message = f"zoo: {len(diverged)} of {total} runs diverged and are in no split (first: {names})"
            print(message, file=sys.stderr)
    if isinstance(store, PopulationStore):
        return store
    return dataclasses.replace(store.read(), evaluator=evaluate)


def _missing(store: PopulationStore | _Memory, chunks: int) -> list[int]:
    """The chunks that this process has to train."""
    if isinstance(store, _Memory):
        return list(range(chunks))
    if not store.complete:
        store.collect()
    missing = [c for c in range(chunks) if c not in store.chunk_ids]
    return dealt(missing, processes.index(), processes.count())


def dealt(missing: list[int], part: int, parts: int) -> list[int]:
    """The chunks that a process trains of those that are missing."""
    return missing[part::parts]


class _Memory:
    """Chunks that are kept in memory, as a store keeps them in a folder."""

    def __init__(self):
        self._chunks: dict[int, Population] = {}
        self.complete = False

    @property
    def chunk_ids(self) -> set[int]:
        return set(self._chunks)

    @property
    def records(self) -> Mapping[str, np.ndarray]:
        return self.read().records

    @property
    def weights(self) -> np.ndarray:
        return self.read().weights

    def append(self, chunk: int, rows: Population) -> None:
        self._chunks[chunk] = rows

    def finish(self) -> None:
        self.complete = True

    def read(self) -> Population:
        parts = [self._chunks[c] for c in sorted(self._chunks)]
        records = {k: np.concatenate([p.records[k] for p in parts]) for k in parts[0].records}
        return Population(np.concatenate([p.weights for p in parts]), parts[0].spec, records)


def _train_missing(trainer: Trainer, dataset: Dataset, seed: int, sizes, store, missing, evaluate) -> None:
    """Trains and stores the missing ones among the chunks of a zoo; `sizes` are its training runs, all runs, and the
    runs of a chunk."""
    recipe, (num_runs, total, chunk) = trainer.recipe, sizes
    data = trainer.load(dataset)
    runs_to_do = sum(min(chunk, total - c * chunk) for c in missing)
    first = None
    if recipe.start == "first_weights" and 0 not in store.chunk_ids:  # run 0 is trained alone, and again with its chunk
        with progress.Progress(recipe.snapshots[-1], "zoo (run 0, where all start)", "steps") as bar:
            first = train_chunk(trainer, data, seed, np.arange(1), bar, 0)[0][0, -1]
    elif recipe.start == "first_weights":
        first = np.asarray(store.weights[:1])[0]
    if first is not None and not np.isfinite(first).all():
        raise UserError(
            "Run 0, from whose last weights all others would start, diverged. Set zoo.learning_rate lower, or "
            "zoo.start to own."
        )
    with progress.Progress(runs_to_do * recipe.snapshots[-1], f"zoo ({runs_to_do} runs)", "steps") as bar:
        done = 0
        for c in missing:
            runs = np.arange(c * chunk, min((c + 1) * chunk, total))
            trained = train_chunk(trainer, data, seed, runs, bar, done, first)
            done += len(runs) * recipe.snapshots[-1]
            store.append(c, _records(trainer.net, seed, runs, num_runs, trained, recipe, evaluate))


def runs_in_memory(num_params: int, num_snapshots: int, total: int) -> int:
    """Runs per chunk, before rounding up to whole lanes and devices, that keep a chunk's snapshots in bounds."""
    return min(total, max(1, min(_CHUNK_RUNS, _CHUNK_BYTES // (4 * num_params * num_snapshots))))


def in_chunks(trainer: Trainer, total: int, wanted: int, parts: int) -> tuple[Trainer, int]:
    """How a new zoo is trained.

    Args:
      trainer: of its program and devices.
      total: all runs.
      wanted: runs per chunk, 0 to choose by memory.
      parts: processes that the chunks are dealt out to.

    Returns:
      The trainer, with the lanes of these runs, and the runs of a chunk.
    """
    accelerator = trainer.mesh.devices.flat[0].platform != "cpu"
    if (trainer.recipe.start == "base" or accelerator) and not trainer.lanes:  # lanes that no run fills cost as much
        lanes = min(trainer.width, -(-total // trainer.mesh.size))
        trainer = trainer_of(trainer.program, trainer.mesh, lanes)
    limit = runs_in_memory(trainer.net.spec.num_params, trainer.recipe.num_snapshots, -(-total // parts))
    limit = min(limit, max(1, _CHUNK_BYTES // max(trainer.program.run_bytes, 1)))
    limit = min(wanted or limit, total)
    return trainer, -(-limit // trainer.group) * trainer.group


def train_chunk(trainer: Trainer, data, seed: int, runs: np.ndarray, bar, done: int, first=None, chosen=None):
    """Trains one chunk.

    Args:
      trainer: of the zoo.
      data: from its `load`.
      seed: random seed of the zoo.
      runs: `[R]` run ids.
      bar: progress in steps of one run.
      done: steps before this chunk.
      first: weights to start from, see `Trainer.init`.
      chosen: values `[R]` of hyper-parameters by name; the others are drawn.

    Returns:
      Its snapshots `[R, S, P]`, their steps `[R, S]`, the hyper-parameters and other columns of its records.
    """
    recipe = trainer.recipe
    padded = np.asarray(parallel.pad_rows(runs, trainer.group))
    chosen = {name: np.asarray(parallel.pad_rows(values, trainer.group)) for name, values in (chosen or {}).items()}
    state = trainer.init(seed, padded, first, chosen)
    data = trainer.select(data, padded)
    hyper = {k: np.asarray(v)[: len(runs)] for k, v in state.hyper.items()}
    steps = trainer.snapshot_steps(seed, padded)
    out = np.empty((len(runs), recipe.num_snapshots, trainer.net.spec.num_params), np.float32)
    slots = min(recipe.num_snapshots, _SLOTS, max(1, _CHUNK_BYTES // (4 * trainer.net.spec.num_params * len(padded))))
    step, per_dispatch = 0, min(recipe.steps, 8)
    taken = np.zeros(len(padded), int)  # snapshots of each run so far
    while (taken < recipe.num_snapshots).any():
        stop, bounds, count = _next_bounds(steps, taken, step, step + per_dispatch, slots)
        begin = time.monotonic()
        with traces.moment("zoo"):
            state, snapshots = trainer.advance(state, data, bounds if recipe.random_snapshots else bounds[0])
            jax.block_until_ready(state.words)
        if count.any():
            kept = np.asarray(snapshots)
            for r in range(len(runs)):
                out[r, taken[r] : taken[r] + count[r]] = kept[r, : count[r]]
            taken += count
        seconds = time.monotonic() - begin
        if stop > step:
            rate = (stop - step) / max(seconds, 1e-6)
            per_dispatch = int(np.clip(rate * _DISPATCH_SECONDS, per_dispatch / 2, 16 * per_dispatch)) or 1
            models = rate * len(runs) / recipe.snapshots[-1]
            bar.update(done + len(runs) * stop, f"{progress.human(models)} models/s")
        if bar.seconds > _LONG_SECONDS:
            parallel.advise()
        step = stop
    return out, steps[: len(runs)], hyper, trainer.columns(state, data, out[:, -1])


def _next_bounds(steps: np.ndarray, taken: np.ndarray, start: int, stop: int, slots: int):
    """Bounds of the next dispatch, which ends where the first run has filled its slots, if not at `stop`.

    Args:
      steps: `[R, S]`, ascending, of all snapshots.
      taken: `[R]`, how many of them each run has behind it.
      start: step where the dispatch begins.
      stop: step where it ends at the latest.
      slots: snapshots that a run can keep in one dispatch.

    Returns:
      The step where it ends, bounds `[R, slots + 1]`, and the snapshots of each run within them `[R]`.
    """
    ahead = taken[:, None] + np.arange(slots)[None, :]
    due = np.take_along_axis(steps, np.minimum(ahead, steps.shape[1] - 1), axis=1)
    ahead = ahead < steps.shape[1]
    stop = min(stop, steps[0, -1], *due[ahead[:, -1], -1])
    inside = ahead & (due <= stop)
    bounds = np.concatenate([np.full((len(steps), 1), start), np.where(inside, due, stop)], axis=1)
    return int(stop), bounds, inside.sum(axis=1)


def _kept(recipe: Recipe, seed: int, run: int, heldout: bool) -> np.ndarray:
    """`[S]` bool: which snapshots of a run the store keeps."""
    if not heldout or recipe.settings.kept_of_heldout() == "all":
        return np.ones(recipe.num_snapshots, bool)
    chosen = recipe.num_snapshots - 1
    if recipe.settings.kept_of_heldout() == "one":
        chosen = np.random.default_rng([seed, run]).integers(recipe.num_snapshots)
    return np.arange(recipe.num_snapshots) == chosen


def diverged_rows(rows: np.ndarray, result: Evaluation, recipe: Recipe) -> np.ndarray:
    """`[N]` bool: weights `[N, P]` with one that is not finite or above the recipe's limit, or whose loss is not
    finite."""
    return ~(np.isfinite(rows) & (np.abs(rows) <= recipe.largest_weight)).all(axis=1) | ~np.isfinite(result.loss)


def _records(net, seed, runs, num_runs, trained, recipe: Recipe, evaluate) -> Population:
    """Evaluates the snapshots of a chunk that are kept and lays them out run by run."""
    snapshots, steps, hyper, columns = trained
    kept = np.stack([_kept(recipe, seed, run, run >= num_runs) for run in runs])
    rows, count = snapshots[kept], kept.sum(axis=1)
    result = evaluate(rows)
    bad = diverged_rows(rows, result, recipe)
    diverged = np.logical_or.reduceat(bad, np.cumsum(count) - count)
    split = np.where(runs < num_runs, population.TRAIN, population.HELDOUT)
    split = np.where(diverged, population.DIVERGED, split)
    return Population.create(
        rows,
        net.spec,
        run=np.repeat(runs, count),
        seed=seed,
        split=np.repeat(split, count),
        loss=result.loss,
        accuracy=result.accuracy,
        transform="trained",
        **{"step": steps[kept], **columns},
        **{population.HYPER + k: np.repeat(v, count) for k, v in hyper.items()},
    )
