"""Zoos of task networks: recipes, base networks and bulk training."""

from jaxweights.zoo.base import BaseTrainer, train_base
from jaxweights.zoo.bulk import train_zoo
from jaxweights.zoo.fields import FieldTrainer
from jaxweights.zoo.partial import PartialTrainer
from jaxweights.zoo.recipe import Distribution, Recipe, has_base
from jaxweights.zoo.trainer import Trainer

__all__ = [
    "BaseTrainer",
    "Distribution",
    "FieldTrainer",
    "PartialTrainer",
    "Recipe",
    "Trainer",
    "has_base",
    "train_base",
    "train_zoo",
]
