"""Modelling factors: settings of a generator that a study changes one at a time, and the levels that it tries.

A class of generators declares its own in `FACTORS`: functions from a generator to its changed settings. The levels are
those of the table of modelling factors of Zeng et al. 2025 (arXiv 2506.07998) with its sizes of models. How much noise
was added there is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from types import MappingProxyType
from typing import Any

Change = Callable[[Any], dict[str, Any]]
"""From a generator to the settings that a level changes, by field name."""
Factors = Mapping[str, Mapping[str, Change]]
"""Changes by factor and level. A level has the same name in all generators, and no two factors share one."""


def times(factor: float | Fraction, *fields: str) -> Change:
    """Multiplies settings; whole numbers, and those of tuples, are rounded to at least 1, and None stays as it is."""

    def scaled(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(scaled(entry) for entry in value)
        if isinstance(value, int):
            return max(1, round(factor * value))
        return None if value is None else float(factor) * value

    return lambda generator: {name: scaled(getattr(generator, name)) for name in fields}


def heads(factor: float | Fraction) -> Change:
    """Multiplies the heads of attention, and `width` with them: the size of a head stays."""

    def change(generator: Any) -> dict[str, Any]:
        count = max(1, round(factor * generator.heads))
        return {"width": generator.width // generator.heads * count, "heads": count}

    return change


def to(**values: Any) -> Change:
    """Sets settings to fixed values."""
    return lambda generator: dict(values)


def layers(count: int, **least: int) -> Change:
    """Repeats the last entry of tuples of layers' sizes, or for a negative `count` leaves out last entries.

    Args:
      count: layers more.
      **least: by field, how many layers have to be left.
    """

    def changed(sizes: tuple[int, ...], least: int) -> tuple[int, ...]:
        return sizes + sizes[-1:] * count if count > 0 else sizes[: max(least, len(sizes) + count)]

    return lambda generator: {name: changed(getattr(generator, name), kept) for name, kept in least.items()}


def _training(*steps: str) -> dict[str, Change]:
    return {"training_33": times(Fraction(1, 3), *steps), "training_50": times(Fraction(1, 2), *steps)}


def _transformer(
    heads_by: tuple[Fraction, Fraction], blocks_by: tuple[Fraction, Fraction], noise: float
) -> dict[str, dict[str, Change]]:
    """The factors of a transformer with `width`, `heads`, `blocks`, `dropout`, `noise` and `steps`."""
    deeper, shallower = blocks_by
    return {
        "training": _training("steps"),
        "width": {"wide": heads(heads_by[0]), "narrow": heads(heads_by[1])},
        "depth": {"deep": times(deeper, "blocks"), "shallow": times(shallower, "blocks")},
        "dropout": {"dropout_10": to(dropout=0.1), "dropout_20": to(dropout=0.2)},
        "noise": {"more_noise": to(noise=noise)},
    }


NONE: Factors = MappingProxyType({})
# The noise of the first two is the smaller amplitude of the paper's noised networks, in weight units and in normalised
# units (RPG as well); the third is as far as the jitter of HyperDiffusion's code goes; P-diff's ablations change both
# amplitudes.
HYPERREP = _transformer((Fraction(4, 3), Fraction(2, 3)), (Fraction(5, 3), Fraction(2, 3)), 0.02)
GPT = _transformer((Fraction(5, 4), Fraction(3, 4)), (Fraction(5, 3), Fraction(1, 2)), 0.05)
HYPERDIFFUSION = _transformer((Fraction(5, 4), Fraction(3, 4)), (Fraction(3, 2), Fraction(2, 3)), 0.001)
NEURON_FLOW = _transformer((Fraction(3, 2), Fraction(1, 2)), (Fraction(3, 2), Fraction(1, 2)), 0.1)
SANE = _transformer(
    (Fraction(5, 4), Fraction(3, 4)), (Fraction(3, 2), Fraction(1, 2)), 0.2
)  # twice the published noise
for _levels in (NEURON_FLOW, SANE):
    del _levels["dropout"]  # which they have none of
# The published network has no layer to spare, and a dropout of 0.1.
FLOW: Factors = {
    "training": _training("steps"),
    "width": {"wide": times(2, "width"), "narrow": times(Fraction(1, 2), "width")},
    "depth": {"deep": lambda generator: {"extra": generator.extra + 1}},
    "dropout": {"dropout_20": to(dropout=0.2)},
    "noise": {"more_noise": times(10, "sigma")},
}
LATENT_FLOW: Factors = {
    "training": _training("autoencoder_steps", "steps"),
    "width": {
        name: times(factor, "codec_width", "width") for name, factor in (("wide", 2), ("narrow", Fraction(1, 2)))
    },
    "depth": {
        "deep": lambda generator: {"extra": generator.extra + 1},
        "shallow": lambda generator: {"extra": max(0, generator.extra - 1)},
    },
    "dropout": {"dropout_10": to(dropout=0.1), "dropout_20": to(dropout=0.2)},
    "noise": {"more_noise": to(noise=0.1)},
}
_CHANNELS = {"autoencoder_channels": 1, "denoiser_channels": 2}  # with how many there have to be
PDIFF: Factors = {
    "training": _training("autoencoder_steps", "diffusion_steps"),
    "width": {"wide": times(2, *_CHANNELS), "narrow": times(Fraction(1, 2), *_CHANNELS)},
    "depth": {"deep": layers(1, **_CHANNELS), "shallow": layers(-1, **_CHANNELS)},
    "noise": {
        "more_noise": times(10, "input_noise", "latent_noise"),
        "no_noise": to(input_noise=0.0, latent_noise=0.0),
    },
}
RPG: Factors = {
    "training": _training("steps"),
    "width": {"wide": times(2, "channels"), "narrow": times(Fraction(1, 2), "channels")},
    "depth": {"deep": times(2, "layers"), "shallow": times(Fraction(1, 2), "layers")},
    "noise": {"more_noise": to(noise=0.05)},
}
