"""The page on the calibration: what was found, as tables and a picture."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxweights import files
from jaxweights.auditing.rules import RULES
from jaxweights.auditing.statistics import Estimate, share_interval
from jaxweights.calibration import rates
from jaxweights.calibration.controls import NOVEL
from jaxweights.calibration.kinds import CALIBRATION, KINDS, REPORT
from jaxweights.calibration.rates import JUDGED, Count
from jaxweights.report import style

PAGE, PICTURE, TABLE = "calibration.md", "calibration.png", "calibration.json"

_UNCOUNTED = ("undefined", "novelty")  # rules that never apply here, and always
_ERRORS, _NEW = "errors", "new_runs"
_SAME = ("copy", "permuted", "rescaled", "flipped")  # controls that are the same functions as training networks
_MORE = (64, 128, 256)  # networks for which it is said how often new runs are found to be such
_INTRODUCTION = """\
# Calibration

How often does the audit give series whose verdicts are known their names? `launch.calibrate` trains zoos of several
kinds, makes *positive controls* of them, that is copies and mixtures of training networks in every disguise, and
*negative* ones, networks of new runs, audits all of them as a user's networks are audited, and counts the verdicts.
This page, its tables and its picture are what the program wrote:

    python -m launch.calibrate --workdir=runs/calibration --page=docs

It resumes; `--kinds=cnn,resnet --seeds=20` chooses kinds and the number of experiments, `--anew` judges what was
measured under other rules.

