"""`report.html`: one self-contained file of verdicts, figures and tables."""

from __future__ import annotations

import base64
import dataclasses
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxweights import data, files, nets
from jaxweights.population import Population
from jaxweights.report import boundary, figures, style, tables


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure on the page.

    Attributes:
      path: its PNG file.
      title: heading.
      caption: what is to be seen; HTML.
    """

    path: pathlib.Path
    title: str
    caption: str


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
      workdir: of the experiment, with `audit/<series>.npz` and, where a generator was trained, `metrics.jsonl`.
      metrics: what the audit returned, with `zoo`, `timing` and `versions`.
      config: of the experiment.
      net: task network.
      dataset: its images.
      train: training networks, in the order that the measurements refer to.
      samples: generated networks by series name.
      mesh: devices for the decision regions.

    Returns:
      The path of `report.html`.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = files.make_dir(workdir / "figures")
    with style.drawing():
        pictures = draw(workdir, folder, metrics, config, net, dataset, train, samples, mesh)
    text = render(metrics, config, net, pictures)
    path = workdir / "report.html"
    # ASCII with character references, so that no locale or server can misread it.
    files.write_text(path, text.encode("ascii", "xmlcharrefreplace").decode("ascii"))
    return path


def draw(workdir, folder, metrics, config, net, dataset, train, samples, mesh) -> list[Picture]:
    """Draws all figures that the experiment has material for; arguments as for `write`."""
    series = style.collect(workdir, metrics, config)
    seed = config["seed"]
    limit = _iou_limit(metrics)
    pictures = [
        Picture(
            figures.min_distance(series, folder),
            "Distance to the nearest training network",
            "Training networks are compared with the other training networks. A generator whose histogram lies left of the held-out "
            "one stays closer to what it has seen than new training runs come. Below, every series on the same axis.",
        ),
        Picture(
            figures.accuracy_novelty(series, folder, seed, limit),
            "Accuracy against novelty",
            f"At most {style.MAX_POINTS} networks per series. Left: similarity of mistakes; right of the dashed line lies what only 5 % of "
            "held-out runs reach. Right: distance of weights. Accurate and novel is up and left in the first column, up and right "
            "in the second.",
        ),
    ]
    pictures += subject_pictures(series, folder, seed, net, dataset, train, samples, mesh)
    curves = figures.loss_curves(style.read_curves(workdir / "metrics.jsonl"), folder)
    if curves is not None:
        pictures.append(Picture(curves, "Training of the generators", "Loss of every stage."))
    zoo = figures.zoo(series, train, config, folder)
    pictures.append(Picture(zoo, "The zoo", "Test accuracies of the networks that the experiment starts from."))
    return pictures


def subject_pictures(series, folder, seed, net, dataset, train, samples, mesh) -> list[Picture]:
    """Heatmap and decision regions of every learned generator (or of one other series where there is none)."""
    images = np.asarray(data.standardise(dataset.test_images, dataset.scale, dataset.shift))
    plane = boundary.fit_plane(images)
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
                f"Red border: a generated network. Below it its nearest training networks, nearest first{order}. Rows that look alike are "
                "copies up to small changes.",
            )
        )
        count = min(figures.SHOWN_NETWORKS, len(generated))
        shown = np.concatenate([generated.weights[:count], train.weights[subject.measured.nearest_row[:count]]])
        classes = boundary.classify(net, shown, plane, mesh)
        path = boundary.draw(
            subject,
            generated,
            train,
            classes,
            plane,
            dataset.test_labels,
            dataset.num_classes,
            folder,
            f"decision_boundaries{suffix}",
        )
        regions.append(
            Picture(
                path,
                f"Decisions: {subject.label} beside the nearest training networks",
                "Predicted classes on the plane of the test images' two principal components (pixels standardised). Dots are test images, "
                "projected: what lies off the plane may be classified otherwise than the tint under it.",
            )
        )
    return heatmaps + regions


def _iou_limit(metrics: Mapping[str, Any]) -> float:
    return next(e["tests"]["iou_above_heldout"]["limit"] for e in metrics["series"].values() if "tests" in e)


def render(metrics: Mapping[str, Any], config: Mapping[str, Any], net: nets.TaskNet, pictures: Sequence[Picture]) -> str:
    """The page as a string."""
    roles = style.roles(metrics, config)
    checks = metrics["checks"]
    zoo = metrics["zoo"]
    title = f"Invents or remembers? {config['data']['name']}, {net.name}"
    facts = (
        f"{zoo['num_runs']:,} training runs of a network with {zoo['num_params']:,} parameters; {config['num_samples']:,} networks drawn from "
        "every generator; held-out runs, which no generator has seen, are the null."
    )
    aligned = any(e.get("aligned_min_l2") for e in metrics["series"].values())
    state = "pass" if checks["controls_passed"] else "fail"
    sign = "&#10003;" if checks["controls_passed"] else "&#10007;"
    sections = [
        f'<p class="checks {state}"><b>{sign}</b> {html.escape(tables.controls_text(checks))}</p>',
        _verdicts(metrics, roles),
        _section("results", "Results", _results(metrics, roles, aligned)),
        *(_figure(p) for p in pictures),
        _section("more", "More measures", tables.series_table(metrics, roles, tables.MORE, False)),
    ]
    if aligned:
        note = "<p>The same tests on distances between weight vectors as they are, blind to reordered hidden units.</p>"
        sections.append(_section("raw", "Tests on raw distances", note + tables.series_table(metrics, roles, tables.RAW, False)))
    meanings = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in tables.explanations(aligned))
    sections += [
        _section("measures", "What the measures mean", f"<dl>{meanings}</dl>"),
        _section("zoo-facts", "Zoo", tables.facts(zoo)),
        _section("timing", "Time", tables.timing(metrics["timing"])),
        _section("versions", "Versions", tables.facts(metrics["versions"])),
        _section("config", "Config", _folded("every setting", tables.facts(config))),
        _section("numbers", "All numbers", _folded("every number of metrics.json under series", tables.every_number(metrics))),
    ]
    body = "\n".join(sections)
    return _PAGE.format(title=html.escape(title), style=_STYLE, facts=html.escape(facts), body=body)


def _verdicts(metrics: Mapping[str, Any], roles: Mapping[str, str]) -> str:
    """A card for every learned generator, and a line for every baseline."""

    def text(name):
        judged = metrics["series"][name]["verdict"]
        return f"<h3>{html.escape(style.label(name))} {tables.badge(judged['label'])}</h3><p>{html.escape(judged['text'])}</p>"

    learned = [n for n, r in roles.items() if r == style.LEARNED]
    cards = "".join(f'<article class="{metrics["series"][n]["verdict"]["label"]}">{text(n)}</article>' for n in learned)
    rest = [n for n, r in roles.items() if r == style.BASELINE]
    lines = "".join(f"<article>{text(n)}</article>" for n in rest)
    baselines = _folded("verdicts on the baselines", f'<div class="cards">{lines}</div>') if rest else ""
    return f'<section id="verdicts"><div class="cards main">{cards}</div>{baselines}</section>'


def _results(metrics, roles, aligned: bool) -> str:
    which = "aligned" if aligned else "raw"
    note = (
        f"<p>Means with their 95&nbsp;% intervals. Tests use {which} distances. Baselines show what a verdict is worth: a learned generator "
        "should do better than they do.</p>"
    )
    return note + tables.series_table(metrics, roles, tables.MAIN, True)


def _section(identity: str, title: str, content: str) -> str:
    return f'<section id="{identity}"><h2>{html.escape(title)}</h2>{content}</section>'


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def _figure(picture: Picture) -> str:
    encoded = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    image = f'<div class="scroll paper"><img alt="{html.escape(picture.title)}" src="data:image/png;base64,{encoded}"></div>'
    return (
        f'<section id="{picture.path.stem}"><h2>{html.escape(picture.title)}</h2><figure>{image}<figcaption>{picture.caption} '
        f"<small>figures/{html.escape(picture.path.name)}, .svg</small></figcaption></figure></section>"
    )


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5a646e; --line: #dfe3e8; --ground: #f6f7f9; --card: #fff;
  --accent: #1f6fb2; --remembers: #b3261e; --interpolates: #a15c00; --invents: #1a7f45; --fails: #5a646e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #363d45; --ground: #14171a; --card: #1d2125;
  --accent: #7db8ea; --remembers: #ff8a80; --interpolates: #ffbf66; --invents: #6fd39a; --fails: #a3adb7; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
header h1 { font-size: 1.6rem; line-height: 1.2; margin: .3rem 0; }
header p, figcaption, small, section > p { color: var(--soft); }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; } h3 { font-size: 1.05rem; margin: 0 0 .3rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1rem; margin: 1rem 0; }
#verdicts { background: none; border: 0; padding: 0; }
.checks { border-radius: .7rem; padding: .6rem 1rem; border: 1px solid; margin: 1rem 0; }
.pass { color: var(--invents); } .fail { color: var(--remembers); font-weight: 600; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem 1rem; }
article p { margin: 0; } .main article { border-left: .4rem solid var(--fails); } .main h3 { font-size: 1.25rem; }
.main article.remembers { border-left-color: var(--remembers); } .main article.interpolates { border-left-color: var(--interpolates); }
.main article.invents { border-left-color: var(--invents); }
.badge { display: inline-block; border: 1px solid; border-radius: 1rem; padding: 0 .6rem; font-size: .82rem; font-weight: 600;
  white-space: nowrap; }
.badge.remembers { color: var(--remembers); } .badge.interpolates { color: var(--interpolates); }
.badge.invents { color: var(--invents); } .badge.fails { color: var(--fails); }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { font-size: .8rem; color: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--card); }
.numbers small { display: block; font-size: .7rem; white-space: nowrap; font-weight: 400; } .numbers b { font-weight: 600; }
.plain td, .plain th { padding: .15rem .6rem; } .plain th, .facts th { font-weight: 400; }
.facts th { color: var(--soft); } .facts thead { display: none; } .facts td { overflow-wrap: anywhere; }
.none { color: var(--soft); }
figure { margin: 0; } .paper { background: #fff; border-radius: .4rem; }
img { display: block; width: 100%; min-width: 36rem; height: auto; } figcaption { margin-top: .6rem; font-size: .92rem; }
details { margin-top: .8rem; } summary { cursor: pointer; color: var(--accent); margin-bottom: .5rem; } a { color: var(--accent); }
dt { font-weight: 600; } dd { margin: 0 0 .6rem; }
#decision_boundaries img, [id^="decision_boundaries"] img { max-width: 46rem; min-width: 0; margin: 0 auto; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p>{facts}</p></header>
{body}
</main>
</body>
</html>
"""
