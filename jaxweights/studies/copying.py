"""How far a trained flow is from the field that copies its training networks (`generators.flow.exact`).

Flow matching has one field of least loss, and its samples are training networks. What a flow has learned is compared
with it at points on the paths to training networks, and to held-out networks brought to the same form: there the field
that copies leads to training networks, and that of a generator that knows more than these to the network itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.auditing import statistics
from jaxweights.generators.flow import Flow, exact
from jaxweights.settings import Settings, setting
from jaxweights.studies.base import Estimation, Findings, Rowwise, Subject

TRAIN, HELDOUT = "train", "heldout"
_NAMES = ("loss", "exact", "distance", "nearer")


@dataclasses.dataclass(frozen=True)
class CopyingSettings(Settings):
    """Settings of the study of flows.

    Attributes:
      networks: training networks whose paths are looked at, and as many held-out networks, at most.
      times: times of the points of every path, evenly spaced between 0 and 1.
    """

    SECTION: ClassVar[str] = "studies.copying"

    networks: int = setting(256, at_least=2, at_most=1_000_000)
    times: int = setting(10, at_least=1, at_most=1000)


def run(subject: Subject, settings: CopyingSettings, estimation: Estimation) -> Findings:
    """Compares velocities of one trained flow.

    Args:
      subject: a `Flow`.
      settings: settings of the study.
      estimation: how numbers are estimated.

    Returns:
      JSON data: per group of networks, "train" and "heldout", estimates as `{"mean", "ci95", "n"}` of mean squared
      differences per dimension: `loss` of the flow from the paths and, of straight ones of a flow that is told no
      classes, `exact` of the copying field from the paths and `distance` of the flow from the copying field; and
      `nearer`, the share of points at which the flow is nearer to that than to the path. And arrays of the same names
      `<group>/<name>` `[networks, times]`, with `times` `[times]`.
    """
    generator, state, rng = subject.generator, subject.state, np.random.default_rng([estimation.seed, 21_000])
    learned = state["learned"].rows
    form = generator.form(state["constants"], subject.net.spec)
    held = generator.encode(state["constants"], form(subject.heldout))
    classes = {TRAIN: (), HELDOUT: ()}
    if generator.classes:
        others = generator.class_of(state["constants"], subject.heldout.records)
        classes = {TRAIN: (state["learned_classes"].rows,), HELDOUT: (others,)}
    times = ((np.arange(settings.times) + 0.5) / settings.times).astype(np.float32)
    compare = Rowwise(_compared(generator), {**state, "networks": learned}, estimation.mesh)
    arrays, metrics = {"times": times}, {}
    for number, (group, rows) in enumerate({TRAIN: learned, HELDOUT: held}.items()):
        places = np.sort(rng.permutation(len(rows))[: settings.networks])
        chosen, own = rows[places], [column[places] for column in classes[group]]
        keys = jax.random.split(jax.random.key(estimation.seed), 2 * chosen.shape[0] * len(times))
        keys = np.asarray(jax.random.key_data(keys)).reshape(2, len(chosen), len(times), -1)[number]
        found = [compare((chosen, keys[:, i], np.full(len(chosen), t, np.float32), *own)) for i, t in enumerate(times)]
        values = dict(zip(_NAMES, np.stack(found, axis=2).transpose(1, 0, 2), strict=False))
        metrics[group] = {
            name: statistics.bootstrap_mean(v.mean(axis=1), estimation.resamples, rng).to_json("mean")
            for name, v in values.items()
        }
        arrays |= {f"{group}/{name}": v for name, v in values.items()}
    return metrics, arrays


def _compared(generator: Flow):
    """`(state, (networks [n, D], data of keys, times [n], classes [n] if told)) -> [n, names]`."""

    def compare(state: Any, rows: Any) -> jax.Array:
        networks, keys, times, *classes = rows
        constants = state["constants"]
        x, times, path = generator.examples(constants, networks, jax.random.wrap_key_data(keys), times=times)
        found = generator.velocity(state, *classes)(x, times)

        def apart(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.mean(jnp.square(a - b), axis=1)

        values = [apart(found, path)]
        if generator.geometry == "euclidean" and not generator.classes:
            copying = exact.field(x, times, state["networks"], constants["source_std"], generator.sigma)
            values += [apart(copying, path), apart(found, copying)]
            values.append((values[2] < values[0]).astype(jnp.float32))
        return jnp.stack(values, axis=1)

    return compare
