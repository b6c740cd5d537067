"""Cases of the suite `bias`: training of a small source classifier, all trials of a transformation together.

In the column of plain JAX are the same network and optimizer, written with `lax.conv_general_dilated`, one trial after
the other; in that of PyTorch likewise, one trial after the other.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import parallel
from jaxweights.bias import classifiers, protocol
from launch.benchmarks import measure
from launch.benchmarks.measure import Case, Work

SIDE, BATCH, TRIALS, ROWS, CLASSES = 32, 64, 6, 640, 3


def cases() -> list[Case]:
    """Six trials: three repeats and three controls."""
    build = {"ours": _ours, "plain_jax": _plain, "torch_loop": _torch}
    return [Case(f"training of {TRIALS} classifiers, {SIDE} px", "images/s", None, build)]


@functools.cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (ROWS, SIDE, SIDE, 3)).astype(np.uint8), rng.integers(0, CLASSES, ROWS).astype(np.int32)


def _seen(epochs: int) -> int:
    return epochs * TRIALS * (ROWS // BATCH) * BATCH


def _ours() -> Work:
    images, labels = _data()
    rows = np.arange(ROWS)
    trials = [protocol.Trial(0, labels, rows, rows[:BATCH], seed) for seed in range(TRIALS)]
    few = classifiers.CNN(epochs=2, batch_size=BATCH)

    def run(times: int) -> None:
        for _ in range(times):
            classifiers.train(few, images[None], trials, CLASSES, parallel.make_mesh())

    return Work(run, lambda times: times * _seen(few.epochs))


def _plain() -> Work:
    images, labels = _data()
    x, y = jnp.asarray(images), jnp.asarray(labels)
    widths, optimizer = (3, *classifiers.CNN().channels), optax.adamw(3e-3, weight_decay=1e-2)

    def start(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(widths))
        he = jax.nn.initializers.he_uniform()
        kernels = [he(k, (3, 3, i, o)) for k, i, o in zip(keys[1:], widths[:-1], widths[1:], strict=True)]
        biases = [jnp.zeros((1, 1, 1, o)) for o in widths[1:]]
        return kernels, biases, he(keys[0], (widths[-1], CLASSES))

    def loss(params: Any, rows: jax.Array) -> jax.Array:
        kernels, biases, last = params
        h = (x[rows].astype(jnp.float32) - 127.5) / 74
        for kernel, bias in zip(kernels, biases, strict=True):
            order = ("NHWC", "HWIO", "NHWC")
            h = jax.nn.relu(jax.lax.conv_general_dilated(h, kernel, (2, 2), "SAME", dimension_numbers=order) + bias)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(h.mean((1, 2)) @ last, y[rows]))

    @jax.jit
    def step(params: Any, state: Any, rows: jax.Array) -> Any:  # in a scan, XLA's convolutions take one core
        updates, state = optimizer.update(jax.grad(loss)(params, rows), state, params)
        return optax.apply_updates(params, updates), state

    def run(times: int) -> None:
        for trial in range(TRIALS):
            params = start(jax.random.key(trial))
            state = optimizer.init(params)
            for number in range(times):
                order = jax.random.permutation(jax.random.key(number), ROWS)[: ROWS // BATCH * BATCH]
                for rows in order.reshape(-1, BATCH):
                    params, state = step(params, state, rows)
            jax.block_until_ready(params)

    return Work(run, _seen)


def _torch() -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    images, labels = _data()
    x, y = torch.as_tensor(images).permute(0, 3, 1, 2).contiguous(), torch.as_tensor(labels).long()
    widths, nn = (3, *classifiers.CNN().channels), torch.nn

    def run(times: int) -> None:
        for _ in range(TRIALS):
            layers: list[Any] = []
            for i, o in zip(widths[:-1], widths[1:], strict=True):
                layers += [nn.Conv2d(i, o, 3, stride=2, padding=1), nn.ReLU()]
            model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))
            optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=1e-2)
            for rows in torch.cat([torch.randperm(ROWS) for _ in range(times)]).split(BATCH):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model((x[rows].float() - 127.5) / 74), y[rows]).backward()
                optimizer.step()

    return Work(run, _seen)
