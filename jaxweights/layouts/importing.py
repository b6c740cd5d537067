"""Reads the networks of a plan into the store of a workdir, in parallel and chunk by chunk; the same call again
resumes."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxweights import files, progress, provenance
from jaxweights.errors import UserError
from jaxweights.layouts.base import Entry, Found, Reader
from jaxweights.layouts.plans import Plan
from jaxweights.layouts.tensors import Flattener
from jaxweights.population import HYPER, PROPERTY, Population
from jaxweights.store import INDEX, PopulationStore

ZOO, RUNS, SPEC, SKIPPED = "zoo", "runs.csv", "spec.json", "skipped_files.txt"
"""What a workdir holds afterwards: the networks, the identities of the runs, what a vector means, and what was left
out."""

_CHUNK_BYTES, _CHUNK_ROWS = 64 << 20, 4096
_THREADS = 8
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class _Job:
    """Reads one network; a text says why it cannot be used."""

    read: Reader
    flatten: Flattener

    def __call__(self, key: str) -> np.ndarray | str:
        try:
            return self.flatten(self.read(key))
        except UserError as error:
            return str(error)


def write(plan: Plan, workdir: pathlib.Path | str, *, skip_bad: bool = False) -> PopulationStore:
    """Reads the networks of a plan into the folder `zoo` of a workdir, or the rest of them.

    Args:
      plan: what to read.
      workdir: also gets `runs.csv` and `spec.json`, and with `skip_bad` a list of what was left out.
      skip_bad: whether to leave out networks that cannot be used.

    Returns:
      The complete store.

    Raises:
      UserError: networks that cannot be used, all of which are listed, and nothing is left of the import; a workdir
        with another zoo; or one that cannot be written.
    """
    workdir = files.make_dir(workdir)
    store = _open(plan, workdir / ZOO)
    if store.complete:
        return store
    try:
        bad = [*plan.found.bad, *_left_out(plan, store), *_read(plan, store, skip_bad)]
        if bad and not skip_bad:
            raise UserError(_refusal(plan, bad))
        if not len(store):
            raise UserError(
                f"None of the {len(plan.entries):,} networks of {plan.found.place} can be used: {bad[0][1]}."
            )
    except UserError:
        shutil.rmtree(workdir / ZOO, ignore_errors=True)
        raise
    files.write_text(workdir / RUNS, _runs(plan, store))
    files.write_json(workdir / SPEC, plan.architecture.spec.to_json())
    if bad:
        files.write_text(workdir / SKIPPED, "".join(f"{item}: {reason}\n" for item, reason in bad))
    store.finish()
    return store


def _open(plan: Plan, path: pathlib.Path) -> PopulationStore:
    if not (path / INDEX).exists():
        recipe = {k: v for k, v in dataclasses.asdict(plan.recipe).items() if k != "nets"}
        recipe["net"] = dict(plan.architecture.net)
        facts = {
            "stage": "import",
            "source": str(plan.found.place),
            "layout": plan.found.layout,
            "entries": plan.digest,
            "network": plan.architecture.title,
            "recipe": recipe,
            "taken_for": list(plan.notes),
            "versions": provenance.versions(),
        }
        return PopulationStore.create(path, plan.architecture.spec, facts)
    store = PopulationStore.open(path, drop_missing=True)
    if store.provenance.get("entries") != plan.digest:
        source = store.provenance.get("source", "a training")
        raise UserError(
            f"{path} holds another zoo (of {source}), or the same source was divided in another way. Remove that "
            "folder, or choose another --workdir."
        )
    files.remove_stale(path)
    return store


def _read(plan: Plan, store: PopulationStore, skip_bad: bool) -> list[tuple[str, str]]:
    """Adds the chunks that the store does not have; returns what cannot be used."""
    size = plan.architecture.spec.num_params
    missing = [(i, entries) for i, entries in enumerate(_chunks(plan)) if i not in store.chunk_ids]
    job = _Job(plan.found.read, Flattener(plan.shapes, plan.found.by_order))
    columns = _columns(plan)
    bad: list[tuple[str, str]] = []
    total, done = sum(len(entries) for _, entries in missing), 0
    with _mapping(plan.found) as mapped, progress.Progress(total, "importing", "networks") as bar:
        for chunk, entries in missing:
            vectors, kept = np.empty((len(entries), size), np.float32), []
            for number, found in enumerate(mapped(job, [entry.key for entry in entries])):
                if isinstance(found, str):
                    bad.append((entries[number].key, found))
                else:
                    vectors[len(kept)] = found
                    kept.append(entries[number])
                done += 1
                bar.update(done, f"{len(bad):,} bad" if bad else "")
            if kept and (skip_bad or not bad):
                records = {name: column(kept) for name, column in columns.items()}
                store.append(chunk, Population.create(vectors[: len(kept)], plan.architecture.spec, **records))
    return bad


def _chunks(plan: Plan) -> list[Sequence[Entry]]:
    """The networks of every chunk of the store."""
    count = int(np.clip(_CHUNK_BYTES // (4 * plan.architecture.spec.num_params), 1, _CHUNK_ROWS))
    return [plan.entries[start : start + count] for start in range(0, len(plan.entries), count)]


def _left_out(plan: Plan, store: PopulationStore) -> list[tuple[str, str]]:
    """Networks that a former call, which did not come to its end, has read and left out."""
    if not store.chunk_ids:
        return []
    records, numbers = store.records, plan.split.numbers
    there = set(zip(records["run"].tolist(), records["step"].tolist(), strict=True))
    read = [entry for i, entries in enumerate(_chunks(plan)) if i in store.chunk_ids for entry in entries]
    reason = "could not be used when the import began"
    return [(entry.key, reason) for entry in read if (numbers[entry.run], entry.step) not in there]


class _mapping:
    """Context of a function `map(job, keys)` that yields results in order, in threads where that helps."""

    def __init__(self, found: Found):
        self._threads = 1 if found.one_file else min(_THREADS, os.cpu_count() or 1)

    def __enter__(self) -> Callable[[_Job, Sequence[str]], Iterator[Any]]:
        self._pool = concurrent.futures.ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        return map if self._pool is None else self._pool.map  # type: ignore[return-value]

    def __exit__(self, *exception: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _columns(plan: Plan) -> dict[str, Callable[[Sequence[Entry]], np.ndarray]]:
    """Functions of networks that give the columns of their records, by name."""
    numbers, split = plan.split.numbers, plan.split.split
    found: dict[str, Callable[[Sequence[Entry]], np.ndarray]] = {
        "run": lambda rows: np.array([numbers[e.run] for e in rows], np.int64),
        "step": lambda rows: np.array([e.step for e in rows], np.int64),
        "seed": lambda rows: np.array([e.seed for e in rows], np.int64),
        "split": lambda rows: np.array([split[numbers[e.run]] for e in rows]),
        "accuracy": lambda rows: np.array([e.accuracy for e in rows], np.float64),
        "loss": lambda rows: np.array([e.loss for e in rows], np.float64),
        "transform": lambda rows: np.full(len(rows), "imported"),
    }
    kinds: dict[str, bool] = {}
    for entry in plan.entries:
        for name, value in entry.properties.items():
            kinds[name] = kinds.get(name, False) or isinstance(value, str)
    for name, is_text in kinds.items():
        column = name if name.startswith(HYPER) and not is_text else PROPERTY + name.removeprefix(HYPER)
        found[column] = _property(name, is_text)
    return found


def _property(name: str, is_text: bool) -> Callable[[Sequence[Entry]], np.ndarray]:
    if is_text:
        return lambda rows: np.array([str(e.properties.get(name, "")) for e in rows])
    return lambda rows: np.array([float(e.properties.get(name, np.nan)) for e in rows], np.float64)


def _runs(plan: Plan, store: PopulationStore) -> str:
    """The table of runs: number, identity, split, seed, checkpoints."""
    seeds = {entry.run: entry.seed for entry in plan.entries}
    counts = np.bincount(store.records["run"], minlength=len(plan.split.runs))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["run", "identity", "split", "seed", "checkpoints"])
    for number, (run, split) in enumerate(zip(plan.split.runs, plan.split.split, strict=True)):
        table.writerow([number, run, split, seeds[run], counts[number]])
    return text.getvalue()


def _refusal(plan: Plan, bad: Sequence[tuple[str, str]]) -> str:
    shown = "\n".join(f"    {item}: {reason}" for item, reason in bad[:_SHOWN])
    more = f"\n    and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    return (
        f"{len(bad):,} of {len(plan.entries):,} networks of {plan.found.place} cannot be used:\n{shown}{more}\n"
        "Repair or remove them, or leave them out with --skip_bad; nothing was written."
    )
