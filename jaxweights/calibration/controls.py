"""Series whose verdicts are known: copies and mixtures in every disguise, and networks that nothing is wrong with."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from jaxweights.calibration.pools import Parts
from jaxweights.generators.aligned import AlignedInterpolation, Soup
from jaxweights.generators.baselines import Average, Baseline, Copy, Interpolation, Noise, PCAGaussian
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

LEAK = "leak"
"""The name of copies of held-out networks, beside the labels of verdicts."""
NOVEL = "as novel as new runs"

NOISE = (0.03, 0.1, 0.2, 1 / 3, 0.5, 0.8)
"""Norms of the noise on copies, in median distances of held-out networks to the nearest training network."""
_TARGET = 1 / 3  # of that distance: the largest noise that copies have to be found under
_HIDDEN, _COLLAPSED = 0.2, 0.05  # the same, of copies that are reordered as well, and of copies of one new network
_COPIES = ("copies",)
_NEAR = ("copies", "variations")
_PAIRED = ("interpolates", "copies")
_MIXED = ("interpolates", "affine mixture", "variations")
NOT_FLAGGED = (NOVEL, "undecided", "degrades")


@dataclasses.dataclass(frozen=True)
class Control:
    """A series whose verdict is known.

    Attributes:
      title: what it is, for tables.
      names: verdicts that are right.
      make: `(parts, scale, seed) -> networks`, where scale is the median distance of held-out networks.
      positive: whether something is wrong with it.
      aim: whether its rate counts towards the target; copies under much noise are no copies any more.
      applies: whether networks of a spec, and of several runs or one, have this control.
    """

    title: str
    names: tuple[str, ...]
    make: Callable[[Parts, float, int], Population]
    positive: bool = True
    aim: bool = True
    applies: Callable[[WeightSpec, bool], bool] = lambda spec, one_run: True


def series(parts: Parts, scale: float, seed: int, one_run: bool = False) -> dict[str, Population]:
    """All controls that apply, by name.

    Args:
      parts: of the pool.
      scale: median distance of the held-out networks to the nearest training network.
      seed: random seed; controls do not depend on which others there are.
      one_run: whether all training networks are of one run.
    """
    spec = parts.train.spec
    return {
        name: control.make(parts, scale, zlib.crc32(f"{name} {seed}".encode()))
        for name, control in CONTROLS.items()
        if control.applies(spec, one_run)
    }


def _drawn(made: Baseline) -> Callable[[Parts, float, int], Population]:
    """As many networks of a baseline as there are new ones."""

    def make(parts: Parts, scale: float, seed: int) -> Population:
        del scale
        return _sampled(made, made.fit(parts.train), parts, seed)

    return make


def _noisy(share: float) -> Callable[[Parts, float, int], Population]:
    """Copies with noise of a share of the held-out networks' distance."""
    unit = Noise(sigma=1.0)  # scaled afterwards, so that all amplitudes share one program

    def make(parts: Parts, scale: float, seed: int) -> Population:
        state = unit.fit(parts.train)
        return _sampled(
            unit, {**state, "amplitude": _deviation(parts, share * scale) * state["amplitude"]}, parts, seed
        )

    return make


def _sampled(made: Baseline, state: Mapping[str, Any], parts: Parts, seed: int) -> Population:
    keys = jax.random.split(jax.random.key(seed), len(parts.new))
    drawn = _program(made)(state, keys)
    return parts.train.derive(np.asarray(drawn.weights), np.asarray(drawn.parents), made.name)


@functools.lru_cache(maxsize=32)
def _program(made: Baseline) -> Callable[..., Any]:
    """The compiled sampler, once for all experiments."""
    return jax.jit(made.sample)


def _deviation(parts: Parts, norm: float) -> float:
    """Standard deviation per parameter of noise of a norm."""
    return norm / float(np.sqrt(parts.train.spec.num_params))


def _hidden(parts: Parts, scale: float, seed: int) -> Population:
    """Copies with noise, their units reordered."""
    reordered = dataclasses.replace(parts, train=_drawn(Copy(permute=True))(parts, scale, seed))
    noisy = _noisy(_HIDDEN)(reordered, scale, seed)
    return _unrelated(parts, noisy.weights, "permuted")


