"""Task networks of any Flax module, with the symmetries that plain stacks of dense and convolution layers have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

from jaxweights.errors import UserError
from jaxweights.nets.base import TaskNet
from jaxweights.nets.symmetries import PRODUCTS, check, infer, plain_leaf
from jaxweights.spec import WeightSpec

_INPUTS = 8  # random inputs of a test


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
    plain = WeightSpec(tuple(plain_leaf(name, shape) for name, shape in zip(names, shapes, strict=True)))
    shape = jax.eval_shape(lambda p, x: linen.apply({"params": p}, x), params, inputs).shape
    if shape != (_INPUTS, num_outputs):
        raise UserError(
            f"The module maps inputs of shape {inputs.shape} to {shape}, not to {(_INPUTS, num_outputs)}; give the "
            "shape of one input and a module with as many outputs as the data have classes or values."
        )
    if spec is None:
        spec, note = infer(linen, plain, params, inputs)
    else:
        check(linen, spec, plain, inputs)
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
            values = [cast(Any, v.aval) for eqn in equations if eqn.primitive.name in PRODUCTS for v in eqn.outvars]
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
