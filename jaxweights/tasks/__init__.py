"""Tasks: what the networks of a zoo are for. All else asks them.

To add one: a class that derives from `Task`, in a file of its own, and one line in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxweights import nets
from jaxweights.errors import UserError
from jaxweights.tasks.base import Examples, Scene, Shown, Task
from jaxweights.tasks.classification import Classification
from jaxweights.tasks.field import FieldTask
from jaxweights.tasks.policy import Policy
from jaxweights.tasks.regression import Regression
from jaxweights.tasks.terms import Terms

__all__ = ["DEFAULT", "TASKS", "Examples", "Scene", "Shown", "Task", "Terms", "build", "get"]

DEFAULT = "classification"
"""The task of a config, and of metrics, that name none."""

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), FieldTask(), Policy(), Regression())}


def get(name: str = DEFAULT) -> Task:
    """The task of a name.

    Raises:
      UserError: unknown name; the message lists the known ones.
    """
    if name not in TASKS:
        raise UserError(f"There is no task {name!r}; set task to one of {', '.join(TASKS)}.")
    return TASKS[name]


def build(net: Mapping[str, Any], shape: Sequence[int], outputs: int, task: Task | str | None = None) -> nets.TaskNet:
    """Builds a task network.

    Args:
      net: settings of the network, with its `name`, see `nets.build`.
      shape: shape of an input.
      outputs: number of outputs.
      task: the task or its name; by default the first task that takes the network.

    Raises:
      UserError: unknown names, a network of another task, or impossible settings.
    """
    if task is None:
        task = next((t for t in TASKS.values() if net.get("name") in t.networks), DEFAULT)
    return (get(task) if isinstance(task, str) else task).build(net, shape, outputs)
