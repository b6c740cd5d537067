"""A conditional flow in the latents of an autoencoder of weights, after D2NWG (arXiv 2402.18153) and FLoWN (arXiv
2503.19371), of which no code was published: no reproduction of either."""

from jaxweights.generators.latent_flow.generator import LatentFlow

__all__ = ["LatentFlow"]
