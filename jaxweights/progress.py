"""Progress of long work: a bar with rate and time left on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

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


class Progress:
    """Counts work done against a total; a context manager.

    On a terminal, and in a notebook with ipywidgets, it is a tqdm bar. Elsewhere, or after `set_quiet(True)`, it prints
    a line every ten seconds and one at the end of anything that took longer than a second.
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
        self._bar = None
        if not _quiet and (_WIDGETS or sys.stderr.isatty()):
            self._bar = tqdm(
                total=total, desc=what, unit=f" {unit}", unit_scale=True, dynamic_ncols=True, smoothing=0.1
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind, *exception) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None and self.seconds > 1.0:
            self._line()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._start

    def update(self, done: float, note: str = "") -> None:
        """Reports the amount of work done so far, and anything else worth showing, e.g. "1.2k models/s"."""
        step, self._done, self._note = done - self._done, done, note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(step)
        elif time.monotonic() - self._last > _PLAIN_SECONDS:
            self._last = time.monotonic()
            self._line()

    def callback(self, done: int, total: int) -> None:
        """`update` in parts of a total, the form in which long functions report."""
        self.update(done * self._total / max(total, 1))

    def _line(self) -> None:
        elapsed = self.seconds
        rate = self._done / max(elapsed, 1e-9)
        left = (self._total - self._done) / rate if rate else float("nan")
        note = f", {self._note}" if self._note else ""
        print(
            f"{self._what}: {100 * self._done / max(self._total, 1e-9):.0f} % of {human(self._total)} {self._unit} "
            f"in {elapsed:.0f} s, "
            f"{human(rate)} {self._unit}/s, {left:.0f} s left{note}",
            file=sys.stderr,
            flush=True,
        )


def human(value: float) -> str:
    """Three digits and a decimal prefix: 1234567 is "1.23M"."""
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{suffix}"
    return f"{value:.3g}"
