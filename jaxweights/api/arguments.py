"""Checks of what the functions of `jw` are given."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from jaxweights.checks import Check
from jaxweights.errors import UserError

T = TypeVar("T")
_MOST_SEEDS = 2**32 - 1


def whole(value: Any, name: str, at_least: int, at_most: float = math.inf) -> int:
    """An argument that is a whole number; raises `UserError` for anything else, and outside of its range."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UserError(f"{name} is {value!r}, of type {type(value).__name__}; give a whole number.")
    problem = Check(at_least=at_least, at_most=None if math.isinf(at_most) else at_most).problem(int(value))
    if problem:
        raise UserError(f"{name} is {value}; {problem}.")
    return int(value)


def seed(value: Any) -> int:
    """A random seed; raises `UserError` for anything but a whole number from 0 to 2³² - 1."""
    return whole(value, "seed", 0, _MOST_SEEDS)


def instance(value: Any, kind: type[T], name: str, cure: str) -> T:
    """An argument of a class; raises `UserError` for anything else."""
    if not isinstance(value, kind):
        raise UserError(f"{name} is of type {type(value).__name__}; {cure}.")
    return value
