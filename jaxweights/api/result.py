"""What `jw.audit` returns: verdicts, numbers, figures and a report."""

from __future__ import annotations

import dataclasses
import html
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from jaxweights import files
from jaxweights.auditing import Measured, Subject
from jaxweights.errors import UserError
from jaxweights.report import (
    export,
    figures,
    heatmap,
    measures,
    methods,
    page,
    pictures,
    strip,
    style,
    summary,
    tables,
    weights,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, repr=False)
class AuditResult:
    """What an audit found.

    Attributes:
      metrics: every number, with the layout of an experiment's `metrics.json`.
      measured: measurements of every network, by series.
      subject: the networks.
      examples: examples of the test set, 0 where networks were not evaluated.
      seed: random seed of the audit.
      bootstrap: resamples of every interval.
    """

    metrics: dict[str, Any]
    measured: Mapping[str, Measured]
    subject: Subject
    examples: int
    seed: int
    bootstrap: int

    @property
    def verdicts(self) -> dict[str, str]:
        """Label by series, one of `auditing.verdict.LABELS`, e.g. "copies" or "as novel as new runs"; "undecided" where
        the numbers do not suffice, or a control failed on which the verdict rests. The given series come first, then
        baselines and controls."""
        return {name: text["label"] for name, text in self._judged().items()}

    @property
    def verdict_texts(self) -> dict[str, str]:
        """The verdicts in sentences, with the evidence, by series."""
        return {name: text["text"] for name, text in self._judged().items()}

    @property
    def checks(self) -> dict[str, Any]:
        """`controls_passed`, and the names of the `failed_controls`: an audit whose controls fail proves nothing."""
        return dict(self.metrics["checks"])

    def table(self):
        """Every number as a `pandas.DataFrame`: a row per series, a column per measure with its 95 % interval."""
        import pandas as pd

        return pd.DataFrame.from_dict(export.rows(self.metrics), orient="index")

    def to_csv(self, path: pathlib.Path | str | None = None) -> str:
        """`table()` as CSV, which is written to a file if one is named."""
        return _written(path, export.csv_table(self.metrics))

    def to_latex(self, path: pathlib.Path | str | None = None) -> str:
        """The main table as a LaTeX `tabular` for booktabs, which is written to a file if one is named."""
        return _written(path, export.latex_table(self.metrics))

    def to_json(self) -> dict[str, Any]:
        """Every number as JSON data with the layout of `metrics.json`."""
        return json.loads(json.dumps(self.metrics))

    def save(self, path: pathlib.Path | str) -> pathlib.Path:
        """Writes `to_json` to a file."""
        path = pathlib.Path(path)
        files.make_dir(path.parent)
        files.write_json(path, self.metrics)
        return path

    @property
    def plot(self) -> Plots:
        """Matplotlib figures."""
        return Plots(self._audited())

    def report(self, path: pathlib.Path | str) -> pathlib.Path:
        """Writes verdicts, figures, tables and what they mean as one HTML file that needs no network."""
        path = pathlib.Path(path)
        files.make_dir(path.parent)
        return page.write_audit(path, self._audited())

    def methods(self) -> str:
        """What was done, in sentences for a paper."""
        return methods.text(page.facts_of(self._audited()))

    def bibtex(self) -> str:
        """BibTeX of the sources of `methods`."""
        return methods.bibtex(page.facts_of(self._audited()))

    def write(self, folder: pathlib.Path | str) -> pathlib.Path:
        """Writes everything to a folder: `report.html`, `metrics.json`, and for a paper `table.csv`, `table.tex`,
        `methods.tex` and `references.bib`.

        Returns:
          The path of `report.html`.
        """
        folder = files.make_dir(folder)
        report = self.report(folder / "report.html")
        page.write_tables(folder, page.facts_of(self._audited()))
        self.save(folder / "metrics.json")
        return report

    def __repr__(self) -> str:
        failed = not self.metrics["checks"]["controls_passed"]
        first = f"{tables.controls_text(self.metrics['checks'])}\n\n" if failed else ""
        return first + summary(self.metrics)

    def _repr_html_(self) -> str:
        checks, roles = self.metrics["checks"], style.roles(self.metrics)
        state = html.escape(tables.controls_text(checks))
        if not checks["controls_passed"]:
            state = f"<b>{state}</b>"
        texts = "".join(
            f"<p><b>{html.escape(style.label(name))} {entry['label']}</b>: {html.escape(entry['text'])} "
            f"{html.escape(entry['beats_baselines']['text'])}</p>"
            for name, entry in self._judged().items()
            if roles[name] == style.LEARNED
        )
        numbers = tables.series_table(self.metrics, roles, measures.main(self.metrics), True)
        parts = (texts, numbers, f"<p>{state}</p>")
        return "".join(parts if checks["controls_passed"] else parts[::-1])

    def _audited(self) -> pictures.Audited:
        subject = self.subject
        return pictures.Audited(
            metrics=self.metrics,
            series=style.arrange(self.metrics, self.measured),
            train=subject.train,
            heldout=subject.heldout,
            heldout_checkpoints=subject.heldout_checkpoints,
            samples=subject.generated,
            examples=self.examples,
            seed=self.seed,
            bootstrap=self.bootstrap,
        )

    def _judged(self) -> dict[str, dict[str, Any]]:
        return {name: entry["verdict"] for name, entry in self.metrics["series"].items() if "verdict" in entry}


