"""Trains the learned generators of an experiment on its zoo, or resumes them.

python -m launch.train_generator --config=configs/digits.py --workdir=runs/digits
"""

from launch import common, stages


def main(argv) -> None:
    """Trains and prints which."""
    del argv
    names = stages.experiment().train_generators()
    print(f"ready: {', '.join(names)}")


if __name__ == "__main__":
    common.run_main(main)
