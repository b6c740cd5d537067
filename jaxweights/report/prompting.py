"""What was found out about generators that are prompted with a metric: alignment, recursive prompting, latent walk.

Sentences that draw a conclusion are chosen by the numbers: one is above another where their 95 % intervals do not meet.
"""

from __future__ import annotations

import html
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxweights.report import compare, style
from jaxweights.report.measures import Estimate, Measure
from jaxweights.report.style import Picture, Section
from jaxweights.studies import prompting

_GROUPS = {
    prompting.TRAIN: "training runs",
    prompting.HELDOUT: "held-out runs",
    prompting.FRESH: "new initialisations",
}
_METRICS = {"loss": "test loss (nats)", "error": "test error (%)", "accuracy": "test accuracy"}
_TRAINING_COLOUR = "#2b2b2b"  # training of held-out runs
_SHOWN_SHARE = 0.98  # share of outcomes within the axis limits; a few failed networks would determine them otherwise
_LITTLE = 0.1  # share of the distance from start to outcome that counts as small


def axis_label(metric: str) -> str:
    """A metric's name with its unit."""
    return _METRICS.get(metric, style.label(metric))


def parts(
    name: str, study: Mapping[str, Any], arrays: Mapping[str, np.ndarray], colour: str, folder: pathlib.Path
) -> Iterator[Picture | Section]:
    """Figures and sections of the study of one generator.

    Args:
      name: name of the generator.
      study: entries of `metrics.json` that `studies.prompting.run` returned.
      arrays: arrays that it returned.
      colour: colour of the generator's series.
      folder: output folder of the figures.
    """
    label, metric = style.label(name), html.escape(study["metric"])
    path = alignment(study, arrays, colour, folder, f"alignment_{name}")
    caption = (
        f"Every thin line is a network that was asked for metrics from the best one ({study['best']:.3g}) to its own. "
        f"Thick: mean over networks, prompt by prompt. On the dashed diagonal a prompt is met. {alignment_text(study)}"
    )
    yield Picture(path, f"Prompt alignment: {label}", caption)
    yield Section(f"prompting-{name}", f"Prompts and outcomes: {label}", alignment_table(study))
    path = recursion(study, arrays, colour, folder, f"recursion_{name}")
    caption = (
        f"Left: first checkpoints of held-out runs, improved again and again with the prompt {study['prompt']:.3g}. "
        f"Right: {metric} along the training of all held-out runs. Lines: means; bands: the middle half. "
        f"{recursion_text(study)}"
    )
    yield Picture(path, f"Recursive prompting: {label}", caption)
    path = walk(study, arrays, colour, folder, f"walk_{name}")
    caption = (
        f"Networks from {study['walk']['points']} noises along an arc between two, for one start and the prompt "
        f"{study['prompt']:.3g}, by deterministic sampling (DDIM). Every line is an arc of its own. Right: overlap of "
        f"the networks&rsquo; errors, mean over arcs. {walk_text(study)}"
    )
    yield Picture(path, f"Latent walk: {label}", caption)


# -- table and sentences ---------------------------------------------------------------------------------------------


def alignment_table(study: Mapping[str, Any]) -> str:
    """Prompts and outcomes, by group."""
    metric = html.escape(study["metric"])
    measures = (
        Measure(("start",), f"{metric} of the starts"),
        Measure(("at_best",), f"achieved, asked for {study['best']:.3g}"),
        Measure(("absolute_error",), "mean |achieved &minus; asked|"),
        Measure(("r2",), "prompt alignment (R&sup2;)"),
        Measure(("correlation",), "correlation"),
    )
    return compare.table({_GROUPS[group]: entry for group, entry in study["alignment"].items()}, {}, measures)


