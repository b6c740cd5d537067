"""The flags that every stage program shares, and the experiment that they name."""

from __future__ import annotations

import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from launch import common, config_file

try:
    _CONFIG = config_flags.DEFINE_config_file(
        "config",
        None,
        "Experiment config, e.g. configs/digits.py; fields are overridden by --config.zoo.num_runs=4096 and the like.",
    )
except flags.Error as error:  # a --flagfile, which is read here
    common.fail_flags(error)
flags.FLAGS["config"].default_as_str = ""  # "None" says nothing
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of everything the experiment makes; the same command again resumes in it. A program first runs the stages "
    "before its own that are not done there.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the data sets, as prepared by tensorflow-datasets or with idx or npz files; see launch.prepare_data.",
)
_SEED = flags.DEFINE_integer("seed", None, "Seed of everything; overrides config.seed.")
_SKIP_BAD = flags.DEFINE_boolean(
    "skip_bad",
    False,
    "Leave out images, shapes and files of the data set that cannot be used, as --config.data.skip_bad=True does; "
    "skipped_data.txt in the workdir lists them.",
)
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Print what the experiment is, how it is divided over processes and devices, what it writes and, as far as known, "
    "how long it takes; then end, and write nothing. With --num_processes alone for as many as there are not.",
)

_PROFILE = flags.DEFINE_boolean(
    "profile", False, "Write JAX traces of a few steps of every stage to WORKDIR/traces, for TensorBoard or Perfetto."
)
_TENSORBOARD = flags.DEFINE_boolean("tensorboard", False, "Write loss curves to WORKDIR/tensorboard as well.")
_WANDB = flags.DEFINE_string("wandb", None, "Project of Weights & Biases that loss curves are logged to as well.")


def config() -> dict:
    """The config as a plain dict, with the flags applied."""
    from jaxweights.errors import UserError

    if _CONFIG.value is None:
        raise UserError("No experiment was named. Give a config, e.g. --config=configs/digits.py.")
    config_file.add(_CONFIG.value, common.ADDED)
    plain = _CONFIG.value.to_dict()
    if _SEED.value is not None:
        plain["seed"] = _SEED.value
    if _SKIP_BAD.value:
        plain.setdefault("data", {})["skip_bad"] = True
    return plain


def is_dry_run() -> bool:
    """Whether nothing is to be computed or written."""
    return _DRY_RUN.value


def data_dir() -> str | None:
    """The folder of the data sets, or None for the default."""
    return _DATA_DIR.value


def workdir() -> str:
    """The folder that the flag names."""
    from jaxweights.errors import UserError

    folder = _WORKDIR.value or ""
    if not folder.strip():
        raise UserError(
            "No workdir was named. Give the folder that the experiment may write to, e.g. --workdir=runs/digits."
        )
    return folder


def has_workdir() -> bool:
    """Whether the flag names a folder."""
    return bool((_WORKDIR.value or "").strip())


def experiment():
    """Sets up JAX and binds the config to the workdir; a dry run prints its text and ends the program."""
    from jaxweights import progress

    folder, plain = workdir(), config()
    if is_dry_run():
        from launch import dry_run

        count = common.assumed_processes()
        common.setup_jax(alone=count is not None)
        print(dry_run.text(plain, folder, count, _DATA_DIR.value))
        sys.exit(0)
    common.setup_jax(pathlib.Path(folder) / "logs")
    progress.set_quiet(common.QUIET.value)
    from jaxweights.experiment import Experiment

    return Experiment(plain, folder, _DATA_DIR.value, _observers(pathlib.Path(folder), plain))


def _observers(folder: pathlib.Path, config: dict) -> list:
    """What receives loss curves beside `metrics.jsonl`, in the first process; says where traces go, too."""
    from jaxweights import processes, traces, trackers

    if not processes.is_first():
        return []
    traces.record_to(folder / "traces" if _PROFILE.value else None)
    found = []
    if _TENSORBOARD.value:
        found.append(trackers.tensorboard(folder / "tensorboard"))
    if _WANDB.value:
        found.append(trackers.wandb(_WANDB.value, folder, config))
    return found
