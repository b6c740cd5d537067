"""The battery: how a series compares with training and held-out networks as a population.

Pure functions of coordinates `[n, D]` or of distances:

* `copying`: C_T, calibrated distances and neighbour ratios against held-out networks' own.
* `manifolds`: precision, recall, density, coverage.
* `likelihood`: FLD and its generalization gap.
* `two_sample`: MMD with a permutation test, 1-NN accuracy, classifier two-sample tests, distances of pairs.
* `invariants`: numbers of a network that a classifier tells series by.
* `diversity`: Vendi score.
* `dimension`: TwoNN, Levina-Bickel.

`describe` puts them together for all series of an audit.
"""

from jaxweights.auditing.battery.describe import NAMES, BatterySettings, NearestRuns, describe

__all__ = ["NAMES", "BatterySettings", "NearestRuns", "describe"]
