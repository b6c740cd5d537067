"""Experiments made up for tests of the report, and readers of its page and figures."""

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

from jaxweights import auditing, data, generators, parallel, tasks
from jaxweights.population import Population
from jaxweights.report import style

CONTROLS = ("copy", "noised_copy", "permuted_copy")
NET = tasks.build({"name": "mlp", "hidden": (4,)}, (3, 3, 1), 3)


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
