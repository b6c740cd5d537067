"""What networks do on the training examples of their task: the loss there, and further steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import nets, tasks
from jaxweights.data import standardise
from jaxweights.generators.base import Known
from jaxweights.population import TaskExamples

NET = "net"
_MOMENTUM = 0.9  # of further steps of training


def possible(net: nets.TaskNet) -> bool:
    """Whether a network has a cross-entropy, and weights of its own alone."""
    return isinstance(net.task, tasks.Classification) and not isinstance(net, nets.PartialNet)


def constants(examples: TaskExamples, most: int) -> dict[str, Any]:
    """The network and at most so many training examples, evenly spaced: `net` (static), `inputs` `[M, ...]` float32,
    standardised, and `labels` `[M]` int32."""
    data = examples.dataset
    count = len(data.train_labels)
    rows = np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)
    inputs = np.asarray(standardise(data.train_images[rows], data.scale, data.shift))
    return {NET: Known(examples.net), "inputs": inputs, "labels": np.asarray(data.train_labels[rows], np.int32)}


def drawn(constants: Mapping[str, Any], keys: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Inputs `[n, count, ...]` and labels `[n, count]` of random examples for every key `[n]`, with replacement."""
    inputs, labels = jnp.asarray(constants["inputs"]), jnp.asarray(constants["labels"])
    rows = jax.vmap(lambda key: jax.random.randint(key, (count,), 0, len(labels)))(keys)
    return inputs[rows], labels[rows]


def loss(net: nets.TaskNet, weights: jax.Array, inputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross-entropy `[n]` in nats of networks `[n, P]`, each on inputs `[n, m, ...]` of its own."""
    logits = jax.vmap(net.apply)(weights, inputs)
    return jnp.mean(nets.cross_entropy(logits, labels), axis=-1)


def divergence(net: nets.TaskNet, weights: jax.Array, targets: jax.Array, inputs: jax.Array) -> jax.Array:
    """Mean Kullback-Leibler divergence `[n]` in nats of the predictions of networks `[n, P]` from those of others
    `[n, P]`, each on inputs `[n, m, ...]` of its own."""
    expected, found = (jax.nn.log_softmax(jax.vmap(net.apply)(rows, inputs)) for rows in (targets, weights))
    return jnp.mean(jnp.sum(jnp.exp(expected) * (expected - found), axis=-1), axis=-1)


def total_loss(constants: Mapping[str, Any], weights: jax.Array) -> jax.Array:
    """Mean cross-entropy `[n]` in nats of networks `[n, P]` on all examples that are kept."""
    net, inputs, labels = constants[NET].value, constants["inputs"], constants["labels"]
    return jax.lax.map(lambda row: jnp.mean(nets.cross_entropy(net.apply(row, inputs), labels)), weights)


def total_accuracy(constants: Mapping[str, Any], weights: jax.Array) -> jax.Array:
    """Share `[n]` of all examples that are kept which networks `[n, P]` get right."""
    net, inputs, labels = constants[NET].value, constants["inputs"], constants["labels"]
    return jax.lax.map(
        lambda row: jnp.mean(jnp.argmax(net.apply(row, inputs), axis=-1) == labels, dtype=jnp.float32), weights
    )


def trained(
    constants: Mapping[str, Any],
    weights: jax.Array,
    keys: jax.Array,
    steps: int,
    rate: float,
    batch_size: int,
    weight_decay: float = 0.0,
) -> jax.Array:
    """Networks `[n, P]` after steps of SGD with Nesterov momentum of 0.9, each on batches of its own, under a rate that
    falls to 0 along a cosine; weight decay is that of zoos, added to the gradient."""
    net = constants[NET].value
    sgd = optax.sgd(optax.cosine_decay_schedule(rate, steps), _MOMENTUM, nesterov=True)
    optimizer: Any = optax.chain(optax.add_decayed_weights(weight_decay), sgd)

    def some(rows: jax.Array, keys: jax.Array) -> jax.Array:
        def step(carry: tuple[jax.Array, Any], number: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
            rows, state = carry
            batch = drawn(constants, jax.vmap(lambda key: jax.random.fold_in(key, number))(keys), batch_size)
            gradient = jax.grad(lambda w: jnp.sum(loss(net, w, *batch)))(rows)
            updates, state = optimizer.update(gradient, state, rows)
            return (rows + updates, state), None

        return jax.lax.scan(step, (rows, optimizer.init(rows)), jnp.arange(steps))[0][0]

    if net.convolutional and jax.default_backend() == "cpu":
        # One after the other, as zoos of such networks are trained; a hundred together take many times as long.
        return jax.lax.map(lambda one: some(one[0][None], one[1][None])[0], (weights, keys))
    return some(weights, keys)
