"""`report.html`: one self-contained file of verdicts, figures and tables."""

from __future__ import annotations

import base64
import html
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxweights import auditing, data, files, nets, population, settings, tasks
from jaxweights.population import Population
from jaxweights.report import explanations, measures, pictures, studies, style, tables, template, training
from jaxweights.report.settings import ReportSettings
from jaxweights.report.style import Picture, Section


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
    heldout_checkpoints: Population | None = None,
) -> pathlib.Path:
    """Draws `figures/*.png` and `*.svg` and writes `report.html`; the same results give the same bytes.

    How long the stages took is no result, and is in `timing.json` alone.

    Args:
      workdir: the experiment's folder, with `audit/<series>.npz`, `metrics.jsonl` if a generator was trained, and
        `studies/<generator>.npz` if one was studied.
      metrics: what the audit returned, with `zoo` and `versions`, and `studies` where there are any.
      config: the experiment's config; its section `report` holds `ReportSettings`.
      net: task network.
      dataset: its images, or initial states.
      train: training networks, in the order that the measurements refer to.
      samples: generated networks by series name.
      mesh: devices for the decision regions or actions.
      heldout: one checkpoint of every held-out run, for the figures of weights.
      heldout_checkpoints: all checkpoints of held-out runs, for that of trajectories.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder cannot be written, or impossible settings.
    """
    options = settings.make(ReportSettings, config.get("report", {}))
    scene = tasks.Scene(net, dataset, train, options, mesh, workdir / "figures")
    folder = files.make_dir(scene.folder)
    series = style.collect(workdir, metrics)
    examples, seed = len(dataset.test_labels), config["seed"]
    audited = pictures.Audited(metrics, series, train, heldout, heldout_checkpoints, samples, examples, seed)
    with style.drawing():
        parts = [
            *pictures.of_measurements(audited, folder),
            *pictures.of_samples(audited, folder),
            *_task_pictures(audited, scene),
            *pictures.of_weights(audited, folder),
            *_training_pictures(audited, config, workdir / "metrics.jsonl", folder),
            *studies.parts(series, workdir, metrics, seed, folder),
        ]
    text = render(metrics, config, net, parts)
    path = workdir / "report.html"
    _write(path, text)
    return path


def _task_pictures(audited: pictures.Audited, scene: tasks.Scene) -> Iterator[Picture]:
    """The task's own pictures of the first generated networks and the nearest training networks."""
    task, shown = scene.net.task, []
    for subject, suffix in pictures.subjects(audited.series):
        generated = audited.samples[subject.name].weights[: task.shown_networks]
        nearest = scene.train.weights[subject.measured.nearest_row[: len(generated)]]
        shown.append(tasks.Shown(subject, suffix, np.concatenate([generated, nearest])))
    yield from task.pictures(shown, scene)


def _training_pictures(audited: pictures.Audited, config, log: pathlib.Path, folder: pathlib.Path) -> list[Picture]:
    """How the generators and the zoo were trained."""
    logged = style.read_curves(log)
    # In the order of the series, whatever was trained first or again.
    ordered = {key: curve for s in audited.series for key, curve in logged.items() if key[0] == s.name}
    curves = training.loss_curves(ordered, audited.series)
    terms = tables.terms_of(audited.metrics)
    zoo = training.zoo(audited.series, audited.train, audited.examples, config, terms)
    tested = terms.tested[:1].upper() + terms.tested[1:]
    path = style.save(zoo, folder, "zoo")
    found = [Picture(path, "The zoo", f"{tested} of the networks that the experiment starts from.")]
    if curves is not None:
        path = style.save(curves, folder, "loss_curves")
        found.insert(0, Picture(path, "Training of the generators", "Loss of every stage."))
    return found


def write_audit(path: pathlib.Path, audited: pictures.Audited) -> pathlib.Path:
    """Writes the page of an audit of arrays, which has neither a config nor a workdir: one HTML file, with its figures
    inside.

    Args:
      path: HTML file.
      audited: networks and measurements.
    """
    with style.drawing(), tempfile.TemporaryDirectory() as folder:
        parts = [
            part
            for make in (pictures.of_measurements, pictures.of_samples, pictures.of_weights)
            for part in make(audited, pathlib.Path(folder))
        ]
        text = _page(audited.metrics, "Invents or remembers?", _sizes(audited), parts, kept=False)
    _write(path, text)
    return path


