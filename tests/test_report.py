"""The report: nothing falls out of a figure, every number is on the page, and it comes out the same every time."""

from __future__ import annotations

import contextlib
import dataclasses
import html.parser
import json

import jax
import matplotlib
import matplotlib.image
import numpy as np
import pytest

from jaxweights import auditing, data, generators, parallel, report, tasks
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.report import boundary, compare, components, figures, heatmap, measures, style, terminal, training

CONTROLS = ("copy", "noised_copy", "permuted_copy")
NET = tasks.build({"name": "mlp", "hidden": (4,)}, (3, 3, 1), 3)
UNITS = NET.spec.units(0)[0]
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


def images(count=40, shape=(3, 3, 1), seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def make_dataset():
    labels = (np.arange(40) % 3).astype(np.int32)
    one = np.ones(1, np.float32)
    return data.Dataset("tiny", images(), labels, images(seed=1), labels, 3, one, 0 * one, "made up")


def make_measured(rng, count, train, distance, aligned=True):
    """Plausible measurements of a series; `distance` 0 makes copies."""
    nearest = np.stack([rng.permutation(train)[: min(3, train)] for _ in range(count)])
    permutation = np.stack([[rng.permutation(4) for _ in row] for row in nearest])
    measured = distance * rng.uniform(0.8, 1.2, count)
    fields = {
        "accuracy": rng.integers(20, 40, count) / 40,
        "loss": rng.uniform(0.1, 1, count),
        "max_error_iou": np.ones(count) if distance == 0 else rng.uniform(0.3, 0.8, count),
        "min_l2": 1.2 * measured,
        "nearest": nearest,
        "second_l2": 1.5 * measured + 0.5,
        "aligned_min_l2": measured,
        "aligned_nearest": nearest,
        "aligned_second_l2": 1.3 * measured + 0.5,
        "aligned_permutation": permutation,
        "hull_residual": 0.9 * measured,
    }
    if not aligned:
        empty = {"aligned_min_l2": (0,), "aligned_nearest": (0, 0), "aligned_second_l2": (0,)}
        fields |= {k: np.zeros(shape) for k, shape in (empty | {"aligned_permutation": (0, 0, 0)}).items()}
    return auditing.Measured(**fields)


def make_experiment(
    workdir, *, generated=(("pdiff", "pdiff"), ("noise_low", "noise")), count=12, train=10, aligned=True, curves=True
):
    """A workdir after the audit; returns the arguments of `report.write`."""
    rng = np.random.default_rng(0)
    weights = np.asarray(jax.jit(jax.vmap(NET.init))(jax.random.split(jax.random.key(0), train)))
    rates = {"hyper/learning_rate": np.geomspace(0.01, 1, train), "hyper/momentum": np.full(train, 0.9)}
    runs = np.arange(train)
    population = Population.create(weights, NET.spec, run=runs, step=5, accuracy=rng.uniform(0.5, 1, train), **rates)
    measured = {
        "training": make_measured(rng, train, train, 4.0, aligned),
        "heldout": make_measured(rng, 16, train, 4.0, aligned),
    }
    names = [name for name, _ in generated]
    distances = {"copy": 0.0, "permuted_copy": 0.0, "noised_copy": 0.1, "noise_low": 1.0}
    samples = {}
    for name in (*names, *CONTROLS):
        measured[name] = make_measured(rng, count, train, distances.get(name, 2.0), aligned)
        samples[name] = Population.create(weights[measured[name].nearest_row], NET.spec)
    baselines = [name for name, kind in generated if generators.is_baseline(kind)]
    metrics = auditing.summarise(measured, CONTROLS, 50, 0, baselines=baselines)
    for name, kind in generated:
        metrics["series"][name]["kind"] = kind
    metrics |= {
        "zoo": {
            "num_runs": train + 16,
            "num_params": NET.spec.num_params,
            "runs_by_split": {"train": train, "heldout": 16},
            "diverged_runs": [],
        },
        "timing": {"zoo": 1.25, "audit": 0.5},
        "versions": {"jax": "0.0", "git": "none"},
    }
    config = {
        "seed": 0,
        "num_samples": count,
        "data": {"name": "tiny"},
        "zoo": {"learning_rate": {"kind": "log_uniform", "low": 0.01, "high": 1.0}, "momentum": 0.9},
        "generators": {name: {"kind": kind} for name, kind in generated},
    }
    (workdir / "audit").mkdir(parents=True)
    for name, one in measured.items():
        np.savez(workdir / "audit" / f"{name}.npz", **dataclasses.asdict(one))
    if curves:
        rows = [
            {"generator": "pdiff", "stage": s, "step": t, "loss": 1 / t}
            for s in ("autoencoder", "diffusion")
            for t in range(1, 30)
        ]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {
        "metrics": json.loads(json.dumps(metrics)),
        "config": config,
        "net": NET,
        "dataset": make_dataset(),
        "train": population,
        "samples": samples,
        "mesh": parallel.make_mesh(2),
    }


def assert_legends_are_whole(figure):
    """Legends lie within the figure; those of all panels also within what a phone shows before it scrolls."""
    figure.draw_without_rendering()
    pixels = style.PIXELS_PER_INCH * figure.get_figwidth()
    seen = figure.bbox.width * min(1, 324 / min(style.LEAST_PIXELS, pixels))
    of_panels = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    for legend in (*figure.legends, *of_panels):
        box = legend.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1 and box.y1 <= figure.bbox.y1 + 1
        assert box.x1 <= (seen if legend in figure.legends else figure.bbox.x1) + 12


@contextlib.contextmanager
def sketched(kept=""):
    """Figures are drawn, but files hold a pixel, except of names that end in `kept`: they take most of the time."""
    save = style.save

    def sketch(figure, folder, name):
        assert_legends_are_whole(figure)
        if kept and name.endswith(kept):
            return save(figure, folder, name)
        path = folder / f"{name}.png"
        matplotlib.image.imsave(path, np.zeros((1, 1)))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save", sketch)
        yield


class Page(html.parser.HTMLParser):
    """Collects the text of a page, and whatever a browser would fetch."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.words, self.fetched, self.open, self.ids = [], [], [], []
        self.feed(text)
        assert not self.open, f"unclosed {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        assert tag not in ("link", "iframe", "object")
        self.fetched += [attributes[k] for k in ("src", "srcset", "data", "poster") if k in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self):
        return " ".join(self.words)


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


def test_histograms_lose_no_network():
    rng = np.random.default_rng(0)
    for _ in range(300):  # the published bins lose the largest value in about a quarter of such draws
        values = [rng.normal(size=5) * rng.uniform(0.1, 10) + rng.normal() for _ in range(2)]
        edges = figures.histogram_edges(values)
        assert len(edges) == 16
        for v in values:
            np.testing.assert_allclose(figures.percent_of_networks(v, edges).sum(), 100, rtol=1e-12)
    equal = np.full(4, 2.5)
    assert figures.percent_of_networks(equal, figures.histogram_edges([equal])).max() == 100


def test_accuracy_bins_hold_equally_many_values():
    for examples, low, high in ((360, 300, 351), (10, 3, 3), (10_000, 0, 10_000)):
        possible = np.arange(examples + 1) / examples
        edges = training.accuracy_edges([np.array([low, high]) / examples], examples)
        inside = possible[(possible > edges[0]) & (possible < edges[-1])]
        counts = np.histogram(inside, edges)[0]
        assert len(edges) <= 21
        assert inside[0] * examples <= low and inside[-1] * examples >= min(high, examples) - 1e-9
        assert len(set(counts[:-1])) <= 1


def test_smoothing_averages_noise_and_keeps_straight_lines():
    values = np.random.default_rng(0).uniform(1, 2, 50)
    smoothed = training.smooth(values)
    assert smoothed.shape == values.shape and smoothed.std() < 0.5 * values.std()
    np.testing.assert_allclose(smoothed[20], values[15:26].mean(), rtol=1e-12)
    for length in (1, 2, 3, 4, 10, 11, 12):
        line = 1 + 0.5 * np.arange(length)
        np.testing.assert_allclose(training.smooth(line), line, rtol=1e-12)


def test_loss_curves_take_the_last_row_of_a_step_and_skip_a_torn_line(tmp_path):
    def row(step, loss):
        return json.dumps({"generator": "g", "stage": "s", "step": step, "loss": loss})

    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "\n".join([row(1, 9.0), row(2, 8.0), row(2, 7.0)[:20], row(4, 5.0), row(3, 6.0), row(2, 7.5)]) + "\n"
    )
    assert style.read_curves(path) == {("g", "s"): {1: 9.0, 2: 7.5, 3: 6.0, 4: 5.0}}
    assert style.read_curves(tmp_path / "absent.jsonl") == {}


def _flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 40]) + content[middle + 40 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "flipped": _flip,
    "foreign": lambda content: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_arrays_are_one_sentence_with_a_cure(tmp_path, damage):
    for folder, read, cure in (
        ("audit", lambda path: auditing.load(path), r"Remove it.*metrics\.json.*run again|run launch\.run again"),
        ("studies", lambda path: compare.read_arrays(tmp_path, path.stem), r"Remove .*one\.json and .*metrics\.json"),
    ):
        path = tmp_path / folder / "one.npz"
        path.parent.mkdir()
        np.savez(path, **dataclasses.asdict(make_measured(np.random.default_rng(0), 5, 10, 1.0)))
        assert read(path)
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        with pytest.raises(UserError, match=rf"one\.npz.*({cure})"):
            read(path)


@pytest.mark.parametrize("line", ["[]", "null", "{}", '"text"', '{"generator": "g", "stage": "s", "step": 1}', "3"])
def test_what_is_no_point_of_a_curve_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps({'generator': 'g', 'stage': 's', 'step': 1, 'loss': 0.5})}\n{line}\n")
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl .*Remove the line"):
        style.read_curves(path)


def test_heatmap_shows_a_permuted_copy_as_equal_rows():
    rng = np.random.default_rng(0)
    train = Population.create(rng.normal(size=(5, NET.spec.num_params)).astype(np.float32), NET.spec)
    order = np.array([2, 0, 3, 1])
    copies = np.asarray(NET.spec.permute(train.weights, [order]))
    measured = make_measured(rng, 5, 5, 0.0)
    rows = np.arange(5)[:, None]
    measured = dataclasses.replace(
        measured, aligned_nearest=rows, aligned_permutation=np.broadcast_to(order, (5, 1, 4))
    )
    nearest, weights = heatmap.nearest_training(measured, train, copies, 3)
    np.testing.assert_array_equal(nearest, rows[:3])
    np.testing.assert_allclose(weights[:, 0], copies[:3], rtol=1e-12)  # balanced and back
    assert not np.array_equal(weights[:, 0], train.weights[:3])


@pytest.mark.parametrize("dense_size", [8, 16])
def test_plane_is_that_of_the_principal_components(monkeypatch, dense_size):
    monkeypatch.setattr(components, "_DENSE_SIZE", dense_size)
    pictures = images(200, (4, 4, 1)) * np.linspace(1, 3, 16, dtype=np.float32).reshape(4, 4, 1)
    pictures[:, 1, 1] += 2 * pictures[:, 0, 0]
    pictures[:, 3, 3] = 7.0  # a constant pixel stays what it is
    labels = np.zeros(200, np.int32)
    plane = boundary.fit_plane(pictures, labels, 1)
    flat = pictures.reshape(200, -1).astype(np.float64)
    scale = np.where(flat.std(axis=0) > 0, flat.std(axis=0), 1)
    standard = (flat - flat.mean(axis=0)) / scale
    _, singular, right = np.linalg.svd(standard, full_matrices=False)
    np.testing.assert_allclose(plane.points.std(axis=0), singular[:2] / np.sqrt(200), rtol=1e-9)
    directions = plane.basis / scale
    np.testing.assert_allclose(np.abs(np.sum(directions * right[:2], axis=1)), 1, rtol=1e-9)
    assert (directions[np.arange(2), np.abs(directions).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose((plane.mean + plane.points @ plane.basis)[:, 15], 7.0, rtol=1e-6)
    shuffled = boundary.fit_plane(pictures[::-1], labels, 1)
    np.testing.assert_allclose(shuffled.basis, plane.basis, atol=1e-9)  # the order of the images means nothing
    left, right_side, bottom, top = plane.extent()
    np.testing.assert_allclose([right_side - left, top - bottom], np.ptp(plane.points, axis=0) + 2, rtol=1e-12)


def test_regions_are_the_networks_own_predictions(mesh):
    plane = boundary.fit_plane(images(), (np.arange(40) % 3).astype(np.int32), 3)
    weights = 3 * np.asarray(jax.jit(jax.vmap(NET.init))(jax.random.split(jax.random.key(1), 3)))
    classes = boundary.classify(NET, weights, plane, mesh, resolution=9)
    assert classes.shape == (3, 9, 9) and len(np.unique(classes)) > 1
    left, right, bottom, top = plane.extent()
    rows, columns = np.divmod(np.arange(81), 9)
    points = np.stack([left + (right - left) * columns / 8, bottom + (top - bottom) * rows / 8], axis=1)
    pictures = np.clip(plane.mean + points @ plane.basis, images().min(), images().max())
    pictures = pictures.astype(np.float32).reshape(-1, 3, 3, 1)
    logits = np.asarray(jax.jit(jax.vmap(NET.apply, in_axes=(0, None)))(weights, pictures))
    sorted_logits = np.sort(logits, axis=-1)
    clear = sorted_logits[..., -1] - sorted_logits[..., -2] > 1e-4  # rounding may decide the others
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(classes.reshape(3, 81)[clear], logits.argmax(axis=-1)[clear])


def test_class_colours_are_distinct():
    for count in (2, 10):
        assert len(np.unique(boundary.class_colours(count).round(6), axis=0)) == count


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


def test_figures_share_the_height_of_their_axes(tmp_path):
    """What a panel shows must not depend on the order in which panels are drawn."""
    arguments = make_experiment(tmp_path / "run")
    series = style.collect(tmp_path / "run", arguments["metrics"])
    with style.drawing():
        drawn = figures.min_distance(series)
    panels = [axes for axes in drawn.axes if axes.get_title()]
    assert len(panels) == 2
    for axes, field in zip(panels, ("aligned_min_l2", "min_l2"), strict=True):
        values = [getattr(s.measured, field) for s in series if s.role not in (style.BASELINE, style.CONTROL)]
        tallest = max(figures.percent_of_networks(v, figures.histogram_edges(values)).max() for v in values)
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= tallest
