"""PixelCNN++: its network, likelihood, and sampling with cached activations."""

from jaxweights.probing.models.pixelcnn.generator import PixelCNN

__all__ = ["PixelCNN"]
