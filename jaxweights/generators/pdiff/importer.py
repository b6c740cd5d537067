"""Reads published checkpoints of P-diff (PyTorch state dicts) as the state of a trained `PDiff`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxweights import array_files
from jaxweights.errors import UserError
from jaxweights.generators.pdiff.generator import PDiff
from jaxweights.generators.state_dict import Checkpoint, StateDict
from jaxweights.population import Population

# The denoiser is in the file three times, under these names and as a part of the published trainer and sampler.
_DENOISER = "net."
_IGNORED = "num_batches_tracked"


def from_torch(
    checkpoint: Mapping[str, Checkpoint] | str | os.PathLike[str], generator: PDiff, training: Population
) -> dict[str, Any]:
    """Reads the file that the published code leaves in its folder `checkpoint`.

    Args:
      checkpoint: state dicts, each tensors by name or a file of them: "vae" and, unless the generator has no
        diffusion, "diffusion".
      generator: with the sizes of the checkpoint's configuration and `standardise_latents=False`.
      training: the checkpoints that it was trained on; the file does not hold what they were normalised with.

    Returns:
      The state that `generator.sample` takes: `constants` and one entry per stage.

    Raises:
      UserError: a state dict or a tensor is missing, a tensor is left over, has another shape or values that are no
        finite numbers, a running variance is negative; or a generator that standardises its latents, which the
        published one does not.
    """
    if generator.diffusion_steps and generator.standardise_latents:
        raise UserError("Published checkpoints of P-diff do not standardise latents; set standardise_latents=False.")
    if isinstance(checkpoint, (str, os.PathLike)):
        checkpoint = parts(pathlib.Path(checkpoint))
    wanted = ("vae", "diffusion") if generator.diffusion_steps else ("vae",)
    missing = [name for name in wanted if not isinstance(checkpoint, Mapping) or name not in checkpoint]
    if missing:
        raise UserError(f"The checkpoint has no state dict {missing[0]!r}. Give a mapping with {' and '.join(wanted)}.")
    state: dict[str, Any] = {"constants": generator.prepare(training)[1]}
    autoencoder, *diffusion = generator.stages()
    tensors = _Tensors(checkpoint["vae"], "")
    found = {"encoder": _encoder(tensors, generator), "decoder": _decoder(tensors, generator)}
    state["autoencoder"] = _checked(tensors, _split(found), jax.eval_shape(autoencoder.init, jax.random.key(0), state))
    for stage in diffusion:
        tensors = _Tensors(checkpoint["diffusion"], _DENOISER)
        params, stats = _split(_denoiser(tensors, generator))
        model_state = {"denoiser": stats}
        if generator.encode == "batch":
            model_state["autoencoder"] = state["autoencoder"]["model_state"]
        expected = jax.eval_shape(stage.init, jax.random.key(0), state)
        state[stage.name] = _checked(tensors, (params, model_state), expected)
    return state


def parts(path: pathlib.Path) -> dict[str, dict[str, np.ndarray]]:
    """The state dicts of a file by name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in array_files.tensors(path, array_files.Wanted("The checkpoint")).items():
        part, _, inner = name.partition(".")
        found.setdefault(part, {})[inner] = tensor
    return found


class _Tensors(StateDict):
    """The convolutions and normalisations of a state dict, with the layouts of `conv1d` and `SignalNorm`."""

    def __init__(self, checkpoint: Checkpoint, prefix: str):
        super().__init__(checkpoint, prefix, "pdiff", ignored=[_IGNORED])

    def conv(self, name: str) -> dict[str, np.ndarray]:
        """A convolution, stored `[out, in, size]`."""
        return {"kernel": self.take(f"{name}.weight", 3).transpose(2, 1, 0), "bias": self.take(f"{name}.bias", 1)}

    def transposed(self, name: str) -> dict[str, np.ndarray]:
        """A transposed convolution, stored `[in, out, size]`."""
        return {"kernel": self.take(f"{name}.weight", 3).transpose(2, 0, 1), "bias": self.take(f"{name}.bias", 1)}

    def batch_norm(self, name: str) -> dict[str, np.ndarray]:
        """A batch normalisation; `mean` and `var` are its running statistics."""
        return {
            **self.norm(name),
            "mean": self.take(f"{name}.running_mean", 1),
            "var": self.variances(f"{name}.running_var"),
        }


def _encoder(tensors: _Tensors, generator: PDiff) -> dict[str, Any]:
    found = {name: tensors.dense(name) for name in ("to_latent", "fc_mu", "fc_var")}
    for i in range(len(generator.autoencoder_channels)):
        found[f"conv_{i}"] = tensors.conv(f"encoder.{i}.0")
        found[f"norm_{i}"] = tensors.batch_norm(f"encoder.{i}.1")
    return found


def _decoder(tensors: _Tensors, generator: PDiff) -> dict[str, Any]:
    found = {"to_decode": tensors.dense("to_decode"), "to_output": tensors.conv("final_layer.3")}
    last = len(generator.autoencoder_channels) - 1
    for i in range(last + 1):
        name = f"decoder.{i}" if i < last else "final_layer"
        found[f"conv_{i}"] = tensors.transposed(f"{name}.0")
        found[f"norm_{i}"] = tensors.batch_norm(f"{name}.1")
    return found


def _denoiser(tensors: _Tensors, generator: PDiff) -> dict[str, Any]:
    found = {"time_in": tensors.dense("time_embedder.mlp.0"), "time_out": tensors.dense("time_embedder.mlp.2")}
    tensors.take("time_embedder.freqs")
    depth = len(generator.denoiser_channels)
    names = [f"encoder_list.{i}" for i in range(depth + 1)] + [f"decoder_list.{i}" for i in range(depth - 1)]
    found["to_output"] = tensors.conv(f"{names.pop()}.0")
    for i, name in enumerate(names):
        found[f"conv_{i}"] = tensors.conv(f"{name}.0")
        found[f"norm_{i}"] = tensors.batch_norm(f"{name}.1.0")
    return found


def _split(layers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters, and the running statistics of the layers that have some."""
    params, stats = {}, {}
    for name, layer in layers.items():
        if "var" in layer:
            stats[name] = {key: layer[key] for key in ("mean", "var")}
            params[name] = {key: layer[key] for key in ("scale", "bias")}
        elif "kernel" in layer:
            params[name] = layer
        else:
            params[name], stats[name] = _split(layer)
    return params, stats


def _checked(tensors: _Tensors, found: tuple[Any, Any], expected: tuple[Any, Any]) -> dict[str, Any]:
    tensors.finish(found, expected)
    params, model_state = found
    return {"params": params, "model_state": model_state}
