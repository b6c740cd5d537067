"""Suite `probing`: images of chosen features, models of them, and probes."""

from __future__ import annotations

from launch.benchmarks import pixelcnn, probing_models
from launch.benchmarks.measure import Case


def cases() -> list[Case]:
    """Trainings of image models together, and sampling of PixelCNN++."""
    return [*probing_models.cases(), *pixelcnn.cases()]
