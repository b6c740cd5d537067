"""Reads published checkpoints of the transformer (PyTorch state dicts) as parameters of `network.Transformer`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jaxweights.generators.gpt.network import SCALARS, Transformer, example_inputs
from jaxweights.generators.state_dict import Checkpoint, StateDict
from jaxweights.nn.transformer import Architecture, TokenLayout


def from_torch(
    checkpoint: Checkpoint, layout: TokenLayout, architecture: Architecture
) -> tuple[dict[str, Any], np.ndarray]:
    """Reads the state dict of a published model.

    Args:
      checkpoint: tensors by name, as in `G` or `G_ema` of the published files, or a file of them.
      layout: layout of the vectors.
      architecture: sizes.

    Returns:
      The parameters of `Transformer`, and the `[count]` float32 frequencies that it was trained with.

    Raises:
      UserError: a tensor is missing, left over, has another shape, or values that are no finite numbers.
    """
    tensors = StateDict(checkpoint, "", "gpt")
    table = tensors.frequencies(architecture.num_frequencies)
    count = layout.num_tokens
    inputs = [tensors.kernel(f"decoder.input_parameter_projections.{i}.0") for i in range(2 * count + SCALARS)]
    outputs = [tensors.kernel(f"decoder.output_parameter_projections.{i}.0") for i in range(count)]
    params = {
        "noised_embedding": tensors.grouped(inputs[:count], layout),
        "start_embedding": tensors.grouped(inputs[count : 2 * count], layout),
        "scalar_kernel": tensors.stack(inputs[2 * count :]),
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
