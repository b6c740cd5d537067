"""Progress: the time left comes from the running work's own rate, and its end is said once."""

import io
import re

import pytest

from jaxweights import progress

# Seconds and amounts of work of every report, after a start at 0; the total; the time left after the last report.
COURSES = {
    "compiled for half a minute": ([(30, 8)] + [(30 + t, 8 + 100 * t) for t in range(1, 41)], 5008, 10),
    "slow at first": ([(t, t) for t in range(1, 21)] + [(20 + t, 20 + 50 * t) for t in range(1, 41)], 4020, 40),
    "slower later": ([(t, 100 * t) for t in range(1, 21)] + [(20 + t, 2000 + t) for t in range(1, 41)], 2140, 100),
    "regular": ([(t, t) for t in range(1, 31)], 100, 70),
}


class Terminal(io.StringIO):
    """A text stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Seconds that `progress` sees, to be set."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("name", COURSES)
def test_the_time_left_is_that_of_the_rate_at_work(name, clock, capsys):
    reports, total, expected = COURSES[name]
    with progress.Progress(total, "work", "steps") as bar:
        for seconds, done in reports:
            clock[0] = seconds
            bar.update(done)
        bar._last = -100.0
        bar.update(reports[-1][1])
    *_, line, last = capsys.readouterr().err.splitlines()
    assert float(re.findall(r"(\d+) s left", line)[0]) == pytest.approx(expected, rel=0.05)
    assert last.startswith("work: 100 % of") and "left" not in last


def test_one_line_of_a_hundred_percent_and_none_without_work(clock, capsys):
    with progress.Progress(10, "work", "steps") as bar:
        clock[0] = 11.0
        bar.update(5, "half")
        clock[0] = 25.0
        bar.update(10, "all")
        clock[0] = 40.0
        bar.update(10, "all")
    with progress.Progress(0, "nothing", "steps"):
        clock[0] = 50.0
    assert capsys.readouterr().err.splitlines() == [
        "work: 50 % of 10 steps in 11 s, half",
        "work: 100 % of 10 steps in 40 s, all",
    ]


def test_work_that_failed_has_no_line_of_a_hundred_percent(clock, capsys):
    with pytest.raises(KeyError), progress.Progress(10, "work", "steps") as bar:
        clock[0] = 11.0
        bar.update(5)
        raise KeyError
    assert "100 %" not in capsys.readouterr().err


def test_a_bar_ends_at_a_hundred_percent_and_shows_the_measured_rate(clock, monkeypatch):
    monkeypatch.setattr(progress.sys, "stderr", Terminal())
    with progress.Progress(1000, "work", "steps") as bar:
        for seconds, done in ((30, 8), (31, 108), (32, 208)):
            clock[0] = seconds
            bar.update(done)
        shown = bar._bar.format_dict
        assert shown["rate"] == 100
    text = progress.sys.stderr.getvalue()
    assert text.count("100%") == 1 and "1.00k/1.00k" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (119, "119 s"), (600, "10 min"), (36000, "10 h")])
def test_durations_are_short(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.01234, "0.0123"), (999.4, "999"), (999.6, "1k"), (1234567, "1.23M"), (-2e9, "-2G")]
)
def test_amounts_have_three_digits(value, text):
    assert progress.human(value) == text
