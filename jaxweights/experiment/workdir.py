"""The folder of an experiment: where every stage leaves its result, how long it took, and which config it belongs to.

config.json   inputs.json   streams.json   metrics.json   metrics.jsonl   report.html
timing.json   costs.json    costs.html      what the stages took
skipped_data.txt        bad items of the data set, with data.skip_bad
base/                   the network that all runs continue from, where the config has one
zoo/                    population of all runs' snapshots
generators/<name>/      checkpoints of a learned generator
samples/<name>/         population of generated networks
audit/<series>.npz      per-network measurements
studies/<name>.*        what was found out about a trained generator, or about all series
figures/                PNG and SVG files
table.csv   table.tex   methods.tex   references.bib    for a paper
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import shutil
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jaxweights import costs, files, locks, memory, processes, provenance
from jaxweights.errors import UserError
from jaxweights.experiment.stages import Stage, stale_stages

_CONFIG, _INPUTS = "config.json", "inputs.json"
_DATA = "data"  # among the inputs, the data set
_SHAPE = {"seed": int, "num_samples": int, "data": dict, "net": dict, "zoo": dict, "audit": dict, "generators": dict}


def known_timing(path: pathlib.Path | str, config: Mapping[str, Any]) -> dict[str, float]:
    """Seconds by stage of an experiment that is in a folder, which is not bound; none where it is another one."""
    path = pathlib.Path(path)
    if not (path / _CONFIG).exists():
        return {}
    cure = f"Remove {path / _CONFIG} and run the same command again."
    kept = files.read_json(path / _CONFIG, "config of this workdir", cure, _SHAPE)
    return _timing(path) if kept == json.loads(json.dumps(config)) else {}


def _timing(path: pathlib.Path) -> dict[str, float]:
    path = path / "timing.json"
    cure = f"Remove {path} and run the same command again."
    return files.read_json(path, "table of timings", cure, {str: float}) if path.exists() else {}


class Workdir:
    """A folder bound to one config and to what it reads, and locked while this object exists: one process, or the
    processes of one job, work in it.

    Where the folder holds an experiment of another config, results that no longer fit are removed, after saying which,
    so that the stages that make them run again; trained networks and generators are never removed.

    Args:
      path: the folder; created if it is absent.
      config: of the experiment, as JSON data with all defaults.
      inputs: checksums of the files that it reads by the setting that names them, None for files that are not there.
      stages: the stages of an experiment by name, for any config and inputs.

    Raises:
      UserError: an unwritable folder, one that another process works in, or a config or inputs under which trained
        things in the folder would be others; the message names what differs.
    """

    def __init__(
        self,
        path: pathlib.Path | str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str | None],
        stages: Callable[[Mapping[str, Any], Mapping[str, str]], Mapping[str, Stage]],
    ):
        self._config, self._stages = json.loads(json.dumps(config)), stages
        self.inputs: dict[str, str] = {}
        with processes.in_turn("workdir"):
            self.path = files.make_dir(path)
            self._refuse_unshared()
            weakref.finalize(self, locks.release, locks.acquire(self.path))
            self.bind({_DATA: None, **inputs})

    def _refuse_unshared(self) -> None:
        """Refuses a folder that is another one for the processes of a job."""
        if not processes.is_first() and not (self.path / _CONFIG).exists():
            raise UserError(
                f"Process {processes.index()} does not see what the first process wrote to the workdir {self.path}. "
                "Choose a folder on a file system that all processes of the job share."
            )

    def bind(self, inputs: Mapping[str, str | None]) -> None:
        """Binds the folder to its config and to further inputs; see the class."""
        old, known = self._record(), self._known_inputs()
        # Of a file that is gone, or not read yet, what it was when it was read.
        found = {name: digest or known.get(name) for name, digest in {**self.inputs, **inputs}.items()}
        self.inputs = {name: digest for name, digest in found.items() if digest}
        if old == self._config and known == self.inputs:
            return
        if old is not None:
            self._adopt(old, {**self.inputs, **known})
        if old != self._config:
            files.write_json(self.path / _CONFIG, self._config)
        files.write_json(self.path / _INPUTS, self.inputs)

    def _record(self) -> dict[str, Any] | None:
        """The config of this folder, if there is one."""
        results = [s for s in self._stages(self._config, {}).values() if not s.kept and s.name != "report"]
        left = [str(path.relative_to(self.path)) for stage in results for path in self._left(stage)]
        also = f", together with the results under it ({', '.join(left)})," if left else ""
        cure = f"Remove it{also} and run the same command again; what was trained is kept."
        if (self.path / _CONFIG).exists():
            return files.read_json(self.path / _CONFIG, "config of this workdir", cure, _SHAPE)
        if left:
            raise UserError(
                f"The workdir {self.path} has results ({', '.join(left)}), but no {_CONFIG} says of which config. "
                "Remove them and run the same command again, or choose another --workdir."
            )
        return None

    def _known_inputs(self) -> dict[str, str]:
        path, what = self.path / _INPUTS, "table of checksums of input files"
        cure = f"Remove {path} and run the same command again."
        return files.read_json(path, what, cure, {str: str}) if path.exists() else {}

    def _adopt(self, old: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Removes what does not fit the config and the inputs."""
        changed = provenance.differences(old, self._config)
        former = "values" if changed else "files"
        changed += [f"the content of {name}" for name in known if known[name] != self.inputs.get(name)]
        try:
            before, after = self._stages(old, known), self._stages(self._config, self.inputs)
        except (UserError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"The workdir {self.path} holds an experiment whose config this version cannot read ({error}). Choose "
                "another --workdir."
            ) from error
        stale = [stage for stage in stale_stages(before, after) if self._left(stage)]
        lost = [stage.name for stage in stale if stage.kept]
        if lost:
            raise UserError(
                f"The workdir {self.path} holds an experiment with another config or other files, which would make "
                f"{', '.join(lost)} anew; it differs in {'; '.join(changed)}. Choose another --workdir, or the former "
                f"{former}."
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
        path, what = self.path / "streams.json", "table of random streams"
        cure = f"Remove {path} and run the same command again."
        known = files.read_json(path, what, cure, {str: int}) if path.exists() else {}
        streams = dict(known)
        for name in names:
            streams.setdefault(name, 1 + max(streams.values(), default=-1))
        if streams != known:
            files.write_json(path, streams)
        return streams

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the seconds of a stage to `timing.json`, and what else it costs to `costs.json`; what an earlier,
        interrupted call took stays counted."""
        _ = self.timing, self.costs  # a damaged table is refused before the stage
        cost = None
        memory.trim()  # what stages before it left is none of this one's memory
        try:
            with costs.metered() as cost:
                yield
        except BaseException:
            with contextlib.suppress(UserError):  # the stage's own error says more
                self._add_cost(stage, cost)
            raise
        self._add_cost(stage, cost)

    def _add_cost(self, stage: str, cost: costs.Cost | None) -> None:
        if cost is None or not processes.is_first():
            return
        timing, known = self.timing, self.costs
        timing[stage] = round(timing.get(stage, 0.0) + cost.seconds, 3)
        before = known.get(stage, {})
        known[stage] = {
            "compile_seconds": round(before.get("compile_seconds", 0.0) + cost.compile_seconds, 3),
            "peak_bytes": max(before.get("peak_bytes", 0), cost.peak_bytes),
            "device_peak_bytes": max(before.get("device_peak_bytes", 0), cost.device_peak_bytes),
        }
        self._write_timing(timing)
        files.write_json(self.path / "costs.json", known)

    @property
    def timing(self) -> dict[str, float]:
        """Seconds by stage."""
        return _timing(self.path)

    @property
    def costs(self) -> dict[str, dict[str, float]]:
        """What the stages cost beside their seconds, by stage; see `costs.Cost`."""
        path = self.path / "costs.json"
        cure = f"Remove {path} and run the same command again."
        return files.read_json(path, "table of costs", cure, {str: {str: float}}) if path.exists() else {}

    def _write_timing(self, timing: Mapping[str, float]) -> None:
        files.write_json(self.path / "timing.json", timing)

    def read_metrics(self) -> dict[str, Any]:
        """The audit's numbers.

        Raises:
          UserError: there are none, or they are not as they were written; says what to run.
        """
        path = self.path / "metrics.json"
        cure = f"Remove {path} and run launch.audit (or launch.run) again."
        if not path.exists():
            cure = "Run launch.audit (or launch.run) first."
        return files.read_json(
            path, "table of audit results", cure, {"series": dict, "checks": dict, "training": dict, "zoo": dict}
        )
