"""Zoos of the tests: recipes from a few settings, trainers, and zoos in a folder."""

from jaxweights import settings, tasks, zoo


def recipe(task, num_examples, **values):
    """A recipe of a task from the settings that differ from its defaults."""
    return zoo.Recipe.from_settings(settings.make(tasks.get(task).zoo_settings, values), num_examples)


def trainer(net, the_recipe, num_examples, mesh, lanes=0):
    """A trainer of a network by its own task."""
    return zoo.Trainer(net.task.program(net, the_recipe, num_examples), mesh, lanes)
