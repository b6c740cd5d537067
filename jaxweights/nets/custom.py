"""Task networks of any Flax module, with the symmetries that plain stacks of dense and convolution layers have."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx
from jax.extend import core

from jaxweights.errors import UserError
from jaxweights.nets.base import TaskNet
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec

_INPUTS = 8  # random inputs of a test
_DRAWS = 3  # random weight vectors of a test of permutations
_GAINS = (1.0, 1.0, 4.0, 16.0)  # scales of the weights of a test of rescalings: saturating functions show at large ones
_EXPONENTS = 3  # rescalings are by powers of two, which round nothing, up to this one
_TOLERANCE = 1e-4  # largest change of outputs, relative to the largest output, that is rounding
_CHANGE = 1e-3  # smallest change that shows that the units matter at all

_PASSED_ON = ("convert_element_type", "reshape", "transpose", "squeeze", "copy")
_PRODUCTS = ("dot_general", "conv_general_dilated")


class Wrapped(NamedTuple):
    """A task network of a module.

    Attributes:
      net: the network.
      note: one sentence on its symmetries.
    """

    net: TaskNet
    note: str


def wrap(
    module: nn.Module | Callable[..., nnx.Module],
    input_shape: Sequence[int],
    num_outputs: int,
    *,
    spec: WeightSpec | None = None,
) -> Wrapped:
    """Makes a task network of a Flax module.

    The flat vector has the leaves in the order of the parameter tree, each as it is, so it is that of
    `jax.flatten_util.ravel_pytree`. Where dense and convolution layers follow one another, with elementwise functions,
    pooling or a flattening between them, permutations and rescalings of the hidden units are proposed and tested: what
    changes the outputs of random weights on random inputs is no symmetry.

    Args:
      module: a Linen module that maps `[B, *input_shape]` to `[B, num_outputs]`, or a function of `rngs` (such as a
        class) that makes an NNX module of this kind.
      input_shape: shape of one input.
      num_outputs: number of outputs.
      spec: the leaves and their symmetries, instead of those that are found.

    Raises:
      UserError: variables other than parameters, parameters that are not float32, outputs of another shape, or a spec
        that does not fit the module.
    """
    linen = _linen(module)
    inputs = jax.ShapeDtypeStruct((_INPUTS, *input_shape), jnp.float32)
    params = _parameters(linen, inputs)
    names, shapes = _names_and_shapes(params)
    plain = WeightSpec(tuple(_leaf(name, shape) for name, shape in zip(names, shapes, strict=True)))
    shape = jax.eval_shape(lambda p, x: linen.apply({"params": p}, x), params, inputs).shape
    if shape != (_INPUTS, num_outputs):
        raise UserError(
            f"The module maps inputs of shape {inputs.shape} to {shape}, not to {(_INPUTS, num_outputs)}; give the "
            "shape of one input and a module with as many outputs as the data have classes or values."
        )
    if spec is None:
        spec, note = _infer(linen, plain, params, inputs)
    else:
        _check(linen, spec, plain, inputs)
        note = "symmetries as given" if spec.groups else "no symmetries: none are given"
    return Wrapped(TaskNet("custom", linen, spec, tuple(input_shape), num_outputs), note)


class FromNNX(nn.Module):
    """An NNX module as a Linen module.

    Attributes:
      names: top-level names of the parameters.
      draw: makes the nested dict of initial parameters from a key.
      call: the outputs from the nested dict of parameters and inputs.
    """

    names: tuple[str, ...]
    draw: Callable[[jax.Array], dict[str, Any]]
    call: Callable[[dict[str, Any], jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the module."""
        if not self.has_variable("params", self.names[0]):
            initial = self.draw(self.make_rng("params"))
            for name in self.names:
                self.param(name, lambda key, name=name: initial[name])
        params = {name: self.get_variable("params", name) for name in self.names}
        if self.is_mutable_collection("intermediates"):
            # Linen records the outputs of its own layers alone; `TaskNet.activation_size` counts these.
            equations = jax.make_jaxpr(self.call)(params, x).jaxpr.eqns
            values = [cast(Any, v.aval) for eqn in equations if eqn.primitive.name in _PRODUCTS for v in eqn.outvars]
            self.sow("intermediates", "products", [jnp.zeros(value.shape) for value in values])
        return self.call(params, x)


