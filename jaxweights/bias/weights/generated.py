"""Real against generated networks: after which transformations a classifier still tells samples of a generator from
networks of separate training.

What a transformation keeps is where the generator differs. A generator that copies passes all of them, so every answer
stands beside the distance to the nearest training network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from scipy import special

from jaxweights.bias import classifiers, protocol
from jaxweights.bias.classifiers import Classifier
from jaxweights.bias.protocol import Split, Trial
from jaxweights.bias.weights.base import Architecture, WeightTransformation, transform
from jaxweights.errors import UserError

LEVEL = 0.05
"""Error rate of all transformations of a generator together, at which one is told apart by chance."""
ASKED = 0.25
"""Share of the networks of a series that a classifier is asked about."""
LEAST = 8
"""Fewest networks on either side."""
_FIT, _APPLY, _HALVES = 0, 1, 2  # purposes of keys and seeds


class Samples(NamedTuple):
    """Networks of a generator.

    Attributes:
      weights: `[n, P]` float32.
      groups: `[n]` int, what must not be on both sides of a split: samples that were made from one training network.
    """

    weights: np.ndarray
    groups: np.ndarray


class Comparison(NamedTuple):
    """How networks are compared.

    Attributes:
      transformations: by name, in the order of reports.
      classifier: settings of the source classifier.
      repeats: trainings of each, with fresh subsets.
      seed: random seed.
      mesh: devices; None for all.
    """

    transformations: Mapping[str, WeightTransformation]
    classifier: Classifier
    repeats: int = 3
    seed: int = 0
    mesh: Mesh | None = None


def compare(
    real: np.ndarray,
    generated: Mapping[str, Samples],
    of: Architecture,
    comparison: Comparison,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Tells generated networks from real ones under every transformation.

    Every series is compared with as many real networks, half of each for chance 1/2. The control tells halves of the
    real networks from one another.

    Args:
      real: `[m, P]` float32, one network of every run that no generator saw.
      generated: samples by series.
      of: what the vectors belong to.
      comparison: how.
      progress: called with (transformations done, all).

    Returns:
      `series.<name>`: `transformations.<name>` with `accuracy`, `recall` of real and of generated networks and
      `train_accuracy`, see `protocol.summary`; `given_away_by`, names of the transformations whose accuracy lies above
      1/2, the highest first (binomial test of the distinct networks, corrected for the number of transformations).
      `control.<transformation>`: accuracy between halves of the real networks. `left_out`: transformations that do not
      fit these networks, with the reason.

    Raises:
      UserError: fewer than 8 networks of a kind, or weights that are not finite.
    """
    _check(real, generated)
    parts = {"": Samples(real, np.arange(len(real))), **generated}
    weights = np.concatenate([part.weights for part in parts.values()])
    starts = np.cumsum([0] + [len(part.weights) for part in parts.values()])
    drawn = _drawn(parts, starts, comparison)
    names, trials = [name for name, _ in drawn], [trial for _, trial in drawn]
    found: dict[str, Any] = {
        "series": {name: {"transformations": {}} for name in generated},
        "control": {},
        "left_out": {},
    }
    key = jax.random.key(comparison.seed)
    for place, (name, kind) in enumerate(comparison.transformations.items()):
        try:
            kind.check(of)
        except UserError as error:
            found["left_out"][name] = str(error)
            continue
        state = kind.fit(of, weights, jax.random.fold_in(key, _FIT))
        made = transform(kind, weights, of, jax.random.fold_in(key, _APPLY), state=state, mesh=comparison.mesh)
        outcomes = classifiers.train(comparison.classifier.of_spec(of.spec), made[None], trials, 2, comparison.mesh)
        for series in (*generated, ""):
            own = [i for i, of_series in enumerate(names) if of_series == series]
            chosen = [trials[i] for i in own], [outcomes[i] for i in own]
            if series:
                summary = protocol.summary(*chosen, 2, [False] * len(own))
                kept = {k: summary[k] for k in ("accuracy", "recall", "train_accuracy")}
                found["series"][series]["transformations"][name] = kept
            else:
                found["control"][name] = protocol.accuracy(*chosen)
        progress(place + 1, len(comparison.transformations))
    for entry in found["series"].values():
        entry["given_away_by"] = given_away_by({n: x["accuracy"] for n, x in entry["transformations"].items()})
    return found


def given_away_by(accuracies: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The transformations whose accuracies lie above 1/2 beyond chance, the highest first.

    Args:
      accuracies: `{"value", "n", ...}` by transformation.
    """
    above = [
        name
        for name, found in accuracies.items()
        if special.bdtrc(round(found["value"] * found["n"]) - 1, found["n"], 0.5) * len(accuracies) < LEVEL
    ]
    return sorted(above, key=lambda name: -accuracies[name]["value"])


def _check(real: np.ndarray, generated: Mapping[str, Samples]) -> None:
    for name, weights in (("held-out", real), *((name, part.weights) for name, part in generated.items())):
        if len(weights) < LEAST:
            raise UserError(
                f"There are {len(weights)} {name} networks, and at least {LEAST} are needed to tell real networks "
                "from generated ones. Raise zoo.num_heldout or num_samples."
            )
        if not np.isfinite(weights).all():
            raise UserError(f"Some {name} networks have weights that are not finite; no classifier can take them.")


def _drawn(parts: Mapping[str, Samples], starts: np.ndarray, comparison: Comparison) -> list[tuple[str, Trial]]:
    """The trials of every series, and of the control under the empty name."""
    out, total = [], int(starts[-1])
    for number, (name, part) in enumerate(parts.items()):
        own = np.arange(starts[number], starts[number + 1])
        if name:
            rows = np.concatenate([np.arange(starts[1]), own])
            labels = np.repeat([0, 1], [starts[1], len(own)])
            groups = np.concatenate([parts[""].groups, starts[1] + part.groups])
        else:
            rows, groups = own, part.groups
            labels = np.random.default_rng([comparison.seed, _HALVES]).permutation(len(own)) % 2
        for i, split in enumerate(_splits(labels, groups, comparison)):
            whole = np.zeros(total, np.int32)
            whole[rows] = split.labels
            out.append((name, Trial(0, whole, rows[split.train], rows[split.validation], comparison.seed + i)))
    return out


def _splits(labels: np.ndarray, groups: np.ndarray, comparison: Comparison) -> Sequence[Split]:
    """As many groups of both classes in every repeat; validation sets of repeats share none."""
    fewest = min(len(np.unique(groups[labels == side])) for side in (0, 1))
    asked = max(1, min(int(ASKED * fewest), fewest // comparison.repeats))
    return protocol.splits(labels, groups, fewest - asked, asked, comparison.repeats, comparison.seed)
