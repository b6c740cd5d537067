"""From tests to a plain-language verdict: does a generator remember, interpolate, invent, or fail?

The rules, in order; every number is the series' own, held-out runs are the null:

1. *remembers*: more than one in a hundred samples (lower limit of the 95 % interval) lies at less than a third of the distance to the
   next run from its nearest training network (nearest-neighbour ratio of Yoon et al. 2023 and Gu et al. 2023).
2. *interpolates*: the samples lie closer to the training networks than held-out runs do (Z_U below -3, its interval below 0), and
   most of them within half of the held-out runs' distance from a convex combination of training networks.
3. *remembers* (variations): closer than held-out runs, but no combination of several training networks explains it.
4. *fails*: not closer, and the mean accuracy misses that of held-out runs by more than five points.
5. *invents*: not closer than held-out runs, and about as accurate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Z_LIMIT = -3.0  # one-sided 0.1 % of the normal distribution that Z_U follows for samples as far away as held-out runs
MEMORISED_LIMIT = 0.01
INTERPOLATED_LIMIT = 0.5
ACCURACY_MARGIN = 0.05
FLAGGED = ("remembers", "interpolates")


def judge(series: Mapping[str, Any], heldout: Mapping[str, Any]) -> dict[str, Any]:
    """Judges one series.

    Args:
      series: its entry in `metrics.json`, with estimates and tests.
      heldout: the entry of the held-out runs.

    Returns:
      `{"label", "flagged", "text"}`; `flagged` is whether the label is "remembers" or "interpolates".
    """
    tests = series["tests"]
    z, memorised, interpolated = tests["z_u"], tests["memorised_share"], tests["interpolated_share"]
    accuracy, null = series["accuracy"]["mean"], heldout["accuracy"]["mean"]
    closer = z["value"] < Z_LIMIT and z["ci95"][1] < 0
    evidence = (
        f"Z_U is {z['value']:.1f} (95 % interval {z['ci95'][0]:.1f} to {z['ci95'][1]:.1f}) on {tests['distance']} distances; accuracy "
        f"{100 * accuracy:.1f} % against {100 * null:.1f} % of held-out runs."
    )
    if memorised["ci95"][0] > MEMORISED_LIMIT:
        label = "remembers"
        text = f"{100 * memorised['value']:.0f} % of its networks are training networks up to small changes."
    elif closer and interpolated["value"] > INTERPOLATED_LIMIT:
        label = "interpolates"
        text = (
            f"Its networks lie closer to the training networks than newly trained ones do, and mixtures of training networks explain "
            f"{100 * interpolated['value']:.0f} % of them."
        )
    elif closer:
        label = "remembers"
        text = "Its networks lie closer to the training networks than newly trained ones do: variations of what it has seen."
    elif accuracy < null - ACCURACY_MARGIN:
        label = "fails"
        text = "Its networks are no copies, but they do not work as well as trained ones: distance from the training set by being worse."
    else:
        label = "invents"
        text = "Its networks are as far from the training networks as newly trained ones are, and about as accurate."
    return {"label": label, "flagged": label in FLAGGED, "text": f"{text} {evidence}"}
