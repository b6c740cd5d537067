"""The whole experiment in one workdir, stage by stage: zoo, generators, samples, audit, report."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import numpy as np

from jaxweights import costs, population, processes, provenance, report, store, tasks
from jaxweights.experiment import findings, plan, samples, zoo
from jaxweights.experiment.context import Context
from jaxweights.generators.base import LearnedGenerator, Training


class Experiment(Context):
    """An experiment bound to a workdir; the arguments are those of `Context`.

    Every stage first runs the stages before it, which do nothing where their results are in the workdir: any of them
    may be called first, and calling it again resumes. Before anything is trained, all settings are checked with one
    another, with the data, and against the memory and the disk that there are; see `plan.make`.
    """

    @functools.cached_property
    def plan(self) -> plan.Plan:
        """The experiment from shapes alone; raises `UserError` for one that cannot be done."""
        dataset = self.dataset
        shape, tested = dataset.train_images.shape[1:], len(dataset.test_images)
        examples = tasks.Examples(shape, dataset.num_classes, dataset.num_examples, tested)
        made = plan.make(self.settings, self.config, examples)
        plan.check_machine(made)
        plan.check_disk(made, self.workdir)
        return made

    def zoo(self) -> store.PopulationStore:
        """Trains the zoo, or imports it from a file."""
        if not self._audited:
            self.plan  # noqa: B018  (what cannot be done fails here, before anything is trained)
        opened = zoo.run(self)
        if not self._audited:
            self._check_generators(opened)
        return opened

    def _check_generators(self, opened: store.PopulationStore) -> None:
        """Refuses generators that cannot learn from what the zoo has, after import or divergence, before any trains."""
        last = zoo.training_rows(self, opened)
        every = np.flatnonzero(opened.records["split"] == population.TRAIN)
        for generator, _ in self.generators.values():
            trajectories = isinstance(generator, LearnedGenerator) and generator.TRAJECTORIES
            rows = every if trajectories else last
            runs = len(np.unique(opened.records["run"][rows]))
            generator.check(Training(len(rows), len(rows) // runs, opened.spec))

    def train_generators(self) -> list[str]:
        """Trains every learned generator and fits every closed-form one; returns their names."""
        self.zoo()
        return samples.train(self)

    def sample(self) -> dict[str, store.PopulationStore]:
        """Draws `num_samples` networks from every generator and evaluates them."""
        self.zoo()
        return samples.run(self)

    def audit(self) -> dict[str, Any]:
        """Measures and judges every series, studies the generators, and writes and returns the metrics."""
        self.sample()
        return findings.audit(self)

    def report(self) -> pathlib.Path:
        """Draws the figures and writes `report.html`."""
        self.sample() if self._audited else self.audit()
        return findings.write_report(self)

    def costs(self) -> pathlib.Path | None:
        """Writes `costs.html`, what the stages took in the workdir, in the first process; returns its path."""
        if not processes.is_first():
            return None
        from jaxweights.describe import describe  # which describes experiments

        described = describe(self.config, self.data_dir)
        found = {f"train {name}": one["operations"] for name, one in described["generators"].items()}
        operations = {"zoo": described["zoo"]["operations"], **found}
        # Of the devices of all processes, as the operations are: each is taken to have as fast ones as the first.
        small = 1024 if self.mesh.devices.flat[0].platform == "cpu" else 0  # in a tenth of a second
        peak = costs.matmul_peak(self.mesh, small, 4) * processes.count()
        machine = provenance.versions()["device"]
        return report.write_costs(self.workdir, self.folder.timing, self.folder.costs, operations, peak, machine)

    def run(self) -> pathlib.Path:
        """Runs every stage that is not done; returns the path of the report."""
        page = self.workdir / "report.html"
        if self._audited and processes.agreed(page.exists()):
            self.sample()
            return page
        return self.report()

    @property
    def _audited(self) -> bool:
        """Whether all stages before the report are done."""
        return processes.agreed(findings.is_done(self))
