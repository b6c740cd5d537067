"""Probes generative models in feature space: trains them on designed training sets and measures what comes out.

    python -m launch.probe --config=configs/probing_dots.py --workdir=runs/probing_dots
    python -m launch.probe --config=configs/probing_dots.py --workdir=runs/probing_dots --dry_run

The same command again resumes at the first trainings that are not done.
"""

import pathlib

from launch import common, stages


def main(argv) -> None:
    """Runs the study and prints the numbers and the path of the page."""
    del argv
    config = stages.config()
    workdir = stages.workdir() if stages.has_workdir() or not stages.is_dry_run() else None
    if workdir is None or stages.is_dry_run():
        common.setup_jax(alone=common.assumed_processes() is not None)
        from jaxweights.probing import describe

        done = [] if workdir is None else [("done in the workdir", describe.done(config, pathlib.Path(workdir)))]
        print(common.aligned([*describe.rows(describe.describe(config)), *done]))
        return
    common.setup_jax(pathlib.Path(workdir) / "logs")
    from jaxweights import progress
    from jaxweights.probing import study, table

    progress.set_quiet(common.QUIET.value)
    print(table.text(study.run(config, workdir)))
    print(f"page: {workdir}/report.html, numbers: metrics.json")


if __name__ == "__main__":
    common.run_main(main)
