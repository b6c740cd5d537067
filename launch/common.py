"""What every program shares: start-up of JAX, and user errors that end in one paragraph instead of a traceback."""

from __future__ import annotations

import ast
import functools
import gc
import os
import pathlib
import re
import sys
import textwrap
import time
import traceback
from types import ModuleType
from typing import Any, NoReturn

from absl import app, flags, logging

from jaxweights.errors import UserError
from launch import config_file

_HOST_DEVICES = flags.DEFINE_integer(
    "host_devices",
    0,
    "CPU devices to emulate; 0 means one per available core. Accelerators ignore it.",
    lower_bound=0,
    upper_bound=1024,
)
_CACHE_DIR = flags.DEFINE_string(
    "cache_dir",
    None,
    "Folder of the persistent compilation cache; '' for none. Default: .cache/jax beside the programs.",
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of the first process of a job of several; on a TPU, under Slurm and under Open MPI it is found out.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Processes of the job; 1 joins none, whatever is detected.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process of the job, from 0.", lower_bound=0)
ADDED: dict[str, dict] = {}
"""Entries of the config that flags added, by dotted name; see `config_file.prepare`."""

QUIET = flags.DEFINE_boolean("quiet", False, "Plain log lines instead of progress bars.")

_OUT_OF_MEMORY = (
    "out of memory ({}). Running the same command again resumes; launch.describe estimates what an experiment needs. "
    "Lower the sizes that it names, or end other programs."
)

_PEER_GONE = ("Gloo", "NCCL", "oordination", "eartbeat", "Connection reset", "Connection closed", "Socket closed")
"""Parts of what JAX's errors say where another process of the job is gone."""

_WORDS = {
    r"invalid literal for int\(\).*": "give a whole number",
    r"could not convert string to float.*": "give a number",
    r"\('Non-boolean argument to boolean flag'.*": "give true or false",
    r"Failed to parse .* as a ConfigDict.*": "give a dict, or set its entries one by one",
    r"ERROR:: ": "",
    "mean: ": "mean ",
}
"""What absl and ml_collections say, by pattern, and how it is said here."""

ROOT = pathlib.Path(__file__).resolve().parent.parent


def assumed_processes() -> int | None:
    """The number of processes that is only talked of: it was given, but not which of them this is."""
    given = _COORDINATOR.value is not None or _PROCESS_ID.value is not None
    return None if given else _NUM_PROCESSES.value


def setup_jax(logs: pathlib.Path | str | None = None, alone: bool = False) -> None:
    """Configures devices and the compilation cache from the flags, and joins the job where this is one of several
    processes; call it first in `main`.

    Args:
      logs: folder of what processes other than the first print; None for none of it.
      alone: whether this process joins no job.
    """
    from jaxweights import parallel, processes

    # What was imported stays, and traced programs and figures are many small objects, which are looked through less
    # often.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    cache = str(ROOT / ".cache" / "jax") if _CACHE_DIR.value is None else _CACHE_DIR.value
    parallel.configure(_HOST_DEVICES.value, cache)
    if not alone:
        processes.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    processes.log_to(logs)


def changes(flag: str, text: str) -> dict[str, Any]:
    """The value of a flag that holds settings: values by name, nested where names have dots.

    Raises:
      UserError: a part that is no NAME=VALUE.
    """
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        *sections, last = name.split(".")
        if not equals or not all(key.isidentifier() for key in (*sections, last)):
            raise UserError(f"{flag}={text}: {part!r} is no NAME=VALUE, e.g. bootstrap=200.")
        node = found
        for key in sections:
            node = node.setdefault(key, {})
        try:
            node[last] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            node[last] = value
    return found


def aligned(rows: list[tuple[str, str]]) -> str:
    """Names and texts, one pair a line."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows)


def run_main(main) -> None:
    """Runs an absl program; a `UserError`, or a mistake in flags or config, prints one paragraph and exits with
    status 1."""

    def guarded(argv):
        from jaxweights import interruption

        if len(argv) > 1:
            _fail(f"unexpected arguments {argv[1:]}: every setting is a flag, see --help.")
        try:
            interruption.install()
            main(argv)
        except UserError as error:
            _fail(str(error), origin=error.process)
        except MemoryError as error:
            _fail(_OUT_OF_MEMORY.format(error))
        except KeyboardInterrupt:
            _fail("interrupted; running the same command again resumes.", status=130)
        except SystemExit as error:
            if error.code != interruption.STATUS:
                raise
            _fail("told to end (SIGTERM); running the same command again resumes.", interruption.STATUS)
        except BaseException as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                _fail(_OUT_OF_MEMORY.format(str(error).partition("\n")[0]))
            if not _job():
                raise
            _end_of_job(error)

    def parse(argv):
        try:
            argv, entries = config_file.prepare(flags.FLAGS.read_flags_from_files(argv, force_gnu=False))
            ADDED.update(entries)
            sys.argv[:] = argv  # where ml_collections looks for overrides
            return flags.FLAGS(argv)
        except UserError as error:
            _fail(str(error))
        except flags.Error as error:
            fail_flags(error)
        except SystemExit:  # absl's --help ends with status 1
            sys.exit(0)

    for module, defined in flags.FLAGS.flags_by_module_dict().items():
        if module.startswith("launch"):  # --help shows these as well, not only the main module's own
            for flag in defined:
                flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.set_verbosity(logging.WARNING)
    try:
        try:
            app.run(guarded, flags_parser=parse)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, e.g. `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _job() -> ModuleType | None:
    """`jaxweights.processes` in a process of a job of several."""
    processes = sys.modules.get("jaxweights.processes")
    return processes if processes is not None and processes.count() > 1 else None


def _end_of_job(error: BaseException) -> NoReturn:
    """Ends a process of a job of several for which an error was not foreseen: its own, or that another one is gone."""
    job = _job()
    if job is not None and any(sign in str(error) for sign in _PEER_GONE):
        gone = _gone(str(error))
        if gone is not None:
            _fail(f"process {gone} has ended or hangs; running the same command again resumes.")
        print("Another process of this job has ended; JAX says which one in a moment.", file=sys.stderr, flush=True)
        time.sleep(job.HEARTBEAT_SECONDS + 10)  # JAX ends this process
    traceback.print_exception(error)
    _fail(f"{type(error).__name__}: {error}")


def _gone(error: str) -> int | None:
    """The process that is gone, where JAX says so."""
    found = re.search(r"[Tt]ask (\d+) heartbeat timeout", error)
    if found:
        return int(found[1])
    return 0 if "leader task was preempted" in error else None


def fail_flags(error: flags.Error) -> NoReturn:
    """Says in words what absl found wrong with the flags, and ends the program with status 1."""
    message = str(error)
    for pattern, words in _WORDS.items():
        message = re.sub(pattern, words, message)
    _fail(f"{message.rstrip(' ?.')}. See --help for all flags.")


def _fail(message: str, status: int = 1, origin: int | None = None) -> NoReturn:
    """Prints a message and ends the program; `origin` is the process of a job that it comes from, if not this one."""
    job = _job()
    if job is not None:
        message = f"process {job.index() if origin is None else origin} of {job.count()}: {message}"
    wrapped = functools.partial(textwrap.fill, width=110, break_long_words=False, break_on_hyphens=False)
    # An indented line is a command, to be copied in one piece.
    lines = [line if line.startswith("    ") else wrapped(line) for line in f"error: {message}".split("\n")]
    print("\n".join(lines), file=sys.stderr)
    sys.stderr.flush()
    if job is not None:
        job.leave(status)
    sys.exit(status)
