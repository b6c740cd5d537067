"""Calibration of the audit: how often do series whose verdicts are known get them?

* `kinds`: the kinds of zoos, each with one recipe that thresholds are chosen on and another that is reported.
* `pools`: bulk-trained pools of runs, and their disjoint random parts that stand in for experiments.
* `controls`: copies, mixtures and other series that have to be named, and new runs that must not be flagged.
* `cells`: one experiment, measured once and judged under any thresholds.
* `rates`: counts of verdicts, exact intervals, and sweeps of the thresholds.
* `calibrate`: all of them in a folder, resumable.
* `page`: the table and the picture of the documentation.
"""

from jaxweights.calibration.calibrate import RESULT, run
from jaxweights.calibration.kinds import CALIBRATION, KINDS, PARTS, REPORT, Kind
from jaxweights.calibration.pools import Sizes

__all__ = ["CALIBRATION", "KINDS", "PARTS", "REPORT", "RESULT", "Kind", "Sizes", "run"]