def alignment_text(study: Mapping[str, Any]) -> str:
    """Whether outcomes follow prompts on held-out runs; HTML."""
    entry = study["alignment"][prompting.HELDOUT]
    seen = Estimate.of(study["alignment"].get(prompting.TRAIN, {}).get("r2"))
    unseen, follows = Estimate.of(entry["r2"]), Estimate.of(entry["correlation"])
    sentences = []
    if unseen is None:
        sentences.append("The held-out starts are as good as the best prompt: there was nothing to ask for.")
    elif unseen.above(0):
        sentences.append(f"On held-out runs outcomes follow prompts (R&sup2; {unseen.value:.2g}; 1: all are met).")
    elif follows is not None and follows.above(0):
        sentences.append(
            f"On held-out runs outcomes rise and fall with the prompts (correlation {follows.value:.2g}) but do not "
            f"meet them (R&sup2; {unseen.value:.2g}; 0: what one and the same outcome for all prompts could reach)."
        )
    elif unseen.at_most(0):
        sentences.append(
            "On held-out runs outcomes do not follow prompts: one and the same outcome, whatever is asked for, could "
            f"meet them at least as well (R&sup2; {unseen.value:.2g})."
        )
    else:
        sentences.append(
            f"On held-out runs it is open whether outcomes follow prompts (R&sup2; {unseen.value:.2g}, an interval "
            "around 0)."
        )
    if seen is not None and unseen is not None:
        relation = {
            1: "follow them more closely: part of the alignment is knowledge of these runs.",
            0: "do not differ from them beyond the intervals.",
            -1: "follow them less closely.",
        }
        sentences.append(f"Networks of training runs {relation[compare.order(seen, unseen)]}")
    start, reached = Estimate.read(entry["start"]), Estimate.read(entry["at_best"])
    metric = html.escape(study["metric"])
    gain = _gain(reached, start, study)
    result = {1: "become better networks", 0: "do not become clearly better networks", -1: "become worse networks"}
    sentences.append(
        f"Asked for {study['best']:.3g}, held-out starts {result[gain]} (mean {metric} {start.value:.3g} before, "
        f"{reached.value:.3g} after)."
    )
    return " ".join(sentences)


def recursion_text(study: Mapping[str, Any]) -> str:
    """Outcome of one round and of all rounds, compared with training; HTML."""
    rounds = [Estimate.read(x) for x in study["recursion"]["rounds"].values()]
    trained = Estimate.read(study["recursion"]["training"]["last"])
    metric = html.escape(study["metric"])
    sentences = [f"One round takes the mean {metric} from {rounds[0].value:.3g} to {rounds[1].value:.3g}."]
    if len(rounds) > 2:
        relation = {1: "better than", 0: "no different from", -1: "worse than"}[_gain(rounds[-1], rounds[1], study)]
        sentences.append(f"After {len(rounds) - 1} rounds it is {rounds[-1].value:.3g}, {relation} after one.")
    relation = {1: "better than", 0: "as good as", -1: "worse than"}[_gain(rounds[-1], trained, study)]
    sentences.append(f"The last networks are {relation} what training ends with ({trained.value:.3g}).")
    return " ".join(sentences)


def walk_text(study: Mapping[str, Any]) -> str:
    """How far the noise determines the network; HTML."""
    found = {k: Estimate.read(v) for k, v in study["walk"].items() if k != "points"}
    ends, moved = found["ends"].value, found["from_start"].value
    share = f"{100 * ends / moved:.0f}&nbsp;%" if moved else "more than all"
    if ends <= _LITTLE * moved:
        text = f"What comes out hardly depends on the noise: the ends of an arc differ by {share} of"
    else:
        text = f"The noise decides which network comes out: the ends of an arc lie {share} of"
    return (
        f"{text} the distance from the start apart, and their errors overlap by "
        f"{100 * found['ends_iou'].value:.0f}&nbsp;% (neighbours: {100 * found['neighbours_iou'].value:.0f}&nbsp;%). "
        f"Along an arc {html.escape(study['metric'])} stays between {found['lowest'].value:.3g} and "
        f"{found['highest'].value:.3g} on average; the largest step between neighbours is "
        f"{_ratio(found['largest_step'].value, found['step'].value)} the mean one."
    )


