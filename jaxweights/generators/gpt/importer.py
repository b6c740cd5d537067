"""Reads published checkpoints of the transformer (PyTorch state dicts) as parameters of `network.Transformer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxweights.errors import UserError
from jaxweights.generators.gpt.network import SCALARS, Architecture, Layout, Transformer, example_inputs

_DENSE = {"qkv": ("attn.query", "attn.key", "attn.value"), "out": ("attn.proj",), "up": ("mlp.0",), "down": ("mlp.2",)}
_NORMS = {"norm_1": "ln1", "norm_2": "ln2"}
_CURE = "Set the fields of the generator gpt, and the task network, as in the checkpoint's configuration."


def from_torch(
    checkpoint: Mapping[str, np.ndarray], layout: Layout, architecture: Architecture
) -> tuple[dict[str, Any], np.ndarray]:
    """Reads the state dict of a published model.

    Args:
      checkpoint: arrays by name, as in `G` or `G_ema` of the published files.
      layout: of the vectors.
      architecture: sizes.

    Returns:
      The parameters of `Transformer`, and the `[count]` float32 frequencies that it was trained with.

    Raises:
      UserError: a tensor is missing, left over, or has another shape.
    """
    rest = {name: np.asarray(value) for name, value in checkpoint.items()}
    table = _take(rest, "scalar_embedder.frequencies")
    count = layout.num_tokens
    inputs = [_kernel(rest, f"decoder.input_parameter_projections.{i}.0") for i in range(2 * count + SCALARS)]
    outputs = [_kernel(rest, f"decoder.output_parameter_projections.{i}.0") for i in range(count)]
    params = {
        "noised_embedding": _grouped(inputs[:count], layout),
        "start_embedding": _grouped(inputs[count : 2 * count], layout),
        "scalar_kernel": _stack(inputs[2 * count :]),
        "norm_in": _torch_norm(rest, "decoder.ln_in"),
        "positions": _take(rest, "decoder.pos_emb")[0],
        "blocks": _torch_blocks(rest, architecture.blocks),
        "norm_out": _torch_norm(rest, "decoder.ln_f"),
        "unembedding": _grouped(outputs, layout),
    }
    if rest:
        raise UserError(
            f"The checkpoint holds tensors that this transformer does not have: {', '.join(sorted(rest)[:5])}. {_CURE}"
        )
    expected = jax.eval_shape(
        lambda: Transformer(layout, architecture).init(jax.random.key(0), *example_inputs(layout, architecture))
    )
    theirs = dict(jax.tree_util.tree_leaves_with_path({"params": params}))
    for path, shape in jax.tree_util.tree_leaves_with_path(expected):
        if theirs[path].shape != shape.shape:
            raise UserError(
                f"The checkpoint's tensor for {jax.tree_util.keystr(path)} has shape {theirs[path].shape}, this "
                f"transformer needs {shape.shape}. {_CURE}"
            )
    if table.shape != (architecture.num_frequencies,):
        raise UserError(
            f"The checkpoint has {table.size} frequencies, this transformer {architecture.num_frequencies}. {_CURE}"
        )
    return params, table.astype(np.float32)


def _take(rest: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in rest:
        raise UserError(f"The checkpoint has no tensor {name!r}. {_CURE}")
    return rest.pop(name)


def _kernel(rest: dict[str, np.ndarray], name: str) -> np.ndarray:
    return _take(rest, f"{name}.weight").T


def _torch_norm(rest: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"scale": _take(rest, f"{name}.weight"), "bias": _take(rest, f"{name}.bias")}


def _stack(arrays: list[np.ndarray]) -> np.ndarray:
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise UserError(f"The checkpoint has tensors of shapes {sorted(shapes)} where one is expected. {_CURE}")
    return np.stack(arrays)


def _grouped(kernels: list[np.ndarray], layout: Layout) -> dict[str, np.ndarray]:
    return {f"size_{group.size}_kernel": _stack([kernels[t] for t in group.tokens]) for group in layout.groups}


def _torch_blocks(rest: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    blocks = []
    for i in range(count):
        name = f"decoder.blocks.{i}"
        block = {}
        for ours, theirs in _DENSE.items():
            block[f"{ours}_kernel"] = np.concatenate([_kernel(rest, f"{name}.{part}") for part in theirs], axis=1)
            block[f"{ours}_bias"] = np.concatenate([_take(rest, f"{name}.{part}.bias") for part in theirs])
        for ours, theirs in _NORMS.items():
            block |= {f"{ours}_{key}": value for key, value in _torch_norm(rest, f"{name}.{theirs}").items()}
        blocks.append(block)
    return {key: _stack([block[key] for block in blocks]) for key in blocks[0]}
