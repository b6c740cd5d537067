"""Suite `zoo`: training steps of many models, in model-steps per second."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxweights import parallel, zoo
from jaxweights.zoo.supervised import pack, put
from launch.benchmarks import measure, networks
from launch.benchmarks.measure import Case, Work
from launch.benchmarks.networks import BATCH, Network

MODELS = 256
_MOST_CNNS = 4096  # their activations take 19 GiB


def cases(models: Sequence[int] = (MODELS,)) -> list[Case]:
    """Every network with own and shared batch orders for each number of models at a time, and the CNN against its naive
    vmap; models beside models take turns on a CPU, and share every step on an accelerator."""
    found = []
    kinds = (
        ("digits MLP", networks.DIGITS, models),
        ("MNIST MLP", networks.MNIST, models),
        ("CNN", networks.CNN, [count for count in models if count <= _MOST_CNNS]),
    )
    for name, network, counts in kinds:
        for order in ("own", "shared"):
            for count in counts:
                build = {
                    "ours": functools.partial(_ours, network, order, count),
                    "plain_jax": functools.partial(_plain_jax, network),
                    "torch_loop": functools.partial(_torch_loop, network),
                    "torch_func": functools.partial(_torch_func, network, order, count),
                }
                if count != models[0]:  # one model at a time is as fast whatever the others are
                    del build["plain_jax"], build["torch_loop"]
                many = "" if count == MODELS else f", {count:,} models"
                found.append(Case(f"{name}, {order} order{many}", "model-steps/s", network.training_flop(), build))
    naive = {
        "ours": functools.partial(_ours, networks.CNN, "own", MODELS),
        "plain_jax": functools.partial(_naive_vmap, networks.CNN),
    }
    found.append(Case("CNN against naive vmap", "model-steps/s", networks.CNN.training_flop(), naive))
    return found


def _ours(network: Network, order: str, models: int) -> Work:
    mesh = parallel.make_mesh()
    program = network.net.task.program(network.net, network.recipe(order), network.num_examples)
    lanes = 0 if jax.default_backend() == "cpu" else max(1, models // mesh.size)
    trainer = zoo.Trainer(program, mesh, lanes)
    data = put(pack(network.images, network.labels, np.full(1, 1 / 74), np.full(1, -128 / 74)), mesh)
    models = -(-models // trainer.group) * trainer.group
    state = trainer.init(0, np.arange(models))
    _, seconds, mib = measure.compiled(trainer._advance, state, data, jnp.array([0, 1], jnp.int32))
    box = [state]

    def run(steps):
        box[0], snapshots = trainer.advance(box[0], data, np.array([0, steps]))
        jax.block_until_ready(snapshots)

    return Work(run, lambda steps: steps * models, seconds, mib)


def _step(network: Network, apply):
    """One optimizer step of one model as a JAX tutorial writes it."""
    optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.01, 0.9, nesterov=True))

    def step(params, opt_state, images, labels):
        def loss(p):
            return optax.softmax_cross_entropy_with_integer_labels(apply({"params": p}, images), labels).mean()

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return optimizer, step


def _plain_jax(network: Network) -> Work:
    """One model at a time: a jitted step in a Python loop, batches indexed on the host."""
    optimizer, step = _step(network, _lax_apply(network))
    images, labels = network.standardised(), network.labels
    params = network.net.spec.unflatten(network.net.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    jitted = jax.jit(step)

    def run(steps):
        p, o = params, optimizer.init(params)
        for _ in range(steps):
            rows = rng.integers(0, len(labels), BATCH)
            p, o = jitted(p, o, images[rows], labels[rows])
        jax.block_until_ready(p)

    return Work(run, float)


def _naive_vmap(network: Network) -> Work:
    """All models at once by `vmap` over `lax.conv_general_dilated` and `lax.reduce_window`."""
    models = 32
    optimizer, step = _step(network, _lax_apply(network))
    images, labels = jnp.asarray(network.standardised()), jnp.asarray(network.labels)
    vectors = jax.jit(jax.vmap(network.net.init))(jax.random.split(jax.random.key(0), models))
    params = network.net.spec.unflatten(vectors)

    @jax.jit
    def many(params, opt_state, key, steps):
        def body(i, carry):
            rows = jax.random.randint(jax.random.fold_in(key, i), (models, BATCH), 0, labels.shape[0])
            params, opt_state = carry
            return jax.vmap(step)(params, opt_state, images[rows], labels[rows])

        return jax.lax.fori_loop(0, steps, body, (params, opt_state))

    opt_state = jax.vmap(optimizer.init)(params)

    def run(steps):
        jax.block_until_ready(many(params, opt_state, jax.random.key(0), steps))

    return Work(run, lambda steps: steps * models)


def _lax_apply(network: Network):
    """The network with its convolutions in the plain formulation."""
    if network.net.name == "mlp":
        return network.net.module.apply

    def apply(variables, x):
        from jaxweights.nn.conv_pool import conv_pool

        p = variables["params"]
        for name, pool in (("conv1", True), ("conv2", True), ("conv3", False)):
            x = jnp.tanh(conv_pool(x, p[name]["kernel"], p[name]["bias"], pool=pool, implementation="lax"))
        x = jnp.tanh(x.reshape(x.shape[0], -1) @ p["fc1"]["weight"].T + p["fc1"]["bias"])
        return x @ p["fc2"]["weight"].T + p["fc2"]["bias"]

    return apply


def _torch_loop(network: Network) -> Work | None:
    """One model at a time: a module, an optimizer, a Python loop."""
    torch = measure.torch()
    if torch is None:
        return None
    images, labels = network.torch_data(torch)
    model = network.torch_module(torch)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loss = torch.nn.CrossEntropyLoss()

    def run(steps):
        for _ in range(steps):
            rows = torch.randint(0, len(labels), (BATCH,))
            optimizer.zero_grad()
            loss(model(images[rows]), labels[rows]).backward()
            optimizer.step()

    return Work(run, float)


def _torch_func(network: Network, order: str, models: int, compiled: bool = False) -> Work | None:
    """All models at once: `torch.func` ensemble, gradients by `vmap(grad)`, the optimizer written out on stacked
    tensors; `compiled` under `torch.compile`, which needs a C++ compiler on a CPU."""
    torch = measure.torch()
    if torch is None:
        return None
    images, labels = network.torch_data(torch)
    module = network.torch_module(torch)
    params = {k: v.detach().repeat(models, *[1] * v.ndim) for k, v in module.named_parameters()}
    momentum = {k: torch.zeros_like(v) for k, v in params.items()}

    def loss(p, x, y):
        return torch.nn.functional.cross_entropy(torch.func.functional_call(module, p, (x,)), y)

    gradient = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None, None) if order == "shared" else 0)

    def step(rows):
        for name, g in gradient(params, images[rows], labels[rows]).items():
            g = g + 5e-4 * params[name]
            momentum[name].mul_(0.9).add_(g)
            params[name].sub_(0.01 * (g + 0.9 * momentum[name]))

    step = torch.compile(step) if compiled else step

    def run(steps):
        for _ in range(steps):
            step(torch.randint(0, len(labels), (BATCH,) if order == "shared" else (models, BATCH)))

    return Work(run, lambda steps: steps * models)
