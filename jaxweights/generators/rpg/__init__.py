"""RPG: a recurrent network makes a prototype of every token of weights, a diffusion model draws tokens from them."""

from jaxweights.generators.rpg.generator import RPG

__all__ = ["RPG"]
