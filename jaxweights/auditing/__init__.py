"""The audit of a weight generator: does it invent or remember?

The numerical core knows nothing of generators, zoos or files; arrays go in and arrays come out:

* `distances`: exact nearest neighbours in Euclidean distance.
* `alignment`: exact nearest neighbours up to a permutation of the hidden units, for one group of these.
* `quotient`: nearest neighbours up to all symmetries of several groups; distances are upper bounds.
* `similarity`: overlap of the sets of wrongly predicted examples.
* `hull`: distance to the convex hull of the neighbours, or of all training networks.
* `statistics`: tests for memorization and their bootstrap intervals.
* `rules`, `verdict`: from tests to a label.
* `front`: accuracy against novelty, beside the baselines.

`audit.run` puts them together for a `Subject`.
"""

from jaxweights.auditing.audit import describe, measure, run
from jaxweights.auditing.coordinates import SeriesCoordinates
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
