"""Reads published files (PyTorch state dicts): the transformer, and the networks of its zoo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxweights import arrays
from jaxweights.errors import UserError
from jaxweights.generators.hyperdiffusion.network import Transformer, example_inputs
from jaxweights.generators.state_dict import Checkpoint, StateDict
from jaxweights.nn.transformer import Architecture, TokenLayout
from jaxweights.spec import WeightSpec

_PREFIX = "model."


def from_torch(
    checkpoint: Checkpoint, layout: TokenLayout, architecture: Architecture
) -> tuple[dict[str, Any], np.ndarray]:
    """Reads the state dict of a published model.

    Args:
      checkpoint: tensors by name, the `state_dict` of the published file, or a file of them. What does not
        belong to the transformer (four buffers of the diffusion, all of which hold its betas) is ignored.
      layout: layout of the vectors.
      architecture: sizes.

    Returns:
      The parameters of `Transformer`, and the `[count]` float32 frequencies that it was trained with.

    Raises:
      UserError: a tensor is missing, left over, has another shape, or values that are no finite numbers.
    """
    tensors = StateDict(checkpoint, _PREFIX, "hyperdiffusion")
    table = tensors.frequencies(architecture.num_frequencies)
    count = layout.num_tokens
    inputs = [tensors.kernel(f"decoder.input_parameter_projections.{i}.0") for i in range(count + 1)]
    outputs = [tensors.kernel(f"decoder.output_parameter_projections.{i}.0") for i in range(count)]
    params = {
        "embedding": tensors.grouped(inputs[:count], layout),
        "time_kernel": inputs[count],
        "norm_in": tensors.norm("decoder.ln_in"),
        "positions": tensors.take("decoder.pos_emb", 3)[0],
        "blocks": tensors.blocks(architecture.blocks),
        "norm_out": tensors.norm("decoder.ln_f"),
        "unembedding": tensors.grouped(outputs, layout),
    }
    module, example = Transformer(layout, architecture), example_inputs(layout, architecture)
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), *example)["params"])
    tensors.finish(params, expected)
    return params, table


def vectors_from_torch(networks: Iterable[Mapping[str, np.ndarray]], spec: WeightSpec) -> np.ndarray:
    """Weight vectors of published networks, one file per shape.

    Args:
      networks: state dicts as arrays, their tensors in the order of the network (`layers.0.weight`, `layers.0.bias`,
        ...), weights `[out, in]`.
      spec: spec of the task network.

    Returns:
      `[N, P]` float32.

    Raises:
      UserError: tensors of other shapes than the network's, or with values that are no finite numbers; no state dict.
    """
    expected = [leaf.shape for leaf in spec.leaves]
    rows = []
    for number, network in enumerate(networks):
        tensors = [arrays.float32(value, f"Tensor {name!r} of state dict {number}") for name, value in network.items()]
        found = [tensor.shape for tensor in tensors]
        if found != expected:
            raise UserError(
                f"State dict {number} has tensors of shapes {found}, the task network {expected}. Set net.hidden and "
                "net.octaves as in the published configuration."
            )
        rows.append(np.concatenate([tensor.ravel() for tensor in tensors]))
    if not rows:
        raise UserError("There are no state dicts; give at least one network.")
    return np.stack(rows)
