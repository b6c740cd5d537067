"""Draws the figures of an audited experiment and writes its report.html.

python -m launch.report --config=configs/digits.py --workdir=runs/digits
"""

from launch import common, stages


def main(argv) -> None:
    """Writes and prints the paths."""
    del argv
    experiment = stages.experiment()
    page = experiment.report()
    print(f"costs: {experiment.costs()}\nreport: {page}")


if __name__ == "__main__":
    common.run_main(main)
