"""Symmetries of a module, proposed from its program and tested on random weights and inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.extend import core

from jaxweights.errors import UserError
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec

PRODUCTS = ("dot_general", "conv_general_dilated")
"""Primitives that kernels of dense and convolution layers enter."""

_DRAWS = 3  # random weight vectors of a test of permutations
_GAINS = (1.0, 1.0, 4.0, 16.0)  # scales of the weights of a test of rescalings: saturating functions show at large ones
_EXPONENTS = 3  # rescalings are by powers of two, which round nothing, up to this one
_TOLERANCE = 1e-4  # largest change of outputs, relative to the largest output, that is rounding
_CHANGE = 1e-3  # smallest change that shows that the units matter at all

_PASSED_ON = ("convert_element_type", "reshape", "transpose", "squeeze", "copy")


def plain_leaf(name: str, axes: Sequence[int], shape: Sequence[int] | None = None) -> Leaf:
    """A leaf in the order of its axes, none of which can be permuted.

    Args:
      name: path in the parameter tree.
      axes: factors of the shape.
      shape: shape in the parameter tree; the axes by default.
    """
    n = len(axes)
    shape = axes if shape is None else shape
    return Leaf(name, tuple(shape), tuple(axes), (FIXED,) * n, (0,) * n, tuple(range(n)))


class _Candidate(NamedTuple):
    """Hidden units that may admit permutations.

    Attributes:
      size: number of units.
      writers: leaves whose last axis belongs to them.
      reader: the leaf of the next layer.
      axes: factors of its shape.
      axis: position of the units among the factors.
    """

    size: int
    writers: tuple[int, ...]
    reader: int
    axes: tuple[int, ...]
    axis: int


def infer(module: nn.Module, plain: WeightSpec, params: Any, inputs: jax.ShapeDtypeStruct) -> tuple[WeightSpec, str]:
    """Finds the symmetries of layers that follow one another.

    Args:
      module: the module.
      plain: its leaves, none of which can be permuted.
      params: its parameter tree, as shapes.
      inputs: a batch of inputs, as shapes.

    Returns:
      The spec with all symmetries that hold, and one sentence on them.
    """
    kernels = _kernels(module, params, inputs)
    chain = [i for i in kernels if kernels.count(i) == 1 and len(plain.leaves[i].shape) > 1]
    if len(chain) < 2:
        return plain, "no symmetries: no two dense or convolution layers in a row were found"
    test = _Test(module, plain, inputs)
    found = []
    for writer, reader in itertools.pairwise(chain):
        for candidate in _candidates(plain, writer, reader):
            scaling = test.scaling(candidate)
            if scaling is not None:
                found.append((candidate, scaling))
                break
    total = len(chain) - 1
    if not found:
        return plain, f"no symmetries: exchanging units of any of {total} hidden layers changes the outputs"
    count = str(total) if len(found) == total else f"{len(found)} of {total}"
    return _spec(plain, found), f"symmetries of {count} hidden layer{'s' if total > 1 else ''} found"


def _kernels(module: nn.Module, params: Any, inputs: jax.ShapeDtypeStruct) -> list[int]:
    """Indices of the leaves that enter matrix products and convolutions, in order of execution."""
    leaves, structure = jax.tree.flatten(params)

    def outputs(leaves, x):
        return module.apply({"params": jax.tree.unflatten(structure, leaves)}, x)

    program = jax.make_jaxpr(outputs)(leaves, inputs).jaxpr
    known: dict[Any, int] = {variable: i for i, variable in enumerate(program.invars[: len(leaves)])}
    return list(_uses(program, known))


def _uses(program: core.Jaxpr, known: dict[Any, int]) -> Iterator[int]:
    for eqn in program.eqns:
        operands = [None if isinstance(v, core.Literal) else known.get(v) for v in eqn.invars]
        if eqn.primitive.name in PRODUCTS:
            yield from (i for i in operands if i is not None)
        elif eqn.primitive.name in _PASSED_ON and operands[0] is not None:
            known[eqn.outvars[0]] = operands[0]
        for value in eqn.params.values():
            # Public, but not marked so in JAX 0.12.
            is_closed = isinstance(value, core.ClosedJaxpr)  # pyright: ignore[reportPrivateImportUsage]
            inner = value.jaxpr if is_closed else value
            if isinstance(inner, core.Jaxpr) and len(inner.invars) == len(operands):
                yield from _uses(inner, {v: i for v, i in zip(inner.invars, operands, strict=True) if i is not None})


def _candidates(plain: WeightSpec, writer: int, reader: int) -> Iterator[_Candidate]:
    size, shape = plain.leaves[writer].shape[-1], plain.leaves[reader].shape
    parent = plain.leaves[writer].name.rpartition("/")[0]
    biases = tuple(
        i
        for i, leaf in enumerate(plain.leaves)
        if leaf.shape == (size,) and leaf.name.rpartition("/")[0] == parent and i != writer
    )
    if shape[-2] == size:
        yield _Candidate(size, (writer, *biases), reader, shape, len(shape) - 2)
    elif len(shape) == 2 and shape[0] % size == 0:
        # A flattened map, channels last or first.
        for axis, factors in ((1, (shape[0] // size, size)), (0, (size, shape[0] // size))):
            yield _Candidate(size, (writer, *biases), reader, (*factors, shape[1]), axis)


def _spec(plain: WeightSpec, found: Sequence[tuple[_Candidate, str]], reads: bool = True) -> WeightSpec:
    """The spec with these groups; without the leaves that read them, only what writes the units moves."""
    leaves = list(plain.leaves)
    for group, (candidate, _) in enumerate(found):
        if reads:
            i = candidate.reader
            leaves[i] = _marked(plain_leaf(leaves[i].name, candidate.axes, leaves[i].shape), candidate.axis, group, -1)
    for group, (candidate, _) in enumerate(found):
        for i in candidate.writers:
            leaves[i] = _marked(leaves[i], len(leaves[i].axes) - 1, group, 1)
    return WeightSpec(tuple(leaves), tuple(Group(candidate.size, scaling) for candidate, scaling in found))


def _marked(leaf: Leaf, axis: int, group: int, role: int) -> Leaf:
    groups, roles = list(leaf.groups), list(leaf.roles)
    groups[axis], roles[axis] = group, role
    return Leaf(leaf.name, leaf.shape, leaf.axes, tuple(groups), tuple(roles), leaf.order)


class _Test:
    """Whether changes of random weight vectors leave the outputs on random inputs alone."""

    def __init__(self, module: nn.Module, plain: WeightSpec, inputs: jax.ShapeDtypeStruct) -> None:
        self._rng = np.random.default_rng(0)
        self._plain = plain
        x = jnp.asarray(self._rng.normal(size=inputs.shape), jnp.float32)
        self._apply = jax.jit(lambda tree: module.apply({"params": tree}, x))

    def outputs(self, spec: WeightSpec, vector: jax.Array) -> np.ndarray:
        """Outputs `[inputs, num_outputs]` of the weights `[P]`."""
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._apply(spec.unflatten(vector)))

    def vector(self, gain: float) -> jax.Array:
        """Random weights `[P]` under which signals keep their size where the gain is 1."""
        parts = []
        for leaf in self._plain.leaves:
            fan_in = math.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
            parts.append(self._rng.normal(size=leaf.size) * gain * math.sqrt(2 / fan_in))
        return jnp.asarray(np.concatenate(parts), jnp.float32)

    def permutation(self, spec: WeightSpec) -> tuple[jax.Array, ...]:
        """A permutation for every group that leaves no unit in its place."""
        return tuple(
            jnp.asarray(np.roll(order := self._rng.permutation(g.size), 1)[np.argsort(order)]) for g in spec.groups
        )

    def scales(self, spec: WeightSpec, kind: str) -> tuple[jax.Array, ...]:
        """Random scales for every group: powers of two where the kind is "positive", signs where it is "sign"."""
        return tuple(jnp.asarray(self._scales(group.size, kind)) for group in spec.groups)

    def _scales(self, size: int, kind: str) -> np.ndarray:
        if kind == "positive":
            exponents = [k for k in range(-_EXPONENTS, _EXPONENTS + 1) if k]
            return np.exp2(self._rng.choice(exponents, size)).astype(np.float32)
        signs = self._rng.choice(np.array([-1, 1], np.float32), size)
        signs[self._rng.integers(size)] = -1
        return signs

    def change(self, spec: WeightSpec, vector: jax.Array, moved: jax.Array) -> float:
        """Largest change of an output, relative to the largest output; infinite where outputs are not finite."""
        before, after = self.outputs(spec, vector), self.outputs(spec, moved)
        if not (np.isfinite(before).all() and np.isfinite(after).all()):
            return math.inf
        return float(np.abs(after - before).max() / max(np.abs(before).max(), np.finfo(np.float32).tiny))

    def scaling(self, candidate: _Candidate) -> str | None:
        """The rescaling that the units of a candidate admit; None where they admit no permutation either."""
        whole, half = (_spec(self._plain, [(candidate, "none")], reads) for reads in (True, False))
        matters = False
        for _ in range(_DRAWS):
            vector, order = self.vector(1.0), self.permutation(whole)
            if self.change(whole, vector, whole.permute(vector, order)) > _TOLERANCE:
                return None
            alone = half.permute(vector, order) if candidate.size > 1 else half.rescale(vector, [jnp.full(1, 2.0)])
            matters = matters or self.change(half, vector, alone) > _CHANGE
        if not matters:
            return None
        return next((kind for kind in ("positive", "sign") if self.admits(whole, kind)), "none")

    def admits(self, spec: WeightSpec, kind: str) -> bool:
        """Whether rescaling all groups leaves the function alone."""
        for gain in _GAINS:
            vector = self.vector(gain)
            if self.change(spec, vector, spec.rescale(vector, self.scales(spec, kind))) > _TOLERANCE:
                return False
        return True


def check(module: nn.Module, spec: WeightSpec, plain: WeightSpec, inputs: jax.ShapeDtypeStruct) -> None:
    """Tests a given spec.

    Args:
      module: the module.
      spec: what is tested.
      plain: the module's leaves.
      inputs: a batch of inputs, as shapes.

    Raises:
      UserError: leaves that are not the module's, or symmetries that change the outputs.
    """
    given, actual = ({leaf.name: leaf.shape for leaf in s.leaves} for s in (spec, plain))
    if given != actual:
        wrong = sorted(set(given.items()) ^ set(actual.items()))
        raise UserError(
            f"The spec does not fit the module: {wrong[0][0]} of shape {wrong[0][1]} is in one of them alone. The "
            f"module's leaves are {', '.join(f'{name} {shape}' for name, shape in actual.items())}."
        )
    test = _Test(module, plain, inputs)
    for kind in ("none", "positive", "sign"):
        vector = spec.flatten(plain.unflatten(test.vector(1.0)))
        if kind == "none":
            moved = spec.permute(vector, test.permutation(spec))
        else:
            scales = [
                scale if group.scaling == kind else jnp.ones(group.size)
                for scale, group in zip(test.scales(spec, kind), spec.groups, strict=True)
            ]
            moved = spec.rescale(vector, scales)
        change = test.change(spec, vector, moved)
        if change > _TOLERANCE:
            what = "permutations" if kind == "none" else f'rescalings ("{kind}")'
            raise UserError(
                f"The {what} of the given spec change the outputs by {change:.1g} of the largest; correct the groups "
                "of its leaves, or leave the spec out."
            )
