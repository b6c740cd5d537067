"""Reads published checkpoints of the autoencoder (PyTorch state dicts) as parameters of `network.Autoencoder`."""

from __future__ import annotations

import re
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


def sizes(state_dict: Checkpoint) -> dict[str, Any]:
    """Settings of `HyperRep` that the shapes of a published checkpoint tell: all sizes but the number of heads. A
    bottleneck without hidden layers is taken for "linear", not for "linear_bounded", which has the same shapes.

    Raises:
      UserError: a file that is not read, or tensors of something else.
    """
    tensors = StateDict(state_dict, "", "hyperrep")
    names = tensors.names
    layers = [name for name in names if re.fullmatch(r"encoder\.vec2neck\.(?:encoder\.)?\d+\.weight", name)]
    layers.sort(key=lambda name: int(name.split(".")[-2]))
    if not layers:
        layers = ["encoder.vec2neck.0.weight"]  # whose absence is refused
    mlp = layers[0].startswith("encoder.vec2neck.encoder.")
    width = tensors.take("encoder.position_embeddings.weight", 2).shape[1]
    bottleneck = [tensors.take(name, 2).shape for name in layers]
    back = "decoder.nec2vec.decoder" if mlp else "decoder.nec2vec"
    last = max(
        (n for n in names if n.startswith(back) and n.endswith(".weight")), key=_number, default=f"{back}.weight"
    )
    whole = "average" if bottleneck[0][1] == width else "linear"
    return {
        "encoding": "weight" if any(".embed." in name for name in names) else "neuron",
        "width": width,
        "feed_forward": tensors.take("encoder.layers.0.ff.linear_1.weight", 2).shape[0],
        "blocks": len({name.split(".")[2] for name in names if name.startswith("encoder.layers.")}),
        "latent_dim": bottleneck[-1][0],
        "normalize": "encoder.layers.0.norm_1.alpha" in names,
        "compression": "token" if "encoder.comp_token" in names else whole,
        "decompression": "repeat" if tensors.take(last, 2).shape[0] == width else "linear",
        "bottleneck": "mlp" if mlp else "linear",
        **(_mlp_sizes(layers) if mlp else {}),
        "decoder_bias": "decoder.decoder_bias" in names,
    }


def _mlp_sizes(layers: list[str]) -> dict[str, Any]:
    """Hidden layers, and whether there is dropout, which is a module of its own between them (of which rate does not
    matter once the model is trained)."""
    strided = len(layers) > 1 and _number(layers[1]) - _number(layers[0]) == 2
    return {"bottleneck_layers": len(layers) - 1} | ({"dropout": 0.0} if strided else {})


def _number(name: str) -> int:
    part = name.split(".")[-2]
    return int(part) if part.isdigit() else 0


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
