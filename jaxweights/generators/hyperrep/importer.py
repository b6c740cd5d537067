"""Reads published checkpoints of the autoencoder (PyTorch state dicts) as parameters of `network.Autoencoder`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights.errors import UserError
from jaxweights.generators.hyperrep.layout import UnitLayout
from jaxweights.generators.hyperrep.network import Architecture, Autoencoder

_ATTENTION = ("q_linear", "k_linear", "v_linear", "out")


def from_torch(
    state_dict: Mapping[str, np.ndarray], layout: UnitLayout, architecture: Architecture
) -> dict[str, dict[str, Any]]:
    """The parameters of a checkpoint of the published PyTorch autoencoder (`checkpoint_ae.pt`).

    Sizes can be read off the shapes; only the number of heads has to be known.

    Args:
      state_dict: names to arrays, as PyTorch stores them.
      layout: layout of the weight vectors.
      architecture: architecture of the autoencoder.

    Returns:
      The float32 parameters of `Autoencoder`.

    Raises:
      UserError: a tensor is missing, left over, or of another shape than this architecture has.
    """
    state = {name: np.asarray(value, np.float32) for name, value in state_dict.items()}
    params = {
        "encoder": {
            "embedding": _torch_tokens(state, "encoder.token_embeddings", "embed", layout, architecture),
            "positions": _take(state, "encoder.position_embeddings.weight"),
            "blocks": _torch_blocks(state, "encoder", architecture),
        },
        "decoder": {
            "unembedding": _torch_tokens(state, "decoder.token_debeddings", "weight_debedder", layout, architecture),
            "positions": _take(state, "decoder.position_embeddings.weight"),
            "blocks": _torch_blocks(state, "decoder", architecture),
        },
    }
    if architecture.compression == "token":
        params["encoder"]["token"] = _take(state, "encoder.comp_token").reshape(-1)
    if architecture.decoder_bias:
        params["decoder"]["latent_bias"] = _take(state, "decoder.decoder_bias")
    if architecture.bottleneck == "mlp":
        params["encoder"]["to_latent"] = _torch_mlp(state, "encoder.vec2neck.encoder", architecture)
        params["decoder"]["from_latent"] = _torch_mlp(state, "decoder.nec2vec.decoder", architecture)
    else:
        params["encoder"]["to_latent"] = _torch_dense(state, "encoder.vec2neck.0")
        params["decoder"]["from_latent"] = _torch_dense(state, "decoder.nec2vec")
    if state:
        raise UserError(
            f"The checkpoint holds tensors that this autoencoder does not have: {', '.join(sorted(state)[:5])}. "
            "Set the fields of the generator hyperrep as in the checkpoint's configuration."
        )
    module = Autoencoder(layout, architecture)
    expected = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, layout.num_params)))["params"])
    theirs = dict(jax.tree_util.tree_leaves_with_path(params))
    for path, shape in jax.tree_util.tree_leaves_with_path(expected):
        if theirs[path].shape != shape.shape:
            raise UserError(
                f"The checkpoint's tensor for {jax.tree_util.keystr(path)} has shape {theirs[path].shape}, this "
                f"autoencoder needs {shape.shape}. Set the fields of the generator hyperrep as in the checkpoint's "
                "configuration."
            )
    return params


def _take(state: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in state:
        raise UserError(
            f"The checkpoint has no tensor {name!r}. Set the fields of the generator hyperrep as in the checkpoint's "
            "configuration."
        )
    return state.pop(name)


def _torch_dense(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {"kernel": _take(state, f"{name}.weight").T, "bias": _take(state, f"{name}.bias")}


def _torch_tokens(state, name: str, shared: str, layout: UnitLayout, architecture: Architecture) -> dict[str, Any]:
    if architecture.encoding == "weight":
        return {"weight": _torch_dense(state, f"{name}.{shared}")}
    return {f"layer_{i}": _torch_dense(state, f"{name}.layer_lst.{i}") for i in range(len(layout.layers))}


def _torch_mlp(state, name: str, architecture: Architecture) -> dict[str, Any]:
    # A dense layer, an activation and, where there is any, dropout are modules of their own.
    stride = 3 if architecture.dropout else 2
    return {
        f"dense_{i}": _torch_dense(state, f"{name}.{stride * i}") for i in range(architecture.bottleneck_layers + 1)
    }


def _torch_blocks(state, half: str, architecture: Architecture) -> dict[str, np.ndarray]:
    blocks = []
    for i in range(architecture.blocks):
        name = f"{half}.layers.{i}"
        q, k, v, out = (_torch_dense(state, f"{name}.attn.{part}") for part in _ATTENTION)
        up, down = (_torch_dense(state, f"{name}.ff.{part}") for part in ("linear_1", "linear_2"))
        block = {
            "qkv_kernel": np.concatenate([q["kernel"], k["kernel"], v["kernel"]], axis=1),
            "qkv_bias": np.concatenate([q["bias"], k["bias"], v["bias"]]),
            **{f"out_{key}": value for key, value in out.items()},
            **{f"up_{key}": value for key, value in up.items()},
            **{f"down_{key}": value for key, value in down.items()},
        }
        if architecture.normalize:
            for norm in ("norm_1", "norm_2"):
                block[f"{norm}_scale"] = _take(state, f"{name}.{norm}.alpha")
                block[f"{norm}_bias"] = _take(state, f"{name}.{norm}.bias")
        blocks.append(block)
    return {key: np.stack([block[key] for block in blocks]) for key in blocks[0]}
