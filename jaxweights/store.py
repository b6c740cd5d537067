"""Populations on disk: `.npy` chunk files and a JSON index.

A process compares every file with its checksum before it reads it for the first time, which takes as long as SHA-256 of
the file: 0.8 s per GB on one CPU core.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from jaxweights import files, processes
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

FORMAT = "jaxweights-population"
VERSION = 1
INDEX = "index.json"

_ENTRY = "entry-"  # names of files that say what is in a chunk that the index does not name yet
_FILE = {"file": str, "bytes": int, "sha256": str}
_SHAPE = {
    "format": str,
    "version": int,
    "spec": dict,
    "provenance": dict,
    "complete": bool,
    "chunks": [{"id": int, "rows": int, "weights": _FILE, "records": _FILE}],
}
_VERIFIED: set[tuple[Any, ...]] = set()  # files, as they are now, that this process knows to be as they were written


class LazyWeights:
    """`[N, P]` float32 rows that stay on disk until they are asked for; slices and index arrays give numpy arrays."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, rows: Sequence[int], chunk: Callable[[int], np.ndarray], num_params: int):
        """Weights in chunks of so many rows each, of which `chunk` opens the one of that number."""
        self._chunk = chunk
        self._starts = np.cumsum([0, *rows])
        self.shape = (int(self._starts[-1]), num_params)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                return self._range(start, stop)
            rows = np.arange(start, stop, step)
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        if rows.ndim == 0:
            return self._range(int(rows) % len(self), int(rows) % len(self) + 1)[0]
        out = np.empty(rows.shape + self.shape[1:], np.float32)
        which = np.searchsorted(self._starts, rows, side="right") - 1
        for chunk in np.unique(which):
            here = which == chunk
            out[here] = self._chunk(int(chunk))[rows[here] - self._starts[chunk]]
        return out

    def _range(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((max(stop - start, 0), self.shape[1]), np.float32)
        position = start
        while position < stop:
            number = bisect.bisect_right(self._starts, position) - 1
            chunk, local = self._chunk(number), position - int(self._starts[number])
            count = min(stop - position, len(chunk) - local)
            out[position - start : position - start + count] = chunk[local : local + count]
            position += count
        return out


class LazyRows:
    """Some rows `[N, P]` of weights, in an order of their own; they stay where they are, e.g. on disk."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, weights: LazyWeights | LazyRows | np.ndarray, rows: np.ndarray):
        self._weights, self._rows = weights, np.asarray(rows)
        self.shape = (len(self._rows), weights.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows) -> np.ndarray:
        return self._weights[self._rows[rows]]


class PopulationStore:
    """A population on disk that grows chunk by chunk and is read lazily.

    A chunk is a weights file and a records file, both written whole before the index names them; a process killed at
    any moment leaves either a chunk in the index or a chunk that the next writer overwrites.
    """

    def __init__(self, path: pathlib.Path, index: dict[str, Any]):
        self.path = path
        self._index = index
        self.spec = WeightSpec.from_json(index["spec"])
        self.provenance: Mapping[str, Any] = index["provenance"]
        self._records: dict[str, np.ndarray] | None = None
        self._opened: dict[int, np.ndarray] = {}  # weights of chunks by id
        self._dropped = False  # whether the index on disk names chunks that are gone

    @classmethod
    def create(cls, path: pathlib.Path | str, spec: WeightSpec, provenance: Mapping[str, Any]) -> PopulationStore:
        """Starts an empty store; `provenance` is any JSON data on how the rows came to be (config, versions, revision).

        Raises:
          UserError: the folder cannot be written or already holds a store.
        """
        path = files.make_dir(path)
        if (path / INDEX).exists():
            raise UserError(f"{path} already holds a population. Open it, or choose another folder.")
        index = {
            "format": FORMAT,
            "version": VERSION,
            "spec": spec.to_json(),
            "provenance": dict(provenance),
            "complete": False,
            "chunks": [],
        }
        files.write_json(path / INDEX, index)
        return cls(path, index)

    @classmethod
    def open(cls, path: pathlib.Path | str, *, drop_missing: bool = False) -> PopulationStore:
        """Opens a store and checks that every chunk file is there and of the right size.

        Args:
          path: the folder.
          drop_missing: forget chunks whose files were deleted, so that a writer can make them again.

        Raises:
          UserError: no store, another format or version, or a truncated or foreign file; the message names it and the
            cure.
        """
        path = pathlib.Path(path)
        if not (path / INDEX).exists():
            raise UserError(
                f"There is no population index at {path / INDEX}. Run the program that makes it (launch.train_zoo or "
                "launch.sample), or choose another folder."
            )
        cure = f"Remove the folder {path} and run the same command again: it is made anew."
        what = "population index of jaxweights"
        index = files.read_json(path / INDEX, what, cure, {"format": str, "version": int})
        if index["format"] != FORMAT:
            raise UserError(f"{path / INDEX} is not a {what}. {cure}")
        if index["version"] != VERSION:
            raise UserError(
                f"{path / INDEX} has format version {index['version']}, but this program reads version {VERSION}. "
                "Use the jaxweights version that wrote it, or remove the folder and run again."
            )
        index = files.read_json(path / INDEX, what, cure, _SHAPE)
        named = len(index["chunks"])
        if drop_missing:
            kept = [c for c in index["chunks"] if all((path / c[k]["file"]).exists() for k in ("weights", "records"))]
            if len(kept) < named:
                index.update(chunks=kept, complete=False)
        try:
            store = cls(path, index)
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(f"The spec in {path / INDEX} is damaged ({error}). {cure}") from error
        store._refuse_damaged(_size_problem)
        store._dropped = len(index["chunks"]) < named
        return store

    def _refuse_damaged(self, problem: Callable[[pathlib.Path, Mapping[str, Any]], str | None]) -> None:
        """Raises `UserError` with every file that has a problem."""
        entries = [c[part] for c in self._index["chunks"] for part in ("weights", "records")]
        found = [(self.path / e["file"], why) for e in entries if (why := problem(self.path / e["file"], e))]
        if found:
            them, chunks = ("it", "only this chunk is") if len(found) == 1 else ("them", "only these chunks are")
            raise UserError(
                f"{'; '.join(f'{file} {why}' for file, why in found)}. Delete {them} and run the same command again: "
                f"{chunks} made anew."
            )

    @property
    def complete(self) -> bool:
        """Whether the writer has said that nothing more will come."""
        return self._index["complete"]

    @property
    def chunk_ids(self) -> set[int]:
        """Ids of the chunks that are whole on disk."""
        return {c["id"] for c in self._index["chunks"]}

    def __len__(self) -> int:
        return sum(c["rows"] for c in self._index["chunks"])

    def append(self, chunk_id: int, population: Population) -> None:
        """Adds a chunk; ids may come in any order, and rows are read in the order of their ids.

        In a job of several processes each adds its own chunks, and the index names them after `collect`.

        Raises:
          ValueError: another spec, an id that is already there, or a store marked complete.
        """
        if population.spec != self.spec:
            raise ValueError("The chunk has another WeightSpec than the store.")
        if chunk_id in self.chunk_ids or self.complete:
            raise ValueError(f"Chunk {chunk_id} is already in the store, or the store is complete.")
        entry: dict[str, Any] = {"id": chunk_id, "rows": len(population)}
        parts = {
            "weights": (f"weights-{chunk_id:05d}.npy", lambda p: np.save(p, population.weights)),
            "records": (f"records-{chunk_id:05d}.npz", lambda p: np.savez(p, **dict[str, Any](population.records))),
        }
        for part, (name, write) in parts.items():
            with files.atomic(self.path / name) as temporary:
                write(temporary)
                size, digest = temporary.stat().st_size, files.sha256(temporary)
            entry[part] = {"file": name, "bytes": size, "sha256": digest}
            _VERIFIED.add(_state(self.path / name, digest))
        if processes.count() > 1:
            files.write_json(self.path / f"{_ENTRY}{chunk_id:05d}.json", entry)
        else:
            self._add([entry])

    def collect(self) -> None:
        """Names in the index the chunks that the processes of a job have written; all of them come here together."""
        processes.barrier(f"{self.path.name} is written")
        with processes.in_turn(f"chunks of {self.path.name}"):
            if processes.is_first():
                self._add_entries()
            else:
                self._index = PopulationStore.open(self.path)._index
                self._records = None
                self._opened.clear()

    def _add_entries(self) -> None:
        paths = sorted(self.path.glob(f"{_ENTRY}*.json"))
        cure = "Remove it and run the same command again: only this chunk is made anew."
        entries = [files.read_json(path, "entry of a chunk", cure, _SHAPE["chunks"][0]) for path in paths]
        known = self.chunk_ids
        self._add([entry for entry in entries if entry["id"] not in known and self._is_whole(entry)])
        for path in paths:
            path.unlink()

    def _is_whole(self, entry: Mapping[str, Any]) -> bool:
        return not any(_size_problem(self.path / entry[part]["file"], entry[part]) for part in ("weights", "records"))

    def _add(self, entries: list[dict[str, Any]]) -> None:
        if not entries and not self._dropped:
            return
        chunks = sorted(self._index["chunks"] + entries, key=lambda c: c["id"])
        files.write_json(self.path / INDEX, {**self._index, "chunks": chunks})
        self._index["chunks"] = chunks
        self._records, self._dropped = None, False
        for entry in entries:
            self._opened.pop(entry["id"], None)

    def finish(self) -> None:
        """Marks the store complete, with the chunks of all processes."""
        self.collect()
        self._index["complete"] = True
        with processes.in_turn(f"{self.path.name} is complete"):
            if processes.is_first():
                files.write_json(self.path / INDEX, self._index)

    @property
    def digest(self) -> str:
        """Checksum of all rows and what they mean; the same wherever and whenever the same rows were written."""
        parts = [(c["rows"], c["weights"]["sha256"], c["records"]["sha256"]) for c in self._index["chunks"]]
        return hashlib.sha256(json.dumps([self.spec.to_json(), parts]).encode()).hexdigest()

    @property
    def weights(self) -> LazyWeights:
        """All rows, memory-mapped; raises `UserError` where a chunk is damaged, once it is read."""
        return LazyWeights([c["rows"] for c in self._index["chunks"]], self._chunk, self.spec.num_params)

    def _chunk(self, number: int) -> np.ndarray:
        chunk = self._index["chunks"][number]
        if chunk["id"] not in self._opened:
            self._verify(chunk["weights"])
            weights = np.load(self.path / chunk["weights"]["file"], mmap_mode="r")
            self._check_rows(chunk, weights.shape, (chunk["rows"], self.spec.num_params))
            self._opened[chunk["id"]] = weights
        return self._opened[chunk["id"]]

    @property
    def records(self) -> dict[str, np.ndarray]:
        """All columns, in memory; raises `UserError` where a chunk is damaged."""
        if self._records is None:
            parts = []
            for chunk in self._index["chunks"]:
                self._verify(chunk["records"])
                with np.load(self.path / chunk["records"]["file"], allow_pickle=False) as archive:
                    parts.append({name: archive[name] for name in archive.files})
                for column in parts[-1].values():
                    self._check_rows(chunk, column.shape, (chunk["rows"],))
            names = parts[0] if parts else {}
            self._records = {name: np.concatenate([p[name] for p in parts]) for name in names}
        return self._records

    def _verify(self, entry: Mapping[str, Any]) -> None:
        if _checksum_problem(self.path / entry["file"], entry):
            self.verify()

    def _check_rows(self, chunk: Mapping[str, Any], shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
        if shape != expected:
            raise UserError(
                f"{self.path / INDEX} says that chunk {chunk['id']} has shape {expected}, but it has {shape}: the "
                f"index is damaged. Remove the folder {self.path} and run the same command again: it is made anew."
            )

    def read(self, rows: np.ndarray | slice = slice(None)) -> Population:
        """The chosen rows as a population in memory."""
        return Population(self.weights[rows], self.spec, {k: v[rows] for k, v in self.records.items()})

    def view(self, rows: np.ndarray) -> Population:
        """The chosen rows as a population whose weights stay on disk (`LazyRows`): for zoos larger than memory."""
        lazy = cast(np.ndarray, LazyRows(self.weights, rows))  # slices give arrays
        return Population(lazy, self.spec, {k: v[rows] for k, v in self.records.items()})

    def chunks(self) -> Iterator[tuple[int, Population]]:
        """One chunk after the other, in the order of their ids."""
        start = 0
        for chunk in self._index["chunks"]:
            yield chunk["id"], self.read(slice(start, start + chunk["rows"]))
            start += chunk["rows"]

    def verify(self) -> None:
        """Compares every file with its checksum.

        Raises:
          UserError: files were changed since they were written; names all of them.
        """
        self._refuse_damaged(_checksum_problem)


def _size_problem(file: pathlib.Path, entry: Mapping[str, Any]) -> str | None:
    """Why a file cannot be the one that was written, by its size."""
    if not file.is_file():
        return "is missing"
    size = file.stat().st_size
    return None if size == entry["bytes"] else f"has {size} bytes instead of {entry['bytes']}: truncated or foreign"


def _checksum_problem(file: pathlib.Path, entry: Mapping[str, Any]) -> str | None:
    """Why a file is not the one that was written; its content is read once per process."""
    if not file.is_file():
        return "is missing"
    state = _state(file, entry["sha256"])
    if state not in _VERIFIED:
        try:
            digest = files.sha256(file)
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"
        if digest != entry["sha256"]:
            return "does not match its checksum: it was changed or damaged after it was written"
        _VERIFIED.add(state)
    return None


def _state(file: pathlib.Path, digest: str) -> tuple[Any, ...]:
    found = file.stat()
    return str(file.resolve()), found.st_ino, found.st_size, found.st_mtime_ns, digest
