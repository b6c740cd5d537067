"""Experiments: a config, a workdir, and the stages from a zoo to a report."""

from jaxweights.experiment.config import MIN_HELDOUT, check
from jaxweights.experiment.experiment import Experiment
from jaxweights.experiment.stages import CONTROLS, SHAPES, Stage, stages

__all__ = ["CONTROLS", "MIN_HELDOUT", "SHAPES", "Experiment", "Stage", "check", "stages"]
