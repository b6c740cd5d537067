"""Reads published checkpoints of SANE (PyTorch state dicts) as parameters of `network.Autoencoder`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators.sane.network import Architecture, Autoencoder
from jaxweights.generators.state_dict import Checkpoint, StateDict

_TABLES = {"sequence": "pe.pe1", "layer": "pe.pe2", "channel": "pe.pe3"}
_BLOCK = {"qkv": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
_DENSE = {
    "embedding": "tokenizer",
    "to_latent": "encoder_comp",
    "from_latent": "decoder_comp",
    "unembedding": "detokenizer",
}
_HEAD = "projection_head.head"


def from_torch(state_dict: Checkpoint, architecture: Architecture, window: int) -> dict[str, Any]:
    """The parameters of a published autoencoder.

    Args:
      state_dict: tensors by name, as PyTorch stores them, or a file of them.
      architecture: architecture of the autoencoder.
      window: tokens of a window in training.

    Returns:
      The float32 parameters of `Autoencoder`.

    Raises:
      UserError: a tensor is missing, left over, of another shape than this architecture has, or with values that are no
        finite numbers.
    """
    tensors = StateDict(state_dict, "", "sane")
    params: dict[str, Any] = {ours: tensors.dense(theirs) for ours, theirs in _DENSE.items()}
    params["positions"] = {ours: tensors.take(f"{theirs}.weight", 2) for ours, theirs in _TABLES.items()}
    for half in ("encoder", "decoder"):
        params[half] = _blocks(tensors, f"transformer_{half}.transformer", architecture.blocks)
    params["projection"] = {
        f"{ours}_{i}": found
        for i in range(2)
        for ours, found in (
            ("dense", {"kernel": tensors.kernel(f"{_HEAD}.{3 * i}")}),
            ("norm", tensors.norm(f"{_HEAD}.{3 * i + 1}")),
        )
    }
    inputs = jnp.zeros((1, window, architecture.token_size)), jnp.zeros((1, window, 3), jnp.int32)
    expected = jax.eval_shape(lambda: Autoencoder(architecture).init(jax.random.key(0), *inputs)["params"])
    tensors.finish(params, expected)
    return params


def _blocks(tensors: StateDict, name: str, count: int) -> dict[str, np.ndarray]:
    blocks = []
    for i in range(count):
        block = {f"{ours}_kernel": tensors.kernel(f"{name}.{i}.{theirs}") for ours, theirs in _BLOCK.items()}
        blocks.append(block | {f"norm_{k}_scale": tensors.take(f"{name}.{i}.ln_{k}.weight", 1) for k in (1, 2)})
    return {key: tensors.stack([block[key] for block in blocks]) for key in blocks[0]}


def sizes(state_dict: Checkpoint) -> dict[str, Any]:
    """Settings of `Sane` that the shapes of a published checkpoint tell: all sizes but the number of heads.

    Raises:
      UserError: a file that is not read, or tensors of something else.
    """
    tensors = StateDict(state_dict, "", "sane")
    names = tensors.names
    width, token_size = tensors.take("tokenizer.weight", 2).shape
    latent_dim = tensors.take("encoder_comp.weight", 2).shape[0]
    return {
        "token_size": token_size,
        "width": width,
        "blocks": len({name.split(".")[2] for name in names if name.startswith("transformer_encoder.transformer.")}),
        "latent_dim": latent_dim,
        "max_positions": tuple(len(tensors.take(f"{name}.weight", 2)) for name in _TABLES.values()),
        "window": tensors.take(f"{_HEAD}.0.weight", 2).shape[1] // latent_dim,
    }
