"""SANE (Schürholt, Mahoney and Borth 2024, arXiv 2406.09997): a transformer autoencoder over windows of tokens."""

from jaxweights.generators.sane.generator import Sane

__all__ = ["Sane"]
