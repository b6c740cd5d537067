"""Disturbs an experiment at random moments of every stage, starts it again each time, and compares what comes out with
an undisturbed run.

    python -m launch.soak --config=configs/digits.py --workdir=runs/soak --faults=50
    python -m launch.soak --config=configs/digits.py --workdir=runs/soak --faults=36 --processes=2
    python -m launch.soak --config=configs/digits.py --workdir=runs/soak --faults=12 --processes=2,4 --devices=4

Both runs are `launch.run`, in `undisturbed/` and `disturbed/` of the workdir, in processes of this machine. A fault
befalls one process of the job, any: it is killed, or stopped as one that hangs, or it raises. The others have to end by
themselves within a minute, with words that name it. Stages and kinds of faults are taken in turn, the moment within a
stage is drawn. Once a run was disturbed in every stage it ends and is compared, and another one is begun.
"""

from __future__ import annotations

import collections
import pathlib
import random
import shutil
import signal
import sys
import time

from absl import flags

from launch import common, soaking

_CONFIG = flags.DEFINE_string("config", None, "Experiment config of both runs.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of both runs.")
_FAULTS = flags.DEFINE_integer("faults", 50, "How often the experiment is disturbed.", lower_bound=0)
_KINDS = flags.DEFINE_list(
    "kinds", None, "Kinds of faults among kill, hang and raise; by default kill for one process, all for several."
)
_PROCESSES = flags.DEFINE_list(
    "processes", ["1"], "Processes of the job; of several numbers, a start takes the next one, the last the first."
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "CPU devices of all processes of a job together; by default as many as the most processes."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the moments and of which process it is.")


def main(argv) -> None:
    """Runs both and prints how they compare; status 1 where they differ, or where processes did not end as they
    have to."""
    del argv
    from jaxweights.errors import UserError

    if not _CONFIG.value or not _WORKDIR.value:
        raise UserError("Give the --config of an experiment and a --workdir for two runs of it.")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # for children, which a shell may have told to ignore it
    soak = _Soak(pathlib.Path(_WORKDIR.value), _counts(), _kinds())
    soak.run(_FAULTS.value)
    print(soak.summary(), flush=True)
    if soak.problems:
        sys.exit(1)


def _counts() -> list[int]:
    from jaxweights.errors import UserError

    if not all(text.isdecimal() and int(text) for text in _PROCESSES.value):
        raise UserError(f"--processes={','.join(_PROCESSES.value)}: give numbers of processes, e.g. 2 or 2,4.")
    return [int(text) for text in _PROCESSES.value]


def _kinds() -> list[str]:
    from jaxweights.errors import UserError

    every = list(soaking.SIGNALS)
    kinds = _KINDS.value or (every if max(_counts()) > 1 else ["kill"])
    if not set(kinds) <= set(every):
        raise UserError(f"--kinds={','.join(kinds)}: give kinds among {', '.join(every)}.")
    return kinds


class _Soak:
    """The faults so far.

    Attributes:
      problems: what was not as it has to be.
    """

    def __init__(self, folder: pathlib.Path, counts: list[int], kinds: list[str]):
        self._folder, self._counts, self._kinds = folder, counts, kinds
        self._devices = _DEVICES.value or max(counts)
        self._random = random.Random(_SEED.value)
        self._hits: collections.Counter[tuple[str, str]] = collections.Counter()
        self._waits: list[float] = []  # seconds until the others had ended
        self._starts = self._rounds = 0
        self.problems: list[str] = []

    def run(self, faults: int) -> None:
        """Disturbs so often, and compares every run that ended."""
        undisturbed, disturbed = self._folder / "undisturbed", self._folder / "disturbed"
        lengths = self._lengths(undisturbed)
        while self._hits.total() < faults:
            place = -1
            while place + 1 < len(soaking.STAGES) and self._hits.total() < faults:
                place = self._disturb(disturbed, place + 1, lengths)
            self._finish(disturbed)
            # Another number of processes adds in another order, which training carries on.
            exact = len(set(self._counts)) == 1
            found = soaking.differences(undisturbed, disturbed, exact)
            self.problems += found
            self._rounds += 1
            print(f"run {self._rounds} ended; different: {', '.join(found) or 'nothing'}", flush=True)
            shutil.rmtree(disturbed)

    def _lengths(self, undisturbed: pathlib.Path) -> dict[str, float]:
        """The seconds of the stages of the undisturbed run, which a former call may have made."""
        from jaxweights import files

        path = self._folder / "undisturbed.json"
        if not path.exists():
            files.write_json(path, self._finish(undisturbed))
        return files.read_json(path, "table of seconds", f"Remove the folder {self._folder}.", {str: float})

    def _start(self, workdir: pathlib.Path, count: int) -> soaking.Job:
        arguments = [f"--config={_CONFIG.value}", f"--host_devices={max(1, self._devices // count)}"]
        return soaking.Job(workdir, count, arguments)

    def _finish(self, workdir: pathlib.Path) -> dict[str, float]:
        """Runs a job to its end; the seconds of its stages."""
        from jaxweights.errors import UserError

        job, begin = self._start(workdir, self._counts[0]), time.monotonic()
        lengths: dict[str, float] = collections.defaultdict(float)
        while job.running():
            time.sleep(0.05)
            stage, now = soaking.stage(workdir), time.monotonic()
            lengths[stage] += now - begin
            begin = now
        statuses = job.statuses()
        if any(statuses):
            raise UserError(f"The experiment in {workdir} ended with status {statuses}; {job.log} says why.")
        return dict(lengths)

    def _disturb(self, workdir: pathlib.Path, first: int, lengths: dict[str, float]) -> int:
        """Starts the job and disturbs it in a stage from the `first` one on; the number of the stage that it was in."""
        count = self._counts[self._starts % len(self._counts)]
        self._starts += 1
        wanted = min(soaking.STAGES[first:], key=lambda stage: sum(self._hits[stage, kind] for kind in self._kinds))
        kind = min(self._kinds, key=lambda kind: self._hits[wanted, kind])
        job = self._start(workdir, count)
        job.wait_for(wanted)
        # What was begun before takes less time.
        job.sleep(self._random.uniform(0, 0.5 * lengths.get(wanted, 0.0)))
        if not job.running():
            if any(job.statuses()):
                self._problem(f"the job ended with status {job.statuses()} before it was disturbed; see {job.log}")
            return len(soaking.STAGES)
        stage, number = soaking.stage(workdir), self._random.randrange(count)
        seconds, problem = job.disturb(number, kind)
        self._hits[stage, kind] += 1
        if count > 1:
            self._waits.append(seconds)
        after = f", the others ended after {seconds:.1f} s" if count > 1 else ""
        print(f"{self._hits.total()}. {kind}: process {number} of {count} in stage {stage}{after}", flush=True)
        if problem:
            self._problem(problem)
        return soaking.STAGES.index(stage) if stage in soaking.STAGES else len(soaking.STAGES)

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        print(f"problem: {text}", flush=True)

    def summary(self) -> str:
        """How often what happened in which stage, and how long the others took to end."""
        lines = [
            f"{stage}: " + ", ".join(f"{self._hits[stage, kind]} x {kind}" for kind in self._kinds)
            for stage in (*soaking.STAGES, soaking.END)
        ]
        if self._waits:
            waits = sorted(self._waits)
            middle = waits[len(waits) // 2]
            lines.append(f"the others ended after {waits[0]:.1f} to {waits[-1]:.1f} s, median {middle:.1f} s")
        lines.append(f"{self._hits.total()} faults, {self._rounds} runs; problems: {len(self.problems) or 'none'}")
        return "\n".join([*lines, *self.problems])


if __name__ == "__main__":
    common.run_main(main)
