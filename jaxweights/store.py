"""Populations on disk: `.npy` chunk files and a JSON index; and training states, through Orbax."""

from __future__ import annotations

import bisect
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np

from jaxweights import files
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

FORMAT = "jaxweights-population"
VERSION = 1
INDEX = "index.json"


class LazyWeights:
    """`[N, P]` float32 rows that stay on disk until they are asked for; slices and index arrays give numpy arrays."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, chunks: list[np.ndarray], num_params: int):
        self._chunks = chunks
        self._starts = np.cumsum([0] + [len(c) for c in chunks])
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
            out[here] = self._chunks[chunk][rows[here] - self._starts[chunk]]
        return out

    def _range(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((max(stop - start, 0), self.shape[1]), np.float32)
        position = start
        while position < stop:
            chunk = bisect.bisect_right(self._starts, position) - 1
            local = position - int(self._starts[chunk])
            count = min(stop - position, len(self._chunks[chunk]) - local)
            out[position - start : position - start + count] = self._chunks[chunk][local : local + count]
            position += count
        return out


class LazyRows:
    """Some rows `[N, P]` of lazy weights, in an order of their own; still on disk."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, weights: LazyWeights, rows: np.ndarray):
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
        cure = (
            "Run the program that makes it (launch.train_zoo or launch.sample), or remove a folder that is not yours."
        )
        index = files.read_json(path / INDEX, "population index", cure)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise UserError(f"{path / INDEX} is not a population index of jaxweights. {cure}")
        if index.get("version") != VERSION:
            raise UserError(
                f"{path / INDEX} has format version {index.get('version')}, but this program reads version "
                f"{VERSION}. Use the "
                "jaxweights version that wrote it, or remove the folder and run again."
            )
        if drop_missing:
            kept = [c for c in index["chunks"] if all((path / c[k]["file"]).exists() for k in ("weights", "records"))]
            if len(kept) < len(index["chunks"]):
                index.update(chunks=kept, complete=False)
        store = cls(path, index)
        for chunk in index["chunks"]:
            for part in ("weights", "records"):
                store._check_size(chunk[part])
        return store

    def _check_size(self, entry: Mapping[str, Any]) -> None:
        file = self.path / entry["file"]
        size = file.stat().st_size if file.exists() else None
        if size != entry["bytes"]:
            state = (
                "is missing"
                if size is None
                else f"has {size} bytes instead of {entry['bytes']}: it is truncated or foreign"
            )
            raise UserError(f"{file} {state}. Delete it and run the same command again: only this chunk is made anew.")

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
        chunks = sorted(self._index["chunks"] + [entry], key=lambda c: c["id"])
        files.write_json(self.path / INDEX, {**self._index, "chunks": chunks})
        self._index["chunks"] = chunks
        self._records = None

    def finish(self) -> None:
        """Marks the store complete."""
        self._index["complete"] = True
        files.write_json(self.path / INDEX, self._index)

    @property
    def weights(self) -> LazyWeights:
        """All rows, memory-mapped."""
        maps = [np.load(self.path / c["weights"]["file"], mmap_mode="r") for c in self._index["chunks"]]
        return LazyWeights(maps, self.spec.num_params)

    @property
    def records(self) -> dict[str, np.ndarray]:
        """All columns, in memory."""
        if self._records is None:
            parts = []
            for chunk in self._index["chunks"]:
                with np.load(self.path / chunk["records"]["file"], allow_pickle=False) as archive:
                    parts.append({name: archive[name] for name in archive.files})
            names = parts[0] if parts else {}
            self._records = {name: np.concatenate([p[name] for p in parts]) for name in names}
        return self._records

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
          UserError: a file was changed since it was written.
        """
        for chunk in self._index["chunks"]:
            for part in ("weights", "records"):
                file = self.path / chunk[part]["file"]
                if files.sha256(file) != chunk[part]["sha256"]:
                    raise UserError(
                        f"{file} does not match its checksum: it was changed or damaged after it was written. Delete "
                        "it and "
                        "run the same command again: only this chunk is made anew."
                    )


class Checkpoints:
    """Training states of one fit, kept by Orbax; the only place that knows its API.

    Orbax writes into a temporary folder and renames it, so a killed process leaves the last whole checkpoint.
    """

    def __init__(self, path: pathlib.Path | str, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        path = files.make_dir(path).resolve()
        self._manager = ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(max_to_keep=keep))

    def latest_step(self) -> int | None:
        """The newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a pytree of arrays, in the background; the arrays may be donated at once."""
        self._manager.save(step, args=self._ocp.args.StandardSave(state))

    def restore(self, step: int, like: Any) -> Any:
        """Reads a checkpoint into the shapes, dtypes and shardings of `like` (arrays or `jax.ShapeDtypeStruct`).

        Raises:
          UserError: the checkpoint does not fit `like` or is damaged.
        """
        try:
            return self._manager.restore(step, args=self._ocp.args.StandardRestore(like))
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise UserError(
                f"The checkpoint of step {step} in {self._manager.directory} cannot be restored: it is damaged or "
                "belongs to "
                f"another model ({str(error).splitlines()[0][:200]}). Remove that folder and run again."
            ) from error

    def close(self) -> None:
        """Waits for writes under way."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()
