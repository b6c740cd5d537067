"""Programs that equal settings share."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from jaxweights import generators, programs
from jaxweights.generators.baselines import Noise


def test_generators_of_equal_settings_share_a_program():
    assert generators.sampler(Noise(sigma=0.5)) is generators.sampler(Noise(sigma=0.5))
    assert generators.sampler(Noise(sigma=0.5)) is not generators.sampler(Noise(sigma=0.25))


@dataclasses.dataclass(frozen=True)
class WithArray:
    values: Any


class Unordered(WithArray):
    """Equal hashes, and no answer to whether two are equal."""

    def __hash__(self):
        return 0


@pytest.mark.parametrize("kind", [WithArray, Unordered])
def test_settings_with_arrays_get_programs_of_their_own(kind):
    make = programs.shared(lambda settings: object())
    first, second = kind(np.arange(3)), kind(np.arange(3))
    assert make(first) is not make(second)


def test_errors_of_what_makes_a_program_are_its_own():
    def make(settings):
        raise ValueError(f"no program of {settings}")

    with pytest.raises(ValueError, match="no program of 3"):
        programs.shared(make)(3)
