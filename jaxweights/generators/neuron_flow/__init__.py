"""Flow matching over the neurons of aligned networks, with what the networks do as part of the loss."""

from jaxweights.generators.neuron_flow.generator import NeuronFlow

__all__ = ["NeuronFlow"]
