"""Generators of weights behind abstract classes (`base`). To add one: a module here and one line in `GENERATORS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxweights import parallel, programs, settings, traces
from jaxweights.errors import UserError
from jaxweights.generators import (
    aligned,
    baselines,
    densities,
    flow,
    gpt,
    hyperdiffusion,
    hyperrep,
    imported,
    latent_flow,
    neuron_flow,
    pdiff,
    rpg,
    sane,
    sparse_coding,
)
from jaxweights.generators.base import (
    Augmented,
    Autoencoding,
    ClosedFormGenerator,
    Generator,
    LearnedGenerator,
    Prompted,
    Samples,
    Stage,
    UsesExamples,
)
from jaxweights.generators.presets import PRESETS, Preset
from jaxweights.population import Population

__all__ = [
    "GENERATORS",
    "PRESETS",
    "Augmented",
    "Autoencoding",
    "ClosedFormGenerator",
    "Generator",
    "LearnedGenerator",
    "Preset",
    "Prompted",
    "Samples",
    "Stage",
    "UsesExamples",
    "build",
    "draw",
    "drawer",
    "is_baseline",
    "kind_of",
    "preset",
    "resolve",
    "sampler",
]

GENERATORS: dict[str, type[ClosedFormGenerator] | type[LearnedGenerator]] = {
    "copy": baselines.Copy,
    "noise": baselines.Noise,
    "average": baselines.Average,
    "gaussian": baselines.Gaussian,
    "pca_gaussian": baselines.PCAGaussian,
    "interpolation": baselines.Interpolation,
    "aligned_interpolation": aligned.AlignedInterpolation,
    "soup": aligned.Soup,
    "copier": flow.Copier,
    "kde": densities.KDE,
    "mixture": densities.Mixture,
    "sparse_coding": sparse_coding.SparseCoding,
    "file": imported.Imported,
    "pdiff": pdiff.PDiff,
    "hyperrep": hyperrep.HyperRep,
    "gpt": gpt.GPT,
    "hyperdiffusion": hyperdiffusion.HyperDiffusion,
    "flow": flow.Flow,
    "neuron_flow": neuron_flow.NeuronFlow,
    "rpg": rpg.RPG,
    "latent_flow": latent_flow.LatentFlow,
    "sane": sane.Sane,
}


def build(name: str, config: Mapping[str, Any]) -> ClosedFormGenerator | LearnedGenerator:
    """Builds a generator.

    Args:
      name: what the audit and the report call it.
      config: `kind`, a key of `GENERATORS`, and settings of that class.

    Raises:
      UserError: unknown kind or setting (naming the nearest known one), or an impossible value.
    """
    section = f"generators.{name}"
    values = _mapping(config, section)
    kind = values.pop("kind", None)
    if kind is None:
        raise UserError(f"{section} has no kind; set {section}.kind to one of {', '.join(GENERATORS)}.")
    problem = settings.Check(one_of=GENERATORS).problem(kind)
    if problem:
        raise UserError(f"{section}.kind is {kind!r}; {problem}.")
    chosen = GENERATORS[kind]
    settings.refuse_unknown(values, [f.name for f in dataclasses.fields(chosen) if f.name != "name"], section)
    return settings.make(chosen, {**values, "name": name}, section)


def preset(name: str, **changes: Any) -> dict[str, Any]:
    """The config of a preset, or of a kind with its defaults, some settings changed; for `build`.

    Raises:
      UserError: an unknown name; the message has the nearest known one.
    """
    known = PRESETS | {kind: Preset(kind, {}) for kind in GENERATORS}
    problem = settings.Check(one_of=known).problem(name)
    if problem:
        raise UserError(f"There is no generator {name!r}; {problem}.")
    return {"kind": known[name].kind, **known[name].settings, **changes}


def kind_of(generator: Generator) -> str:
    """The key of a generator's class in `GENERATORS`; the generator's name where its class is not registered."""
    return next((kind for kind, known in GENERATORS.items() if known is type(generator)), generator.name)


def is_baseline(kind: str) -> bool:
    """Whether the generators of a kind are baselines, which a learned generator has to beat."""
    return issubclass(GENERATORS[kind], baselines.Baseline)


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
    configs = {name: _mapping(config, f"generators.{name}") for name, config in configs.items()}
    trained = {name: build(name, config) for name, config in configs.items() if "of" not in config}
    return {name: (trained[name], name) if name in trained else _way(name, configs, trained) for name in configs}


def _way(
    name: str, configs: Mapping[str, Mapping[str, Any]], trained: Mapping[str, ClosedFormGenerator | LearnedGenerator]
) -> tuple[ClosedFormGenerator | LearnedGenerator, str]:
    """The generator of a config with `of`, and the name of the one whose training it uses."""
    of = configs[name]["of"]
    origin = trained.get(of)
    if not isinstance(origin, LearnedGenerator):
        known = [n for n, g in trained.items() if isinstance(g, LearnedGenerator)]
        raise UserError(
            f"generators.{name}.of is {of!r}, which is no learned generator of this config; "
            f"there are: {', '.join(known) or 'none'}."
        )
    changes = {k: v for k, v in configs[name].items() if k != "of"}
    wrong = sorted(set(changes) - origin.SAMPLING)
    if wrong:
        raise UserError(
            f"generators.{name} uses the training of {of!r}, so it can change only how samples are drawn "
            f"({', '.join(sorted(origin.SAMPLING))}), not {', '.join(wrong)}. Remove these, or give it a kind of its "
            "own."
        )
    return build(name, {**configs[of], **changes}), of


def _mapping(config: Any, section: str) -> dict[str, Any]:
    if isinstance(config, (Mapping, ConfigDict)):
        return dict(config)
    raise UserError(f'{section} is {config!r}; give a mapping with its kind and settings, e.g. {{"kind": "pdiff"}}.')


def draw(
    generator: ClosedFormGenerator | LearnedGenerator,
    state: Any,
    keys: jax.Array,
    starts: Population,
    measure: Callable[[np.ndarray], Population],
    mesh: jax.sharding.Mesh | None = None,
    rows: slice = slice(None),
    compiled: Callable[[Any, jax.Array], Samples] | None = None,
) -> Samples:
    """One sample per key, those of a learned generator sharded over the mesh.

    Args:
      generator: closed-form or learned.
      state: state of the fitted or trained generator.
      keys: `[n]` typed PRNG keys.
      starts: see `LearnedGenerator.inputs`.
      measure: see `LearnedGenerator.again`.
      mesh: devices, all by default.
      rows: the samples that are wanted, all by default; they are what they are among all.
      compiled: the `sampler` of a closed-form generator, where it was compiled before for such states and keys.
    """
    if isinstance(generator, ClosedFormGenerator):
        program = sampler(generator) if compiled is None else compiled
        return jax.tree.map(lambda x: x[rows], program(state, keys))
    return drawer(generator, mesh)(state, keys, starts, measure, rows)


@programs.shared
def sampler(generator: ClosedFormGenerator) -> Any:
    """The compiled `(state, keys) -> samples` of a closed-form generator."""
    return jax.jit(generator.sample, compiler_options=programs.cheap())


@programs.shared
def _mapped(generator: LearnedGenerator, mesh: jax.sharding.Mesh) -> Callable[[Any, Any], Samples]:
    return parallel.map_rows(generator.sample, mesh)


def drawer(generator: LearnedGenerator, mesh: jax.sharding.Mesh | None = None) -> Callable[..., Samples]:
    """`(state, keys, starts, measure, rows) -> samples` as in `draw`, for many states in one program."""
    mesh = parallel.make_mesh() if mesh is None else mesh
    program = _mapped(generator, mesh)

    def run(
        state: Any,
        keys: jax.Array,
        starts: Population,
        measure: Callable[[np.ndarray], Population],
        rows: slice = slice(None),
    ) -> Samples:
        state = jax.device_put(state, parallel.replicated(mesh))
        inputs = jax.tree.map(lambda x: x[rows], generator.inputs(state, keys, starts))
        while True:
            with traces.moment(f"sample {generator.name}", 0):
                samples = jax.block_until_ready(program(state, inputs))
            inputs = generator.again(inputs, samples, measure)
            if inputs is None:
                return samples

    return run
