"""Which modelling factors change what a generator learns: the table of Zeng et al. 2025 for any generator of a config.

    python -m launch.study --config=configs/hyperrep_digits.py --workdir=runs/study
    python -m launch.study --config=configs/pdiff_digits.py --workdir=runs/study_pdiff --factors=training,set,seeds
    python -m launch.study --config=configs/paper/hyperrep_svhn.py --list

The same command again resumes; with other factors it adds to what is there.
"""

import pathlib

from absl import flags

from launch import common, stages

_FACTORS = flags.DEFINE_list(
    "factors",
    ["all"],
    "Factors, or single levels of them: training (33 %, 50 %), width, depth, dropout, noise, set (training set x 3, "
    "x 10), seeds (three of the default); all is what the generator has.",
)
_TRAININGS = flags.DEFINE_integer(
    "seeds", 1, "Trainings of every level, each from other random numbers.", lower_bound=1
)
_GENERATOR = flags.DEFINE_string(
    "generator", None, "Name of the generator, or of a way of sampling from it, if the config has several."
)
_LIST = flags.DEFINE_boolean("list", False, "Print the cells with their sizes, and compute nothing, as with --dry_run.")


def main(argv) -> None:
    """Runs the study and prints its table and the path of the figure."""
    del argv
    config, workdir = stages.config(), None if _LIST.value or stages.is_dry_run() else stages.workdir()
    common.setup_jax(None if workdir is None else pathlib.Path(workdir) / "logs")
    from jaxweights import factors, progress

    asked = (_FACTORS.value, _GENERATOR.value, _TRAININGS.value, stages.data_dir())
    if workdir is None:
        print(factors.plan_of(config, *asked))
        return
    progress.set_quiet(common.QUIET.value)
    print(factors.text(factors.run(config, workdir, *asked)))
    print(f"tables and figure: {workdir}/study.md, study.csv, study.png, study.svg")


if __name__ == "__main__":
    common.run_main(main)
