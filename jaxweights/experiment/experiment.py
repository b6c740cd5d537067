"""The whole experiment in one workdir, stage by stage: zoo, generators, samples, audit, report."""

from __future__ import annotations

import pathlib
from typing import Any

from jaxweights import store
from jaxweights.experiment import findings, samples, zoo
from jaxweights.experiment.context import Context


class Experiment(Context):
    """An experiment bound to a workdir; the arguments are those of `Context`.

    Every stage reads what the stages before it left in the workdir and does nothing where its own result is there, so
    that running again resumes.
    """

    def zoo(self) -> store.PopulationStore:
        """Trains the zoo, or imports it from a file."""
        return zoo.run(self)

    def train_generators(self) -> list[str]:
        """Trains every learned generator and fits every closed-form one; returns their names."""
        return samples.train(self)

    def sample(self) -> dict[str, store.PopulationStore]:
        """Draws `num_samples` networks from every generator and evaluates them."""
        return samples.run(self)

    def audit(self) -> dict[str, Any]:
        """Measures and judges every series, studies the generators, and writes and returns the metrics."""
        return findings.audit(self)

    def report(self) -> pathlib.Path:
        """Draws the figures and writes `report.html`."""
        return findings.write_report(self)

    def run(self) -> pathlib.Path:
        """Runs every stage that is not done; returns the path of the report."""
        self.dataset  # noqa: B018  (a missing data set fails here, before anything is trained)
        self.zoo()
        self.sample()
        if not (self.workdir / "metrics.json").exists():
            self.audit()
        page = self.workdir / "report.html"
        return page if page.exists() else self.report()
