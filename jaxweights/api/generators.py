"""`jw.fit` and `jw.sample`: a generator trained on a population, and networks drawn from it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import files, generators, locks, parallel, provenance, settings
from jaxweights.api import arguments
from jaxweights.data.dataset import fingerprint
from jaxweights.errors import UserError
from jaxweights.generators import ClosedFormGenerator, Generator, LearnedGenerator, Prompted
from jaxweights.population import Population, check_finite, from_array
from jaxweights.training import train_generator


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A generator and its state after training.

    Attributes:
      generator: settings.
      state: what sampling needs, a pytree of arrays.
      training: population that it was trained on.
    """

    generator: ClosedFormGenerator | LearnedGenerator
    state: Any
    training: Population

    def __repr__(self) -> str:
        kind, count = generators.kind_of(self.generator), len(self.training)
        return f"Model({kind}, trained on {count:,} networks of {self.training.spec.num_params:,} parameters)"


def fit(
    generator: str | Generator,
    training: Any,
    *,
    seed: int = 0,
    path: pathlib.Path | str | None = None,
    mesh: Mesh | None = None,
    **changes: Any,
) -> Model:
    """Trains a generator of weights, or fits one in closed form.

    Args:
      generator: kind ("pdiff", "hyperrep", "gpt", "hyperdiffusion", or a baseline such as "gaussian"), preset
        ("pdiff_small" and the like, see `generators.PRESETS`), or an instance of its class.
      training: networks to learn from: a population, or an array `[N, P]`. Generators of trajectories ("gpt") want all
        checkpoints of the training runs, others one or several per run, as the user chooses: `zoo.train` or
        `zoo.train.last()`.
      seed: random seed of initialisation, batch order and noise.
      path: folder of checkpoints, in which the same call resumes; None to keep nothing on disk.
      mesh: devices, all by default.
      **changes: settings of the generator other than the preset's or the defaults.

    Returns:
      The trained model, for `sample`.

    Raises:
      UserError: an unknown generator or setting (naming the nearest known one), too few networks, a loss that is not
        finite, or a folder with another model or that another process uses.
    """
    seed = arguments.seed(seed)
    training = from_array(training, "The training population")
    check_finite(training.weights, "The training population")
    chosen = _chosen(generator, changes)
    if isinstance(chosen, ClosedFormGenerator):
        return Model(chosen, chosen.fit(training), training)
    key = jax.random.fold_in(jax.random.key(seed), _TRAINING)
    if path is None:
        return Model(chosen, train_generator(chosen, training, mesh, key=key), training)
    with locks.locked(files.make_dir(path)):
        folder = _claim(pathlib.Path(path), chosen, training, seed)
        return Model(chosen, train_generator(chosen, training, mesh, key=key, path=folder), training)


def sample(
    model: Model,
    count: int,
    *,
    seed: int = 0,
    starts: Population | None = None,
    mesh: Mesh | None = None,
    **changes: Any,
) -> Population:
    """Draws networks from a trained model.

    Args:
      model: result of `fit`.
      count: number of networks.
      seed: random seed.
      starts: networks that a prompted generator ("gpt") starts from, with its metric in their records; by default the
        first checkpoint of every training run. Held-out runs say more: `zoo.heldout.first()`.
      mesh: devices, all by default.
      **changes: settings of the generator that change how samples are drawn, e.g. `sampler="ddim"`.

    Returns:
      `count` networks; with accuracy and loss in the records where the training population has an evaluator.

    Raises:
      UserError: settings that need another training, or samples with non-finite weights.
    """
    arguments.instance(model, Model, "The first argument", "give the result of fit")
    count, seed = arguments.whole(count, "count", 1), arguments.seed(seed)
    if starts is not None:
        arguments.instance(starts, Population, "starts", "give a population, e.g. zoo.heldout.first()")
        if starts.spec.num_params != model.training.spec.num_params:
            raise UserError(
                f"starts has {starts.spec.num_params:,} parameters per network, the training population "
                f"{model.training.spec.num_params:,}. Give networks of the same kind."
            )
    generator, training = model.generator, model.training
    if changes:
        known = sorted(generator.SAMPLING) if isinstance(generator, LearnedGenerator) else []
        settings.refuse_unknown(changes, known, f"sample({generators.kind_of(generator)})")
        generator = generator.replace(**changes)
    if starts is None:
        starts = training.first() if isinstance(generator, Prompted) else training.select(np.arange(0))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), _SAMPLING), count)

    def measure(weights: np.ndarray) -> Population:
        return dataclasses.replace(from_array(weights, spec=training.spec), evaluator=training.evaluator).evaluated()

    drawn = generators.draw(generator, model.state, keys, starts, measure, parallel.resolve(mesh))
    weights = np.asarray(drawn.weights)
    check_finite(weights, f"The sample of {generators.kind_of(generator)}")
    derived = training.derive(weights, np.asarray(drawn.parents), generators.kind_of(generator))
    return derived if derived.evaluator is None else derived.evaluated()


# Numbers that the seed's key is folded with.
_TRAINING, _SAMPLING = 1, 2


def _chosen(generator: str | Generator, changes: dict[str, Any]) -> ClosedFormGenerator | LearnedGenerator:
    if isinstance(generator, (ClosedFormGenerator, LearnedGenerator)):
        return generator.replace(**changes) if changes else generator
    if not isinstance(generator, str):
        raise UserError(f"The generator is {generator!r}; give a name, e.g. 'pdiff', or an instance of its class.")
    return generators.build(generator, generators.preset(generator, **changes))


def _claim(path: pathlib.Path, generator: LearnedGenerator, training: Population, seed: int) -> pathlib.Path:
    """Refuses a folder with another model's checkpoints."""
    facts = {
        "generator": {"kind": generators.kind_of(generator), **settings.plain(generator)},
        "networks": list(training.weights.shape),
        "weights": fingerprint(np.asarray(training.weights[:]), training.records["run"], training.records["step"]),
        "seed": seed,
    }
    facts, record = json.loads(json.dumps(facts)), path / "model.json"
    if record.exists():
        cure = f"Remove the folder {path} or choose another."
        changed = provenance.differences(files.read_json(record, "model's record", cure), facts)
        if changed:
            raise UserError(f"The folder {path} holds another model: {'; '.join(changed)}. Choose another path.")
    files.write_json(record, facts)
    return path
