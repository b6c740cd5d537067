"""Studies of modelling factors: one generator of a config, trained again with one factor changed at a time."""

from jaxweights.factors.cells import Cell, choose, generator_of
from jaxweights.factors.study import plan_of, run
from jaxweights.factors.table import text

__all__ = ["Cell", "choose", "generator_of", "plan_of", "run", "text"]
