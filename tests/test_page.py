"""The page's answers, the calibration strip, and what goes into a paper: numbers in, text out."""

import re

import numpy as np
import pytest
from reports import NET, make_experiment

from jaxweights import auditing, report
from jaxweights.auditing import rules
from jaxweights.report import citations, export, methods, strip, style, tables, template
from jaxweights.report.measures import MAIN

BESIDE = {"answer": "no", "text": "It does not beat the baselines: a & b."}


def entry(role, value, half=0.1, **more):
    """A series whose Z_U is known."""
    test = {"value": value, "ci95": [value - half, value + half], "n": 20}
    return {"role": role, "n": 20, "tests": {"z_u": test}, "min_l2": {"mean": 1.0}, **more}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("page") / "run"
    found = {"workdir": workdir, **make_experiment(workdir)}
    found["metrics"]["series"]["pdiff"]["verdict"]["beats_baselines"] = BESIDE
    return found


@pytest.fixture(scope="module")
def facts(arguments):
    return methods.Facts(arguments["metrics"], NET.spec, 50, 0)


def test_a_line_has_copies_at_zero_and_new_runs_at_one():
    series = {"heldout": entry("heldout", 2.0), "copy": entry("control", -6.0), "mine": entry("generator", 0.0)}
    (line,), blind = strip.lines({"series": series})
    assert [line.place(x) for x in (-6.0, 2.0, 0.0)] == [0.0, 1.0, 0.75] and not blind
    np.testing.assert_allclose(line.band, (1 - 0.1 / 8, 1 + 0.1 / 8))


def test_a_test_that_tells_nothing_apart_has_no_line():
    """Nor has one where held-out runs are the only series; the null may be one half of them against the other."""
    wide = {"heldout": entry("heldout", 2.0, 5.0), "copy": entry("control", -6.0, 5.0)}
    shown, blind = strip.lines({"series": wide})
    assert not shown and [test.measure.path for test in blind] == [("tests", "z_u")]
    assert strip.lines({"series": {"heldout": wide["heldout"]}}) == ([], [])
    half = {"heldout": {"role": "heldout"}, "heldout_control": entry("control", 2.0), "copy": entry("control", -6.0)}
    assert strip.lines({"series": half})[0][0].high == 2.0


def test_the_strip_draws_what_is_beyond_its_ends_as_arrows(arguments):
    metrics = arguments["metrics"]
    series = style.arrange(metrics, {})
    assert strip.draw({**metrics, "series": {"heldout": metrics["series"]["heldout"]}}, series) is None
    with style.drawing():
        axes = strip.draw(metrics, style.collect(arguments["workdir"], metrics)).axes[0]
    low, high = axes.get_xlim()
    points = np.concatenate([np.asarray(found.get_offsets()) for found in axes.collections])
    assert len(points) > 20 and (points[:, 0] > low).all() and (points[:, 0] < high).all()
    assert "Z_U" in [label.get_text() for label in axes.get_yticklabels()]


def test_the_answers_come_first_and_the_controls_before_them_if_they_fail(arguments):
    metrics = arguments["metrics"]
    passed = {"controls_passed": True, "failed_controls": []}
    for checks, order in ((passed, 1), ({"controls_passed": False, "failed_controls": ["copy"]}, -1)):
        text = report.page.render({**metrics, "checks": checks}, arguments["config"], NET, [])
        places = [text.index('<p class="answer">'), text.index('<p class="checks')]
        assert places == sorted(places)[::order]
    label = metrics["series"]["pdiff"]["verdict"]["label"]
    assert f'<p class="answer">{label.capitalize()}</p>' in text and "Beats the baselines: <b>no</b>" in text
    assert "It does not beat the baselines: a &amp; b." in text


def test_every_label_that_means_something_has_a_colour():
    for label in (*auditing.FLAGGED, rules.COLLAPSED, rules.NOVEL):
        assert re.search(rf"\.{tables.css_class(label)}\b[^{{]*{{ --tone", template.STYLE), label


def test_tables_for_papers_have_every_series(arguments):
    metrics = arguments["metrics"]
    tex, lines = export.latex_table(metrics), export.csv_table(metrics).splitlines()
    body = [line for line in tex.splitlines() if line.endswith(r" \\")]
    assert len(body) == len(lines) == len(metrics["series"]) + 1
    assert len({line.count(" & ") for line in body}) == 1 and body[0].endswith(r"beats baselines \\")
    assert next(line for line in body if line.startswith("pdiff")).endswith(r"& no \\")
    assert MAIN[0].path[0] in lines[0].split(",") and tex.count(r"\midrule") == 4
    assert export.escape("a_b & 5 % of {x}^2\\") == r"a\_b \& 5 \% of \{x\}\textasciicircum{}2\textbackslash{}"


def test_methods_cite_what_the_bibliography_has(facts):
    text, tex, entries = methods.text(facts), methods.latex(facts), methods.bibtex(facts)
    cited = {key for keys in re.findall(r"\\citep{([^}]*)}", tex) for key in keys.split(",")}
    assert cited == set(re.findall(r"^@\w+{(\w+),", entries, re.M)) and {"meehan2020", "zeng2025"} <= cited
    assert "[@" not in text + tex and "(Meehan et al. 2020)" in text and "Verdict on pdiff" in text
    assert f"{NET.spec.num_params} parameters" in text and "50 resamples" in text and r" \& b." in tex
    assert "arxiv.org/abs/2004.05675" in methods.page(facts)


def test_every_reference_is_a_whole_entry():
    for key, reference in citations.REFERENCES.items():
        found = reference.bibtex(key)
        assert found.count("{") == found.count("}") and str(reference.year) in reference.short or key == "jaxweights"
        assert all(found.count(f"  {field} = ") == 1 for field in ("title", "author", "year"))
        assert found.isascii()
