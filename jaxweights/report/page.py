"""`report.html`: one self-contained file of verdicts, figures and tables."""

from __future__ import annotations

import base64
import html
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxweights import auditing, data, files, nets, population, settings, tasks
from jaxweights.population import Population
from jaxweights.report import explanations, figures, measures, studies, style, tables, template, weights
from jaxweights.report.settings import ReportSettings
from jaxweights.report.style import Picture, Section

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
    heldout: Population | None = None,
    lineages: Population | None = None,
) -> pathlib.Path:
    """Draws `figures/*.png` and `*.svg` and writes `report.html`; the same input gives the same bytes.

    Args:
      workdir: the experiment's folder, with `audit/<series>.npz`, `metrics.jsonl` if a generator was trained, and
        `studies/<generator>.npz` if one was studied.
      metrics: what the audit returned, with `zoo`, `timing` and `versions`, and `studies` where there are any.
      config: the experiment's config; its section `report` holds `ReportSettings`.
      net: task network.
      dataset: its images, or initial states.
      train: training networks, in the order that the measurements refer to.
      samples: generated networks by series name.
      mesh: devices for the decision regions or actions.
      heldout: one checkpoint of every held-out run, for the figures of weights.
      lineages: all checkpoints of held-out runs, for that of trajectories.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder cannot be written, or impossible settings.
    """
    options = settings.make(ReportSettings, config.get("report", {}))
    scene = tasks.Scene(net, dataset, train, options, mesh, workdir / "figures")
    folder = files.make_dir(scene.folder)
    series = style.collect(workdir, metrics)
    with style.drawing():
        parts = [
            *_measurement_pictures(series, metrics, dataset, train, config["seed"], folder),
            *_subject_pictures(series, config["seed"], scene, samples),
            *_weight_pictures(series, config["seed"], train, heldout, lineages, samples, folder),
            *_training_pictures(series, metrics, config, dataset, train, workdir / "metrics.jsonl", folder),
            *studies.parts(series, workdir, metrics, config["seed"], folder),
        ]
    text = render(metrics, config, net, parts)
    path = workdir / "report.html"
    # ASCII with character references, so that no locale or server can misread it.
    files.write_text(path, text.encode("ascii", "xmlcharrefreplace").decode("ascii"))
    return path


def _measurement_pictures(series, metrics, dataset, train, seed, folder) -> Iterator[Picture]:
    """Distances, novelty and mixtures of every series."""
    tested = next(entry["tests"] for entry in metrics["series"].values() if "tests" in entry)
    limit = tested["iou_above_heldout"]["limit"]  # a property of the held-out runs, the same for all
    terms = tables.terms_of(metrics)
    yield Picture(
        figures.min_distance(series, folder),
        "Distance to the nearest training network",
        "Training networks are compared with the other training networks. A generator whose histogram lies left "
        "of the held-out one stays closer to what it has seen than new training runs come. Below, every series "
        "on one axis: dots are networks, the bar is their middle half, the line their median.",
    )
    yield Picture(
        figures.accuracy_novelty(series, len(dataset.test_labels), folder, seed, limit, terms),
        f"{terms.quality.capitalize()} against novelty",
        f"At most {style.MAX_POINTS} networks per series, spread by a third of one {terms.example}. "
        f"Left: {terms.likeness}; right of the dashed line lies what only 5 % of held-out runs "
        f"reach. Right: distance of weights. {terms.good.capitalize()} and novel is up and left in the first column, "
        "up and right in the second.",
    )
    path = figures.accuracy_similarity(series, len(dataset.test_labels), folder, seed, terms)
    if path is not None:
        others = "other runs" if len(np.unique(train.records["run"])) > 1 else "the same run, itself left out"
        yield Picture(
            path,
            f"{terms.quality.capitalize()} against similarity, as published",
            f"Generated networks that lie where noised copies or mixtures do have nothing that these lack; at most "
            f"{style.MAX_POINTS} networks per series, training networks beside those of {others}.",
        )
    relative = metrics["series"][auditing.HELDOUT].get("hull_residual_relative", {"to_heldout": ()})
    path = figures.interpolation_residual(series, folder) if relative["to_heldout"] is not None else None
    if path is not None:
        yield Picture(
            path,
            "Interpolation residual",
            "Distance to the best mixture of training networks: left in units of the held-out runs&rsquo; median "
            "(dashed), right as a share of the distance to the nearest training network. Near 0 in both a network is "
            "nothing but a mixture of what was seen; near 0 on the left alone it is a copy with small changes.",
        )


