"""Kinds of zoos that the audit is calibrated on: what is trained, how, and under which other recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CALIBRATION, REPORT = "calibration", "report"
PARTS = (CALIBRATION, REPORT)
"""Zoos that thresholds are chosen on, and those that they are reported on."""

_PROBE = 1024  # images; a small ResNet would take five times as long for them
_USUAL_SHARE = 3  # of four runs; the others have the other learning rate


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of zoo.

    Attributes:
      title: what it is, for tables.
      source: data set.
      options: arguments of `train_zoo` for the zoos that thresholds are chosen on.
      changes: what differs in the zoos that are reported.
      rates: learning rate of most runs, and that of runs with other hyper-parameters, by part.
      runs: runs of the pool that training, held-out and new networks are drawn from.
      tuned: whether thresholds are chosen on zoos of this kind as well; if not, all of them are reported.
      one_run: whether training networks are the checkpoints of a single run of the pool.
      probe: images of the probe set that errors and outputs are compared on; 0 for the test set as it is.
    """

    title: str
    source: str
    options: Mapping[str, Any]
    changes: Mapping[str, Any]
    rates: Mapping[str, tuple[float, float]]
    runs: int = 512
    tuned: bool = True
    one_run: bool = False
    probe: int = 0

    def arguments(self, part: str) -> dict[str, Any]:
        """Arguments of `train_zoo` beside the data set and the number of runs.

        Args:
          part: one of `PARTS`.
        """
        recipe = part if self.tuned else CALIBRATION
        usual, other = self.rates[recipe]
        rate = {"kind": "choice", "values": (*(usual,) * _USUAL_SHARE, other)}
        changes = self.changes if recipe == REPORT else {}
        return {"seed": PARTS.index(recipe), **self.options, **changes, "learning_rate": rate}

    @property
    def parts(self) -> tuple[str, ...]:
        """Those of `PARTS` that there are zoos for."""
        return PARTS if self.tuned else (REPORT,)


_DIGITS = {"epochs": 15, "nesterov": True, "weight_decay": 5e-4}
_MORE = {"epochs": 25, "weight_decay": 1e-4}
_SGD = {CALIBRATION: (0.1, 0.03), REPORT: (0.05, 0.15)}
_PLANES = {"samples": 4096, "unseen": 24, "probes": 1024}

KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "mlp_own": Kind("MLP, own initialisations", "digits", _DIGITS, {**_MORE, "hidden": (20,)}, _SGD, probe=_PROBE),
        "mlp_shared": Kind(
            "MLP, shared initialisation",
            "digits",
            {**_DIGITS, "start": "shared"},
            {**_MORE, "hidden": (20,)},
            _SGD,
            probe=_PROBE,
        ),
        "mlp_deep": Kind(
            "MLP, two hidden layers",
            "digits",
            {**_DIGITS, "hidden": (16, 16)},
            {**_MORE, "hidden": (20, 12)},
            _SGD,
            probe=_PROBE,
        ),
        "mlp_tanh": Kind(
            "MLP, tanh", "digits", {**_DIGITS, "activation": "tanh"}, {**_MORE, "hidden": (20,)}, _SGD, probe=_PROBE
        ),
        "cnn": Kind(
            "CNN, tanh",
            "digits",
            {
                "network": "cnn",
                "channels": (6, 6),
                "windows": (3, 2),
                "pools": (True, False),
                "hidden": 12,
                "epochs": 25,
                "optimizer": "adam",
                "momentum": 0.0,
            },
            {"channels": (8, 6), "hidden": 10, "epochs": 30},
            {CALIBRATION: (2e-2, 1e-2), REPORT: (1.5e-2, 2.5e-2)},
            probe=_PROBE,
        ),
        "resnet": Kind(
            "ResNet with batch normalisation",
            "digits",
            {
                "network": "resnet18",
                "stem": "cifar",
                "widths": (4, 8),
                "depths": (1, 1),
                "epochs": 10,
                "optimizer": "adam",
                "momentum": 0.0,
            },
            {},
            {CALIBRATION: (3e-2, 1e-2)},
            runs=192,
            tuned=False,
        ),
        "field": Kind(
            "occupancy fields",
            "planes",
            {
                "network": "field",
                "hidden": (16, 16, 16),
                "epochs": 40,
                "batch_size": 256,
                "optimizer": "adam",
                "momentum": 0.0,
                "signals": _PLANES,
            },
            {"hidden": (20, 20), "epochs": 30},
            {CALIBRATION: (1e-2, 3e-3), REPORT: (7e-3, 2e-2)},
        ),
        "actor": Kind(
            "CartPole actor",
            "cartpole",
            {
                "network": "actor",
                "hidden": (16, 16),
                "steps": 200,
                "epochs": 0,
                "batch_size": 16,
                "momentum": 0.0,
            },
            {"hidden": (20, 12), "steps": 240},
            {CALIBRATION: (2e-3, 1e-3), REPORT: (3e-3, 1.5e-3)},
            runs=256,
        ),
        "one_run": Kind(
            "checkpoints of a single run",
            "digits",
            {**_DIGITS, "start": "shared", "snapshot_range": (240, 287)},
            {**_MORE, "hidden": (20,), "snapshot_range": (440, 487)},
            _SGD,
            runs=192,
            one_run=True,
            probe=_PROBE,
        ),
    }
)