def _sizes(audited: pictures.Audited) -> str:
    """How many networks of which size there are."""
    counts = {name: len(networks) for name, networks in audited.samples.items()}
    roles = style.roles(audited.metrics)
    generated = ", ".join(f"{counts[n]:,} of {style.label(n)}" for n, role in roles.items() if role == style.LEARNED)
    unseen = measures.count(audited.metrics["series"][auditing.HELDOUT])
    return (
        f"Networks of {audited.train.spec.num_params:,} parameters: {len(audited.train):,} that the generators have "
        f"seen, {unseen:,} held out as the null, and {generated}."
    )


def _write(path: pathlib.Path, text: str) -> None:
    # ASCII with character references, so that no locale or server can misread it.
    files.write_text(path, text.encode("ascii", "xmlcharrefreplace").decode("ascii"))


def render(
    metrics: Mapping[str, Any], config: Mapping[str, Any], net: nets.TaskNet, parts: Sequence[Picture | Section]
) -> str:
    """The page as a string, with the figures and further parts between the results and the other measures."""
    title = f"Invents or remembers? {config['data']['name']}, {net.name}"
    facts = f"{_subject_matter(metrics, net)} {config['num_samples']:,} networks drawn from every generator."
    return _page(metrics, title, facts, parts, config=config)


def _page(
    metrics: Mapping[str, Any],
    title: str,
    facts: str,
    parts: Sequence[Picture | Section],
    *,
    config: Mapping[str, Any] | None = None,
    kept: bool = True,
) -> str:
    """The page as a string.

    Args:
      metrics: numbers of the audit.
      title: heading.
      facts: what was audited, in a sentence.
      parts: figures and sections after the results.
      config: the experiment's, if there is one.
      kept: whether the figures are files beside the page, too.
    """
    roles, checks = style.roles(metrics), metrics["checks"]
    aligned = any(e.get("aligned_min_l2") for e in metrics["series"].values())
    state = "pass" if checks["controls_passed"] else "fail"
    sign = "&#10003;" if checks["controls_passed"] else "&#10007;"
    sections = [
        f'<p class="checks {state}"><b>{sign}</b> {html.escape(tables.controls_text(checks))}</p>',
        *(f'<p class="checks fail">{html.escape(note)}</p>' for note in tables.notes(metrics)),
        _verdicts(metrics, roles),
        _section("results", "Results", _results(metrics, roles, aligned)),
        *(
            _figure(p, kept) if isinstance(p, Picture) else _section(html.escape(p.identity), p.title, p.content)
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
    sections.append(_section("measures", "What the measures mean", f"<dl>{meanings}</dl>"))
    if "zoo" in metrics:
        sections.append(_section("zoo-facts", "Zoo", tables.facts(metrics["zoo"])))
    sections.append(_section("versions", "Versions", tables.facts(metrics["versions"])))
    if config is not None:
        sections.append(_section("config", "Config", _folded("every setting", tables.facts(config))))
    sections.append(
        _section(
            "numbers",
            "All numbers",
            _folded("every number of metrics.json under series and studies", tables.every_number(metrics)),
        )
    )
    body = "\n".join(sections)
    return template.PAGE.format(
        title=html.escape(title), style=template.STYLE, facts=html.escape(facts), body=body, script=template.SCRIPT
    )


def _subject_matter(metrics: Mapping[str, Any], net: nets.TaskNet) -> str:
    """What was trained, and how often."""
    count, runs = metrics["zoo"]["num_params"], metrics["zoo"]["runs_by_split"]
    what = f"A network of {count:,} parameters"
    if isinstance(net, nets.PartialNet) and net.whole.spec.num_params > count:
        what = f"{count:,} of the {net.whole.spec.num_params:,} parameters of a network, the others frozen"
    times, networks = runs[population.TRAIN], measures.count(metrics["series"][auditing.TRAINING])
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


def _figure(picture: Picture, kept: bool) -> str:
    content = picture.path.read_bytes()
    encoded = base64.b64encode(content).decode("ascii")
    # All figures at one scale, so that their letters have one size; the width stands at a fixed place of a PNG file.
    width = round(int.from_bytes(content[16:20], "big") / style.DPI * style.PIXELS_PER_INCH)
    size = f'style="max-width:{width}px;min-width:{min(style.LEAST_PIXELS, width)}px"'
    title, name = html.escape(picture.title), html.escape(picture.path.name)
    place = f" <small>figures/{name}, .svg</small>" if kept else ""
    return (
        f'<section id="{html.escape(picture.path.stem)}"><h2>{title}</h2><figure>'
        f'<div class="scroll paper"><img alt="{title}" {size} src="data:image/png;base64,{encoded}"></div>'
        f"<figcaption>{picture.caption}{place}</figcaption></figure></section>"
    )
