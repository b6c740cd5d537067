"""Zoos of task networks: settings, recipes, training programs, base networks and bulk training."""

from jaxweights.zoo.base import BaseSettings, BaseTrainer, base_recipe, train_base
from jaxweights.zoo.bulk import train_zoo
from jaxweights.zoo.program import Program, RunData, RunState
from jaxweights.zoo.recipe import Distribution, Recipe, SnapshotSettings, ZooSettings
from jaxweights.zoo.supervised import Supervised, SupervisedSettings
from jaxweights.zoo.trainer import Trainer

__all__ = [
    "BaseSettings",
    "BaseTrainer",
    "Distribution",
    "Program",
    "Recipe",
    "RunData",
    "RunState",
    "SnapshotSettings",
    "Supervised",
    "SupervisedSettings",
    "Trainer",
    "ZooSettings",
    "base_recipe",
    "train_base",
    "train_zoo",
]
