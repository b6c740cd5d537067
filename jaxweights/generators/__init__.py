"""Generators of weights behind one protocol (`base`). To add one: a module here and one line in `GENERATORS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxweights import parallel
from jaxweights.errors import UserError
from jaxweights.generators import baselines, gpt, hyperdiffusion, hyperrep, imported, pdiff
from jaxweights.generators.base import ClosedFormGenerator, LearnedGenerator, Samples, Stage
from jaxweights.population import Population

__all__ = [
    "GENERATORS",
    "ClosedFormGenerator",
    "LearnedGenerator",
    "Samples",
    "Stage",
    "build",
    "draw",
    "is_learned",
    "resolve",
]

GENERATORS = {
    "copy": baselines.Copy,
    "noise": baselines.Noise,
    "average": baselines.Average,
    "gaussian": baselines.Gaussian,
    "pca_gaussian": baselines.PCAGaussian,
    "interpolation": baselines.Interpolation,
    "file": imported.Imported,
    "pdiff": pdiff.PDiff,
    "hyperrep": hyperrep.HyperRep,
    "gpt": gpt.GPT,
    "hyperdiffusion": hyperdiffusion.HyperDiffusion,
}


def build(name: str, config: Mapping[str, Any]) -> ClosedFormGenerator | LearnedGenerator:
    """Builds a generator.

    Args:
      name: what the audit and the report call it.
      config: `kind`, a key of `GENERATORS`, and that class's fields.

    Raises:
      UserError: unknown kind (the message lists the known ones) or unknown settings.
    """
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(config).items()}
    kind = settings.pop("kind", None)
    if kind not in GENERATORS:
        raise UserError(f"Unknown generator {kind!r} under generators.{name}; known: {', '.join(sorted(GENERATORS))}.")
    try:
        return GENERATORS[kind](**settings, name=name)
    except TypeError as error:
        raise UserError(f"The generator {name!r} does not take these settings: {error}.") from error


def is_learned(generator: ClosedFormGenerator | LearnedGenerator) -> bool:
    """Whether the generator is trained by `training.train_generator` rather than fitted in closed form."""
    return hasattr(generator, "stages")


def resolve(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[ClosedFormGenerator | LearnedGenerator, str]]:
    """Builds every generator of an experiment.

    Args:
      configs: settings by name. `{"of": other, ...}` is the learned generator `other` with other settings of sampling;
        it is not trained again.

    Returns:
      By name: the generator, and the name of the one whose training it uses (its own where there is no `of`).

    Raises:
      UserError: see `build`; or an `of` that names no learned generator, or changes more than how samples are drawn.
    """
    resolved = {}
    for name, settings in configs.items():
        if "of" not in settings:
            resolved[name] = build(name, settings), name
            continue
        trained = settings["of"]
        base = build(trained, configs[trained]) if "of" not in configs.get(trained, {"of": None}) else None
        if base is None or not is_learned(base):
            known = [n for n, s in configs.items() if "of" not in s and is_learned(build(n, s))]
            raise UserError(
                f"generators.{name}.of is {trained!r}, which is no learned generator of this config; "
                f"there are: {', '.join(known) or 'none'}."
            )
        changes = {k: v for k, v in settings.items() if k != "of"}
        wrong = sorted(set(changes) - base.SAMPLING)
        if wrong:
            raise UserError(
                f"generators.{name} uses the training of {trained!r}, so it can change only how samples are drawn "
                f"({', '.join(sorted(base.SAMPLING))}), not {', '.join(wrong)}. Remove these, or give it a kind of its "
                "own."
            )
        resolved[name] = build(name, {**configs[trained], **changes}), trained
    return resolved


def draw(
    generator: ClosedFormGenerator | LearnedGenerator,
    state: Any,
    keys: jax.Array,
    starts: Population,
    measure: Callable[[np.ndarray], Population],
    mesh: jax.sharding.Mesh,
) -> Samples:
    """One sample per key, those of a learned generator sharded over the mesh.

    Args:
      generator: closed-form or learned.
      state: of the fitted or trained generator.
      keys: `[n]` typed PRNG keys.
      starts: see `LearnedGenerator.inputs`.
      measure: see `LearnedGenerator.again`.
      mesh: devices.
    """
    if not is_learned(generator):
        return jax.jit(generator.sample)(state, keys)
    program = parallel.map_rows(generator.sample, mesh)
    state = jax.device_put(state, parallel.replicated(mesh))
    inputs = generator.inputs(state, keys, starts)
    while inputs is not None:
        samples = program(state, inputs)
        inputs = generator.again(inputs, samples, measure)
    return samples
