"""Tries which transformed data betrays its source: trains classifiers that tell collections apart.

    python -m launch.classify --config=configs/bias_images.py --workdir=runs/bias_images

The same command again resumes at the first transformation that is not done.
"""

import pathlib

from launch import common, stages


def main(argv) -> None:
    """Runs the comparison and prints the accuracies and the path of the page."""
    del argv
    config = stages.config()
    workdir = stages.workdir()
    common.setup_jax(pathlib.Path(workdir) / "logs")
    from jaxweights import progress
    from jaxweights.bias import study, table

    progress.set_quiet(common.QUIET.value)
    print(table.text(study.run(config, workdir, stages.data_dir())))
    print(f"page: {workdir}/report.html, numbers: metrics.json")


if __name__ == "__main__":
    common.run_main(main)
