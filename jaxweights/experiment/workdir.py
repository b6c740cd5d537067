"""The folder of an experiment: where every stage leaves its result, how long it took, and which config it belongs to.

config.json   streams.json   metrics.json   metrics.jsonl   timing.json   report.html
skipped_data.txt        bad items of the data set, with data.skip_bad
base/                   the network that all runs continue from, where the config has one
zoo/                    population of all runs' snapshots
generators/<name>/      checkpoints of a learned generator
samples/<name>/         population of generated networks
audit/<series>.npz      per-network measurements
studies/<name>.*        what was found out about a trained generator, or about all series
figures/                PNG and SVG files
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxweights import files, locks, provenance
from jaxweights.errors import UserError
from jaxweights.experiment.stages import Stage, stale_stages


class Workdir:
    """A folder bound to one config, and locked while this object exists: one process works in it.

    Where the folder holds an experiment of another config, results that no longer fit are removed, after saying which,
    so that the stages that make them run again; trained networks and generators are never removed.

    Args:
      path: the folder; created if it is absent.
      config: of the experiment, as JSON data with all defaults.
      stages: the stages of an experiment by name, for any config.

    Raises:
      UserError: an unwritable folder, one that another process works in, or a config under which trained things in the
        folder would be others; the message names the settings that differ.
    """

    def __init__(
        self,
        path: pathlib.Path | str,
        config: Mapping[str, Any],
        stages: Callable[[Mapping[str, Any]], Mapping[str, Stage]],
    ):
        self.path = files.make_dir(path)
        weakref.finalize(self, locks.release, locks.acquire(self.path))
        record = self.path / "config.json"
        config = json.loads(json.dumps(config))
        if record.exists():
            old = files.read_json(record, "config of this workdir", "Remove the workdir or choose another --workdir.")
            if old == config:
                return
            self._adopt(old, config, stages)
        files.write_json(record, config)

    def _adopt(self, old: Mapping[str, Any], new: Mapping[str, Any], stages) -> None:
        """Removes what does not fit the new config."""
        changed = provenance.differences(old, new)
        try:
            before, after = stages(old), stages(new)
        except (UserError, KeyError, TypeError) as error:
            raise UserError(
                f"The workdir {self.path} holds an experiment whose config this version cannot read ({error}). Choose "
                "another --workdir."
            ) from error
        stale = [stage for stage in stale_stages(before, after) if self._left(stage)]
        lost = [stage.name for stage in stale if stage.kept]
        if lost:
            raise UserError(
                f"The workdir {self.path} holds an experiment with another config, which would make "
                f"{', '.join(lost)} anew; it differs in {'; '.join(changed)}. Choose another --workdir, or the former "
                "values."
            )
        if stale:
            names = ", ".join(stage.name for stage in stale)
            print(f"workdir: {'; '.join(changed)}. Made anew: {names}", file=sys.stderr, flush=True)
        timing = self.timing
        # Removed before the new config is written: interrupted here, the next call finds the same difference.
        for stage in stale:
            timing.pop(stage.name, None)
            for path in self._left(stage):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._write_timing(timing)

    def _left(self, stage: Stage) -> list[pathlib.Path]:
        """What a stage left here."""
        return [path for pattern in stage.leaves for path in sorted(self.path.glob(pattern))]

    def streams(self, names: Iterable[str]) -> dict[str, int]:
        """The number of each series' random stream: its position, or for series that join an experiment later, the
        next free number, so that those that are there keep theirs."""
        path = self.path / "streams.json"
        known = files.read_json(path, "table of random streams", "Remove it.") if path.exists() else {}
        streams = dict(known)
        for name in names:
            streams.setdefault(name, 1 + max(streams.values(), default=-1))
        if streams != known:
            files.write_json(path, streams)
        return streams

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a stage to `timing.json`; what an earlier, interrupted call took stays counted."""
        begin = time.monotonic()
        try:
            yield
        finally:
            timing = self.timing
            timing[stage] = round(timing.get(stage, 0.0) + time.monotonic() - begin, 3)
            self._write_timing(timing)

    @property
    def timing(self) -> dict[str, float]:
        """Seconds by stage."""
        path = self.path / "timing.json"
        return files.read_json(path, "table of timings", "Remove it.") if path.exists() else {}

    def _write_timing(self, timing: Mapping[str, float]) -> None:
        files.write_json(self.path / "timing.json", timing)

    def read_metrics(self) -> dict[str, Any]:
        """The audit's numbers.

        Raises:
          UserError: there are none; says what to run.
        """
        cure = "Run launch.audit (or launch.run) first."
        return files.read_json(self.path / "metrics.json", "table of audit results", cure)
