"""Recipes: how every run of a zoo is trained, and which of its hyper-parameters are drawn per run."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxweights import shuffle
from jaxweights.errors import UserError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine", "cosine_per_epoch", "plateau")
STARTS = ("own", "shared", "first_weights", "base")
STATISTICS = ("batch", "frozen", "published")
HELDOUT_SNAPSHOTS = ("all", "last", "one")
DTYPES = ("float32", "bfloat16")
AUGMENTATIONS = ("none", "flip_crop", "resized_crop")
HYPER_PARAMETERS = ("learning_rate", "momentum", "weight_decay", "init_scale")


@dataclasses.dataclass(frozen=True)
class Distribution:
    """How a hyper-parameter is drawn per run, from the run's own key.

    Attributes:
      kind: "constant", "uniform", "log_uniform" or "choice".
      values: the constant, or (low, high), or the choices.
    """

    kind: str
    values: tuple[float, ...]

    @classmethod
    def parse(cls, value: Any, name: str) -> Distribution:
        """From a number, or a mapping like `{"kind": "log_uniform", "low": 1e-3, "high": 1e-1}`.

        Raises:
          UserError: anything else.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls("constant", (float(value),))
        cure = (
            f"zoo.{name} is a number, or kind='uniform'|'log_uniform' with low and high, or kind='choice' with "
            "values; got "
            f"{value!r}."
        )
        try:
            kind = value["kind"]
            values = tuple(float(v) for v in (value["values"] if kind == "choice" else (value["low"], value["high"])))
        except (TypeError, KeyError, ValueError) as error:
            raise UserError(cure) from error
        if kind not in ("uniform", "log_uniform", "choice") or not values:
            raise UserError(cure)
        if kind != "choice" and (values[0] > values[1] or (kind == "log_uniform" and values[0] <= 0)):
            raise UserError(f"zoo.{name}: low must not exceed high, and log_uniform needs low > 0; got {values}.")
        return cls(kind, values)

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
    def always_zero(self) -> bool:
        """Whether every draw is zero, so that the term can be left out of the program."""
        return all(v == 0 for v in self.values)


