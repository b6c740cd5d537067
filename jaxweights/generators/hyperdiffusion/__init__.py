"""HyperDiffusion (Erkoç et al., 2023): unconditional diffusion over the weights of neural fields."""

from jaxweights.generators.hyperdiffusion.generator import HyperDiffusion

__all__ = ["HyperDiffusion"]
