"""Several processes that do one job together, each with devices of its own, under JAX's distributed runtime.

Every process runs the same program on the same workdir, which all of them see. Work on networks is dealt out by rows:
`map_rows`. Work on files is done by the first process before the others come: `in_turn`. Training of a generator is
one computation over all devices: `parallel.make_global_mesh`. With one process all of this costs nothing.

Of a process that ends or hangs, the runtime tells the others within `HEARTBEAT_SECONDS`, and they end too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pathlib
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxweights import files
from jaxweights.errors import UserError

HEARTBEAT_SECONDS = 30
"""Time after which a process that does not answer is taken for dead, and the job ends."""

_READING = "Where JAX ends this process over a leader task, or over a heartbeat, the first process has ended or hangs."
_NO_CLUSTER = "coordinator_address should be defined"  # what JAX says where it detects none
_CONNECT_SECONDS = 300
_SHUTDOWN_SECONDS = 60
_LONGEST_WAIT_MS = 30 * 24 * 3600 * 1000
_LENGTH_BYTES, _SMALL_BYTES = 8, 2048

_initialized = False


def initialize(coordinator: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Joins the job, before JAX is used.

    Args:
      coordinator: address HOST:PORT of the first process; None takes what the TPU, Slurm or Open MPI says, and where
        there is none of these, or JAX was used before, the process is alone.
      count: number of processes, or None; 1 says that the process is alone, whatever it runs under.
      index: number of this one, from 0, or None.

    Raises:
      UserError: arguments that do not fit one another, or a job that cannot be joined.
    """
    global _initialized
    if count == 1 and not index:
        return
    given = [value is not None for value in (coordinator, count, index)]
    if any(given) and not all(given):
        raise UserError(
            "A job of several processes needs --coordinator_address, --num_processes and --process_id together; give "
            "all three to every process, or none of them under Slurm, Open MPI or on a TPU."
        )
    if count is not None and index is not None and not 0 <= index < count:
        raise UserError(f"--process_id is {index}, but with --num_processes={count} it is 0 to {count - 1}.")
    jax.config.update("jax_enable_preemption_service", False)  # it would keep SIGTERM from ending the program
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            initialization_timeout=_CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except ValueError as error:
        if not any(given) and str(error).startswith(_NO_CLUSTER):
            return
        where = f"at {coordinator!r}" if coordinator else "of the cluster that was detected here"
        raise UserError(
            f"The job {where} cannot be joined ({error}). Give --coordinator_address as HOST:PORT, with "
            "--num_processes and --process_id; a process that is alone takes --num_processes=1."
        ) from error
    except RuntimeError as error:
        if not any(given) and "before any JAX" in str(error):
            return
        where = f"at {coordinator}" if coordinator else "of the cluster that was detected here"
        raise UserError(
            f"The job {where} cannot be joined ({str(error).partition(chr(10))[0]}). Start all its processes, each "
            "with its own --process_id, and see that the first one's port can be reached; a process that is alone "
            "takes --num_processes=1."
        ) from error
    _initialized = True


def count() -> int:
    """The number of processes; 1 where this one is alone."""
    return jax.process_count() if _initialized else 1


def index() -> int:
    """The number of this process, from 0."""
    return jax.process_index() if _initialized else 0


def is_first() -> bool:
    """Whether this is the process that prints, plots and reports."""
    return index() == 0


def share(total: int) -> slice:
    """The rows of `total` that are this process's: a block, of nearly the same size in all processes."""
    return block(total, index(), count())


