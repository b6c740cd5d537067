"""What every program shares: start-up of JAX, and user errors that end in one paragraph instead of a traceback."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import sys
import textwrap
import traceback
from typing import NoReturn

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
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes of the job.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this process of the job, from 0.", lower_bound=0)
ADDED: dict[str, dict] = {}
"""Entries of the config that flags added, by dotted name; see `config_file.prepare`."""

QUIET = flags.DEFINE_boolean("quiet", False, "Plain log lines instead of progress bars.")

_OUT_OF_MEMORY = (
    "out of memory ({}). Running the same command again resumes; launch.describe estimates what an experiment needs. "
    "Lower the sizes that it names, or end other programs."
)

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


def setup_jax(logs: pathlib.Path | str | None = None) -> None:
    """Configures devices and the compilation cache from the flags, and joins the job where this is one of several
    processes; call it first in `main`.

    Args:
      logs: folder of what processes other than the first print; None for none of it.
    """
    from jaxweights import parallel, processes

    cache = str(ROOT / ".cache" / "jax") if _CACHE_DIR.value is None else _CACHE_DIR.value
    parallel.configure(_HOST_DEVICES.value, cache)
    processes.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    processes.log_to(logs)


def run_main(main) -> None:
    """Runs an absl program; a `UserError`, or a mistake in flags or config, prints one paragraph and exits with
    status 1."""

    def guarded(argv):
        if len(argv) > 1:
            _fail(f"unexpected arguments {argv[1:]}: every setting is a flag, see --help.")
        try:
            _in_job(main, argv)
        except UserError as error:
            _fail(str(error))
        except MemoryError as error:
            _fail(_OUT_OF_MEMORY.format(error))
        except RuntimeError as error:  # of JAX
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            _fail(_OUT_OF_MEMORY.format(str(error).partition("\n")[0]))
        except KeyboardInterrupt:
            _fail("interrupted; running the same command again resumes.", status=130)

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


def _in_job(main, argv) -> None:
    """Runs a program; in a job of several processes an error ends this one at once, and the others then end."""
    try:
        main(argv)
    except BaseException as error:
        processes = sys.modules.get("jaxweights.processes")
        if processes is None or processes.count() == 1 or (isinstance(error, SystemExit) and not error.code):
            raise
        message = str(error) if isinstance(error, UserError) else traceback.format_exc()
        print(f"error: process {processes.index()} of {processes.count()}: {message}", file=sys.stderr, flush=True)
        processes.leave(1)


def fail_flags(error: flags.Error) -> NoReturn:
    """Says in words what absl found wrong with the flags, and ends the program with status 1."""
    message = str(error)
    for pattern, words in _WORDS.items():
        message = re.sub(pattern, words, message)
    _fail(f"{message.rstrip(' ?.')}. See --help for all flags.")


def _fail(message: str, status: int = 1) -> NoReturn:
    wrapped = functools.partial(textwrap.fill, width=110, break_long_words=False, break_on_hyphens=False)
    # An indented line is a command, to be copied in one piece.
    lines = [line if line.startswith("    ") else wrapped(line) for line in f"error: {message}".split("\n")]
    print("\n".join(lines), file=sys.stderr)
    sys.stderr.flush()
    sys.exit(status)
