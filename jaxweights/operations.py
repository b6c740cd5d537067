"""Floating-point operations of traced programs: nothing is compiled or run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax


def count(function: Callable, *shapes: Any) -> float:
    """Floating-point operations of a function: two per multiply-add of products, one per other output.

    Of branches the cheapest counts: what a training does now and then, such as asking held-out networks, is left out.

    Args:
      function: what is traced.
      *shapes: its arguments, as pytrees of `jax.ShapeDtypeStruct`.
    """
    return _of_program(jax.make_jaxpr(function)(*shapes).jaxpr)


def _of_program(jaxpr) -> float:
    """XLA's own count is no use here: it takes the body of a loop once, whatever the number of rounds."""
    total = 0.0
    for equation in jaxpr.eqns:
        outputs = sum(math.prod(v.aval.shape) for v in equation.outvars)
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += 2.0 * outputs * math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        elif equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2.0 * outputs * math.prod(kernel) / features
        else:
            inner = [_of_program(getattr(j, "jaxpr", j)) for j in _inner_programs(equation.params)]
            if equation.primitive.name == "cond":
                inner = [min(inner)]
            rounds = equation.params["length"] if equation.primitive.name == "scan" else 1
            total += rounds * sum(inner) if inner else outputs
    return total


def _inner_programs(params: Mapping[str, Any]) -> list:
    """The jaxprs among an equation's parameters, for instance the body of a scan."""
    values = [v for value in params.values() for v in (value if isinstance(value, (tuple, list)) else (value,))]
    return [v for v in values if hasattr(v, "eqns") or hasattr(getattr(v, "jaxpr", None), "eqns")]
