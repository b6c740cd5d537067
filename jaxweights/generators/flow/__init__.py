"""Flow matching on weights: DeepWeightFlow (arXiv 2601.05052), flows of scale-normalised networks and on spheres
(Erdogan 2025, arXiv 2504.03710), and the exact field that all of them approach, which copies."""

from jaxweights.generators.flow.copier import Copier
from jaxweights.generators.flow.generator import STAGE, Flow

__all__ = ["STAGE", "Copier", "Flow"]
