"""Reads published checkpoints of the autoencoder (PyTorch state dicts) as parameters of `network.Autoencoder`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.generators.hyperrep.layout import UnitLayout
from jaxweights.generators.hyperrep.network import Architecture, Autoencoder
from jaxweights.generators.state_dict import Checkpoint, StateDict

_ATTENTION = ("q_linear", "k_linear", "v_linear")


def from_torch(state_dict: Checkpoint, layout: UnitLayout, architecture: Architecture) -> dict[str, dict[str, Any]]:
    """The parameters of a checkpoint of the published PyTorch autoencoder (`checkpoint_ae.pt`).

    Sizes can be read off the shapes; only the number of heads has to be known.

    Args:
      state_dict: tensors by name, as PyTorch stores them, or a file of them.
      layout: layout of the weight vectors.
      architecture: architecture of the autoencoder.

    Returns:
      The float32 parameters of `Autoencoder`.

    Raises:
      UserError: a tensor is missing, left over, of another shape than this architecture has, or with values that are
        no finite numbers.
    """
    tensors = StateDict(state_dict, "", "hyperrep")
    params = {
        "encoder": {
            "embedding": _tokens(tensors, "encoder.token_embeddings", "embed", layout, architecture),
            "positions": tensors.take("encoder.position_embeddings.weight"),
            "blocks": _blocks(tensors, "encoder", architecture),
        },
        "decoder": {
            "unembedding": _tokens(tensors, "decoder.token_debeddings", "weight_debedder", layout, architecture),
            "positions": tensors.take("decoder.position_embeddings.weight"),
            "blocks": _blocks(tensors, "decoder", architecture),
        },
    }
    if architecture.compression == "token":
        params["encoder"]["token"] = tensors.take("encoder.comp_token").reshape(-1)
    if architecture.decoder_bias:
        params["decoder"]["latent_bias"] = tensors.take("decoder.decoder_bias")
    if architecture.bottleneck == "mlp":
        params["encoder"]["to_latent"] = _mlp(tensors, "encoder.vec2neck.encoder", architecture)
        params["decoder"]["from_latent"] = _mlp(tensors, "decoder.nec2vec.decoder", architecture)
    else:
        params["encoder"]["to_latent"] = tensors.dense("encoder.vec2neck.0")
        params["decoder"]["from_latent"] = tensors.dense("decoder.nec2vec")
    module = Autoencoder(layout, architecture)
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, layout.num_params)))["params"])
    tensors.finish(params, expected)
    return params


def _tokens(
    tensors: StateDict, name: str, shared: str, layout: UnitLayout, architecture: Architecture
) -> dict[str, Any]:
    if architecture.encoding == "weight":
        return {"weight": tensors.dense(f"{name}.{shared}")}
    return {f"layer_{i}": tensors.dense(f"{name}.layer_lst.{i}") for i in range(len(layout.layers))}


def _mlp(tensors: StateDict, name: str, architecture: Architecture) -> dict[str, Any]:
    # A dense layer, an activation and, where there is any, dropout are modules of their own.
    stride = 3 if architecture.dropout else 2
    return {f"dense_{i}": tensors.dense(f"{name}.{stride * i}") for i in range(architecture.bottleneck_layers + 1)}


def _blocks(tensors: StateDict, half: str, architecture: Architecture) -> dict[str, np.ndarray]:
    blocks = []
    for i in range(architecture.blocks):
        name = f"{half}.layers.{i}"
        attention = [tensors.dense(f"{name}.attn.{part}") for part in _ATTENTION]
        layers = {"out": "attn.out", "up": "ff.linear_1", "down": "ff.linear_2"}
        block = {f"qkv_{key}": tensors.concatenate([part[key] for part in attention]) for key in ("kernel", "bias")}
        for ours, theirs in layers.items():
            block |= {f"{ours}_{key}": value for key, value in tensors.dense(f"{name}.{theirs}").items()}
        if architecture.normalize:
            for norm in ("norm_1", "norm_2"):
                found = tensors.norm(f"{name}.{norm}", scale="alpha")
                block |= {f"{norm}_{key}": value for key, value in found.items()}
        blocks.append(block)
    return {key: tensors.stack([block[key] for block in blocks]) for key in blocks[0]}
