"""Trains the zoo of an experiment, or resumes it.

python -m launch.train_zoo --config=configs/digits.py --workdir=runs/digits
"""

from launch import common, stages


def main(argv) -> None:
    """Trains and prints what the zoo is."""
    del argv
    store = stages.experiment().zoo()
    print(f"{len(store)} networks of {store.spec.num_params} parameters in {store.path}")


if __name__ == "__main__":
    common.run_main(main)