def _average(parts: Parts, scale: float, seed: int, k: int = 4) -> Population:
    """Means of a few training networks with weights that differ."""
    del scale
    rng, weights = np.random.default_rng(seed), np.asarray(parts.train.weights, np.float64)
    chosen = np.stack([rng.choice(len(weights), k, replace=False) for _ in range(len(parts.new))])
    shares = rng.dirichlet(np.full(k, 2.0), len(chosen))
    return _unrelated(parts, np.einsum("nk,nkp->np", shares, weights[chosen]), "average")


def _leaked(parts: Parts, scale: float, seed: int) -> Population:
    """Held-out networks."""
    del scale
    chosen = np.random.default_rng(seed).integers(0, len(parts.heldout), len(parts.new))
    return _unrelated(parts, parts.heldout.weights[chosen], "leak")


def _collapsed(parts: Parts, scale: float, seed: int) -> Population:
    """One new network under a little noise."""
    rng, shape = np.random.default_rng(seed), parts.new.weights.shape
    noise = _deviation(parts, _COLLAPSED * scale) * rng.normal(size=shape)
    return _unrelated(parts, parts.new.weights[rng.integers(0, len(parts.new))] + noise, "collapsed")


def _unrelated(parts: Parts, weights: np.ndarray, name: str) -> Population:
    return parts.train.derive(weights.astype(np.float32), np.full(len(weights), -1), name)


def _grouped(spec: WeightSpec, one_run: bool) -> bool:
    del one_run
    return bool(spec.groups)


def _scaled(scaling: str) -> Callable[[WeightSpec, bool], bool]:
    return lambda spec, one_run: any(group.scaling == scaling for group in spec.groups)


def _noise_controls() -> dict[str, Control]:
    return {
        f"noise_{round(100 * share)}": Control(
            f"copies, noise of {share:.2f} held-out distances", _NEAR, _noisy(share), aim=share <= _TARGET
        )
        for share in NOISE
    }


CONTROLS: Mapping[str, Control] = MappingProxyType(
    {
        "copy": Control("copies", _COPIES, _drawn(Copy())),
        **_noise_controls(),
        "permuted": Control("copies, units reordered", _COPIES, _drawn(Copy(permute=True)), applies=_grouped),
        "permuted_20": Control(f"copies, units reordered, noise of {_HIDDEN:.2f}", _NEAR, _hidden, applies=_grouped),
        "rescaled": Control(
            "copies, units rescaled",
            _COPIES,
            _drawn(Copy(rescale=True)),
            applies=_scaled("positive"),
        ),
        "flipped": Control("copies, signs flipped", _COPIES, _drawn(Copy(flip=True)), applies=_scaled("sign")),
        "pair": Control("mixtures of two", _PAIRED, _drawn(Interpolation())),
        "pair_aligned": Control("mixtures of two, aligned", _PAIRED, _drawn(AlignedInterpolation()), applies=_grouped),
        "average_4": Control("mixtures of 4", _MIXED, _average),
        "average_16": Control("means of 16", _MIXED, _drawn(Average(k=16))),
        "soup_4": Control("means of 4, aligned", _MIXED, _drawn(Soup(k=4)), applies=_grouped),
        "soup_16": Control("means of 16, aligned", _MIXED, _drawn(Soup(k=16)), applies=_grouped),
        "affine": Control("affine mixtures of all", _MIXED, _drawn(PCAGaussian())),
        "leak": Control("copies of held-out networks", (LEAK,), _leaked),
        "collapsed": Control(f"one new network, noise of {_COLLAPSED:.2f}", ("collapsed",), _collapsed),
        "untrained": Control("untrained networks", ("degrades",), lambda parts, scale, seed: parts.untrained),
        "new_runs": Control("new runs", (NOVEL, "undecided"), lambda parts, scale, seed: parts.new, positive=False),
        "other_runs": Control(
            "new runs, other learning rate", NOT_FLAGGED, lambda parts, scale, seed: parts.other, positive=False
        ),
    }
)
