"""`report.html`: one self-contained file of verdicts, figures and tables."""

from __future__ import annotations

import base64
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxweights import data, files, nets, population
from jaxweights.audit import vocabulary
from jaxweights.population import Population
from jaxweights.report import actions, boundary, figures, images, studies, style, tables, template
from jaxweights.report.style import Picture, Section

_IMAGES = 8  # image fields in a row
_PIXELS_PER_INCH = 110  # of a figure on the page, whose column is as wide as the widest figure


def write(
    workdir: pathlib.Path,
    *,
    metrics: Mapping[str, Any],
    config: Mapping[str, Any],
    net: nets.TaskNet,
    dataset: data.Dataset,
    train: Population,
    samples: Mapping[str, Population],
    mesh: jax.sharding.Mesh,
) -> pathlib.Path:
    """Draws `figures/*.png` and `*.svg` and writes `report.html`; the same input gives the same bytes.

    Args:
      workdir: of the experiment, with `audit/<series>.npz`, where a generator was trained `metrics.jsonl`, and where it
        was studied `studies/<generator>.npz`.
      metrics: what the audit returned, with `zoo`, `timing` and `versions`, and `studies` where there are any.
      config: of the experiment.
      net: task network.
      dataset: its images, or initial states.
      train: training networks, in the order that the measurements refer to.
      samples: generated networks by series name.
      mesh: devices for the decision regions or actions.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = files.make_dir(workdir / "figures")
    series = style.collect(workdir, metrics, config)
    with style.drawing():
        parts = [
            *_measurement_pictures(series, metrics, dataset, config["seed"], folder),
            *_subject_pictures(series, config["seed"], net, dataset, train, samples, mesh, folder),
            *_training_pictures(series, metrics, config, dataset, train, workdir / "metrics.jsonl", folder),
            *studies.parts(series, workdir, metrics, config["seed"], folder),
        ]
    text = render(metrics, config, net, parts)
    path = workdir / "report.html"
    # ASCII with character references, so that no locale or server can misread it.
    files.write_text(path, text.encode("ascii", "xmlcharrefreplace").decode("ascii"))
    return path


def _measurement_pictures(series, metrics, dataset, seed, folder) -> list[Picture]:
    """Distances and novelty of every series."""
    tested = next(entry["tests"] for entry in metrics["series"].values() if "tests" in entry)
    limit = tested["iou_above_heldout"]["limit"]  # a property of the held-out runs, the same for all
    say = vocabulary.of(metrics)
    return [
        Picture(
            figures.min_distance(series, folder),
            "Distance to the nearest training network",
            "Training networks are compared with the other training networks. A generator whose histogram lies left "
            "of the held-out one stays closer to what it has seen than new training runs come. Below, every series "
            "on one axis: dots are networks, the bar is their middle half, the line their median.",
        ),
        Picture(
            figures.accuracy_novelty(series, len(dataset.test_labels), folder, seed, limit, say),
            say("Accuracy against novelty"),
            f"At most {style.MAX_POINTS} networks per series, spread by a third of a test example. "
            f"{say('Left: similarity of mistakes;')} right of the dashed line lies what only 5 % of held-out runs "
            f"reach. Right: distance of weights. {say('Accurate and novel')} is up and left in the first column, up "
            "and right in the second.",
        ),
    ]


def _subject_pictures(series, seed, net, dataset, train, samples, mesh, folder) -> list[Picture]:
    """Heatmap, and decision regions, actions or images, of every learned generator (or of one other series where there
    is none)."""
    classifies = net.environment is None and net.field is None
    if classifies:
        plane = boundary.fit_plane(np.asarray(data.standardise(dataset.test_images, dataset.scale, dataset.shift)))
    heatmaps, regions = [], []
    for number, subject in enumerate(style.subjects(series)):
        suffix = f"_{subject.name}" if number else ""
        generated = samples[subject.name]
        path = figures.heatmap(subject, generated, train, seed, folder, f"heatmap{suffix}")
        order = ", their hidden units in the sample's order" if subject.measured.aligned_min_l2.size else ""
        heatmaps.append(
            Picture(
                path,
                f"Weights: {subject.label} over the nearest training networks",
                f"Red border: a generated network. Below it its nearest training networks, nearest first{order}. Rows "
                "that look alike are copies up to small changes.",
            )
        )
        if net.field is not None and net.input_shape != (2,):
            continue  # shapes are shown by their own study
        count = min(_IMAGES if net.field is not None else figures.SHOWN_NETWORKS, len(generated))
        shown = np.concatenate([generated.weights[:count], train.weights[subject.measured.nearest_row[:count]]])
        if net.field is not None:
            path = images.draw(subject, train, images.render(net, shown, mesh), folder, f"images{suffix}")
            regions.append(
                Picture(
                    path,
                    f"Images: {subject.label} above the nearest training networks",
                    f"Every network's values on a grid of {images.RESOLUTION} by {images.RESOLUTION} points.",
                )
            )
            continue
        if not classifies:
            path = actions.draw(subject, train, actions.chart(net, shown, mesh), folder, f"actions{suffix}")
            regions.append(
                Picture(
                    path,
                    f"Actions: {subject.label} beside the nearest training networks",
                    "Mean action by angle and angular velocity of the pole, while the cart rests in the middle: red "
                    "pushes towards positive positions, blue towards negative ones. A pole of positive angle leans to "
                    "the positive side.",
                )
            )
            continue
        classes = boundary.classify(net, shown, plane, mesh)
        path = boundary.draw(subject, train, classes, plane, dataset, folder, f"decision_boundaries{suffix}")
        regions.append(
            Picture(
                path,
                f"Decisions: {subject.label} beside the nearest training networks",
                "Predicted classes on the plane of the test images' two principal components (pixels standardised). "
                "Dots are test images, projected: what lies off the plane may be classified otherwise than the tint "
                "under it.",
            )
        )
    return heatmaps + regions


def _training_pictures(series, metrics, config, dataset, train, log, folder) -> list[Picture]:
    """How the generators and the zoo were trained."""
    curves = figures.loss_curves(style.read_curves(log), series, folder)
    say = vocabulary.of(metrics)
    zoo = figures.zoo(series, train, len(dataset.test_labels), config, folder, say)
    pictures = [Picture(zoo, "The zoo", say("Test accuracies of the networks that the experiment starts from."))]
    if curves is not None:
        pictures.insert(0, Picture(curves, "Training of the generators", "Loss of every stage."))
    return pictures


def render(
    metrics: Mapping[str, Any], config: Mapping[str, Any], net: nets.TaskNet, parts: Sequence[Picture | Section]
) -> str:
    """The page as a string, with the figures and further parts between the results and the other measures."""
    roles = style.roles(metrics, config)
    checks = metrics["checks"]
    zoo = metrics["zoo"]
    title = f"Invents or remembers? {config['data']['name']}, {net.name}"
    runs = zoo["runs_by_split"]
    facts = (
        f"A network of {zoo['num_params']:,} parameters, trained {runs[population.TRAIN]:,} times for the generators "
        f"to learn from, and {runs[population.HELDOUT]:,} times held out as the null: what independent training gives. "
        f"{config['num_samples']:,} networks drawn from every generator."
    )
    aligned = any(e.get("aligned_min_l2") for e in metrics["series"].values())
    state = "pass" if checks["controls_passed"] else "fail"
    sign = "&#10003;" if checks["controls_passed"] else "&#10007;"
    sections = [
        f'<p class="checks {state}"><b>{sign}</b> {html.escape(tables.controls_text(checks))}</p>',
        _verdicts(metrics, roles),
        _section("results", "Results", _results(metrics, roles, aligned)),
        *(
            _figure(p) if isinstance(p, Picture) else _section(html.escape(p.identity), p.title, p.content)
            for p in parts
        ),
        _section("more", "More measures", tables.series_table(metrics, roles, tables.MORE, False)),
    ]
    if aligned:
        note = "<p>The same tests on distances between weight vectors as they are, blind to reordered hidden units.</p>"
        sections.append(
            _section("raw", "Tests on raw distances", note + tables.series_table(metrics, roles, tables.RAW, False))
        )
    explained = tables.explanations(aligned, vocabulary.of(metrics))
    meanings = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in explained)
    sections += [
        _section("measures", "What the measures mean", f"<dl>{meanings}</dl>"),
        _section("zoo-facts", "Zoo", tables.facts(zoo)),
        _section("timing", "Time", tables.timing(metrics["timing"])),
        _section("versions", "Versions", tables.facts(metrics["versions"])),
        _section("config", "Config", _folded("every setting", tables.facts(config))),
        _section(
            "numbers",
            "All numbers",
            _folded("every number of metrics.json under series and studies", tables.every_number(metrics)),
        ),
    ]
    body = "\n".join(sections)
    return template.PAGE.format(title=html.escape(title), style=template.STYLE, facts=html.escape(facts), body=body)


def _verdicts(metrics: Mapping[str, Any], roles: Mapping[str, str]) -> str:
    """A card for every learned generator, and a line for every baseline."""

    def text(name):
        judged = metrics["series"][name]["verdict"]
        head = f"{html.escape(style.label(name))} {tables.badge(judged['label'])}"
        return f"<h3>{head}</h3><p>{html.escape(judged['text'])}</p>"

    learned = [n for n, r in roles.items() if r == style.LEARNED]
    cards = "".join(f'<article class="{metrics["series"][n]["verdict"]["label"]}">{text(n)}</article>' for n in learned)
    if not learned:
        cards = (
            "<article><p>There is no learned generator in this experiment, only baselines and controls.</p></article>"
        )
    rest = [n for n, r in roles.items() if r == style.BASELINE]
    lines = "".join(f"<article>{text(n)}</article>" for n in rest)
    baselines = _folded("verdicts on the baselines", f'<div class="cards">{lines}</div>') if rest else ""
    return f'<section id="verdicts"><div class="cards main">{cards}</div>{baselines}</section>'


def _results(metrics, roles, aligned: bool) -> str:
    which = "aligned" if aligned else "raw"
    note = (
        f"<p>Means with their 95&nbsp;% intervals. Tests use {which} distances. Baselines show what a verdict is "
        "worth: a learned generator should do better than they do.</p>"
    )
    return note + tables.series_table(metrics, roles, tables.MAIN, True)


def _section(identity: str, title: str, content: str) -> str:
    return f'<section id="{identity}"><h2>{html.escape(title)}</h2>{content}</section>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _figure(picture: Picture) -> str:
    content = picture.path.read_bytes()
    encoded = base64.b64encode(content).decode("ascii")
    # All figures at one scale, so that their letters have one size; the width stands at a fixed place of a PNG file.
    width = round(int.from_bytes(content[16:20], "big") / style.DPI * _PIXELS_PER_INCH)
    size = f'style="max-width:{width}px;min-width:min(36rem,{width}px)"'
    title, name = html.escape(picture.title), html.escape(picture.path.name)
    return (
        f'<section id="{html.escape(picture.path.stem)}"><h2>{title}</h2><figure>'
        f'<div class="scroll paper"><img alt="{title}" {size} src="data:image/png;base64,{encoded}"></div>'
        f"<figcaption>{picture.caption} <small>figures/{name}, .svg</small></figcaption></figure></section>"
    )
