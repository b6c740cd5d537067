"""Suite `fields`: fitting occupancy networks of 36,737 parameters, in shapes per second of so many steps each.

The PyTorch competitor has the structure of the published code: one shape after the other, at every step random rows of
the 200,000 samples, the encoding, four linear layers, the summed cross-entropy, Adam. It is spared the loader, the
logging and the reading of every loss. Points per step: the published 2,048, and 512.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel, settings, tasks, zoo
from jaxweights.data.signals import Signals
from jaxweights.tasks.field import FieldZoo
from jaxweights.zoo.fields import FieldProgram
from launch.benchmarks import measure
from launch.benchmarks.measure import Case, Work

SAMPLES, STEPS = 200_000, 1000
BATCHES = (2048, 512)


def cases() -> list[Case]:
    """Both sizes of a step, with the products in float32 and in bfloat16."""
    found = []
    for batch in BATCHES:
        for dtype in ("float32", "bfloat16"):
            build = {
                "ours": functools.partial(_ours, batch, dtype),
                "torch_loop": functools.partial(_torch_loop, batch),
            }
            flop = STEPS * _step_flop(batch)
            found.append(Case(f"{batch} points, {STEPS} steps, {dtype}", "shapes/s", flop, build))
    return found


@functools.cache
def net() -> nets.TaskNet:
    """The network that is fitted."""
    return tasks.build({"name": "field"}, (3,), 1)


def _step_flop(batch: int) -> float:
    """Forward, gradient of the weights, and of the inputs of all layers but the first."""
    layers = [2.0 * batch * math.prod(leaf.shape) for leaf in net().spec.leaves if len(leaf.shape) == 2]
    return 3 * sum(layers) - layers[0]


@functools.cache
def _signals(count: int) -> Signals:
    """Balls; which shapes they are does not matter here."""
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (count, SAMPLES, 3)).astype(np.float32)
    inside = np.linalg.norm(points, axis=-1) < np.linspace(0.2, 0.4, count)[:, None]
    names = tuple(str(i) for i in range(count))
    return Signals("occupancy", names, points, np.packbits(inside, axis=1), np.zeros((count, 0, 3), np.float32))


def _ours(batch: int, dtype: str) -> Work:
    config = {"steps": 10**9, "batch_size": batch, "optimizer": "adam", "learning_rate": 0.01, "dtype": dtype}
    config |= {"schedule": "plateau", "plateau": {"stop_patience": 0}}
    recipe = zoo.Recipe.from_settings(settings.make(FieldZoo, config), SAMPLES)
    trainer = zoo.Trainer(FieldProgram(net(), recipe, SAMPLES), parallel.make_mesh())
    runs = np.arange(trainer.group)
    data = trainer.select(_signals(len(runs)), runs)
    state = trainer.init(0, runs)
    _, seconds, mib = measure.compiled(trainer._advance, state, data, jnp.array([0, 1], jnp.int32))
    box = [state]

    def run(steps):
        box[0], weights = trainer.advance(box[0], data, np.array([0, steps]))
        jax.block_until_ready(weights)

    return Work(run, lambda steps: steps * len(runs) / STEPS, seconds, mib)


def _torch_loop(batch: int) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    signals = _signals(max(2, parallel.num_cores()))
    inside = np.unpackbits(signals.values[0])[:SAMPLES, None].astype(np.float32)
    samples = torch.as_tensor(np.concatenate([signals.points[0], inside], axis=1))
    layers = [torch.nn.Linear(i, o) for i, o in ((27, 128), (128, 128), (128, 128), (128, 1))]
    optimizer = torch.optim.Adam([p for layer in layers for p in layer.parameters()], 0.01)

    def forward(points):
        x = torch.cat([points] + [g(f * points) for f in (1.0, 2.0, 4.0, 8.0) for g in (torch.sin, torch.cos)], dim=-1)
        for layer in layers[:-1]:
            x = torch.relu(layer(x))
        return layers[-1](x)

    def run(steps):
        for _ in range(steps):
            rows = samples[torch.randint(0, SAMPLES, (batch,))]
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                forward(rows[:, :3]), rows[:, 3:], reduction="sum"
            )
            loss.backward()
            optimizer.step()

    return Work(run, lambda steps: steps / STEPS)
