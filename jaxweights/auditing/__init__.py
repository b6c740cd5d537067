"""The audit of a weight generator: does it invent or remember?

The numerical core knows nothing of generators, zoos or files; arrays go in and arrays come out:

* `distances`: exact nearest neighbours in Euclidean distance.
* `alignment`: exact nearest neighbours up to a permutation of the hidden units.
* `similarity`: overlap of the sets of wrongly predicted examples.
* `statistics`: tests for memorization and their bootstrap intervals.
* `hull`: distance to the convex hull of the neighbours, or of all training networks.
"""

from jaxweights.auditing.audit import (
    HELDOUT,
    HELDOUT_CONTROL,
    RESERVED,
    TRAINING,
    Measured,
    Subject,
    at_training_steps,
    load,
    run,
    summarise,
)

__all__ = [
    "HELDOUT",
    "HELDOUT_CONTROL",
    "RESERVED",
    "TRAINING",
    "Measured",
    "Subject",
    "at_training_steps",
    "load",
    "run",
    "summarise",
]
