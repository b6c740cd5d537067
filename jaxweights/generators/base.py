"""What every generator of weights offers: closed-form ones are fitted, learned ones are trained stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
import optax

from jaxweights.population import Population


class Samples(NamedTuple):
    """Generated weight vectors and where they came from.

    Attributes:
      weights: `[n, P]` float32, in the space of the training population (never normalised).
      parents: `[n]` int32, row of the training population that a sample was derived from, or -1 where no single row
        was.
    """

    weights: jax.Array
    parents: jax.Array


class ClosedFormGenerator(Protocol):
    """A generator whose state is computed from the training rows directly (all baselines)."""

    name: str

    def fit(self, training: Population) -> Any:
        """Returns the state, a pytree of arrays, for training rows `[N, P]` and their records."""

    def sample(self, state: Any, keys: jax.Array) -> Samples:
        """Draws one sample per key (`[n]` typed PRNG keys); pure and jit-compatible."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training phase of a learned generator; `training.py` runs the stages in order.

    Attributes:
      name: key of this stage's result in the generator's state.
      steps: optimizer steps.
      batch_size: examples per step over all devices.
      optimizer: built for exactly `steps` steps.
      init: `(key, done) -> (params, model_state)`; `done` is the state so far: `constants` and one entry per finished
        stage, each `{"params": ..., "model_state": ...}`.
      loss: `(params, model_state, done, batch, keys, axis_name) -> (loss, (model_state, metrics))`. `batch` (from
        `gather`) and `keys` `[b]` are this device's share; the value is the mean over that share. All randomness comes
        from the per-example keys, and batch statistics are averaged over `axis_name` when it is given, so that the
        result does not depend on the number of devices. `metrics` is a flat dict of scalars.
      ema_decay: decay of the exponential moving average of the parameters, or None for none; where it is given, the
        stage's result holds the averaged parameters as `params`.
      gather: `(data, rows, keys) -> batch` makes the examples of a step from the prepared data, row numbers `[b]` and
        the per-example keys; the default takes the rows. For generators whose examples are drawn within a row, such as
        pairs of checkpoints of one run.
      gradient_clip: largest global norm of the gradient, or 0 for no limit.
      shard_parameters: whether every device keeps a part of parameters, optimizer state and average instead of a copy.
        Each array is split along its largest axis that the devices divide, gathered for the loss, and its gradient
        summed where its part is kept (Rajbhandari et al., "ZeRO", stage 3). The optimizer has to act on every entry by
        itself; norms belong into `gradient_clip`.
      auxiliary: top-level keys of the parameters that serve training alone; they do not count as the generator's size.
    """

    name: str
    steps: int
    batch_size: int
    optimizer: optax.GradientTransformation
    init: Callable[[jax.Array, Mapping[str, Any]], tuple[Any, Any]]
    loss: Callable[..., tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]
    ema_decay: float | None = None
    gather: Callable[..., Any] = lambda data, rows, keys: jax.tree.map(lambda leaf: leaf[rows], data)
    gradient_clip: float = 0.0
    shard_parameters: bool = False
    auxiliary: tuple[str, ...] = ()


class LearnedGenerator(Protocol):
    """A generator with parameters, trained by `training.train_generator` and then asked for samples in one or several
    ways.

    Attributes:
      name: of the generator.
      SAMPLING: names of the fields that change how samples are drawn and nothing of the training. One trained generator
        serves any number of settings of these (`{"of": name, ...}` in a config).
      TRAJECTORIES: whether it learns from all kept checkpoints of the training runs, whatever `zoo.use` says.
    """

    name: str
    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    TRAJECTORIES: ClassVar[bool] = False

    def prepare(self, training: Population) -> tuple[Any, Any]:
        """Returns `(data, constants)`: training examples, a pytree of arrays with a leading axis of examples (mostly
        `[N, D]` float32), and the pytree that undoes the preparation."""

    def stages(self) -> tuple[Stage, ...]:
        """The training phases in order."""

    def finish(self, state: Mapping[str, Any], data: Any) -> dict[str, Any]:
        """What sampling needs besides constants and stages, computed once after training; joins the state.

        Args:
          state: `constants` and one entry per stage.
          data: the training examples.
        """
        del state, data
        return {}

    def inputs(self, state: Mapping[str, Any], keys: jax.Array, starts: Population) -> Any:
        """What every sample starts from: a pytree of arrays with one row per key, made on the host.

        The default is the keys themselves. Whatever looks at all samples together, or runs outside of JAX, goes here.

        Args:
          state: of the trained generator.
          keys: `[n]`.
          starts: the first kept checkpoint of every held-out run, for generators that improve a given network.
        """
        del state, starts
        return keys

    def again(self, inputs: Any, samples: Samples, measure: Callable[[np.ndarray], Population]) -> Any:
        """What another round of sampling starts from, or None (the default) where the samples are done.

        Args:
          inputs: of the round that was.
          samples: its outcome.
          measure: evaluates weights `[n, P]`: a population with `loss` and `accuracy`.
        """
        del inputs, samples, measure
        return None

    def sample(self, state: Mapping[str, Any], inputs: Any) -> Samples:
        """Makes one sample per row of `inputs` from `{"constants": ..., stage name: {"params", "model_state"}, ...}`.

        Pure and jit-compatible. A sample depends on its own row alone, so any sharding or chunking of the rows gives
        the same networks.
        """


def keys_for(keys: jax.Array, purpose: int) -> jax.Array:
    """Keys `[n]` of examples or samples, each folded with the number of what it is used for."""
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)
