"""The report: nothing falls out of a figure, every number is on the page, and it comes out the same every time."""

from __future__ import annotations

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from reports import NET, Page, make_experiment, sketched

from jaxweights import auditing, report
from jaxweights.errors import UserError
from jaxweights.report import measures, style, terminal

TABLES = {"table.csv", "table.tex", "methods.tex", "references.bib"}
FIGURES = {
    "calibration",
    "min_distance",
    "accuracy_novelty",
    "accuracy_similarity",
    "interpolation_residual",
    "heatmap",
    "decision_boundaries",
    "value_distributions",
    "tsne",
    "loss_curves",
    "zoo",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of a whole experiment: its arguments and its workdir."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    arguments = make_experiment(workdir)
    assert report.write(workdir, **arguments) == workdir / "report.html"
    return arguments, workdir


def test_the_page_is_one_file_that_fetches_nothing(written):
    _, workdir = written
    text = (workdir / "report.html").read_bytes().decode("ascii")
    page = Page(text)
    assert len(page.fetched) == len(FIGURES)
    assert all(source.startswith("data:image/png;base64,") for source in page.fetched)
    assert "url(" not in text and "@import" not in text
    assert len(set(page.ids)) == len(page.ids)


def test_every_number_of_the_metrics_is_on_the_page(written):
    arguments, workdir = written
    page = Page((workdir / "report.html").read_text())

    def numbers(node):
        if isinstance(node, dict):
            for value in node.values():
                yield from numbers(value)
        elif isinstance(node, list):
            for value in node:
                yield from numbers(value)
        elif isinstance(node, float):
            yield node

    found = list(numbers(arguments["metrics"]["series"]))
    assert len(found) > 100
    words = set(page.text.split())
    assert [x for x in found if f"{x:.6g}" not in words] == []
    for name, entry in arguments["metrics"]["series"].items():
        assert style.label(name) in page.text
        assert not (entry["role"] == "generator" and entry["verdict"]["text"] not in page.text)


def test_figures_are_png_and_svg_and_no_temporary_file_is_left(written):
    _, workdir = written
    assert {p.name for p in (workdir / "figures").iterdir()} == {f"{n}.{s}" for n in FIGURES for s in ("png", "svg")}
    assert {p.name for p in workdir.iterdir()} == {"audit", "figures", "metrics.jsonl", "report.html", *TABLES}


def test_it_comes_out_the_same_whatever_the_users_style_is(written, tmp_path):
    _, workdir = written
    again = tmp_path / "elsewhere"
    arguments = make_experiment(again)
    arguments["metrics"]["timing"] = {"zoo": 99.0}
    log = again / "metrics.jsonl"
    first, rest = log.read_text().split("\n", 1)
    log.write_text(f"{first.replace('pdiff', 'gone')}\n{first.replace('1.0', '9.0')}\n{rest}{first}\n")
    mine = {"font.size": 30.0, "axes.grid": True, "svg.hashsalt": "other", "image.cmap": "hot"}
    with matplotlib.rc_context(mine):
        report.write(again, **arguments)
        assert {k: matplotlib.rcParams[k] for k in mine} == mine
    for path in ("report.html", *TABLES, *(f"figures/{p.name}" for p in (workdir / "figures").iterdir())):
        assert (workdir / path).read_bytes() == (again / path).read_bytes(), path


@pytest.mark.parametrize(
    "case",
    [
        {"aligned": False},
        {"generated": (), "curves": False, "count": 1, "train": 1},
        {"generated": (("noise_low", "noise"), (f"mine_$x^^$_{'more' * 9}", "file"), ("pdiff", "pdiff")), "count": 2},
    ],
    ids=["no_alignment", "controls_only_single_networks", "two_generators_beside_a_baseline"],
)
def test_it_adapts_to_what_is_there(tmp_path, case):
    workdir = tmp_path / "run"
    arguments = make_experiment(workdir, **case)
    with sketched():
        page = Page(report.write(workdir, **arguments).read_text())
    drawn = {p.stem for p in (workdir / "figures").iterdir()}
    assert ("loss_curves" in drawn) == case.get("curves", True)
    assert ("aligned min L2" in page.text) == case.get("aligned", True)
    assert ("heatmap_pdiff" in drawn) == (len(case.get("generated", "..")) == 3)
    assert len(page.fetched) == len(drawn)


def test_failed_controls_are_said_on_the_page_and_in_the_summary(tmp_path):
    arguments = make_experiment(tmp_path / "run")
    metrics, config = arguments["metrics"], arguments["config"]
    config["generators"]["a<b"] = config["generators"].pop("pdiff")
    metrics["series"] = {k.replace("pdiff", "a<b"): v for k, v in metrics["series"].items()}
    metrics["checks"] = {"controls_passed": False, "failed_controls": ["permuted_copy", auditing.HELDOUT_CONTROL]}
    page = report.page.render(metrics, config, NET, [])
    for text in (page, report.summary(metrics)):
        assert "permuted copy is not flagged" in text
        assert "held-out runs are flagged" in text
    assert 'class="checks fail"' in page
    assert "a<b" in Page(page).text


def test_summary_fits_a_terminal(written):
    text = report.summary(written[0]["metrics"])
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= terminal.TEXT_WIDTH
    assert all(f"\n{style.label(name)}" in text for name in written[0]["metrics"]["series"])
    long = {"a_generator_with_a_name_that_is_longer_than_its_column": written[0]["metrics"]["series"]["pdiff"]}
    text = report.summary({**written[0]["metrics"], "series": {**written[0]["metrics"]["series"], **long}})
    assert max(map(len, text.splitlines())) <= terminal.TEXT_WIDTH
    assert "\na generator with a name that is longer than its column\n" in text


def test_missing_measurements_are_named_and_nothing_is_written(tmp_path):
    workdir = tmp_path / "run"
    arguments = make_experiment(workdir)
    (workdir / "audit" / "noise_low.npz").unlink()
    with pytest.raises(UserError, match=r"noise_low\.npz.*metrics\.json.*launch\.run"):
        report.write(workdir, **arguments)
    assert not (workdir / "report.html").exists()


def test_columns_have_equally_many_decimals(written):
    metrics = written[0]["metrics"]
    page = Page((written[1] / "report.html").read_text())
    entries, measured = list(metrics["series"].values()), (*measures.MAIN, *measures.MORE, *measures.RAW)
    for measure in measured:
        found = [e for e in map(measure.find, entries) if e is not None]
        texts = [measure.number(e.value, measure.shared(found)) for e in found]
        assert len({len(text.partition(".")[2]) for text in texts}) <= 1, (measure.title, texts)
        assert set(texts) <= set(page.text.split())
    head, _, *rows = report.summary(metrics).partition("\n\n")[0].splitlines()
    for title in ("accuracy %", "aligned L2", "error IoU", "Z_U"):
        end = head.index(title) + len(title)
        texts = [row[:end].split()[-1] for row in rows if len(row) > end and row[end - 1].isdigit()]
        assert len({len(text.rpartition(".")[2]) for text in texts}) == 1, (title, texts)


def test_a_column_is_not_ruled_by_copies_or_what_diverged():
    measure = measures.Measure(("a",), "")
    usual = [measures.Estimate(1 + 0.1 * i, 0.98 + 0.1 * i, 1.02 + 0.1 * i, 5) for i in range(6)]
    odd = [measures.Estimate(*(3 * [value]), 5) for value in (0.0, 3e11)] + [measures.Estimate(1e-4, 9e-5, 1.1e-4, 5)]
    decimals = measure.shared([*usual, *odd])
    assert [measure.number(e.value, decimals) for e in (usual[0], *odd)] == ["1.00", "0.00", "3.0e+11", "0.00"]
    assert measure.shared(odd[:1]) == measure.shared([]) == 0
    assert style.alike(np.array([1.4, 0.37, 12.0, np.nan])) == ["1.4", "0.4", "12.0", "nan"]


def test_numbers_have_the_digits_that_their_interval_justifies():
    def written(value, half):
        found = measures.Estimate(value, value - half, value + half, 5)
        return measure.number(value, measure.decimals(found))

    measure = measures.Measure(("a",), "")
    assert [written(12.3456, h) for h in (0.034, 0.0021, 0.5, 40.0)] == ["12.35", "12.346", "12.3", "12"]
    assert [written(v, 0) for v in (0, 12.34, 123.4, -0.01234, 1.2e-8)] == ["0", "12.3", "123", "-0.0123", "1.2e-08"]
    measure = measures.Measure(("a",), "", 100, 1)
    assert [written(v, 0.01) for v in (0.5, 0.9999, -1e-9, -0.012)] == ["50.0", "100.0", "0.0", "-1.2"]
