"""Draws networks from every generator of an experiment and evaluates them.

python -m launch.sample --config=configs/digits.py --workdir=runs/digits
"""

from launch import common, stages


def main(argv) -> None:
    """Samples and prints the mean accuracies."""
    del argv
    for name, store in stages.experiment().sample().items():
        print(f"{name}: {len(store)} networks, mean accuracy {store.records['accuracy'].mean():.4f}, in {store.path}")


if __name__ == "__main__":
    common.run_main(main)
