"""The whole experiment: zoo, generators, samples, evaluation, audit, report. Running it again resumes.

python -m launch.run --config=configs/digits.py --workdir=runs/digits
"""

from launch import common, stages


def main(argv) -> None:
    """Runs every stage that is not done and prints the table and the path of the report."""
    del argv
    from jaxweights import report

    experiment = stages.experiment()
    page = experiment.run()
    took = experiment.costs()
    print(report.summary(experiment.folder.read_metrics()))
    print(f"costs: {took}\nreport: {page}")


if __name__ == "__main__":
    common.run_main(main)
