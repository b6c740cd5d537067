"""What `jw.audit` returns: verdicts, numbers, figures and a report."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxweights import files
from jaxweights.auditing import Measured, Subject
from jaxweights.report import summary, tables


@dataclasses.dataclass(frozen=True, repr=False)
class AuditResult:
    """What an audit found.

    Attributes:
      metrics: every number, with the layout of an experiment's `metrics.json`.
      measured: measurements of every network, by series.
      subject: the networks.
      kinds: kind of every baseline and control, by series.
      seed: random seed of the audit.
    """

    metrics: dict[str, Any]
    measured: Mapping[str, Measured]
    subject: Subject
    kinds: Mapping[str, str]
    seed: int

    @property
    def verdicts(self) -> dict[str, str]:
        """Label by series: "remembers", "interpolates", "invents" or "degrades"; "novel" for what would be one of the
        latter two, where networks were not evaluated. The given series come first, then baselines and controls."""
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

        rows = {}
        for name, entry in self.metrics["series"].items():
            row: dict[str, Any] = {"role": entry["role"], "verdict": tables.label_of(entry), "n": entry["min_l2"]["n"]}
            for path, found in tables.numbers_in(entry):
                row[path] = found.value
                if found.low is not None:
                    row |= {f"{path}.lower": found.low, f"{path}.upper": found.high}
            rows[name] = row
        return pd.DataFrame.from_dict(rows, orient="index")

    def to_json(self) -> dict[str, Any]:
        """Every number as JSON data with the layout of `metrics.json`."""
        return json.loads(json.dumps(self.metrics))

    def save(self, path: pathlib.Path | str) -> pathlib.Path:
        """Writes `to_json` to a file."""
        path = pathlib.Path(path)
        files.make_dir(path.parent)
        files.write_json(path, self.metrics)
        return path

    def __repr__(self) -> str:
        failed = not self.metrics["checks"]["controls_passed"]
        first = f"{tables.controls_text(self.metrics['checks'])}\n\n" if failed else ""
        return first + summary(self.metrics)

    def _judged(self) -> dict[str, dict[str, Any]]:
        return {name: entry["verdict"] for name, entry in self.metrics["series"].items() if "verdict" in entry}