@dataclasses.dataclass(frozen=True)
class Plots:
    """Figures of an audit; notebooks show them, and `figure.savefig(path)` keeps them."""

    audited: pictures.Audited

    def calibration(self) -> Figure:
        """Where every series falls between copies and held-out networks, test by test.

        Raises:
          UserError: no test tells the two apart, or the audit has no controls.
        """
        a = self.audited
        problem = "No test of this audit tells copies from held-out networks; were the controls left out?"
        return _drawn(lambda: strip.draw(a.metrics, a.series, tables.terms_of(a.metrics)), problem)

    def distances(self) -> Figure:
        """Distances to the nearest training network: histograms, and every series on one axis."""
        return _drawn(lambda: figures.min_distance(self.audited.series))

    def novelty(self) -> Figure:
        """Accuracy against similarity of errors, and against distance.

        Raises:
          UserError: the networks were not evaluated.
        """
        a = self._evaluated()
        terms = tables.terms_of(a.metrics)
        return _drawn(lambda: figures.accuracy_novelty(a.with_accuracy, a.examples, a.seed, a.error_limit, terms))

    def similarity(self) -> Figure:
        """Accuracy against similarity of errors beside noised copies and mixtures, as in Zeng et al. 2025.

        Raises:
          UserError: the networks were not evaluated, or there are no such baselines.
        """
        a = self._evaluated()
        terms = tables.terms_of(a.metrics)
        return _drawn(
            lambda: figures.accuracy_similarity(a.with_accuracy, a.examples, a.seed, terms),
            "There is nothing to compare with: the audit has none of the baselines noise, average and gaussian.",
        )

    def mixtures(self) -> Figure:
        """Distances to the best mixture of training networks.

        Raises:
          UserError: held-out networks are mixtures of training networks, so that the distance means nothing.
        """
        problem = "Held-out networks are mixtures of training networks themselves: mixtures explain everything here."
        return _drawn(
            lambda: figures.interpolation_residual(self.audited.series) if self.audited.explained else None, problem
        )

    def heatmap(self, name: str | None = None) -> Figure:
        """The first three networks of a series over their nearest training networks, parameter by parameter.

        Args:
          name: series; by default the first one that was given.

        Raises:
          UserError: no such series.
        """
        a = self.audited
        known = {s.name: s for s in a.series if s.name in a.samples}
        if name is None:
            name = next(iter(a.samples))
        if name not in known:
            raise UserError(f"There is no series {name!r}; there are {', '.join(known)}.")
        return _drawn(lambda: heatmap.draw(known[name], a.samples[name], a.train, a.seed))

    def values(self) -> Figure:
        """Densities of single parameters.

        Raises:
          UserError: there are too few networks, or none differ.
        """
        problem = f"Densities need {weights.LEAST} training networks that differ."
        return _drawn(
            lambda: weights.value_distributions(self._clouds(), self.audited.train, self.audited.seed), problem
        )

    def tsne(self) -> Figure:
        """t-SNE of the weight vectors.

        Raises:
          UserError: there are too few different networks.
        """
        problem = f"t-SNE needs {weights.LEAST} different networks."
        return _drawn(lambda: weights.tsne(self._clouds(), self.audited.seed), problem)

    def _clouds(self) -> list[weights.Cloud]:
        return weights.clouds(self.audited.series, self.audited.train, self.audited.heldout, self.audited.samples)

    def _evaluated(self) -> pictures.Audited:
        if not self.audited.evaluated:
            raise UserError(
                "The networks were not evaluated. Give audit a function: predict=…, test=(inputs, targets)."
            )
        return self.audited


def _written(path: pathlib.Path | str | None, text: str) -> str:
    """The text, which is written to a file if one is named."""
    if path is not None:
        path = pathlib.Path(path)
        files.make_dir(path.parent)
        files.write_text(path, text)
    return text


def _drawn(draw: Callable[[], Figure | None], problem: str = "") -> Figure:
    """The figure in the style of the report.

    Raises:
      UserError: there is no figure; the message is the given problem.
    """
    with style.drawing():
        figure = draw()
        if figure is None:
            raise UserError(problem)
        figure.draw_without_rendering()
    return figure
