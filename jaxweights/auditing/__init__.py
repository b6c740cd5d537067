"""The audit of a weight generator: does it invent or remember?

The numerical core knows nothing of generators, zoos or files; arrays go in and arrays come out:

* `distances`: nearest neighbours in weights, mixtures of neighbours, outputs and errors.
* `alignment`: the same up to the symmetries that a `WeightSpec` declares.
* `battery`: what two populations have in common.
* `statistics`: tests for memorization and their bootstrap intervals.
* `rules`, `verdict`: from tests to a label.
* `front`: accuracy against novelty, beside the baselines.

`audit.run` puts them together for a `Subject`.
"""

from jaxweights.auditing.alignment.coordinates import SeriesCoordinates
from jaxweights.auditing.audit import describe, measure, run
from jaxweights.auditing.measurements import (
    HELDOUT,
    HELDOUT_CONTROL,
    NOISE_LADDER,
    RESERVED,
    TRAINING,
    Measured,
    load,
)
from jaxweights.auditing.subject import MIN_HELDOUT, AuditSettings, Subject, at_training_steps, check_counts, distinct
from jaxweights.auditing.summary import summarise
from jaxweights.auditing.verdict import FLAGGED, LABELS, THRESHOLDS, Thresholds

__all__ = [
    "FLAGGED",
    "HELDOUT",
    "HELDOUT_CONTROL",
    "LABELS",
    "MIN_HELDOUT",
    "NOISE_LADDER",
    "RESERVED",
    "THRESHOLDS",
    "TRAINING",
    "AuditSettings",
    "Measured",
    "SeriesCoordinates",
    "Subject",
    "Thresholds",
    "at_training_steps",
    "check_counts",
    "describe",
    "distinct",
    "load",
    "measure",
    "run",
    "summarise",
]
