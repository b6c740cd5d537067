"""Experiments: a config, a workdir, and the stages from a zoo to a report."""

from jaxweights.experiment.config import ExperimentSettings, parse
from jaxweights.experiment.experiment import Experiment
from jaxweights.experiment.stages import CONTROLS, Stage, stages

__all__ = ["CONTROLS", "Experiment", "ExperimentSettings", "Stage", "parse", "stages"]
