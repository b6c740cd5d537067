"""What a task is: everything that depends on what the networks of a zoo are for."""

from __future__ import annotations

import abc
import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, operations
from jaxweights.data import Dataset
from jaxweights.data.probe import ProbeSettings
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation
from jaxweights.population import Population
from jaxweights.settings import Settings
from jaxweights.tasks.terms import Terms
from jaxweights.zoo import BaseSettings, Program, Recipe, ZooSettings

if TYPE_CHECKING:
    from jaxweights.report.settings import ReportSettings
    from jaxweights.report.style import Picture, Series


class Examples(NamedTuple):
    """The size of a data set.

    Attributes:
      shape: shape of an input.
      outputs: outputs of a network: classes, actions, or values at a point.
      train: examples that a run is trained on.
      test: examples that networks are evaluated on.
    """

    shape: tuple[int, ...]
    outputs: int
    train: int
    test: int


class Shown(NamedTuple):
    """Networks of one series that pictures show.

    Attributes:
      series: the measurements of the series.
      suffix: end of the names of files.
      weights: `[2k, P]`: k generated networks, then the nearest training network of each.
    """

    series: Series
    suffix: str
    weights: np.ndarray


@dataclasses.dataclass(frozen=True)
class Scene:
    """What pictures of networks are drawn from.

    Attributes:
      net: task network.
      dataset: training and test examples.
      train: training networks, in the order that measurements refer to.
      settings: settings of the report.
      mesh: devices.
      folder: folder of the files.
    """

    net: nets.TaskNet
    dataset: Dataset
    train: Population
    settings: ReportSettings
    mesh: Mesh
    folder: pathlib.Path