def _ratio(a: float, b: float) -> str:
    return f"{a / b:.1f} times" if b else "as long as"


def _gain(new: Estimate, old: Estimate, study: Mapping[str, Any]) -> int:
    """1 or -1 where the new metric is better or worse and the intervals do not overlap, else 0."""
    return compare.order(new, old) * (1 if study["maximised"] else -1)


# -- figures ---------------------------------------------------------------------------------------------------------


def alignment(
    study: Mapping[str, Any], arrays: Mapping[str, np.ndarray], colour: str, folder: pathlib.Path, name: str
) -> pathlib.Path:
    """Metric asked for against metric achieved, one panel per group of starts, as in figure 5 of Peebles et al. 2022.

    Args:
      study: entry with `metric` and `alignment`.
      arrays: `alignment/<group>/asked` and `achieved`, `[n, S]` each.
      colour: colour of the lines.
      folder: output folder.
      name: file name without suffix.
    """
    groups = list(study["alignment"])
    asked, achieved = ({g: arrays[f"alignment/{g}/{x}"] for g in groups} for x in ("asked", "achieved"))
    prompts = np.concatenate([x.ravel() for x in asked.values()])
    span = prompts.min(), prompts.max()
    limits = _limits(prompts, np.concatenate([x.ravel() for x in achieved.values()]))
    figure = style.new_figure(4.9 * len(groups), 4.4)
    for axes, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
        lines = axes.plot(asked[group].T, achieved[group].T, color=colour, alpha=0.35, linewidth=0.9)
        lines[0].set_label("one network")
        axes.plot(
            asked[group].mean(axis=0),
            achieved[group].mean(axis=0),
            color=colour,
            linewidth=2.4,
            marker="o",
            markersize=3.5,
            label="mean",
        )
        axes.plot(span, span, color="#222222", linewidth=1.1, linestyle=(0, (4, 3)), label="as asked", zorder=3)
        r2 = Estimate.of(study["alignment"][group]["r2"])
        score = "" if r2 is None else f": R\u00b2 = {r2.value:.2f} [{r2.low:.2f}, {r2.high:.2f}]"
        axes.set(title=f"{_GROUPS[group]}{score}", xlabel=f"{axis_label(study['metric'])} asked for", ylim=limits)
        axes.grid()
    figure.axes[0].set_ylabel(f"{axis_label(study['metric'])} achieved")
    style.legend(figure, *figure.axes[0].get_legend_handles_labels())
    return style.save(figure, folder, name)


def recursion(
    study: Mapping[str, Any], arrays: Mapping[str, np.ndarray], colour: str, folder: pathlib.Path, name: str
) -> pathlib.Path:
    """The metric by round of prompting, beside that of training by optimizer step.

    Args:
      study: entry with `metric` and `prompt`.
      arrays: `recursion/rounds` `[n, R + 1]`, `recursion/training` `[runs, K]` (NaN where a run has fewer) and
        `recursion/steps` `[K]`.
      colour: colour of the rounds.
      folder: output folder.
      name: file name without suffix.
    """
    rounds, trained = arrays["recursion/rounds"], arrays["recursion/training"]
    panels = (
        ("recursive prompting", "round", np.arange(rounds.shape[1]), rounds, colour),
        ("training, held-out runs", "optimizer step", arrays["recursion/steps"], trained, _TRAINING_COLOUR),
    )
    figure = style.new_figure(9.8, 3.6)
    for axes, (title, x_label, x, values, own) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        low, high = np.nanquantile(values, (0.25, 0.75), axis=0)
        axes.fill_between(x, low, high, color=own, alpha=0.18, linewidth=0, label="middle half")
        mark = "o" if len(x) <= 12 else None
        axes.plot(x, np.nanmean(values, axis=0), color=own, linewidth=1.9, marker=mark, markersize=4.5, label="mean")
        axes.axhline(study["prompt"], color="#555555", linewidth=1.0, linestyle=(0, (4, 3)), label="prompt")
        axes.set(title=f"{title} (n = {len(values)})", xlabel=x_label)
        axes.grid()
    figure.axes[0].set_xticks(range(rounds.shape[1]))
    figure.axes[0].set_ylim(_near([trained, rounds[:, 0], study["prompt"]], np.quantile(rounds, (0.25, 0.75), axis=0)))
    figure.axes[0].set_ylabel(axis_label(study["metric"]))
    style.legend(figure, *figure.axes[0].get_legend_handles_labels())
    return style.save(figure, folder, name)


