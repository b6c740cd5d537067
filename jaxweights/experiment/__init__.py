"""Experiments: a config, a workdir, and the stages from a zoo to a report."""

from jaxweights.experiment.config import MIN_HELDOUT, check
from jaxweights.experiment.experiment import Experiment
from jaxweights.experiment.stages import CONTROLS, Stage, stages

__all__ = ["CONTROLS", "MIN_HELDOUT", "Experiment", "Stage", "check", "stages"]
