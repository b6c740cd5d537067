"""`jw.released`: a published generator from its own file, ready for `jw.sample`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jaxweights import files, generators, layouts
from jaxweights.api.generators import Model
from jaxweights.errors import UserError
from jaxweights.generators.gpt import GPT
from jaxweights.generators.hyperdiffusion import HyperDiffusion
from jaxweights.generators.hyperrep import HyperRep
from jaxweights.generators.hyperrep import importer as hyperrep
from jaxweights.generators.hyperrep.layout import UnitLayout
from jaxweights.generators.pdiff import PDiff
from jaxweights.generators.pdiff import importer as pdiff
from jaxweights.generators.sane import Sane
from jaxweights.generators.sane import importer as sane
from jaxweights.population import Population, check_finite, from_array

_CONFIG = "config_ae.json"  # beside the file of Hyper-Representations
_SANE_HEADS = "ae:nhead"  # in its `params.json`
_STATED = {
    "model::N_attention_heads": "heads",
    "model::bottleneck": "bottleneck",
    "model::feature_normalization": "feature_normalization",
}

Path = str | os.PathLike[str]


def released(generator: str, checkpoint: Path, training: Any, **changes: Any) -> Model:
    """Loads a published generator, without PyTorch.

    Args:
      generator: "hyperrep" (`checkpoint_ae.pt`), "gpt" (`mnist_loss.pt`, of which `G_ema` is taken), "hyperdiffusion"
        (`plane.ckpt`), "pdiff" (`TAG.pth`) or "sane" (a folder `checkpoint_000050`), or a preset of one of these.
      checkpoint: the file as it was released; any that `formats.read` reads. Of SANE the folder with `state.pt`.
      training: networks that it was trained on, as `launch.import_zoo` imports them: their meaning, the latents of
        Hyper-Representations and SANE and the normalisation of P-diff and SANE are theirs. A population, or an array
        `[N, P]`.
      **changes: settings as they were in training, where these are not the defaults. Sizes of Hyper-Representations and
        of SANE are read off the file, and heads off `config_ae.json` beside it or `params.json`; G.pt needs `scale`.

    Returns:
      The model, for `sample`.

    Raises:
      UserError: a generator that was not published in such a form, a file that is not read, settings that do not fit
        it, or networks of another kind.
    """
    training = from_array(training, "The training population")
    check_finite(training.weights, "The training population")
    if generator not in generators.PRESETS or generators.PRESETS[generator].kind not in _STATES:
        names = [name for name, preset in generators.PRESETS.items() if preset.kind in _STATES]
        raise UserError(f"No released generator is called {generator!r}; there are {', '.join(names)}.")
    kind = generators.PRESETS[generator].kind
    if kind == "hyperrep":
        changes = _hyperrep_sizes(pathlib.Path(checkpoint).expanduser(), changes)
    if kind == "sane":
        changes = _sane_sizes(checkpoint, changes)
    built = generators.build(kind, generators.preset(generator, **changes))
    return Model(built, _STATES[kind](built, checkpoint, training), training)


def _hyperrep_sizes(path: pathlib.Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    found, config = hyperrep.sizes(path), path.parent / _CONFIG
    if config.is_file():
        cure = "Download it again, or remove it and give its settings."
        stated = files.read_json(config, "configuration of an autoencoder", cure)
        found |= {ours: stated[theirs] for theirs, ours in _STATED.items() if theirs in stated}
    found |= dict(changes)
    return _with_heads(found, path, _CONFIG)


def _sane_sizes(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    tensors, stated = layouts.sane.model(pathlib.Path(path))
    heads = {"heads": int(stated[_SANE_HEADS])} if _SANE_HEADS in stated else {}
    return _with_heads(sane.sizes(tensors) | heads | dict(changes), path, "params.json with " + _SANE_HEADS)


def _with_heads(found: dict[str, Any], path: Path, stated: str) -> dict[str, Any]:
    if "heads" not in found:
        raise UserError(
            f"{path} does not say how many heads its attention has, and there is no {stated} beside it. Give heads, "
            "e.g. heads=12."
        )
    return found


def _hyperrep(generator: HyperRep, checkpoint: Path, training: Population) -> dict[str, Any]:
    params = hyperrep.from_torch(checkpoint, UnitLayout(training.spec), generator.architecture)
    rows, constants = generator.prepare(training)
    state = {"constants": constants, "autoencoder": {"params": {"autoencoder": params}, "model_state": {}}}
    return state | generator.finish(state, rows)


def _sane(generator: Sane, checkpoint: Path, training: Population) -> dict[str, Any]:
    tensors, _ = layouts.sane.model(pathlib.Path(checkpoint))
    return generator.state_from_torch(tensors, training)


def _from_spec(generator: GPT | HyperDiffusion, checkpoint: Path, training: Population) -> dict[str, Any]:
    return generator.state_from_torch(checkpoint, training.spec)


def _pdiff(generator: PDiff, checkpoint: Path, training: Population) -> dict[str, Any]:
    return pdiff.from_torch(checkpoint, generator, training)


_STATES: dict[str, Callable[[Any, Path, Population], dict[str, Any]]] = {
    "hyperrep": _hyperrep,
    "gpt": _from_spec,
    "hyperdiffusion": _from_spec,
    "pdiff": _pdiff,
    "sane": _sane,
}
