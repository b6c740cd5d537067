"""P-diff (Wang et al., "Neural Network Diffusion", 2024): a latent diffusion model of flat weight vectors."""

from jaxweights.generators.pdiff.generator import PDiff

__all__ = ["PDiff"]
