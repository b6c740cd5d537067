"""G.pt (Peebles et al., 2022): a diffusion transformer that turns one checkpoint into a better one of the same run."""

from jaxweights.generators.gpt.generator import GPT

__all__ = ["GPT"]
