"""Calibrates the audit: how often series whose verdicts are known get them, on zoos of several kinds.

    python -m launch.calibrate --workdir=runs/calibration
    python -m launch.calibrate --workdir=runs/calibration --kinds=cnn,resnet --seeds=5 --page=docs

Running it again resumes.
"""

from __future__ import annotations

import pathlib

from absl import flags

from launch import common

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of zoos, measurements, verdicts and calibration.json.")
_KINDS = flags.DEFINE_string("kinds", "all", "Kinds of zoos, by name: NAME,NAME; all by default.")
_SEEDS = flags.DEFINE_integer("seeds", 20, "Experiments of every kind of zoo.", lower_bound=1)
_TUNING = flags.DEFINE_integer("tuning_seeds", 10, "Those that thresholds are chosen on.", lower_bound=1)
_PAGE = flags.DEFINE_string("page", None, "Folder of the page, its picture and its numbers; the workdir by default.")
_ANEW = flags.DEFINE_boolean("anew", False, "Judge again what was measured: after a change of rules or thresholds.")


def main(argv) -> None:
    """Runs what is missing and prints what was found and the path of the page."""
    del argv
    from jaxweights.errors import UserError

    if _WORKDIR.value is None:
        raise UserError("No folder was named. Give one for the zoos and results, e.g. --workdir=runs/calibration.")
    common.setup_jax(pathlib.Path(_WORKDIR.value) / "logs")
    from jaxweights import calibration, files, locks, processes, progress
    from jaxweights.calibration import page

    progress.set_quiet(common.QUIET.value)
    folder = files.make_dir(_WORKDIR.value)
    kinds = tuple(calibration.KINDS) if _KINDS.value == "all" else tuple(_KINDS.value.split(","))
    with locks.locked(folder):
        result = calibration.run(folder, kinds, _SEEDS.value, _TUNING.value, anew=_ANEW.value)
    if processes.is_first():
        path = page.write(result, folder if _PAGE.value is None else pathlib.Path(_PAGE.value))
        print(f"{page.outcome(result)}\npage: {path}")


if __name__ == "__main__":
    common.run_main(main)