class Task(abc.ABC):
    """A kind of task network: its data, networks, training, evaluation, words and pictures.

    Tasks have no state; `tasks.TASKS` has one instance of each.
    """

    name: ClassVar[str]
    terms: ClassVar[Terms] = Terms()
    data_settings: ClassVar[type[Settings]]
    """Settings of the section `data` of a config."""
    zoo_settings: ClassVar[type[ZooSettings]]
    """Settings of its section `zoo`."""
    default_network: ClassVar[str]
    shown_networks: ClassVar[int] = 3
    """Generated networks of a series that pictures show."""

    @property
    @abc.abstractmethod
    def networks(self) -> Sequence[str]:
        """Names of the networks that the task takes, among `nets.NETWORKS`."""

    @abc.abstractmethod
    def load(self, data: Any, *, net: Mapping[str, Any], runs: int, data_dir: str | None = None) -> Dataset:
        """Loads the data set of a zoo.

        Args:
          data: settings of the task's class.
          net: settings of the network, by name.
          runs: runs of the zoo, training and held-out.
          data_dir: folder of data sets, see `data.load`.
        """

    @abc.abstractmethod
    def examples(self, data: Any, *, net: Mapping[str, Any], data_dir: str | None = None) -> Examples:
        """The size of the data set; without loading it, where that is known."""

    def check_files(self, data: Any, *, net: Mapping[str, Any], data_dir: str | None = None) -> None:
        """Raises `UserError` where `examples` needs no files of the data set, but `load` does, and they are absent."""
        del data, net, data_dir

    def targets(self, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels `[n, ...]` and `[m, ...]` of a data set from plain targets `[n]` and `[m]`, for data from anywhere."""
        return train, test

    def build(self, net: Mapping[str, Any], shape: Sequence[int], outputs: int) -> nets.TaskNet:
        """Builds a network for the task.

        Args:
          net: settings of the network, with its `name`.
          shape: shape of an input.
          outputs: number of outputs.

        Raises:
          UserError: a network of another task, or impossible settings.
        """
        self.check_network(net.get("name"))
        return nets.build(net, shape, outputs, task=self)

    def check_network(self, name: Any) -> None:
        """Raises `UserError` for a network of another task."""
        if name in nets.NETWORKS and name not in self.networks:
            raise UserError(
                f"The task {self.name!r} does not take the network {name!r}; it takes {', '.join(self.networks)}. Set "
                "net.name to one of these, or task to that of the network."
            )

    def base(self, zoo: Any) -> BaseSettings | None:
        """Settings of the network that all runs of a zoo continue from; None where they have no such network."""
        del zoo
        return None

    @abc.abstractmethod
    def program(self, net: nets.TaskNet, recipe: Recipe, num_examples: int) -> Program:
        """How one run of a zoo is trained.

        Args:
          net: a network of the task.
          recipe: recipe with settings of the task's class.
          num_examples: training examples.
        """

    @abc.abstractmethod
    def evaluate(
        self,
        net: nets.TaskNet,
        weights: Any,
        inputs: np.ndarray,
        targets: np.ndarray,
        mesh: Mesh,
        progress: Callable[[int, int], None] | None = None,
    ) -> Evaluation:
        """Evaluates weight vectors; see `evaluation.evaluate`."""

    def check_probe(self, settings: ProbeSettings) -> None:
        """Raises `UserError` where a probe set is asked for, but test inputs are no images."""
        if settings.size:
            settings.refuse("size", f"the inputs of a {self.name} are no images that could be changed, so set it to 0")

    def probe_set(
        self, inputs: np.ndarray, targets: np.ndarray, settings: ProbeSettings
    ) -> tuple[np.ndarray, np.ndarray]:
        """Changed test inputs `[size, ...]` and their targets; see `data.probe`."""
        self.check_probe(settings)
        return inputs, targets

    def predictions(self, net: nets.TaskNet, outputs: jax.Array) -> jax.Array:
        """Natural outputs of a network's outputs `[..., K]`, by which functions are compared."""
        del net
        return outputs

    def decisions(self, net: nets.TaskNet, predictions: np.ndarray) -> np.ndarray | None:
        """Decisions `[...]` of predictions `[..., K]`, whole numbers from 0; None where there are no such."""
        del net, predictions
        return None

    def quality(self, predictions: np.ndarray, targets: np.ndarray) -> np.ndarray | None:
        """The measure of quality `[...]` of predictions `[..., S, K]`; None where it is no function of them."""
        del predictions, targets
        return None

    def loss(self, outputs: jax.Array, targets: jax.Array) -> jax.Array:
        """The loss `[B]` of a step, for counts of operations."""
        return nets.cross_entropy(outputs, targets)

    def operations(self, net: nets.TaskNet, recipe: Recipe) -> tuple[float, float]:
        """Floating-point operations of one optimizer step, and of evaluating one network on one example."""
        return self.step_operations(net, recipe.batch_size), self.forward_operations(net)

    def step_operations(self, net: nets.TaskNet, batch_size: int) -> float:
        """Operations of the gradient of a batch."""
        batch = jax.ShapeDtypeStruct((batch_size,) + net.input_shape, jnp.float32)
        labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        gradient = jax.grad(lambda w, x, y: jnp.mean(self.loss(net.apply(w, x), y)))
        return operations.count(gradient, _vector(net), batch, labels)

    def forward_operations(self, net: nets.TaskNet) -> float:
        """Operations of one network's outputs for one input; what no vector reaches is computed once for all."""
        image: Any = jax.ShapeDtypeStruct((1,) + net.input_shape, jnp.float32)
        if isinstance(net, nets.PartialNet):
            image = jax.eval_shape(net.prepare, image)
        return operations.count(net.apply, _vector(net), image)

    def has_surfaces(self, net: nets.TaskNet) -> bool:
        """Whether networks are shapes in space, which have surfaces that can be meshed."""
        del net
        return False

    def pictures(self, shown: Sequence[Shown], scene: Scene) -> Iterable[Picture]:
        """Pictures of generated networks beside their nearest training networks, for the report."""
        del shown, scene
        return ()


def _vector(net: nets.TaskNet) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((net.spec.num_params,), jnp.float32)
