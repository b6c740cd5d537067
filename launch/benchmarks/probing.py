"""Suite `probing`: images of chosen features, models of them, and probes."""

from __future__ import annotations

from launch.benchmarks import pixelcnn, probing_data, probing_models, scenes
from launch.benchmarks.measure import Case


def cases() -> list[Case]:
    """Drawing and counting of images, trainings of image models together, and sampling of PixelCNN++."""
    return [*probing_data.cases(), *scenes.cases(), *probing_models.cases(), *pixelcnn.cases()]
