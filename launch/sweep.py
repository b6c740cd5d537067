"""Trains a grid or a random search of recipes, or of settings of a generator, and says which are best.

    python -m launch.sweep --config=configs/sweep_digits.py --workdir=runs/sweep_digits
    python -m launch.sweep --config=configs/sweep_digits.py --workdir=runs/sweep_digits --dry_run

The same command again resumes at the first cell of runs that is not done.
"""

import pathlib

from launch import common, stages


def main(argv) -> None:
    """Runs the sweep and prints the best recipes and the path of the page."""
    del argv
    config = stages.config()
    workdir = stages.workdir() if stages.has_workdir() or not stages.is_dry_run() else None
    if workdir is None or stages.is_dry_run():
        print(_dry_run(config, workdir))
        return
    common.setup_jax(pathlib.Path(workdir) / "logs")
    from jaxweights import progress
    from jaxweights.sweeps import study, table

    progress.set_quiet(common.QUIET.value)
    print(table.text(study.run(config, workdir, stages.data_dir())))
    print(f"page: {workdir}/sweep.html, tables: runs.csv, recipes.csv, numbers: sweep.json")


def _dry_run(config: dict, workdir: str | None) -> str:
    """Runs, programs, bytes, and the time that cells of the workdir took, else that of measurements on such devices."""
    count = common.assumed_processes()
    common.setup_jax(alone=count is not None)
    from jaxweights import parallel, processes
    from jaxweights.progress import duration
    from jaxweights.sweeps import estimate
    from launch.benchmarks import planning

    found, count = estimate.facts(config, workdir, stages.data_dir()), count or processes.count()
    devices, computed = {"per_process": parallel.make_mesh().size, "processes": count}, None
    known = planning.zoo_seconds(found["operations"], devices) if found["operations"] else None
    if known is not None:
        low, high = map(duration, known.seconds)
        computed = f"all take {low} to {high}, computed from {known.source}; compiling comes on top"
    return estimate.lines(found, count, computed)


if __name__ == "__main__":
    common.run_main(main)