def block(total: int, part: int, parts: int) -> slice:
    """The rows of `total` that are one of so many processes'."""
    return slice(total * part // parts, total * (part + 1) // parts)


def barrier(name: str) -> None:
    """Waits until all processes are here; `name` is shown where they are at different places."""
    with together(name):
        pass


@contextlib.contextmanager
def in_turn(name: str) -> Iterator[None]:
    """The first process runs the block before the others do: what it writes, they find.

    Raises:
      UserError: in all processes, what the block raised in one of them.
    """
    if is_first():
        with together(name):
            yield
        with together(f"{name}, seen by all"):
            pass
    else:
        with together(name):
            pass
        with together(f"{name}, seen by all"):
            yield


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """Every process runs the block for itself; all wait for the last one, and what is wrong in one ends it for all.

    Args:
      name: what is done, for the message where processes are at different places.

    Raises:
      UserError: in all processes, what the block raised in one of them; `process` says in which.
      RuntimeError: the processes are at different places.
    """
    own = None
    try:
        yield
    except UserError as error:
        if count() == 1:
            raise
        own, own.process = error, index()
    if count() == 1:
        return
    names, errors = zip(*gathered((name, own)), strict=True)
    if len(set(names)) > 1:
        raise RuntimeError(f"The processes are at different places: {', '.join(names)}.")
    first = own or next((error for error in errors if error is not None), None)
    if first is not None:
        raise first


def gathered(value: Any) -> list[Any]:
    """What every process has, in their order; any picklable value, on all processes."""
    if count() == 1:
        return [value]
    _wait_for_all()
    data = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    # In one message where all fit into it, of one size, so that there is one program to compile.
    head = data if len(data) <= _SMALL_BYTES else b""
    heads = _exchanged(len(data).to_bytes(_LENGTH_BYTES, "little") + head, _LENGTH_BYTES + _SMALL_BYTES)
    sizes = [int.from_bytes(head[:_LENGTH_BYTES].tobytes(), "little") for head in heads]
    blocks = heads[:, _LENGTH_BYTES:] if max(sizes) <= _SMALL_BYTES else _exchanged(data, max(sizes))
    return [pickle.load(io.BytesIO(block[:size].tobytes())) for block, size in zip(blocks, sizes, strict=True)]


def _wait_for_all() -> None:
    """Waits for all processes, however long: computations over devices of several give up after half an hour."""
    from jax._src import distributed  # which has no public name for it

    assert distributed.global_state.client is not None
    distributed.global_state.client.wait_at_barrier("jaxweights", _LONGEST_WAIT_MS)


def _exchanged(data: bytes, size: int) -> np.ndarray:
    """What every process sends, `[processes, size]` bytes."""
    from jax.experimental import multihost_utils

    padded = np.zeros(size, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return np.asarray(multihost_utils.process_allgather(padded))


def agreed(value: Any) -> Any:
    """What the first process has, on all processes: of the state of files, which change between two looks."""
    return gathered(value)[0]


def map_rows(function: Callable[..., Any], *columns: Any) -> Any:
    """A function of rows, computed in all processes, each its `share`, and joined in all.

    Args:
      function: takes the columns; its result is an array `[n, ...]`, or a tuple or dataclass of such, of counts, which
        are added up, and of None. A row depends on the same row of the columns alone.
      *columns: array-likes `[n, ...]`, or None.

    Raises:
      UserError: in all processes, what the function raised in one of them.
    """
    total = len(columns[0])
    if count() == 1 or total < count():
        return function(*columns)
    rows, own = share(total), None
    with together("rows"):
        own = function(*(None if column is None else column[rows] for column in columns))
    return _joined(gathered(own))


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    if any(part is None for part in parts):
        return None
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return type(first)(*(_joined([getattr(part, name) for part in parts]) for name in names))
    if isinstance(first, tuple):
        joined = [_joined(list(column)) for column in zip(*parts, strict=True)]
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    return sum(parts) if np.ndim(first) == 0 else np.concatenate([np.asarray(part) for part in parts])


def log_to(folder: pathlib.Path | str | None) -> None:
    """Sends what a process other than the first prints to `folder/process-<index>.log`, or nowhere."""
    if is_first():
        return
    path = pathlib.Path(os.devnull) if folder is None else files.make_dir(folder) / f"process-{index()}.log"
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"process {index()} of {count()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n{_READING}\n")
        file.flush()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())


def leave(status: int) -> None:
    """Ends a process of a job of several at once, without waiting for the others; does nothing where it is alone.

    At the usual end of a program the runtime waits for all processes. After an error they would wait for one another
    forever.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
