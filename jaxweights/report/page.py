"""`report.html`: one self-contained file of verdicts, figures and tables."""

from __future__ import annotations

import base64
import html
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxweights import auditing, data, files, nets, population, settings, tasks
from jaxweights.population import Population
from jaxweights.report import (
    cards,
    costs,
    explanations,
    export,
    giveaway,
    measures,
    methods,
    pictures,
    studies,
    style,
    tables,
    template,
    training,
)
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
    resamples = _resamples(config)
    audited = pictures.Audited(metrics, series, train, heldout, heldout_checkpoints, samples, examples, seed, resamples)
    with style.drawing(), ThreadPoolExecutor(1) as pool:
        placed = pool.submit(pictures.places, audited)
        parts = [
            *pictures.of_measurements(audited, folder),
            *pictures.of_samples(audited, folder),
            *_task_pictures(audited, scene),
            *pictures.of_weights(audited, folder, placed.result),
            *_training_pictures(audited, config, workdir / "metrics.jsonl", folder),
            *studies.parts(series, workdir, metrics, seed, folder),
        ]
    text = render(metrics, config, net, parts)
    write_tables(workdir, methods.Facts(metrics, net.spec, resamples, seed))
    path = workdir / "report.html"
    write_page(path, text)
    return path


def _resamples(config: Mapping[str, Any]) -> int:
    """Resamples of every interval of an experiment."""
    return config.get("audit", {}).get("bootstrap", auditing.AuditSettings().bootstrap)


def write_tables(folder: pathlib.Path, facts: methods.Facts) -> None:
    """Writes what a paper needs: `table.csv` and `table.tex`, and `methods.tex` with its `references.bib`."""
    files.write_text(folder / "table.csv", export.csv_table(facts.metrics))
    files.write_text(folder / "table.tex", export.latex_table(facts.metrics))
    files.write_text(folder / "methods.tex", methods.latex(facts))
    files.write_text(folder / "references.bib", methods.bibtex(facts))


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
        parts: list[Picture | Section] = [
            part
            for make in (pictures.of_measurements, pictures.of_samples, pictures.of_weights)
            for part in make(audited, pathlib.Path(folder))
        ]
        if "giveaway" in audited.metrics.get("studies", {}):
            parts += giveaway.parts(audited.metrics["studies"]["giveaway"], audited.series, audited.metrics["series"])
        text = _page(facts_of(audited), "Audit of generated networks", _sizes(audited), parts, kept=False)
    write_page(path, text)
    return path


def facts_of(audited: pictures.Audited) -> methods.Facts:
    """What the text on methods needs to know."""
    return methods.Facts(audited.metrics, audited.train.spec, audited.bootstrap, audited.seed)


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


def write_page(path: pathlib.Path, text: str) -> None:
    """Writes a page."""
    # ASCII with character references, so that no locale or server can misread it.
    files.write_text(path, text.encode("ascii", "xmlcharrefreplace").decode("ascii"))


def write_parts(path: pathlib.Path, title: str, facts: str, parts: Sequence[str]) -> pathlib.Path:
    """Writes a page of parts, see `section` and `figure`, below its title and a paragraph of facts in plain text.

    Returns:
      Its path.
    """
    write_page(path, template.filled(title, facts, "\n".join(parts)))
    return path


def render(
    metrics: Mapping[str, Any], config: Mapping[str, Any], net: nets.TaskNet, parts: Sequence[Picture | Section]
) -> str:
    """The page as a string, with the figures and further parts between the results and the other measures."""
    title = f"Audit of generated networks: {config['data']['name']}, {net.name}"
    what = f"{_subject_matter(metrics, net)} {config['num_samples']:,} networks drawn from every generator."
    facts = methods.Facts(metrics, net.spec, _resamples(config), config["seed"])
    return _page(facts, title, what, parts, config=config)


def _page(
    facts: methods.Facts,
    title: str,
    what: str,
    parts: Sequence[Picture | Section],
    *,
    config: Mapping[str, Any] | None = None,
    kept: bool = True,
) -> str:
    """The page as a string.

    Args:
      facts: numbers of the audit, and how it was made.
      title: heading.
      what: what was audited, in a sentence.
      parts: figures and sections after the results.
      config: the experiment's, if there is one.
      kept: whether the figures are files beside the page, too.
    """
    metrics = facts.metrics
    roles = style.roles(metrics)
    sections = [
        *_answers(metrics, roles),
        section("results", "Results", _results(metrics, roles, kept)),
        *(_part(p, kept) for p in parts if _leads(p)),
        *_tables(metrics, roles, _TABLES),
        *(_part(p, kept) for p in parts if not _leads(p)),
        *_tables(metrics, roles, _FURTHER),
        section("measures", "What the measures mean", _meanings(metrics)),
        section("methods", "Methods and sources, to cite", _cited(facts)),
    ]
    if "zoo" in metrics:
        sections.append(section("zoo-facts", "Zoo", tables.facts(metrics["zoo"])))
    versions = tables.facts(metrics["versions"])
    if config is not None:
        versions += f'<p>launch.run says in <a href="{costs.PAGE}">{costs.PAGE}</a> what the stages took.</p>'
    sections.append(section("versions", "Versions", versions))
    if config is not None:
        sections.append(section("config", "Config", tables.folded("every setting", tables.facts(config))))
    sections.append(
        section(
            "numbers",
            "All numbers",
            tables.folded("every number of metrics.json under series and studies", tables.every_number(metrics)),
        )
    )
    body = "\n".join(sections)
    return template.filled(title, what, body)