def _linen(module: Any) -> nn.Module:
    if isinstance(module, nn.Module):
        return module
    if isinstance(module, nnx.Module):
        raise UserError(
            f"This {type(module).__name__} holds the parameters of one network; a zoo draws new ones. Give a function "
            f"that makes it, e.g. lambda rngs: {type(module).__name__}(..., rngs=rngs)."
        )
    if not callable(module) or (isinstance(module, type) and issubclass(module, nn.Module)):
        raise UserError(f"{module!r} is no network; give an instance of a Linen module or a function of rngs.")
    return _from_nnx(module)


def _from_nnx(make: Callable[..., Any]) -> FromNNX:
    model = make(rngs=nnx.Rngs(0))
    if not isinstance(model, nnx.Module):
        raise UserError(f"{make!r} makes a {type(model).__name__}; give a function of rngs that makes an NNX module.")
    model.eval()
    graph, params, rngs, others = nnx.split(model, nnx.Param, nnx.RngState, ...)
    _refuse_state(sorted({"/".join(map(str, path)) for path, _ in nnx.to_flat_state(others)}))
    paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(params)]
    structure = jax.tree.structure(params)

    def draw(key: jax.Array) -> dict[str, Any]:
        state = nnx.state(make(rngs=nnx.Rngs(key)), nnx.Param)
        return _nested(dict(zip(paths, jax.tree.leaves(state), strict=True)))

    def call(tree: dict[str, Any], x: jax.Array) -> jax.Array:
        leaves = [_at(tree, path) for path in paths]
        return nnx.merge(graph, jax.tree.unflatten(structure, leaves), rngs)(x)

    return FromNNX(tuple(sorted({path.partition("/")[0] for path in paths})), draw, call)


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split("/")
        node = out
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return out


def _at(tree: dict[str, Any], path: str) -> Any:
    node: Any = tree
    for key in path.split("/"):
        node = node[key]
    return node


def _refuse_state(names: Sequence[str]) -> None:
    if names:
        raise UserError(
            f"The module keeps state besides its parameters ({', '.join(names)}), which no weight vector holds. Use "
            "layers without it, such as LayerNorm or GroupNorm in the place of BatchNorm, or "
            "jaxweights.nn.normalization.BatchNorm, whose running statistics are parameters."
        )


def _parameters(module: nn.Module, inputs: jax.ShapeDtypeStruct) -> Any:
    """The parameter tree, as shapes."""
    try:
        variables = jax.eval_shape(module.init, jax.random.key(0), inputs)
    except TypeError as error:
        raise UserError(
            f"The module cannot be called on inputs alone ({error}); give every other argument a default."
        ) from error
    variables = cast(dict[str, Any], variables)
    _refuse_state(sorted(set(variables) - {"params"}))
    params = variables.get("params", {})
    wrong = {str(leaf.dtype) for leaf in jax.tree.leaves(params)} - {"float32"}
    if wrong or not params:
        found = f"parameters of type {', '.join(sorted(wrong))}" if wrong else "no parameters"
        raise UserError(f"The module has {found}; give one whose parameters are float32 (param_dtype).")
    return params


def _names_and_shapes(params: Any) -> tuple[list[str], list[tuple[int, ...]]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return ["/".join(str(key.key) for key in path) for path, _ in leaves], [leaf.shape for _, leaf in leaves]


def _leaf(name: str, axes: Sequence[int], shape: Sequence[int] | None = None) -> Leaf:
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


def _infer(module: nn.Module, plain: WeightSpec, params: Any, inputs: jax.ShapeDtypeStruct) -> tuple[WeightSpec, str]:
    """The spec with all symmetries that hold, and the note."""
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
        if eqn.primitive.name in _PRODUCTS:
            yield from (i for i in operands if i is not None)
        elif eqn.primitive.name in _PASSED_ON and operands[0] is not None:
            known[eqn.outvars[0]] = operands[0]
        for value in eqn.params.values():
            inner = value.jaxpr if isinstance(value, core.ClosedJaxpr) else value
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
            leaves[i] = _marked(_leaf(leaves[i].name, candidate.axes, leaves[i].shape), candidate.axis, group, -1)
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


def _check(module: nn.Module, spec: WeightSpec, plain: WeightSpec, inputs: jax.ShapeDtypeStruct) -> None:
    """Refuses a spec whose leaves are not the module's, or whose symmetries change the outputs."""
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
