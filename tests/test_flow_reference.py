"""DeepWeightFlow and weightflow against the published modules on the same weights and inputs."""

import json
import re
from typing import Any

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
from goldens import agree, draw

from jaxweights import flow, tasks
from jaxweights.generators.baselines import Static
from jaxweights.generators.flow import Flow
from jaxweights.generators.flow.classes import ClassVelocity
from jaxweights.generators.flow.graph import Graph, GraphTransformer
from jaxweights.generators.velocity import Velocity

# Published names by ours; the layers between have no parameters.
NAMES = {"time_0": "time_embed.0", "time_1": "time_embed.2", "out": "net.11"}
NAMES |= {f"{kind}_{i}": f"net.{4 * i + shift}" for i in range(3) for kind, shift in (("dense", 0), ("norm", 1))}


def test_network_solvers_and_optimizer_agree_with_the_published_ones():
    """Outputs, both solvers' ends of nine steps, and losses, gradients and weights of five steps of AdamW."""
    golden = goldens.load("flow")
    shapes = json.loads(str(golden["shapes"]))
    drawn = draw({**shapes, **dict.fromkeys(("x", "target", "start"), (6, 7))}, 0, ones=r"net\.[159]\.weight$")
    params = {ours: layer(drawn, theirs) for ours, theirs in NAMES.items()}
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


def test_a_velocity_that_is_told_classes_agrees_with_the_published_one():
    golden = goldens.load("weightflow")
    drawn = draw({**json.loads(str(golden["class_shapes"])), "x": (3, 7)}, 2, ones=r"net\.[159]\.weight$")
    velocity = {ours: layer(drawn, theirs) for ours, theirs in NAMES.items()}
    params = {"velocity": velocity, "class_0": layer(drawn, "class_embed.0"), "class_1": layer(drawn, "class_embed.2")}
    module = ClassVelocity(8, 4, 0, 0.1, 4, 3, "scalar")
    classes = np.array([0, 2, 1])
    found = jax.jit(module.apply)({"params": params}, drawn["x"], golden["t"], None, classes)
    agree(found, golden["class_y"])


def test_the_graph_transformer_and_the_loss_on_spheres_agree_with_the_published_ones():
    """Published vectors have all matrices `[in, out]` before all biases."""
    golden, net = goldens.load("weightflow"), tasks.build({"name": "mlp", "hidden": (4,)}, (1, 3, 1), 2)
    spec, graph = net.spec, Graph(net.spec)
    drawn = draw({**json.loads(str(golden["shapes"])), "x": (3, spec.num_params)}, 0, ones=r"ln\d?.*weight$")
    drawn = {name: value if name == "x" or re.search(r"ln\d", name) else 3 * value for name, value in drawn.items()}
    names = {f"{ours}_{i}": f"{theirs}.{2 * i}" for ours, theirs in GRAPH_CHAINS.items() for i in range(3)} | GRAPH_IN
    params = {ours: layer(drawn, theirs) for ours, theirs in names.items()}
    params["positions"] = drawn["construct_graph.pos_embed"]
    for i in range(2):
        params[f"block_{i}"] = {ours: layer(drawn, f"layers.{i}.{theirs}") for ours, theirs in GRAPH_BLOCK.items()}
    matrices = [np.arange(s.start, s.stop).reshape(leaf.shape).T for leaf, s in spec.spans() if len(leaf.shape) == 2]
    order = np.concatenate([*(places.ravel() for places in matrices), graph.biases])
    vectors = np.empty_like(drawn["x"])
    vectors[:, order] = drawn["x"]
    module = GraphTransformer(graph, 4, 2, 2, published=True)
    found = jax.jit(module.apply)({"params": params}, vectors, golden["t"])
    agree(found[:, order], golden["y"], relative=1e-4)  # outputs of several units from sums of size 50
    rng = np.random.RandomState(1)
    u, v = (rng.normal(size=spec.num_params) for _ in range(2))
    difference = np.empty((1, spec.num_params), np.float32)
    difference[:, order] = v - u
    settings: dict[str, Any] = {"scale": "unit", "geometry": "spheres", "solver": "euler", "sphere_loss": "published"}
    space = Flow(**settings).space({"spec": Static(spec)})
    agree(space.error(jnp.asarray(difference)), golden["sphere_loss"])


def layer(drawn, name):
    """Our parameters of a published layer."""
    weight, bias = drawn[f"{name}.weight"] if f"{name}.weight" in drawn else drawn[name], drawn.get(f"{name}.bias")
    if weight.ndim == 1:
        return {"scale": weight, "bias": bias}
    return {"kernel": weight.T} | ({} if bias is None else {"bias": bias})


GRAPH_CHAINS = {
    "edge": "construct_graph.proj_weight",
    "node": "construct_graph.proj_bias",
    "edge_out": "edge_proj_out",
    "node_out": "node_proj_out",
}
GRAPH_IN = {f"{kind}_in": f"construct_graph.proj_{kind}_in" for kind in ("edge", "node")}
GRAPH_BLOCK = {
    "node_queries": "self_attn.qkv_node",
    "edge_queries": "self_attn.qkv_edge",
    "attended": "self_attn.proj_out",
    "mixed": "lin0",
    "node_norm_0": "node_ln0",
    "node_norm_1": "node_ln1",
    "node_0": "node_mlp.0",
    "node_1": "node_mlp.2",
    "edge_edges": "edge_updates.edge_mlp0.lin0_e",
    "edge_sources": "edge_updates.edge_mlp0.lin0_s",
    "edge_targets": "edge_updates.edge_mlp0.lin0_t",
    "edge_update": "edge_updates.edge_mlp0.lin1",
    "edge_norm_0": "edge_updates.eln0",
    "edge_norm_1": "edge_updates.eln1",
    "edge_0": "edge_updates.edge_mlp1.0",
    "edge_1": "edge_updates.edge_mlp1.2",
}
"""Published names by ours."""