def _answers(metrics: Mapping[str, Any], roles: Mapping[str, str]) -> list[str]:
    """The verdicts, and whether they can be believed: above them if not."""
    checks, found = metrics["checks"], tables.notes(metrics)
    passed = checks["controls_passed"]
    sign, state = ("&#10003;", "pass") if passed else ("&#10007;", "fail")
    line = f'<p class="checks {state}"><b>{sign}</b> {html.escape(tables.controls_text(checks))}</p>'
    notes = [f'<p class="checks fail">{html.escape(note)}</p>' for note in found]
    return [*notes, cards.of(metrics, roles), line] if passed else [line, *notes, cards.of(metrics, roles)]


def _leads(part: Picture | Section) -> bool:
    """Whether a part belongs to the results, before the further tables."""
    return isinstance(part, Picture) and part.path.stem in _LEADING


_LEADING = ("calibration", "accuracy_novelty")


def _tables(metrics: Mapping[str, Any], roles: Mapping[str, str], wanted) -> list[str]:
    """The tables of further measures; those without any number are left out."""
    shown = []
    for identity, title, note, columns in wanted:
        # Distances alone are no tests: without alignment they are in the results.
        found = [m for m in columns if any(m.find(entry) for entry in metrics["series"].values())]
        if len(found) > (columns is measures.RAW):
            content = f"<p>{note}</p>" * bool(note) + tables.series_table(metrics, roles, columns, False)
            shown.append(section(identity, title, content))
    return shown


_TABLES = (
    (
        "performance",
        "Against the baselines",
        "Novelty is the mean distance in units of that between training networks of different runs, at most 1. A "
        "series beats the baselines if its accuracy lies above the best that baselines, alone or mixed, reach at its "
        "novelty.",
        measures.PERFORMANCE,
    ),
    (
        "function",
        "What the networks compute",
        "On a probe set; held-out networks show what independent training gives, the controls what copies have.",
        measures.FUNCTION,
    ),
    (
        "battery",
        "The series as populations",
        "In coordinates modulo the symmetries. What depends on the number of networks is taken at that of the held-out "
        "ones, whose own value stands beside; theirs is that of one half against the other where it takes a second "
        "set.",
        measures.BATTERY,
    ),
)
"""Anchor, title, note and columns of the tables below the first figures."""

_FURTHER = (
    ("more", "More measures", "", measures.MORE),
    (
        "raw",
        "Raw distances",
        "The same tests on distances between weight vectors as they are, blind to reordered hidden units.",
        measures.RAW,
    ),
)
"""Likewise, below all figures."""


def _meanings(metrics: Mapping[str, Any]) -> str:
    explained = explanations.explanations(metrics)
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in explained) + "</dl>"


def _aligned(metrics: Mapping[str, Any]) -> bool:
    return any(entry.get("aligned_min_l2") for entry in metrics["series"].values())


def _cited(facts: methods.Facts) -> str:
    """The methods in words and the sources as BibTeX."""
    entries = f"<pre>{html.escape(methods.bibtex(facts))}</pre>"
    return f'<div class="cite">{methods.page(facts)}{tables.folded("BibTeX", entries)}</div>'


def _subject_matter(metrics: Mapping[str, Any], net: nets.TaskNet) -> str:
    """What was trained, and how often."""
    count, runs = metrics["zoo"]["num_params"], metrics["zoo"]["runs_by_split"]
    what = f"A network of {count:,} parameters"
    if isinstance(net, nets.PartialNet) and net.whole.spec.num_params > count:
        what = f"{count:,} of the {net.whole.spec.num_params:,} parameters of a network, the others frozen"
    times, networks = runs[population.TRAIN], measures.training_networks(metrics)
    often = "once" if times == 1 else f"{times:,} times"
    learned = f", of which the generators learn {networks:,} checkpoints" if networks > times else ""
    learned = learned or " for the generators to learn from"
    unseen = runs[population.HELDOUT]
    return (
        f"{what}, trained {often}{learned}, and {unseen:,} times held out as the null: what independent training gives."
    )


def _results(metrics: Mapping[str, Any], roles: Mapping[str, str], kept: bool) -> str:
    which = "aligned" if _aligned(metrics) else "raw"
    note = (
        f"<p>Means with their 95&nbsp;% intervals. Tests use {which} distances. Baselines show what a verdict is "
        "worth: a learned generator should do better than they do.</p>"
    )
    if kept:
        note += "<p>For a paper: <small>table.csv, table.tex, methods.tex, references.bib</small> beside this page.</p>"
    return note + tables.series_table(metrics, roles, measures.main(metrics), True)


def _part(part: Picture | Section, kept: bool) -> str:
    if isinstance(part, Picture):
        return figure(part, kept)
    return section(html.escape(part.identity), part.title, part.content)


def section(identity: str, title: str, content: str) -> str:
    """A part of a page: its anchor, its heading, and its content as HTML."""
    return f'<section id="{identity}"><h2>{html.escape(title)}</h2>{content}</section>'


def figure(picture: Picture, kept: bool = True) -> str:
    """A part of a page with a figure inside; `kept` says that the figure is a file beside the page, too."""
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
