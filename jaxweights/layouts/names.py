"""What names of checkpoint files say: step, seed, accuracy, and the run that remains without them."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from jaxweights.layouts.base import fraction

_STEP = re.compile(
    r"(?:(?<=[^a-z])|^)(?:epoch|ep|step|iteration|iter|it|checkpoint|ckpt|batch)[_=\-]?(\d+)", re.IGNORECASE
)
_SEED = re.compile(r"(?:(?<=[^a-z])|^)(?:seed|rng)[_=\-]?(\d+)", re.IGNORECASE)
_ACCURACY = re.compile(r"(?:(?<=[^a-z])|^)(?:test_?)?acc(?:uracy)?[_=\-]?(\d+(?:\.\d+)?)(?!\d)", re.IGNORECASE)
_STEPS_PER_EPOCH = 100_000  # more than any epoch has, so that (epoch, iteration) is one number that grows


class Name(NamedTuple):
    """What a name says: `run` is what remains of it without step and accuracy; -1 and NaN where it says nothing."""

    run: str
    step: int
    seed: int
    accuracy: float


def parse(stem: str) -> Name:
    """Reads a file's name without its ending, such as `seed0003_epoch12_acc0.9310`.

    Where it has both an epoch and an iteration, the step is 100,000 epoch + iteration.
    """
    steps = [int(found) for found in _STEP.findall(stem)]
    step = -1
    if steps:
        step = steps[0] if len(steps) == 1 else steps[0] * _STEPS_PER_EPOCH + steps[1]
    seed, accuracy = _SEED.search(stem), _ACCURACY.search(stem)
    run = re.sub(r"[_\-.=]+$|^[_\-.=]+", "", _ACCURACY.sub("", _STEP.sub("", stem)))
    run = re.sub(r"([_\-.])[_\-.]+", r"\1", run)
    stated = fraction(float(accuracy[1])) if accuracy else math.nan
    return Name(run, step, int(seed[1]) if seed else -1, stated)