@dataclasses.dataclass(frozen=True)
class PPO:
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347); the defaults are those of G.pt's data set.

    The environments that act in parallel are the recipe's `batch_size`, an optimizer step of the recipe is one update:
    `horizon` steps of all environments, then `epochs` passes over them.

    Attributes:
      horizon: steps of every environment per update.
      epochs: passes over them per update.
      minibatches: of a pass: consecutive pieces of the horizon, as in the published code, which does not shuffle.
      clip: range of the probability ratio around 1.
      discount: of later rewards, gamma.
      trace: lambda of the generalised advantage estimate.
      value_weight: of the critic's squared error beside the policy's loss.
      gradient_clip: largest norm of the gradient of actor and critic together.
    """

    horizon: int = 16
    epochs: int = 8
    minibatches: int = 2
    clip: float = 0.2
    discount: float = 0.99
    trace: float = 0.95
    value_weight: float = 2.0
    gradient_clip: float = 2.0

    def __post_init__(self):
        for field in ("horizon", "epochs", "minibatches"):
            if getattr(self, field) < 1:
                raise UserError(f"zoo.ppo.{field} is {getattr(self, field)}; set it to at least 1.")
        if self.horizon % self.minibatches:
            raise UserError(
                f"zoo.ppo.horizon is {self.horizon}, which {self.minibatches} minibatches do not divide; change one."
            )
        for field, most in (("clip", 1), ("discount", 1), ("trace", 1)):
            if not 0 <= getattr(self, field) <= most:
                raise UserError(f"zoo.ppo.{field} is {getattr(self, field)}; set it between 0 and {most}.")
        for field in ("value_weight", "gradient_clip"):
            if not getattr(self, field) > 0:
                raise UserError(f"zoo.ppo.{field} is {getattr(self, field)}; set it above 0.")


@dataclasses.dataclass(frozen=True)
class Plateau:
    """How the learning rate of a neural field falls, and when its fit ends; the defaults are those of HyperDiffusion.

    An epoch is better if its mean loss is below that of every one before.

    Attributes:
      factor: of the learning rate after more than `patience` epochs without a better one.
      patience: see above; counted anew after every fall.
      min_rate: below which the learning rate does not fall.
      stop_patience: epochs without a better one after which the run ends; 0 for never.
    """

    factor: float = 0.8
    patience: int = 10
    min_rate: float = 1e-5
    stop_patience: int = 50

    def __post_init__(self):
        if not 0 < self.factor < 1:
            raise UserError(f"zoo.plateau.factor is {self.factor}; set it between 0 and 1.")
        for field in ("patience", "min_rate", "stop_patience"):
            if not getattr(self, field) >= 0:
                raise UserError(f"zoo.plateau.{field} is {getattr(self, field)}; set it to at least 0.")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training of one run; static, hashable, the same for all runs of a zoo.

    Attributes:
      steps: optimizer steps.
      batch_size: examples per step; the incomplete last batch of an epoch is dropped. Fields draw so many points with
        replacement at every step.
      optimizer: "sgd" (weight decay added to the gradient, as in PyTorch), "adam" (likewise), "adamw" (decoupled
        decay).
      nesterov: Nesterov momentum for "sgd".
      schedule: "constant"; "cosine" to zero over all steps; "cosine_per_epoch", the same but changed between epochs
        only; "plateau" of neural fields, see `Plateau`.
      batch_order: "own", every run shuffles by its own key; "shared", all runs see the same batches (faster, since the
        first layer of all runs becomes one matrix product, but then the runs have that in common).
      start: "own", every run has its own initialisation; "shared", all runs start from the same one; "first_weights" of
        neural fields, run 0 has its own, and its last weights are those that all others start from; "base", all runs
        start from the weights of a base network and train the leaves that `nets.partial` chose.
      snapshots: the steps after which weights are kept, ascending; 0 is the initialisation. A run ends with the last
        of them, whatever `steps` is; the schedule of the learning rate is that of `steps`.
      hyper: distribution of every name in `HYPER_PARAMETERS`.
      random_snapshots: further steps whose weights are kept, strictly between the first and the last of `snapshots`,
        that every run draws for itself.
      augment: "none"; "flip_crop", a random mirror image, and a random cut of the image with a border of zeros, for
        every example of every step; "resized_crop", likewise, of a random rectangle resized to the network's input.
      final_learning_rate: of the cosine schedules, which fall from the learning rate to this one.
      statistics: of batch normalisation. "batch", networks are trained in training mode; "frozen", as they are
        evaluated, by running statistics that stay; "published" (P-diff's scripts that test after every step), in
        training mode for two steps, then by the running statistics where these steps have moved them.
      heldout_snapshots: which snapshots of held-out runs the store keeps: "all", the "last", or "one" that each run
        draws for itself.
      largest_weight: a run with a larger one (in magnitude) at any snapshot counts as diverged.
      ppo: how a policy learns in its environment; without effect on other networks.
      plateau: of the schedule of that name.
      dtype: of the products while a neural field is fitted, "float32" or "bfloat16"; sums and weights are float32.
    """

    steps: int
    batch_size: int
    optimizer: str
    nesterov: bool
    schedule: str
    batch_order: str
    start: str
    snapshots: tuple[int, ...]
    hyper: tuple[tuple[str, Distribution], ...]
    random_snapshots: int = 0
    augment: str = "none"
    final_learning_rate: float = 0.0
    statistics: str = "batch"
    heldout_snapshots: str = "all"
    largest_weight: float = math.inf
    ppo: PPO = PPO()
    plateau: Plateau = Plateau()
    dtype: str = "float32"

    @classmethod
    def from_config(cls, config: Mapping[str, Any], num_examples: int) -> Recipe:
        """Reads the `zoo` part of a config.

        Args:
          config: the fields of this class by name (hyper-parameters directly by theirs); either `steps` or `epochs`;
            at most one of `snapshots`, `snapshot_epochs`, `snapshot_range` (first and last of consecutive steps) and
            `random_snapshots`.
          num_examples: training examples, from which the steps of an epoch follow.

        Raises:
          UserError: unknown names or impossible values; the message names the field.
        """

        one_of = functools.partial(choice, config, "zoo")
        if config.get("subset") and not has_base(config):
            raise UserError(
                f"zoo.subset is {tuple(config['subset'])}, but all other leaves have no values: there is no base "
                "network. Set zoo.base.epochs or zoo.base.import_npz, or leave zoo.subset at ()."
            )
        batch = int(config["batch_size"])
        if not 1 <= batch <= num_examples:
            raise UserError(
                f"zoo.batch_size is {batch}, but must lie between 1 and the {num_examples} training examples."
            )
        steps = int(config["steps"] or config["epochs"] * (num_examples // batch))
        if steps < 1:
            raise UserError("A zoo trains for at least one step: give zoo.steps or zoo.epochs.")
        between = tuple(int(s) for s in config.get("snapshot_range", ()))
        if between:
            if len(between) != 2 or not 0 <= between[0] <= between[1] <= steps:
                raise UserError(
                    f"zoo.snapshot_range is the first and the last of consecutive steps between 0 and {steps}; got "
                    f"{between}."
                )
            if tuple(config["snapshots"]) != (-1,) or config["snapshot_epochs"] or config["random_snapshots"]:
                raise UserError(
                    "zoo.snapshot_range excludes other choices of snapshots. Leave zoo.snapshots at (-1,), "
                    "zoo.snapshot_epochs at () and zoo.random_snapshots at 0, or zoo.snapshot_range at ()."
                )
            snapshots = tuple(range(between[0], between[1] + 1))
        elif config["snapshot_epochs"]:
            snapshots = tuple(int(e) * (num_examples // batch) for e in config["snapshot_epochs"])
        else:
            snapshots = tuple(int(s) for s in config["snapshots"]) or (steps,)
            snapshots = tuple(s if s >= 0 else steps + 1 + s for s in snapshots)
        if list(snapshots) != sorted(set(snapshots)) or not snapshots[0] >= 0 or snapshots[-1] > steps:
            raise UserError(
                f"zoo.snapshots must be ascending steps between 0 and {steps} (negative ones count from the end, -1 "
                f"is the last), and zoo.snapshot_epochs ascending epochs of {num_examples // batch} steps; got "
                f"{tuple(config['snapshots'])} and {tuple(config['snapshot_epochs'])}."
            )
        drawn = int(config["random_snapshots"])
        if drawn and (tuple(config["snapshots"]) != (-1,) or config["snapshot_epochs"]):
            raise UserError(
                f"zoo.random_snapshots = {drawn} keeps the initialisation, {drawn} random steps of every run and the "
                "end; it excludes other choices of snapshots. Leave zoo.snapshots at (-1,) and zoo.snapshot_epochs at "
                f"(), or set zoo.random_snapshots to 0; got {tuple(config['snapshots'])} and "
                f"{tuple(config['snapshot_epochs'])}."
            )
        if not 0 <= drawn < steps:
            raise UserError(
                f"zoo.random_snapshots is {drawn}, but must lie between 0 and {steps - 1}, the number of steps between "
                "the initialisation and the end of a run."
            )
        return cls(
            steps=steps,
            batch_size=batch,
            optimizer=one_of("optimizer", OPTIMIZERS),
            nesterov=bool(config["nesterov"]),
            schedule=one_of("schedule", SCHEDULES),
            batch_order=one_of("batch_order", ("own", "shared")),
            start=one_of("start", STARTS),
            snapshots=(0, steps) if drawn else snapshots,
            hyper=tuple((name, Distribution.parse(config[name], name)) for name in HYPER_PARAMETERS),
            random_snapshots=drawn,
            augment=one_of("augment", AUGMENTATIONS, "none"),
            final_learning_rate=float(config.get("final_learning_rate", 0.0)),
            statistics=one_of("statistics", STATISTICS, "batch"),
            heldout_snapshots=one_of("heldout_snapshots", HELDOUT_SNAPSHOTS, "all"),
            largest_weight=_limit(config.get("largest_weight", 0.0)),
            ppo=_settings(PPO, config.get("ppo", {}), "ppo"),
            plateau=_settings(Plateau, config.get("plateau", {}), "plateau"),
            dtype=one_of("dtype", DTYPES, "float32"),
        )

    @property
    def num_snapshots(self) -> int:
        """Snapshots of each run."""
        return len(self.snapshots) + self.random_snapshots

    def sample_snapshots(self, key: jax.Array) -> jax.Array:
        """Steps after which one run keeps its weights.

        The random ones are uniform without replacement, as in G.pt's data set (Peebles et al., arXiv 2209.12892): the
        first entries of a permutation keyed by the run.

        Args:
          key: of the run's draw; without effect where nothing is random.

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
        return {name: d.sample(jax.random.fold_in(key, i)) for i, (name, d) in enumerate(self.hyper)}

    def learning_rate(self, peak: jax.Array, step: jax.Array, num_examples: int) -> jax.Array:
        """Learning rate of a 0-based step, under the schedules that depend on it alone."""
        if self.schedule == "constant":
            return peak
        period = self.steps
        if self.schedule == "cosine_per_epoch":
            per_epoch = num_examples // self.batch_size
            step, period = step // per_epoch, self.steps // per_epoch
        fraction = 0.5 * (1 + jnp.cos(math.pi * step / period))
        if not self.final_learning_rate:
            return peak * fraction
        return self.final_learning_rate + (peak - self.final_learning_rate) * fraction

    def transformation(self, hyper: Mapping[str, jax.Array], learning_rate: jax.Array) -> optax.GradientTransformation:
        """The optimizer of one step; hyper-parameters are traced values, so that one program serves every run."""
        zero = {name for name, d in self.hyper if d.always_zero}
        decay = [] if "weight_decay" in zero else [optax.add_decayed_weights(hyper["weight_decay"])]
        if self.optimizer == "sgd":
            momentum = [] if "momentum" in zero else [optax.trace(hyper["momentum"], self.nesterov)]
            parts = decay + momentum
        elif self.optimizer == "adam":
            parts = decay + [optax.scale_by_adam()]
        else:
            parts = [optax.scale_by_adam()] + decay
        return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))


def has_base(zoo: Mapping[str, Any]) -> bool:
    """Whether the `zoo` part of a config trains or reads a base network."""
    base = zoo.get("base", {})
    return bool(base.get("epochs") or base.get("import_npz"))


def choice(config: Mapping[str, Any], part: str, field: str, known: tuple[str, ...], default: str | None = None) -> str:
    """A field of a part of a config that is one of some words.

    Raises:
      UserError: another word; the message lists the known ones.
    """
    value = config.get(field, default)
    if value not in known:
        raise UserError(f"Unknown {part}.{field} {value!r}; known: {', '.join(known)}.")
    return value


def _limit(largest_weight: float) -> float:
    """The bound on weights that a config means; 0 stands for none."""
    if not largest_weight >= 0:
        raise UserError(f"zoo.largest_weight is {largest_weight}; set it above 0, or to 0 for no limit.")
    return float(largest_weight) or math.inf


def _settings(kind: type, settings: Mapping[str, Any], name: str):
    try:
        return kind(**settings)
    except TypeError as error:
        known = ", ".join(field.name for field in dataclasses.fields(kind))
        raise UserError(f"zoo.{name} has an unknown setting ({error}); known: {known}.") from error