def _subject_pictures(series, seed, scene: tasks.Scene, samples) -> Iterator[Picture]:
    """Heatmap, and the task's own pictures, of every learned generator (or of one other series where there is none)."""
    subjects = style.subjects(series)
    suffixes = [f"_{s.name}" if number else "" for number, s in enumerate(subjects)]
    for subject, suffix in zip(subjects, suffixes, strict=True):
        path = figures.heatmap(subject, samples[subject.name], scene.train, seed, scene.folder, f"heatmap{suffix}")
        order = ", their hidden units in the sample's order" if subject.measured.aligned_min_l2.size else ""
        yield Picture(
            path,
            f"Weights: {subject.label} over the nearest training networks",
            f"Red border: a generated network. Below it its nearest training networks, nearest first{order}. Rows "
            "that look alike are copies up to small changes.",
        )
    task, shown = scene.net.task, []
    for subject, suffix in zip(subjects, suffixes, strict=True):
        generated = samples[subject.name].weights[: task.shown_networks]
        nearest = scene.train.weights[subject.measured.nearest_row[: len(generated)]]
        shown.append(tasks.Shown(subject, suffix, np.concatenate([generated, nearest])))
    yield from task.pictures(shown, scene)


def _weight_pictures(series, seed, train, heldout, lineages, samples, folder) -> Iterator[Picture]:
    """Values of parameters, t-SNE, and the paths of runs that were kept step by step."""
    found = weights.clouds(series, train, heldout, samples)
    path = weights.value_distributions(found, train, seed, folder)
    if path is not None:
        yield Picture(
            path,
            "Values of single parameters",
            "A generator whose densities are narrower than those of the training networks, or in their middle, has not "
            "learned how parameters vary.",
        )
    path = weights.tsne(found, seed, folder)
    if path is not None:
        yield Picture(
            path,
            "t-SNE of the weights",
            f"Networks of a series that mix with training networks lie among them in weight space; at most "
            f"{style.MAX_POINTS} networks per series, distances between clusters mean little.",
        )
    trained = weights.paths(train, weights.PATHS)
    if trained:
        unseen = weights.paths(lineages, weights.UNSEEN_PATHS) if lineages is not None else []
        middle = weights.distance_to_mean(found, trained, seed)
        own = middle.pop(auditing.TRAINING)
        others = ", ".join(f"{style.label(name)} {value:.3g}" for name, value in middle.items())
        yield Picture(
            weights.trajectory(found, trained, unseen, seed, folder),
            "The path of training",
            f"Where samples gather around the mean of the path they are averages of its checkpoints; median distance "
            f"to it: training checkpoints {own:.3g}, {html.escape(others)}.",
        )


def _training_pictures(series, metrics, config, dataset, train, log, folder) -> list[Picture]:
    """How the generators and the zoo were trained."""
    curves = figures.loss_curves(style.read_curves(log), series, folder)
    terms = tables.terms_of(metrics)
    zoo = figures.zoo(series, train, len(dataset.test_labels), config, folder, terms)
    tested = terms.tested[:1].upper() + terms.tested[1:]
    pictures = [Picture(zoo, "The zoo", f"{tested} of the networks that the experiment starts from.")]
    if curves is not None:
        pictures.insert(0, Picture(curves, "Training of the generators", "Loss of every stage."))
    return pictures


def render(
    metrics: Mapping[str, Any], config: Mapping[str, Any], net: nets.TaskNet, parts: Sequence[Picture | Section]
) -> str:
    """The page as a string, with the figures and further parts between the results and the other measures."""
    roles = style.roles(metrics)
    checks = metrics["checks"]
    zoo = metrics["zoo"]
    title = f"Invents or remembers? {config['data']['name']}, {net.name}"
    facts = f"{_subject_matter(metrics, net)} {config['num_samples']:,} networks drawn from every generator."
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
        _section("more", "More measures", tables.series_table(metrics, roles, measures.MORE, False)),
    ]
    if aligned:
        note = "<p>The same tests on distances between weight vectors as they are, blind to reordered hidden units.</p>"
        sections.append(
            _section("raw", "Tests on raw distances", note + tables.series_table(metrics, roles, measures.RAW, False))
        )
    explained = explanations.explanations(aligned, tables.terms_of(metrics))
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


def _subject_matter(metrics: Mapping[str, Any], net: nets.TaskNet) -> str:
    """What was trained, and how often."""
    count, runs = metrics["zoo"]["num_params"], metrics["zoo"]["runs_by_split"]
    what = f"A network of {count:,} parameters"
    if isinstance(net, nets.PartialNet) and net.whole.spec.num_params > count:
        what = f"{count:,} of the {net.whole.spec.num_params:,} parameters of a network, the others frozen"
    times, networks = runs[population.TRAIN], metrics["series"][auditing.TRAINING]["min_l2"]["n"]
    often = "once" if times == 1 else f"{times:,} times"
    learned = f", of which the generators learn {networks:,} checkpoints" if networks > times else ""
    learned = learned or " for the generators to learn from"
    unseen = runs[population.HELDOUT]
    return (
        f"{what}, trained {often}{learned}, and {unseen:,} times held out as the null: what independent training gives."
    )


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
    return note + tables.series_table(metrics, roles, measures.MAIN, True)


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
