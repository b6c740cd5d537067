"""jaxweights: train zoos of networks in bulk, model their weights, and audit whether the model invents or remembers."""

__version__ = "0.1.0"
