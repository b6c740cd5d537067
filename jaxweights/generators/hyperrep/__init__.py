"""Hyper-Representations (Schuerholt et al., 2021 and 2022): a transformer autoencoder of weights."""

from jaxweights.generators.hyperrep.generator import HyperRep

__all__ = ["HyperRep"]
