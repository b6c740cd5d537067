"""Recipes: the settings of a zoo, how each of its runs is trained, and which hyper-parameters are drawn per run."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxweights import shuffle
from jaxweights.checks import LARGEST_INT, Readable, shown
from jaxweights.errors import UserError
from jaxweights.settings import Settings, convert, setting

MOST_SNAPSHOTS = 1_000_000
HYPER_PARAMETERS = ("learning_rate", "momentum", "weight_decay", "init_scale")
"""What every run has an own, traced value of."""
FURTHER = {"beta1": 0.9, "beta2": 0.999, "label_smoothing": 0.0}
"""What runs have own values of where it varies, and constants in the program elsewhere; with the defaults."""


@dataclasses.dataclass(frozen=True)
class Distribution(Readable):
    """How a hyper-parameter is drawn per run, from the run's own key.

    Attributes:
      kind: "constant", "uniform", "log_uniform" or "choice".
      values: the constant, or (low, high), or the choices.
    """

    kind: str
    values: tuple[float, ...]

    @classmethod
    def constant(cls, value: float) -> Distribution:
        """The same value for every run."""
        return cls("constant", (float(value),))

    @classmethod
    def from_setting(cls, value: Any, path: str) -> Distribution:
        """From a number, or a mapping like `{"kind": "log_uniform", "low": 1e-3, "high": 1e-1}`.

        Args:
          value: as a config has it.
          path: name of the setting, for messages.

        Raises:
          UserError: anything else.
        """
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            return cls.constant(convert(value, float, path))
        cure = (
            f"{path} is a number, or kind='uniform'|'log_uniform' with low and high, or kind='choice' with values; "
            f"got {shown(value)}."
        )
        given: dict[str, Any] = dict(value) if isinstance(value, (Mapping, ConfigDict)) else {}
        kind: Any = given.pop("kind", None)
        names = {"uniform": ("low", "high"), "log_uniform": ("low", "high"), "choice": ("values",)}.get(str(kind), ())
        if not names or set(names) != set(given):
            raise UserError(cure)
        found = given["values"] if kind == "choice" else (given["low"], given["high"])
        values = convert(found, tuple[float, ...], path)
        if not values:
            raise UserError(cure)
        if kind != "choice" and (values[0] > values[1] or (kind == "log_uniform" and values[0] <= 0)):
            raise UserError(f"{path}: low must not exceed high, and log_uniform needs low > 0; got {values}.")
        return cls(kind, values)

    def to_setting(self) -> float | dict[str, Any]:
        """What `from_setting` reads."""
        if self.kind == "constant":
            return self.values[0]
        if self.kind == "choice":
            return {"kind": self.kind, "values": self.values}
        return {"kind": self.kind, "low": self.values[0], "high": self.values[1]}

    def sample(self, key: jax.Array) -> jax.Array:
        """One float32 draw."""
        if self.kind == "constant":
            return jnp.float32(self.values[0])
        if self.kind == "choice":
            return jnp.asarray(self.values, jnp.float32)[jax.random.randint(key, (), 0, len(self.values))]
        low, high = self.values
        if self.kind == "uniform":
            return jax.random.uniform(key, (), jnp.float32, low, high)
        return jnp.exp(jax.random.uniform(key, (), jnp.float32, math.log(low), math.log(high)))

    @property
    def numbers(self) -> tuple[float, ...]:
        """The constant, both ends, or the choices."""
        return self.values

    @property
    def always_zero(self) -> bool:
        """Whether every draw is zero, so that the term can be left out of the program."""
        return all(v == 0 for v in self.values)

    @property
    def varies(self) -> bool:
        """Whether it is no constant."""
        return self.kind != "constant"


@dataclasses.dataclass(frozen=True)
class ZooSettings(Settings):
    """Settings of a zoo that every task has: which runs, and how each is trained. Tasks add their own.

    Hyper-parameters are numbers, or distributions that every run draws from with its own key, for example
    `ConfigDict({"kind": "log_uniform", "low": 1e-3, "high": 1e-1})`; kinds: uniform, log_uniform, choice (with values).

    Attributes:
      import_npz: a file of weights `[N, P]` (and columns of records) or of state dicts, or the folder of a stored zoo,
        as launch.import_zoo leaves, to audit instead of training a zoo.
      num_runs: runs of the training split.
      num_heldout: held-out runs, which no generator sees.
      use: checkpoints that generators learn from: the last of each run, or all.
      steps: optimizer steps per run; 0 to set epochs instead.
      epochs: epochs per run, where steps is 0.
      batch_size: examples per step; the incomplete last batch of an epoch is dropped.
      start: initial weights of the runs. own: every run has its own; shared: one initialisation for all.
      optimizer: sgd (weight decay added to the gradient, as in PyTorch), adam (likewise), adamw (decoupled decay).
      nesterov: Nesterov momentum of sgd.
      schedule: schedule of the learning rate. constant; cosine: over all steps; cosine_per_epoch: the same, changed
        between epochs only.
      learning_rate: hyper-parameter: learning rate, the peak of cosine schedules.
      final_learning_rate: learning rate at the end of cosine schedules.
      momentum: hyper-parameter: momentum of sgd.
      weight_decay: hyper-parameter: weight decay.
      init_scale: hyper-parameter: factor on the initial weights.
      beta1: hyper-parameter: decay of adam's and adamw's mean of the gradient.
      beta2: hyper-parameter: decay of their mean of its square.
      largest_weight: runs with a larger weight (in magnitude) at any snapshot count as diverged; 0 for no limit.
      chunk_size: runs per chunk of the store; 0 to choose by memory.
      lanes: models per vmap; 0 to choose by network and backend, on a CPU by a measurement of about a second where
        training takes more than a minute.
    """

    SECTION: ClassVar[str] = "zoo"

    import_npz: str = ""
    num_runs: int = setting(512, at_least=0)
    num_heldout: int = setting(128, at_least=0)
    use: Literal["last", "all"] = "last"
    steps: int = setting(0, at_least=0)
    epochs: int = setting(40, at_least=0)
    batch_size: int = setting(64, at_least=1)
    start: Literal["own", "shared"] = "own"
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    nesterov: bool = False
    schedule: Literal["constant", "cosine", "cosine_per_epoch"] = "cosine"
    learning_rate: Distribution = setting(Distribution("constant", (0.1,)), at_least=0)
    final_learning_rate: float = setting(0.0, at_least=0)
    momentum: Distribution = setting(Distribution("constant", (0.9,)), at_least=0, below=1)
    weight_decay: Distribution = setting(Distribution("constant", (0.0,)), at_least=0)
    init_scale: Distribution = setting(Distribution("constant", (1.0,)), above=0)
    beta1: Distribution = setting(Distribution("constant", (FURTHER["beta1"],)), at_least=0, below=1)
    beta2: Distribution = setting(Distribution("constant", (FURTHER["beta2"],)), at_least=0, below=1)
    largest_weight: float = setting(0.0, at_least=0)
    chunk_size: int = setting(0, at_least=0)
    lanes: int = setting(0, at_least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.steps and not self.epochs:
            self.refuse("steps", "a zoo trains for at least one step: set zoo.steps or zoo.epochs to at least 1")

    def kept(self, steps: int, per_epoch: int) -> tuple[tuple[int, ...], int]:
        """Steps whose weights every run keeps, ascending (0 is the initialisation), and how many more it draws."""
        del per_epoch
        return (steps,), 0

    def kept_of_heldout(self) -> str:
        """Which snapshots of held-out runs the store keeps: "all", the "last", or "one" that each run draws."""
        return "all"


@dataclasses.dataclass(frozen=True)
class SnapshotSettings(ZooSettings):
    """Settings of zoos whose runs may keep their weights along the way; at most one of the four choices is made.

    Attributes:
      snapshots: steps whose weights are kept, ascending; 0 is the initialisation, negative ones count from the end (-1
        is the last). A run ends with the last of them; the schedule of the learning rate is that of all its steps.
      snapshot_epochs: epochs after which weights are kept, instead.
      snapshot_range: first and last of consecutive steps whose weights are kept, instead; () for none.
      random_snapshots: number of random steps whose weights are kept, drawn by every run for itself, beside the
        initialisation and the end, instead; 0 for none.
      heldout_snapshots: snapshots of held-out runs that are stored: all, the last, or one that each run draws.
    """

    snapshots: tuple[int, ...] = setting((-1,), length=(1, None))
    snapshot_epochs: tuple[int, ...] = setting((), at_least=0)
    snapshot_range: tuple[int, ...] = setting((), at_least=0, length=(0, 2))
    random_snapshots: int = setting(0, at_least=0, at_most=MOST_SNAPSHOTS)
    heldout_snapshots: Literal["all", "last", "one"] = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        between, drawn = self.snapshot_range, self.random_snapshots
        if between and (len(between) != 2 or between[0] > between[1]):
            self.refuse("snapshot_range", "give the first and the last of consecutive steps, or ()")
        others = self.snapshots != (-1,) or bool(self.snapshot_epochs)
        if between and (others or drawn):
            raise UserError(
                "zoo.snapshot_range excludes other choices of snapshots. Leave zoo.snapshots at (-1,), "
                "zoo.snapshot_epochs at () and zoo.random_snapshots at 0, or zoo.snapshot_range at ()."
            )
        if drawn and others:
            raise UserError(
                f"zoo.random_snapshots = {drawn} keeps the initialisation, {drawn} random steps of every run and the "
                "end; it excludes other choices of snapshots. Leave zoo.snapshots at (-1,) and zoo.snapshot_epochs at "
                f"(), or set zoo.random_snapshots to 0; got {self.snapshots} and {self.snapshot_epochs}."
            )

    def kept(self, steps: int, per_epoch: int) -> tuple[tuple[int, ...], int]:
        """See `ZooSettings.kept`.

        Raises:
          UserError: snapshots that are not ascending or lie outside of the run.
        """
        if self.random_snapshots:
            if self.random_snapshots >= steps:
                raise UserError(
                    f"zoo.random_snapshots is {self.random_snapshots}, but must lie between 0 and {steps - 1}, the "
                    "number of steps between the initialisation and the end of a run."
                )
            return (0, steps), self.random_snapshots
        if self.snapshot_range:
            first, last = self.snapshot_range
            if last > steps:
                self.refuse("snapshot_range", f"give the first and the last of consecutive steps between 0 and {steps}")
            if last - first >= MOST_SNAPSHOTS:
                self.refuse("snapshot_range", f"keep at most {MOST_SNAPSHOTS} snapshots per run")
            return tuple(range(first, last + 1)), 0
        if self.snapshot_epochs:
            found = tuple(e * per_epoch for e in self.snapshot_epochs)
        else:
            found = tuple(s if s >= 0 else steps + 1 + s for s in self.snapshots or (-1,))
        if list(found) != sorted(set(found)) or found[0] < 0 or found[-1] > steps:
            raise UserError(
                f"zoo.snapshots must be ascending steps between 0 and {steps} (negative ones count from the end, -1 "
                f"is the last), and zoo.snapshot_epochs ascending epochs of {per_epoch} steps; got {self.snapshots} "
                f"and {self.snapshot_epochs}."
            )
        return found, 0

    def kept_of_heldout(self) -> str:
        """See `ZooSettings.kept_of_heldout`."""
        return self.heldout_snapshots


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training of one run; static, hashable, the same for all runs of a zoo.

    Attributes:
      settings: settings of the zoo, of the task's class.
      steps: optimizer steps that the schedule of the learning rate spans.
      snapshots: the steps after which weights are kept, ascending; 0 is the initialisation. A run ends with the last
        of them, whatever `steps` is.
      random_snapshots: further steps whose weights are kept, strictly between the first and the last of `snapshots`,
        drawn by every run for itself.
    """

    settings: Any
    steps: int
    snapshots: tuple[int, ...]
    random_snapshots: int = 0

    @classmethod
    def from_settings(cls, settings: ZooSettings, num_examples: int) -> Recipe:
        """Resolves epochs and negative steps.

        Args:
          settings: settings of the zoo.
          num_examples: training examples, which the steps of an epoch follow from.

        Raises:
          UserError: a batch larger than the training set, or snapshots that lie outside of the run.
        """
        batch = settings.batch_size
        if batch > num_examples:
            raise UserError(
                f"zoo.batch_size is {batch}, but must lie between 1 and the {num_examples} training examples."
            )
        per_epoch = num_examples // batch
        steps = settings.steps or settings.epochs * per_epoch
        if steps > LARGEST_INT:
            settings.refuse("epochs", f"set it to at most {LARGEST_INT // per_epoch}, or {LARGEST_INT} steps")
        return cls(settings, steps, *settings.kept(steps, per_epoch))

    @property
    def batch_size(self) -> int:
        """Examples per step."""
        return self.settings.batch_size

    @property
    def start(self) -> str:
        """Initial weights of the runs."""
        return self.settings.start

    @property
    def largest_weight(self) -> float:
        """Bound on the magnitude of weights; infinite for none."""
        return self.settings.largest_weight or math.inf

    @property
    def hyper(self) -> dict[str, Distribution]:
        """Distribution of every name in `HYPER_PARAMETERS`, in that order, and of those in `FURTHER` that vary."""
        further = [name for name in FURTHER if name in self._fields and getattr(self.settings, name).varies]
        return {name: getattr(self.settings, name) for name in (*HYPER_PARAMETERS, *further)}

    @property
    def _fields(self) -> set[str]:
        return {field.name for field in dataclasses.fields(self.settings)}

    def value(self, name: str, hyper: Mapping[str, jax.Array]) -> Any:
        """A run's value of a name in `FURTHER`: traced where it varies, else the constant, which may be the default of
        settings that do not have it."""
        if name in hyper:
            return hyper[name]
        return getattr(self.settings, name).values[0] if name in self._fields else FURTHER[name]

    @property
    def num_snapshots(self) -> int:
        """Snapshots of each run."""
        return len(self.snapshots) + self.random_snapshots

    def sample_snapshots(self, key: jax.Array) -> jax.Array:
        """Steps after which one run keeps its weights.

        The random ones are uniform without replacement, as in G.pt's data set (Peebles et al., arXiv 2209.12892): the
        first entries of a permutation keyed by the run.

        Args:
          key: key of the run's draw; without effect where nothing is random.

        Returns:
          `[num_snapshots]` int32, ascending.
        """
        fixed = jnp.asarray(self.snapshots, jnp.int32)
        if not self.random_snapshots:
            return fixed
        first, last = self.snapshots[0], self.snapshots[-1]
        positions = jnp.arange(self.random_snapshots, dtype=jnp.int32)
        drawn = shuffle.permuted(positions, jax.random.key_data(key), last - first - 1) + first + 1
        return jnp.sort(jnp.concatenate([fixed, drawn]))

    def sample_hyper(self, key: jax.Array) -> dict[str, jax.Array]:
        """Hyper-parameters of one run, float32 scalars."""
        return {name: d.sample(jax.random.fold_in(key, i)) for i, (name, d) in enumerate(self.hyper.items())}

    def learning_rate(self, peak: jax.Array, step: jax.Array, num_examples: int) -> jax.Array:
        """Learning rate of a 0-based step, under the schedules that depend on it alone."""
        settings = self.settings
        if settings.schedule == "constant":
            return peak
        period = self.steps
        if settings.schedule == "cosine_per_epoch":
            per_epoch = num_examples // self.batch_size
            step, period = step // per_epoch, self.steps // per_epoch
        fraction = 0.5 * (1 + jnp.cos(math.pi * step / period))
        if not settings.final_learning_rate:
            return peak * fraction
        return settings.final_learning_rate + (peak - settings.final_learning_rate) * fraction

    def transformation(self, hyper: Mapping[str, jax.Array], learning_rate: jax.Array) -> optax.GradientTransformation:
        """The optimizer of one step; hyper-parameters are traced values, so that one program serves every run."""
        settings = self.settings
        zero = {name for name, d in self.hyper.items() if d.always_zero}
        decay = [] if "weight_decay" in zero else [optax.add_decayed_weights(hyper["weight_decay"])]
        adam = functools.partial(optax.scale_by_adam, b1=self.value("beta1", hyper), b2=self.value("beta2", hyper))
        if settings.optimizer == "sgd":
            momentum = [] if "momentum" in zero else [optax.trace(hyper["momentum"], settings.nesterov)]
            parts = decay + momentum
        elif settings.optimizer == "adam":
            parts = decay + [adam()]
        else:
            parts = [adam()] + decay
        return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
