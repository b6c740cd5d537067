"""Audits the samples of an experiment against its zoo: distances, similarities, tests, verdicts.

python -m launch.audit --config=configs/digits.py --workdir=runs/digits
"""

from launch import common, stages


def main(argv) -> None:
    """Audits and prints the table."""
    del argv
    from jaxweights import report

    print(report.summary(stages.experiment().audit()))


if __name__ == "__main__":
    common.run_main(main)
