"""Collections of images, and the readers of them."""

from jaxweights.bias.collections.base import Collection, digest, from_arrays

__all__ = ["Collection", "digest", "from_arrays"]
