"""Zoos of task networks: recipes and bulk training."""

from jaxweights.zoo.bulk import train_zoo
from jaxweights.zoo.fields import FieldTrainer
from jaxweights.zoo.recipe import Distribution, Recipe
from jaxweights.zoo.trainer import Trainer

__all__ = ["Distribution", "FieldTrainer", "Recipe", "Trainer", "train_zoo"]
