"""What every generator of weights offers: closed-form ones are fitted, learned ones are trained stage by stage.

A generator is a frozen dataclass of settings that derives from `ClosedFormGenerator` or `LearnedGenerator`, directly or
through the classes of what some can do besides: `Autoencoding`, `Prompted`, `UsesExamples`, `Augmented`. Those who want
that ask by `isinstance`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights.errors import UserError
from jaxweights.generators import factors
from jaxweights.population import Population
from jaxweights.settings import Settings
from jaxweights.spec import WeightSpec


class Samples(NamedTuple):
    """Generated weight vectors and where they came from.

    Attributes:
      weights: `[n, P]` float32, in the space of the training population (never normalised).
      parents: `[n]` int32, row of the training population that a sample was derived from, or -1 where no single row
        was.
    """

    weights: jax.Array
    parents: jax.Array

    @classmethod
    def new(cls, weights: jax.Array) -> Samples:
        """Networks that were derived from no single training row."""
        return cls(weights, jnp.full((weights.shape[0],), -1, jnp.int32))


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training phase of a learned generator; the training loop runs the stages in order.

    Attributes:
      name: key of this stage's result in the generator's state.
      steps: optimizer steps.
      batch_size: examples per step over all devices.
      optimizer: built for exactly `steps` steps.
      init: `(key, done) -> (params, model_state)`; `done` is the state so far: `constants` and one entry per finished
        stage, each `{"params": ..., "model_state": ...}`.
      loss: `(params, model_state, done, batch, keys, axis_name) -> (loss, (model_state, metrics))`. `batch` (from
        `gather`) and `keys` `[b]` are this device's share; the value is the mean over that share. All randomness comes
        from the per-example keys, and batch statistics are averaged over `axis_name` (one or several axes of the
        mesh) when it is given, so that the result does not depend on the number of devices; on one there is none.
        `metrics` is a flat dict of scalars.
      ema_decay: decay of the exponential moving average of the parameters, or None for none; where it is given, the
        stage's result holds the averaged parameters as `params`.
      gather: `(data, rows, keys) -> batch` makes the examples of a step from the prepared data, row numbers `[b]` and
        the per-example keys; the default takes the rows. For generators whose examples are drawn within a row, such as
        pairs of checkpoints of one run.
      gradient_clip: largest global norm of the gradient, or 0 for no limit.
      parameter_shards: devices that share one copy of parameters, optimizer state and average, at most; 1 for a copy on
        every device, 0 for one on all together. Where several share, the loss gets matrices as `sharding.Part`, which
        modules gather that declare their parameters by `nn.parameters`. The optimizer has to act on every entry by
        itself; norms belong into `gradient_clip`.
      data_memory: GB of every device that the training examples may take, 0 for a quarter of its memory, of a CPU's
        shared among its devices; where they are more, those of the next steps are read while steps run. None for
        examples that are always on the devices: whoever gives a number promises that `gather` takes rows of the largest
        array and does nothing else with them, and that `prepare` takes weights that are on disk.
      stacked: keys of the parameters (at any depth) below which arrays are stacked along their first axis, one entry
        per block; that axis is never split.
      auxiliary: top-level keys of the parameters that serve training alone; they do not count as the generator's size.
      repeats: consecutive steps that see the same rows and keys.
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
    parameter_shards: int = 1
    data_memory: float | None = None
    stacked: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    repeats: int = 1


class Training(NamedTuple):
    """What a generator is trained on, as far as it is known before there is any of it.

    Attributes:
      rows: training networks.
      per_run: checkpoints of each run among them.
      spec: meaning of their weights.
    """

    rows: int
    per_run: int
    spec: WeightSpec

    @classmethod
    def of(cls, population: Population) -> Training:
        """Of networks that are there."""
        runs = len(np.unique(population.records["run"]))
        return cls(len(population), len(population) // max(runs, 1), population.spec)


class Recalibration(NamedTuple):
    """Images by which running statistics of batch normalisation are taken.

    Attributes:
      split: "train" or "test" images.
      images: how many, from the first on.
    """

    split: Literal["train", "test"]
    images: int


@dataclasses.dataclass(frozen=True)
class Generator(Settings, abc.ABC):
    """A generator of weight vectors, with its settings.

    Attributes:
      name: name of the generator's samples in the audit and the report.
    """

    TINY: ClassVar[Mapping[str, Any]] = {}
    """Settings under which every part runs in a moment on a network of some dozen parameters; for tests."""

    name: str = ""

    @property
    def section(self) -> str:
        """Where a config has the settings."""
        return f"generators.{self.name}"

    def check(self, training: Training) -> None:
        """Raises `UserError` where it cannot learn from such networks; asked before any are trained."""
        del training

    @property
    def recalibration(self) -> Recalibration | None:
        """Where an experiment takes the running statistics of its samples from, once they are drawn; None for what the
        samples have."""
        return None


class ClosedFormGenerator(Generator):
    """A generator whose state is computed from the training rows directly (all baselines)."""

    @abc.abstractmethod
    def fit(self, training: Population) -> Any:
        """Returns the state, a pytree of arrays, for training rows `[N, P]` and their records."""

    @abc.abstractmethod
    def sample(self, state: Any, keys: jax.Array) -> Samples:
        """Draws one sample per key (`[n]` typed PRNG keys); pure and jit-compatible."""


class LearnedGenerator(Generator):
    """A generator with parameters, which is trained and then asked for samples in one or several ways."""

    SAMPLING: ClassVar[frozenset[str]] = frozenset()
    """Names of the fields that change how samples are drawn and nothing of the training. One trained generator serves
    any number of settings of these (`{"of": name, ...}` in a config)."""
    FACTORS: ClassVar[factors.Factors] = factors.NONE
    """Which settings `launch.study` changes, by factor and level; see `generators.factors`."""
    PLACEMENT: ClassVar[frozenset[str]] = frozenset({"parameter_shards", "remat", "data_memory"})
    """Names of the fields that change where and how often things are computed, not what. Training goes on under other
    values of these."""
    TRACED: ClassVar[frozenset[str]] = frozenset()
    """Names of the numbers that training may take as traced values, so that one program serves any of them; nothing
    else reads them. See `traced`."""
    TRAJECTORIES: ClassVar[bool] = False
    """Whether it learns from all kept checkpoints of the training runs, whatever `zoo.use` says."""

    def check(self, training: Training) -> None:
        """Refuses stages whose batches are larger than the training networks."""
        for stage in self.stages():
            if training.rows < stage.batch_size:
                raise UserError(
                    f"{self.section} trains with batches of {stage.batch_size}, but there are only {training.rows} "
                    "training examples. Lower the generator's batch size or train more runs (zoo.num_runs)."
                )

    def traced(self, values: Mapping[str, Any]) -> Self:
        """A copy with traced numbers in place of some of `TRACED`, which are not checked; for `stages` alone."""
        copy = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(copy, field.name, values.get(field.name, getattr(self, field.name)))
        return copy

    def prepared_size(self, training: Training) -> int:
        """Floats that `prepare` returns for such networks, for estimates of memory."""
        return training.rows * training.spec.num_params

    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the records that training cannot do without."""
        return ()

    @property
    def reads_disk(self) -> bool:
        """Whether training networks may stay on disk, see `Stage.data_memory`."""
        return all(stage.data_memory is not None for stage in self.stages())

    @abc.abstractmethod
    def prepare(self, training: Population) -> tuple[Any, Any]:
        """Returns `(data, constants)`: training examples, a pytree of arrays with a leading axis of examples (mostly
        `[N, D]` float32), and the pytree that undoes the preparation. Of weights that are on disk the largest of these
        may be on disk as well: with `shape`, `dtype` and reading by rows."""

    def constants_of(self, constants: Any, data: Any, rows: Any) -> Any:
        """The constants of a training on some rows alone; here the same for all.

        Args:
          constants, data: of `prepare`, which was given more networks, traced or not.
          rows: `[m]` int32, of the examples that the training sees.
        """
        del data, rows
        return constants

    @abc.abstractmethod
    def stages(self) -> tuple[Stage, ...]:
        """The training phases in order."""

    @abc.abstractmethod
    def sample(self, state: Mapping[str, Any], inputs: Any) -> Samples:
        """Makes one sample per row of `inputs` from `{"constants": ..., stage name: {"params", "model_state"}, ...}`.

        Pure and jit-compatible. A sample depends on its own row alone, so any sharding or chunking of the rows gives
        the same networks.
        """

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
          state: state of the trained generator.
          keys: `[n]` typed PRNG keys.
          starts: first kept checkpoint of every held-out run, for generators that change a given network.
        """
        del state, starts
        return keys

    def again(self, inputs: Any, samples: Samples, measure: Callable[[np.ndarray], Population]) -> Any:
        """What another round of sampling starts from, or None (the default) where the samples are done.

        Args:
          inputs: inputs of the last round.
          samples: its samples.
          measure: evaluates weights `[n, P]`: a population with `loss` and `accuracy`.
        """
        del inputs, samples, measure
        return None

    def num_tokens(self, spec: WeightSpec) -> int | None:
        """Length of the sequence that the model sees for one network; None where it has no tokens."""
        del spec
        return None


class Autoencoding(LearnedGenerator):
    """A generator that encodes networks and decodes latents."""

    @abc.abstractmethod
    def encode(self, state: Mapping[str, Any], weights: jax.Array) -> jax.Array:
        """Latents `[n, L]` of weight vectors `[n, P]`; pure, jit-compatible, a row depends on its own input alone."""

    @abc.abstractmethod
    def decode(self, state: Mapping[str, Any], latents: jax.Array) -> jax.Array:
        """Weight vectors `[n, P]` of latents `[n, L]`; pure, jit-compatible, a row depends on its own input alone."""

    @property
    @abc.abstractmethod
    def sampling(self) -> dict[str, Any]:
        """How latents are drawn, for the report: `kind` and `mode` of the sampler, and its further settings."""


class Prompted(LearnedGenerator):
    """A generator that improves a given network towards a metric that it is asked for."""

    @property
    @abc.abstractmethod
    def asked(self) -> tuple[str, float]:
        """Name of the metric, and the value that samples are drawn with."""

    @abc.abstractmethod
    def metric(self, population: Population, what: str) -> np.ndarray:
        """The metric `[N]` float32 of evaluated networks.

        Args:
          population: N networks.
          what: what they are, for errors.
        """

    @abc.abstractmethod
    def improve(
        self,
        state: Mapping[str, Any],
        weights: jax.Array,
        metric: jax.Array,
        asked: jax.Array,
        keys: jax.Array,
        *,
        initial: jax.Array | None = None,
    ) -> jax.Array:
        """One network `[n, P]` for every start; pure, jit-compatible, a row depends on its own inputs alone.

        Args:
          state: state of the trained generator.
          weights: `[n, P]` float32 networks to start from.
          metric: `[n]` float32 metric of the starts.
          asked: `[n]` float32 metric that the outcomes should have.
          keys: `[n]` typed PRNG keys.
          initial: `[n, P]` float32 noise that sampling begins with; drawn by default.
        """

    @abc.abstractmethod
    def deterministic(self) -> Self:
        """This generator with a sampler whose outcome depends on the start, the prompt and the initial noise alone."""


class UsesExamples(LearnedGenerator):
    """A generator that may look at what networks do on the training examples of their task, in training or when it is
    asked for samples. `prepare` finds them in `Population.examples`, where they are at hand."""

    @property
    @abc.abstractmethod
    def needs_examples(self) -> bool:
        """Whether it cannot do without, by its settings."""


class Augmented(LearnedGenerator):
    """A generator that is trained on permuted copies of the training networks besides the networks themselves."""

    @property
    @abc.abstractmethod
    def copies(self) -> int:
        """Networks of the same function that every training network stands for, itself included."""


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class OnHost:
    """Rows that stay on the host, in memory or on disk, inside a state of arrays that goes to devices."""

    rows: Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Known:
    """What programs are compiled for, such as a task network, inside a state of arrays."""

    value: Any


def vanishes(value: Any) -> bool:
    """Whether a setting is 0, so that the term that it scales is left out; a traced one may be anything."""
    return not isinstance(value, jax.Array) and value == 0


def keys_for(keys: jax.Array, purpose: int) -> jax.Array:
    """Keys `[n]` of examples or samples, each folded with the number of what it is used for."""
    return jax.vmap(lambda key: jax.random.fold_in(key, purpose))(keys)
