"""Training states on disk, through Orbax; the only place that knows its API."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxweights import files
from jaxweights.errors import UserError

CHECKSUMS = "checksums.json"  # of every file of every whole checkpoint
_TREE = "_METADATA"  # of the folder that a pytree is in
_SLACK = 1 << 18  # bytes of a checkpoint besides its arrays, at most, but for very many of them


class Checkpoints:
    """Training states of one fit, kept by Orbax.

    Orbax writes into a temporary folder and renames it, so a killed process leaves the last whole checkpoint. The files
    of a checkpoint are compared with their checksums before it is restored; this takes 0.8 s per GB.

    Where a job has several processes, all of them make the same calls with the same path, which all of them see. Each
    writes what its devices keep, and the first one the checksums. A checkpoint can be restored on other devices.
    """

    def __init__(self, path: pathlib.Path | str, keep: int = 2):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        self.path = files.make_dir(path).resolve()
        logging.getLogger("absl").addFilter(_not_of_orbax)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
        self._written: int | None = None  # a checkpoint that has no checksums yet
        self._first = jax.process_index() == 0
        try:
            self._manager = ocp.CheckpointManager(self.path, options=options, item_handlers=_handler(ocp))
        except Exception as error:  # a damaged checkpoint can raise nearly anything
            for step in self._checksums():
                self._verify(step)
            raise UserError(
                f"The checkpoints in {self.path} cannot be read ({_first_line(error)}). Remove that folder and run the "
                "same command again: this stage is trained anew."
            ) from error

    def latest_step(self) -> int | None:
        """The newest whole checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any) -> None:
        """Writes `state`, a pytree of arrays, in the background; the arrays may be donated at once.

        Raises:
          UserError: the disk is full, or an earlier checkpoint could not be written; the last whole one is kept.
        """
        self._keep_checksums(self._checksums(), without=step)  # of a checkpoint that was removed
        # Looked at first, since the threads of a failed write print what they stumble over.
        if shutil.disk_usage(self.path).free < sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SLACK:
            raise files.unwritable(self.path / str(step), OSError(errno.ENOSPC, "No space left on device"))
        try:
            self._manager.save(step, args=self._ocp.args.PyTreeSave(state))  # waits for the one before
        except Exception as error:
            raise self._unwritten(error) from error
        self._seal()
        self._written = step

    def _unwritten(self, error: Exception) -> Exception:
        """What to say when writing failed; Orbax and TensorStore have no exception of their own for it."""
        return files.unwritable(self.path, error) if isinstance(error, OSError) or "riting" in str(error) else error

    def _seal(self) -> None:
        """Keeps the checksums of the last checkpoint, which is whole by now."""
        if self._written is not None and self._first:
            folder = self.path / str(self._written)
            found = {str(file.relative_to(folder)): files.sha256(file) for file in _files(folder)}
            self._keep_checksums({**self._checksums(), folder.name: found})
        self._written = None

    def _checksums(self) -> dict[str, dict[str, str]]:
        path = self.path / CHECKSUMS
        cure = f"Remove {path} and run the same command again."
        return files.read_json(path, "table of checksums", cure, {str: {str: str}}) if path.exists() else {}

    def _keep_checksums(self, checksums: dict[str, dict[str, str]], without: int | None = None) -> None:
        if not self._first:
            return
        kept = {k: v for k, v in checksums.items() if k != str(without) and (self.path / k).exists()}
        if kept != self._checksums():
            files.write_json(self.path / CHECKSUMS, kept)

    def restore(self, step: int, like: Any) -> Any:
        """Reads a checkpoint into the shapes, dtypes and shardings of `like` (arrays or `jax.ShapeDtypeStruct`).

        Raises:
          UserError: the checkpoint does not fit `like`, or was changed since it was written.
        """
        self._verify(str(step))  # before Orbax sees it, whose threads print what they stumble over
        try:
            how = self._ocp.checkpoint_utils.construct_restore_args(like)
            return self._manager.restore(step, args=self._ocp.args.PyTreeRestore(like, restore_args=how))
        except Exception as error:  # a damaged checkpoint can raise nearly anything
            raise UserError(
                f"The checkpoint of step {step} in {self.path} cannot be restored: it is damaged or belongs to another "
                f"model ({_first_line(error)}). {self._cure(str(step))}"
            ) from error

    def _verify(self, step: str) -> None:
        """Raises `UserError` where a file of a checkpoint is not as it was written."""
        for name, digest in self._checksums().get(step, {}).items():
            file = self.path / step / name
            if self.path.joinpath(step).exists() and not (file.is_file() and files.sha256(file) == digest):
                raise UserError(
                    f"{file} does not match its checksum: the checkpoint was changed or damaged after it was written. "
                    f"{self._cure(step)}"
                )

    def _cure(self, step: str) -> str:
        return (
            f"Remove {self.path / step} and run the same command again: training goes on from the checkpoint before it."
        )

    def close(self) -> None:
        """Waits for writes under way.

        Raises:
          UserError: one of them failed.
        """
        try:
            self._manager.wait_until_finished()
            self._seal()
        except Exception as error:
            raise self._unwritten(error) from error
        finally:
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class NoCheckpoints(contextlib.AbstractContextManager):
    """In place of `Checkpoints` where nothing is kept on disk."""

    def latest_step(self) -> int | None:
        return None

    def save(self, step: int, state: Any) -> None:
        pass

    def restore(self, step: int, like: Any) -> Any:
        raise ValueError("There are no checkpoints.")

    def __exit__(self, *exception) -> None:
        pass


def _handler(ocp: Any) -> Any:
    """How arrays are written: each copy whole by the device that has the first. By default Orbax cuts every array into
    one part per device that has a copy, which takes longer than writing where arrays are many and small."""
    types = ocp.type_handlers
    registry = types.create_type_handler_registry(
        (jax.Array, types.ArrayHandler(use_replica_parallel=False)), (np.ndarray, types.NumpyHandler())
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


def _not_of_orbax(record: logging.LogRecord) -> bool:
    """Whether a message is not of Orbax, whose threads print the tracebacks of errors that reach the caller anyway."""
    return "orbax" not in record.pathname


def holds_tree(folder: pathlib.Path) -> bool:
    """Whether Orbax wrote a pytree to a folder."""
    return (folder / _TREE).is_file()


def read_tree(folder: pathlib.Path, largest: Callable[[int], int]) -> Any:
    """The pytree in a folder that Orbax wrote, its arrays NumPy's, with dicts and lists for what else it was made of.

    Args:
      folder: the folder.
      largest: bytes that its arrays may have, from those of its files.

    Raises:
      ValueError: it is damaged, or its arrays are larger.
    """
    import orbax.checkpoint as ocp
    from orbax.checkpoint import metadata

    def how(leaf: Any) -> Any:
        return ocp.RestoreArgs(restore_type=np.ndarray if isinstance(leaf, metadata.ArrayMetadata) else None)

    logging.getLogger("absl").addFilter(_not_of_orbax)
    try:
        reader = ocp.PyTreeCheckpointer()
        found: Any = reader.metadata(folder.resolve())
        tree = found.item_metadata.tree
        arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, metadata.ArrayMetadata)]
        needed = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in arrays)
        if needed > largest(sum(file.stat().st_size for file in _files(folder))):
            raise ValueError(f"its arrays are said to have {needed:,} bytes")
        return reader.restore(folder.resolve(), args=ocp.args.PyTreeRestore(restore_args=jax.tree.map(how, tree)))
    except Exception as error:  # a damaged checkpoint can raise nearly anything
        raise ValueError(_first_line(error)) from error
