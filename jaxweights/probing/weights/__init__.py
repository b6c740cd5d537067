"""Designed networks, by kind.

To add one: a frozen dataclass that derives from `DesignedNetworks`, in a file of its own, and one line in `NETWORKS`.
"""

from __future__ import annotations

from jaxweights.probing.weights.base import DesignedNetworks
from jaxweights.probing.weights.networks import NETWORKS, Networks
from jaxweights.probing.weights.planted import Planted
from jaxweights.probing.weights.trained import Trained

__all__ = ["NETWORKS", "DesignedNetworks", "Networks", "Planted", "Trained"]
