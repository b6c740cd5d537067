"""Suite `probing`: images of chosen features, models of them, and probes."""

from __future__ import annotations

from launch.benchmarks import pixelcnn
from launch.benchmarks.measure import Case


def cases() -> list[Case]:
    """Sampling of PixelCNN++."""
    return pixelcnn.cases()