```python
from jaxweights import calibration

print(calibration.KINDS["cnn"].title, calibration.KINDS["cnn"].arguments(calibration.REPORT)["channels"])
```
"""


def write(result: Mapping[str, Any], folder: pathlib.Path) -> pathlib.Path:
    """Writes the page, its picture and its numbers.

    Args:
      result: of `calibrate.run`.
      folder: folder of all three.

    Returns:
      The path of the page.
    """
    files.make_dir(folder)
    _draw(result, folder / PICTURE)
    files.write_json(folder / TABLE, result)
    files.write_text(folder / PAGE, "\n".join(_lines(result)) + "\n")
    return folder / PAGE


def outcome(result: Mapping[str, Any]) -> str:
    """What was found, as lines of text.

    Args:
      result: of `calibrate.run`.
    """
    counts = _counts(result, REPORT)
    return "\n".join(_outcome(counts, _everywhere(counts)))


def _lines(result: Mapping[str, Any]) -> Iterator[str]:
    counts = _counts(result, REPORT)
    everywhere = _everywhere(counts)
    yield _INTRODUCTION
    yield from _set_up(result)
    yield "## Outcome\n"
    yield from _outcome(counts, everywhere)
    yield from _decided(result, everywhere[_NEW])
    yield f"\n![rates of all controls]({PICTURE})\n"
    yield from _rates_table(counts, everywhere)
    yield from _labels_table(everywhere)
    yield from _rules_table(everywhere)
    yield from _errors_table(counts)
    if result["sweep"]:
        yield from _sweep_table(result)


def _set_up(result: Mapping[str, Any]) -> Iterator[str]:
    sizes, seeds = result["sizes"], result["seeds"]
    yield "## What was run\n"
    yield (
        f"{seeds[REPORT]} experiments per kind, each with {sizes['train']} training networks, {sizes['heldout']} "
        f"held-out ones and {sizes['samples']} of every control, drawn as disjoint random parts of a pool of trained "
        "runs. Experiments of one pool share runs, so the exact intervals (Clopper-Pearson) are somewhat too narrow.\n"
    )
    if result["sweep"]:
        yield (
            f"Thresholds were chosen on other zoos than those that are reported: {seeds[CALIBRATION]} experiments per "
            f"kind on pools of {_tuned(result)}, each with a seed and a recipe of its own. The rates of this page, "
            "except those of the section on [thresholds](#thresholds), are of pools of another seed and another recipe "
            f"(width, epochs, learning rate, weight decay: `jaxweights/calibration/kinds.py`){_untuned(result)}. No "
            "network is in both.\n"
        )
    yield "| kind | parameters | runs of the pool | quality: median, 5 to 95 % | errors and outputs on |"
    yield "|---|---|---|---|---|"
    for kind, parts in result["kinds"].items():
        found = parts[REPORT]
        low, middle, high = (100 * x for x in found["accuracy"])
        yield (
            f"| {KINDS[kind].title} (`{kind}`) | {found['parameters']:,} | {found['runs']} | {middle:.1f} %, "
            f"{low:.1f} to {high:.1f} | {_inputs(kind)} |"
        )
    yield ""
    yield (
        "Quality is the accuracy, of fields the IoU with the nearest unseen shape, of actors the share of episodes "
        "without a failure; a quarter of the runs has the other learning rate.\n"
    )


def _inputs(kind: str) -> str:
    """What errors are compared on."""
    images = KINDS[kind].probe
    return f"{images:,} changed test images" if images else "the test set"


def _tuned(result: Mapping[str, Any]) -> str:
    return ", ".join(f"`{kind}`" for kind, parts in result["kinds"].items() if CALIBRATION in parts)


def _untuned(result: Mapping[str, Any]) -> str:
    """What there is to say of kinds that thresholds were not chosen on."""
    names = [KINDS[kind].title for kind in result["kinds"] if not KINDS[kind].tuned]
    return f", or of a kind that thresholds were not chosen on ({', '.join(names)})" if names else ""


def _outcome(counts: Mapping[str, Mapping[str, Count]], everywhere: Mapping[str, Count]) -> Iterator[str]:
    summary = rates.summary(counts)
    found, flagged = (_estimate(summary[key]) for key in ("found", "flagged"))
    yield (
        f"* Positive controls, copies with noise of up to a third of the held-out distance among them: "
        f"{_share(found)} got a right name (target: {100 * rates.FOUND:.0f} % of each)."
    )
    yield (
        f"* Negative controls: {_share(flagged)} were flagged (target: at most {100 * rates.FALSE:.0f} %); new runs of "
        f"the same recipe {_share(everywhere[_NEW].flags)}."
    )
    missed = [
        f"{JUDGED[name].title} ({KINDS[kind].title}: {one.named} of {one.n})"
        for kind, of_kind in counts.items()
        for name, one in of_kind.items()
        if JUDGED[name].positive and JUDGED[name].aim and one.rate.value < rates.FOUND
    ]
    false = [
        f"{JUDGED[name].title} ({KINDS[kind].title}: {one.flagged} of {one.n})"
        for kind, of_kind in counts.items()
        for name, one in of_kind.items()
        if not JUDGED[name].positive and one.flags.value > rates.FALSE
    ]
    yield f"* Below the target in a kind of zoo: {'; '.join(missed) or 'none'}."
    yield f"* Flagged too often in a kind of zoo: {'; '.join(false) or 'none'}."


def _decided(result: Mapping[str, Any], found: Count) -> Iterator[str]:
    """How many networks it takes to be called as novel as new runs."""
    sizes, novel = result["sizes"], found.labels.get(NOVEL, 0)
    more = ", ".join(f"{100 * rates.power(n, n):.0f} % with {n}" for n in _MORE)
    yield (
        f"* With {sizes['samples']} networks against {sizes['heldout']}, new runs were called {NOVEL!r} in {novel} of "
        f"{found.n} experiments and else *undecided*; the normal approximation of the Mann-Whitney statistic gives "
        f"{100 * rates.power(sizes['samples'], sizes['heldout']):.0f} %, and {more} of either."
    )


def _rates_table(counts: Mapping[str, Mapping[str, Count]], everywhere: Mapping[str, Count]) -> Iterator[str]:
    yield "## Rates\n"
    yield (
        "Experiments with a right name, of positive controls, and flagged ones, of negative controls, by kind and of "
        "all with 95 % interval; – where a kind does not have the symmetry.\n"
    )
    yield f"| control | right | {' | '.join(f'`{kind}`' for kind in counts)} | all |"
    yield "|---|---|" + "---|" * (len(counts) + 1)
    for name, total in everywhere.items():
        control = JUDGED[name]
        shown = [_ratio(of_kind[name], control.positive) if name in of_kind else "–" for of_kind in counts.values()]
        right = " or ".join(control.names) if control.positive else "not flagged"
        yield (
            f"| {control.title} | {right} | {' | '.join(shown)} | "
            f"{_share(total.rate if control.positive else total.flags)} |"
        )
    yield ""


def _ratio(found: Count, positive: bool) -> str:
    return f"{found.named if positive else found.flagged}/{found.n}"


def _labels_table(everywhere: Mapping[str, Count]) -> Iterator[str]:
    yield "## Verdicts\n"
    yield "How often every control got which label, over all kinds of zoos.\n"
    yield "| control | labels |"
    yield "|---|---|"
    for name, total in everywhere.items():
        ordered = sorted(total.labels.items(), key=lambda item: (-item[1], item[0]))
        yield f"| {JUDGED[name].title} | {', '.join(f'{label}: {count}' for label, count in ordered)} |"
    yield ""


def _rules_table(everywhere: Mapping[str, Count]) -> Iterator[str]:
    names = [rule for rule in RULES if rule not in _UNCOUNTED]
    yield "## Rules, each alone\n"
    yield (
        "In how many per cent of all experiments each rule applies if it is asked first: what the order of the "
        "[rules](audit.md#the-rules) hides.\n"
    )
    yield f"| control | {' | '.join(f'`{rule}`' for rule in names)} |"
    yield "|---|" + "---|" * len(names)
    for name, total in everywhere.items():
        shown = (f"{100 * total.rules.get(rule, 0) / total.n:.0f}" for rule in names)
        yield f"| {JUDGED[name].title} | {' | '.join(shown)} |"
    yield ""


def _errors_table(counts: Mapping[str, Mapping[str, Count]]) -> Iterator[str]:
    """The rule on errors by kind, because it depends on what the networks are asked."""
    yield "## The rule on errors\n"
    yield (
        "It is asked after all other rules on training networks, so it decides where these see nothing. In how many "
        "experiments it applies if it is asked first; where held-out runs make the same errors as training networks "
        "it does not apply (last row). Errors of digits are compared on a [probe set](audit.md#functions-and-the-probe-"
        "set) except those of ResNets, of which an experiment would take 46 s instead of 10 s (an MLP's 2.4 s instead "
        "of 2.3 s, a CNN's 3.5 s instead of 3.0 s); fields and actors have no images.\n"
    )
    yield f"| control | {' | '.join(f'`{kind}`' for kind in counts)} |"
    yield "|---|" + "---|" * len(counts)
    for name in _everywhere(counts):
        shown = [
            f"{of_kind[name].rules.get(_ERRORS, 0)}/{of_kind[name].n}" if name in of_kind else "–"
            for of_kind in counts.values()
        ]
        yield f"| {JUDGED[name].title} | {' | '.join(shown)} |"
    known = [of_kind[_NEW] for of_kind in counts.values()]
    yield f"| held-out errors tell nothing apart | {' | '.join(f'{one.saturated}/{one.n}' for one in known)} |"
    yield ""
    alike, unlike = (
        rates.together(c for found in counts.values() for name, c in found.items() if chosen(name, JUDGED[name]))
        for chosen in (lambda name, control: name in _SAME, lambda name, control: not control.positive)
    )
    yield (
        f"Of copies up to symmetries {_share(share_interval(alike.rules.get(_ERRORS, 0), alike.n))} are found by their "
        f"errors alone, and {_share(share_interval(unlike.rules.get(_ERRORS, 0), unlike.n))} of the negative controls. "
        "Noise and mixtures change errors more than distances: other rules have to find them.\n"
    )


def _sweep_table(result: Mapping[str, Any]) -> Iterator[str]:
    yield "## Thresholds\n"
    yield (
        "One threshold at a time, on the zoos of the calibration, the others at their defaults (`Thresholds` in "
        "`jaxweights/auditing/rules.py`; in bold the default): right names of positive controls, the least of any "
        "control in any kind, flagged negative controls, and the most.\n"
    )
    yield (
        "Two things are no longer blind to the zoos that are reported. `single_ratio` and `near_ratio` came after a "
        "first look at them. In that look collapsed actors had their name in 18 of 20 experiments; the cause was found "
        "on the zoos of the calibration (networks that hardly differ were matched differently with the reference of "
        "canonical coordinates, and so lay far apart), and siblings are now compared as stored, too.\n"
    )
    yield "| threshold | value | right | least | flagged | most |"
    yield "|---|---|---|---|---|---|"
    defaults = result["thresholds"]
    for row in result["sweep"]:
        default = abs(row["value"] - defaults[row["threshold"]]) < 1e-9
        value = f"**{row['value']:.3g}**" if default else f"{row['value']:.3g}"
        least, most = (_extreme(row[key], row[f"{key}_of"], best) for key, best in (("least", 1.0), ("most", 0.0)))
        yield (
            f"| `{row['threshold']}` | {value} | {_share(_estimate(row['found']))} | {least} | "
            f"{_share(_estimate(row['flagged']))} | {most} |"
        )


def _extreme(share: float, place: Sequence[str], best: float) -> str:
    """A share, and the control and the kind of zoo that have it; the share alone where none is worse than the best."""
    name, kind = place
    return f"{100 * share:.0f} %" + (f": {JUDGED[name].title}, `{kind}`" if share != best else "")


def _share(found: Estimate) -> str:
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _estimate(data: Mapping[str, Any]) -> Estimate:
    low, high = data["ci95"]
    return Estimate(data["value"], low, high, data["n"])


def _everywhere(counts: Mapping[str, Mapping[str, Count]]) -> dict[str, Count]:
    """Counts of every control over all kinds of zoos."""
    found = {name: [of_kind[name] for of_kind in counts.values() if name in of_kind] for name in JUDGED}
    return {name: rates.together(parts) for name, parts in found.items() if parts}


def _counts(result: Mapping[str, Any], part: str) -> dict[str, dict[str, Count]]:
    return {
        kind: {name: Count(**data) for name, data in found.items()} for kind, found in result["counts"][part].items()
    }


def _draw(result: Mapping[str, Any], path: pathlib.Path) -> None:
    """Rates of all controls: every kind of zoo a dot, all together with their interval."""
    counts = _counts(result, REPORT)
    names = [name for name in JUDGED if any(name in found for found in counts.values())]
    positive = [name for name in names if JUDGED[name].positive]
    negative = [name for name in names if not JUDGED[name].positive]
    with style.drawing():
        figure = style.new_figure(7.2, 0.24 * len(names) + 1.2)
        axes = figure.subplots(2, 1, height_ratios=(len(positive) + 1, len(negative) + 1))
        panels = ((axes[0], positive, rates.FOUND, "right name (%)"), (axes[1], negative, rates.FALSE, "flagged (%)"))
        for panel, shown, target, title in panels:
            _panel(panel, shown, counts, target, title)
        with files.atomic(path) as temporary:
            figure.savefig(temporary, format="png", dpi=style.DPI, metadata={"Software": None})


def _panel(axes, shown: Sequence[str], counts: Mapping[str, Mapping[str, Count]], target: float, title: str) -> None:
    axes.axvline(100 * target, color="#b0b0b0", linewidth=1.0, linestyle="--")
    for row, name in enumerate(shown):
        found = [of_kind[name] for of_kind in counts.values() if name in of_kind]
        positive = JUDGED[name].positive
        for one in found:
            value = one.rate.value if positive else one.flags.value
            axes.plot(100 * value, row, marker="o", color="#8fb6d9", markersize=4, alpha=0.6, clip_on=False)
        total = rates.together(found)
        rate = total.rate if positive else total.flags
        colour = "#1f77b4" if JUDGED[name].aim else "#7f7f7f"
        axes.plot([100 * rate.low, 100 * rate.high], [row, row], color=colour, linewidth=2.2)
        axes.plot(100 * rate.value, row, marker="|", color=colour, markersize=9, markeredgewidth=2.2)
    axes.set_yticks(range(len(shown)), [JUDGED[name].title for name in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(-2, 102)
    axes.set_xlabel(title)
    axes.tick_params(axis="y", length=0)
