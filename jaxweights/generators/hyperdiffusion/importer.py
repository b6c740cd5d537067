"""Reads published files (PyTorch state dicts): the transformer, and the networks of its zoo."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxweights.errors import UserError
from jaxweights.generators.hyperdiffusion.network import Transformer, example_inputs
from jaxweights.generators.state_dict import StateDict
from jaxweights.nn.transformer import Architecture, TokenLayout
from jaxweights.spec import WeightSpec

_PREFIX = "model."


def from_torch(
    checkpoint: Mapping[str, np.ndarray], layout: TokenLayout, architecture: Architecture
) -> tuple[dict[str, Any], np.ndarray]:
    """Reads the state dict of a published model.

    Args:
      checkpoint: arrays by name, the `state_dict` of the published file. What does not belong to the transformer (four
        buffers of the diffusion, all of which hold its betas) is ignored.
      layout: layout of the vectors.
      architecture: sizes.

    Returns:
      The parameters of `Transformer`, and the `[count]` float32 frequencies that it was trained with.

    Raises:
      UserError: a tensor is missing, left over, or has another shape.
    """
    checkpoint = {name: value for name, value in checkpoint.items() if name.startswith(_PREFIX)}
    tensors = StateDict(checkpoint, _PREFIX, "hyperdiffusion")
    table = tensors.take("scalar_embedder.frequencies")
    count = layout.num_tokens
    inputs = [tensors.kernel(f"decoder.input_parameter_projections.{i}.0") for i in range(count + 1)]
    outputs = [tensors.kernel(f"decoder.output_parameter_projections.{i}.0") for i in range(count)]
    params = {
        "embedding": tensors.grouped(inputs[:count], layout),
        "time_kernel": inputs[count],
        "norm_in": tensors.norm("decoder.ln_in"),
        "positions": tensors.take("decoder.pos_emb")[0],
        "blocks": tensors.blocks(architecture.blocks),
        "norm_out": tensors.norm("decoder.ln_f"),
        "unembedding": tensors.grouped(outputs, layout),
    }
    module, example = Transformer(layout, architecture), example_inputs(layout, architecture)
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), *example)["params"])
    tensors.finish(params, expected, table, architecture.num_frequencies)
    return params, table.astype(np.float32)


def vectors_from_torch(networks: Iterable[Mapping[str, np.ndarray]], spec: WeightSpec) -> np.ndarray:
    """Weight vectors of published networks, one file per shape.

    Args:
      networks: state dicts as arrays, their tensors in the order of the network (`layers.0.weight`, `layers.0.bias`,
        ...), weights `[out, in]`.
      spec: spec of the task network.

    Returns:
      `[N, P]` float32.

    Raises:
      UserError: tensors of other shapes than the network's.
    """
    expected = [leaf.shape for leaf in spec.leaves]
    rows = []
    for number, network in enumerate(networks):
        tensors = [np.asarray(value, np.float32) for value in network.values()]
        found = [tensor.shape for tensor in tensors]
        if found != expected:
            raise UserError(
                f"State dict {number} has tensors of shapes {found}, the task network {expected}. Set net.hidden and "
                "net.octaves as in the published configuration."
            )
        rows.append(np.concatenate([tensor.ravel() for tensor in tensors]))
    return np.stack(rows)
