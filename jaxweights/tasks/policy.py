"""Policies that act in an environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from jaxweights import data as datasets
from jaxweights import nets
from jaxweights.evaluation import Evaluation, episodes
from jaxweights.evaluation.accuracy import wrong_if_undefined
from jaxweights.settings import Settings, setting
from jaxweights.tasks.base import Examples, Scene, Shown, Task
from jaxweights.tasks.classification import given
from jaxweights.tasks.terms import Terms
from jaxweights.zoo import Recipe, SnapshotSettings
from jaxweights.zoo.ppo import PPO, PolicyProgram

if TYPE_CHECKING:
    from jaxweights.report.style import Picture


@dataclasses.dataclass(frozen=True)
class CartPoleSettings(Settings):
    """Settings of the initial states that policies are evaluated from.

    Attributes:
      name: the environment.
      train_limit: number of training states to keep, the first ones; 0 for all.
      test_limit: number of test states to keep, the first ones; 0 for all.
    """

    SECTION: ClassVar[str] = "data"

    name: Literal["cartpole"] = "cartpole"
    train_limit: int = setting(0, at_least=0)
    test_limit: int = setting(0, at_least=0)


@dataclasses.dataclass(frozen=True)
class PolicyZoo(SnapshotSettings):
    """Settings of a zoo of policies.

    Attributes:
      steps: updates per run.
      batch_size: environments that act at the same time.
      optimizer: optimizer of actor and critic.
      ppo: how policies learn in their environment.
    """

    optimizer: Literal["adam"] = "adam"  # type: ignore[assignment]
    ppo: PPO = PPO()


class Policy(Task):
    """Policies. Success is the share of episodes that last to their end, an episode that fails before counts as an
    error, and the loss is minus the mean return."""

    name = "policy"
    terms = Terms(
        quality="success",
        measure="share of successful episodes",
        column="success (%)",
        axis="successful episodes (%)",
        tested="shares of successful episodes",
        good="successful",
        as_good="about as successful",
        explanation=(
            "Share of episodes that last to their end, and minus the mean return; an episode that fails before counts "
            "as an error."
        ),
        overlap_meaning="of the episodes that either of two policies fails, the share that both fail",
        likeness="similarity of failures",
        alike="the same failures",
        example="episode",
        inputs="initial states",
    )
    data_settings = CartPoleSettings
    zoo_settings = PolicyZoo
    default_network = "actor"
    networks = ("actor",)  # type: ignore[assignment]

    def load(self, data: CartPoleSettings, *, net: Mapping[str, Any], runs: int, data_dir: str | None = None):
        del net, runs
        return datasets.load(**given(data), data_dir=data_dir)

    def examples(self, data: CartPoleSettings, *, net: Mapping[str, Any], data_dir: str | None = None) -> Examples:
        loaded = self.load(data, net=net, runs=0)
        return Examples(loaded.train_images.shape[1:], 1, len(loaded.train_labels), len(loaded.test_labels))

    def program(self, net: nets.TaskNet, recipe: Recipe, num_examples: int) -> PolicyProgram:
        return PolicyProgram(net, recipe, num_examples)

    def evaluate(self, net, weights, inputs, targets, mesh, progress=None) -> Evaluation:
        """See `Task.evaluate`; inputs are initial states `[T, 4]`, targets without effect."""
        del targets
        returns, failed = episodes.rollouts(net, weights, inputs, mesh, progress)
        result = Evaluation(1.0 - failed.mean(axis=1), -returns, np.packbits(failed, axis=1))
        return wrong_if_undefined(result, failed.shape[1])

    def operations(self, net: nets.TaskNet, recipe: Recipe) -> tuple[float, float]:
        """An update acts for some steps and passes over them several times, with a critic as large as the actor."""
        step, forward = super().operations(net, recipe)
        ppo: PPO = recipe.settings.ppo
        update = ppo.horizon * (recipe.batch_size * forward + 2 * ppo.epochs * step)
        return update, net.module.environment.episode * forward  # type: ignore[union-attr]

    def pictures(self, shown: Sequence[Shown], scene: Scene) -> Iterable[Picture]:
        """Mean actions over the pole's angle and angular velocity."""
        from jaxweights.report import actions  # the report is above tasks: it asks them for their pictures
        from jaxweights.report.style import Picture

        for one in shown:
            drawn = actions.chart(scene.net, one.weights, scene.mesh)
            yield Picture(
                actions.draw(one.series, scene.train, drawn, scene.folder, f"actions{one.suffix}"),
                f"Actions: {one.series.label} beside the nearest training networks",
                "Mean action by angle and angular velocity of the pole, while the cart rests in the middle: red "
                "pushes towards positive positions, blue towards negative ones. A pole of positive angle leans to "
                "the positive side.",
            )