def walk(
    study: Mapping[str, Any], arrays: Mapping[str, np.ndarray], colour: str, folder: pathlib.Path, name: str
) -> pathlib.Path:
    """Metric and distances along paths through the noise, and how the networks' errors overlap.

    Args:
      study: entry with `metric` and `prompt`.
      arrays: `walk/metric` `[W, K]`, `walk/step` `[W, K - 1]`, `walk/ends` `[W]` and `walk/overlap` `[W, K, K]`.
      colour: colour of the lines.
      folder: output folder.
      name: file name without suffix.
    """
    metric, step, overlap = (arrays[f"walk/{key}"] for key in ("metric", "step", "overlap"))
    place = np.linspace(0.0, 1.0, metric.shape[1])
    figure = style.new_figure(11.4, 3.4)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.15, 1.15, 1])
    left.plot(place, metric.T, color=colour, linewidth=1.2, marker="o", markersize=3.5, alpha=0.75)
    left.axhline(study["prompt"], color="#555555", linewidth=1.0, linestyle=(0, (4, 3)), label="prompt")
    left.set(xlabel="place on the arc", ylabel=axis_label(study["metric"]), title=style.label(study["metric"]))
    middle.plot(0.5 * (place[1:] + place[:-1]), step.T, color=colour, linewidth=1.2, marker="o", markersize=3.5)
    middle.axhline(arrays["walk/ends"].mean(), color="#555555", linewidth=1.0, linestyle=":", label="between the ends")
    middle.set(xlabel="place on the arc", ylabel="L2", title="distance between neighbours", ylim=(0, None))
    entries = (axes.get_legend_handles_labels() for axes in (left, middle))
    style.legend(figure, *(sum(both, []) for both in zip(*entries, strict=True)))
    for axes in (left, middle):
        axes.set_xlim(-0.03, 1.03)
        axes.grid()
    edges = (-0.5 / (len(place) - 1), 1 + 0.5 / (len(place) - 1))
    image = right.imshow(
        overlap.mean(axis=0), vmin=0, vmax=1, cmap="viridis", origin="lower", extent=(*edges, *edges), aspect="equal"
    )
    right.set(xlabel="place on the arc", title="error IoU", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    figure.colorbar(image, ax=right, fraction=0.046).outline.set_linewidth(0.5)
    return style.save(figure, folder, name)


def _near(known: Sequence[Any], new: np.ndarray) -> tuple[float, float]:
    """Axis limits for known and new values, at most one range of the known ones beyond them, since diverging values
    would flatten everything else."""
    joined = np.concatenate([np.ravel(v) for v in known])
    low, high = np.nanmin(joined), np.nanmax(joined)
    low, high = min(low, max(new.min(), 2 * low - high)), max(high, min(new.max(), 2 * high - low))
    pad = 0.04 * (high - low) or 1.0
    return low - pad, high + pad


def _limits(asked: np.ndarray, achieved: np.ndarray) -> tuple[float, float]:
    """Axis limits that show all prompts and nearly all outcomes."""
    tail = (1.0 - _SHOWN_SHARE) / 2.0
    low, high = np.quantile(achieved, (tail, 1.0 - tail))
    low, high = min(low, asked.min()), max(high, asked.max())
    pad = 0.04 * (high - low) or 1.0
    return low - pad, high + pad
