"""Suite `evaluate`: accuracy, loss and error masks of many models on a whole test set, in model-images per second."""

from __future__ import annotations

import functools
import time

import jax
import numpy as np

from jaxweights import parallel
from jaxweights.evaluation import evaluate
from launch.benchmarks import measure, networks
from launch.benchmarks.measure import Case, Work
from launch.benchmarks.networks import Network


def cases() -> list[Case]:
    """Populations of the three networks.

    All models of the CNN's population take minutes; the first 128 of them are one full dispatch on two CPU devices,
    and later dispatches cost the same.
    """
    shapes = (
        ("digits MLP, 2048 models x 360 images", networks.DIGITS, 2048, 360),
        ("MNIST MLP, 512 models x 10000 images", networks.MNIST, 512, 10_000),
        ("CNN, 2896 models x 10000 images (measured on 128 models)", networks.CNN, 128, 10_000),
    )
    return [
        Case(
            name,
            "model-images/s",
            sum(network.forward_flop()),
            {
                "ours": functools.partial(_ours, network, models, images),
                "plain_jax": functools.partial(_plain_jax, network, images),
                "torch_loop": functools.partial(_torch_loop, network, images),
            },
        )
        for name, network, models, images in shapes
    ]


def _data(network: Network, images: int):
    return network.standardised()[:images], network.labels[:images]


def _ours(network: Network, models: int, images: int) -> Work:
    mesh = parallel.make_mesh()
    weights = np.asarray(jax.jit(jax.vmap(network.net.init))(jax.random.split(jax.random.key(0), models)))
    x, y = _data(network, images)

    def run(times):
        for _ in range(times):
            evaluate(network.net, weights, x, y, mesh)

    return Work(
        run, lambda times: times * models * len(y), compile_s=_compile_seconds(network, weights[:1], x, y, mesh)
    )


def _compile_seconds(network: Network, weights, x, y, mesh) -> float:
    """How much longer a first call takes than a second, for one model: whole runs vary by more than that."""
    took = []
    for _ in range(2):
        begin = time.perf_counter()
        evaluate(network.net, weights, x, y, mesh)
        took.append(time.perf_counter() - begin)
    return max(0.0, took[0] - took[1])


def _plain_jax(network: Network, images: int) -> Work:
    """One model at a time: a jitted forward pass in a Python loop."""
    vector = network.net.init(jax.random.key(0))
    x, y = _data(network, images)
    x = jax.device_put(x)
    apply = jax.jit(network.net.apply)

    def run(times):
        for _ in range(times):
            wrong = np.asarray(apply(vector, x)).argmax(axis=1) != y
            wrong.mean()

    return Work(run, lambda times: times * len(y))


def _torch_loop(network: Network, images: int) -> Work | None:
    """One model at a time: a forward pass in a Python loop."""
    torch = measure.torch()
    if torch is None:
        return None
    x, y = (t[:images] for t in network.torch_data(torch))
    model = network.torch_module(torch)

    def run(times):
        with torch.no_grad():
            for _ in range(times):
                logits = model(x)
                torch.nn.functional.cross_entropy(logits, y)
                (logits.argmax(dim=1) != y).float().mean()

    return Work(run, lambda times: times * len(y))
