"""DeepWeightFlow against the published modules on the same weights and inputs."""

import json

import goldens
import jax
import jax.numpy as jnp
import optax
from goldens import agree, draw

from jaxweights import flow
from jaxweights.generators.flow import Flow
from jaxweights.generators.velocity import Velocity

# Published names by ours; the layers between have no parameters.
NAMES = {"time_0": "time_embed.0", "time_1": "time_embed.2", "out": "net.11"}
NAMES |= {f"{kind}_{i}": f"net.{4 * i + shift}" for i in range(3) for kind, shift in (("dense", 0), ("norm", 1))}


def test_network_solvers_and_optimizer_agree_with_the_published_ones():
    """Outputs, both solvers' ends of nine steps, and losses, gradients and weights of five steps of AdamW."""
    golden = goldens.load("flow")
    shapes = json.loads(str(golden["shapes"]))
    drawn = draw({**shapes, **dict.fromkeys(("x", "target", "start"), (6, 7))}, 0, ones=r"net\.[159]\.weight$")
    params = {}
    for ours, theirs in NAMES.items():
        weight, bias = drawn[f"{theirs}.weight"], drawn[f"{theirs}.bias"]
        params[ours] = {"scale": weight, "bias": bias} if weight.ndim == 1 else {"kernel": weight.T, "bias": bias}
    settings = {"steps": 5, "learning_rate": 0.05, "weight_decay": 0.1}
    optimizer = Flow(**settings).stages()[0].optimizer
    module, x, t = Velocity(8, 4), drawn["x"], golden["t"]

    def velocity(params, x, times):
        return module.apply({"params": params}, x, times)

    def loss(params):
        return jnp.mean(jnp.square(velocity(params, x, t) - drawn["target"]))

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    @jax.jit
    def run(params):
        ends = [
            flow.solve(lambda x, t: velocity(params, x, t), drawn["start"], flow.grid(9), s) for s in ("euler", "rk4")
        ]
        (after, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), None, 5)
        gradient = jax.grad(loss)(params)
        picked = gradient["dense_0"]["kernel"].T, gradient["time_0"]["kernel"].T
        return velocity(params, x, t), ends, losses, picked, after["out"]["kernel"].T

    expected = golden["y"], [golden["euler"], golden["rk4"]], golden["losses"]
    gradients = golden["gradient/net.0.weight"], golden["gradient/time_embed.0.weight"]
    found = run(params)
    agree(found[:3], expected)
    # Gradients cancel in the normalisations, and AdamW divides them by their size.
    agree(found[3:], (gradients, golden["after"]), relative=1e-4)
