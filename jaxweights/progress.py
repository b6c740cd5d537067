"""Progress of long work: a bar with rate and time left on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import collections
import math
import sys
import time
import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():  # in a notebook without ipywidgets, where plain lines do
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

_WIDGETS = any(kind.__name__ == "tqdm_notebook" for kind in tqdm.__mro__)
_quiet = False
_PLAIN_SECONDS = 10.0


def set_quiet(quiet: bool) -> None:
    """Plain lines instead of bars, also on a terminal and in a notebook."""
    global _quiet
    _quiet = quiet


class Rate:
    """Rate of work in progress, by which the time left is told.

    It is measured from the first report on, since what comes before is mostly compilation, and over the later half of
    the time since, so that a slow start is forgotten.
    """

    def __init__(self) -> None:
        self._begin = math.nan
        self._reports: collections.deque[tuple[float, float]] = collections.deque()

    def add(self, seconds: float, done: float) -> None:
        """Reports the amount of work done at a time."""
        reports = self._reports
        if not reports:
            self._begin = seconds
        reports.append((seconds, done))
        while len(reports) > 2 and reports[1][0] <= 0.5 * (self._begin + seconds):
            reports.popleft()

    @property
    def value(self) -> float | None:
        """Work per second; None before a second report."""
        if len(self._reports) < 2:
            return None
        (begin, before), (end, done) = self._reports[0], self._reports[-1]
        return (done - before) / max(end - begin, 1e-9)


class _Bar(tqdm):
    """A tqdm bar that shows a rate measured elsewhere: its own averages in the compilation."""

    measured: Rate | None = None

    @property
    def format_dict(self):
        """What tqdm shows; without a rate, neither that nor the time left."""
        shown = super().format_dict
        if self.measured is not None:
            shown["rate"] = self.measured.value or 0.0
        return shown


class Progress:
    """Counts work done against a total; a context manager.

    On a terminal, and in a notebook with ipywidgets, it is a tqdm bar. Elsewhere, or after `set_quiet(True)`, it prints
    a line every ten seconds and one at the end of anything that took longer than a second. The last one says 100 %
    where the work ended without an error. Nothing is shown where there is nothing to do.
    """

    def __init__(self, total: float, what: str, unit: str):
        """Starts the clock.

        Args:
          total: amount of work.
          what: name of the work, e.g. "training the zoo".
          unit: unit of the amount, e.g. "models".
        """
        self._total, self._what, self._unit = total, what, unit
        self._done, self._note = 0.0, ""
        self._start = self._last = time.monotonic()
        self._rate = Rate()
        self._bar = None
        if total > 0 and not _quiet and (_WIDGETS or sys.stderr.isatty()):
            self._bar = _Bar(total=total, desc=what, unit=f" {unit}", unit_scale=True, dynamic_ncols=True)
            self._bar.measured = self._rate

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind, *exception) -> None:
        if self._bar is not None:
            if kind is None:
                self._bar.update(self._total - self._done)
            self._bar.close()
        elif kind is None and self._total > 0 and self.seconds > 1.0:
            self._print(f"100 % of {human(self._total)} {self._unit} in {self.seconds:.0f} s")

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._start

    def update(self, done: float, note: str = "") -> None:
        """Reports the amount of work done so far, and anything else worth showing, e.g. "1.2k models/s"."""
        step, self._done, self._note = done - self._done, done, note
        now = time.monotonic()
        self._rate.add(now, done)
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(step)
        elif now - self._last > _PLAIN_SECONDS and done < self._total:
            self._last = now
            self._print(self._state())

    def callback(self, done: int, total: int) -> None:
        """`update` in parts of a total, the form in which long functions report."""
        self.update(done * self._total / max(total, 1))

    def _state(self) -> str:
        """How much is done, how fast, and how long the rest takes."""
        share = int(100 * self._done / self._total)
        state = f"{share} % of {human(self._total)} {self._unit} in {self.seconds:.0f} s"
        rate = self._rate.value
        if rate:
            left = (self._total - self._done) / rate
            state += f", {human(rate)} {self._unit}/s, {duration(left)} left"
        return state

    def _print(self, state: str) -> None:
        note = f", {self._note}" if self._note else ""
        print(f"{self._what}: {state}{note}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds up to two minutes, then minutes up to two hours, then hours."""
    for limit, unit, name in ((7200, 3600, "h"), (120, 60, "min")):
        if seconds >= limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"


def human(value: float) -> str:
    """Three digits and a decimal prefix: 1234567 is "1.23M"."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * limit:  # 999.6 has three digits as 1k
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"
