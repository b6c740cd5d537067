"""Suite `shapes`: meshes of occupancy fields and Chamfer distances of point clouds.

The PyTorch competitors have the structure of the published code: the whole grid on the host, evaluated in chunks of
64^3 points, then marching cubes over all of it (the loops over vertices and faces that follow there, whose result is
discarded, are left out); for Chamfer distances three batched products, two of them for the norms on their diagonals, a
sum and two minima of the whole matrix, 16 pairs at a time. Dense meshing goes slab by slab, so that a few slabs
of a grid give the rate of all.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from skimage import measure as voxels

from jaxweights import nets, parallel, tasks
from jaxweights.auditing import shapes
from jaxweights.evaluation import meshing
from launch.benchmarks import measure
from launch.benchmarks.measure import Case, Work

CLOUDS, POINTS, BATCH = 200, 2048, 16
_SLAB, _CHUNK = 8, 64**3
_FIT_STEPS, _FIT_BATCH = 1000, 1024


def cases() -> list[Case]:
    """Meshes and pairs of clouds, per second."""
    resolution = meshing.RESOLUTION
    return [
        Case(
            f"meshing a fitted aeroplane, {resolution}^3",
            "meshes/s",
            None,
            {"ours": _extract, "plain_jax": _mesh_dense, "torch_loop": _mesh_torch},
        ),
        Case(
            f"Chamfer, {CLOUDS} x {CLOUDS} clouds of {POINTS} points",
            "pairs/s",
            8.0 * POINTS**2,
            {"ours": _chamfer, "plain_jax": _chamfer_products, "torch_loop": _chamfer_torch},
        ),
    ]


def _aeroplane(points: jax.Array) -> jax.Array:
    """Distances `[n]`, negative inside: an ellipsoid with wings and a tail, the thinnest 0.012 thick."""
    body = 0.05 * (jnp.linalg.norm(points / jnp.array([[0.45, 0.05, 0.05]]), axis=1) - 1)

    def box(centre, half):
        gap = jnp.abs(points - jnp.array([centre])) - jnp.array([half])
        return jnp.linalg.norm(jnp.maximum(gap, 0), axis=1) + jnp.minimum(jnp.max(gap, axis=1), 0)

    wings = box((0.02, 0.0, 0.0), (0.07, 0.44, 0.008))
    tail = jnp.minimum(box((-0.38, 0.0, 0.01), (0.04, 0.15, 0.006)), box((-0.38, 0.0, 0.08), (0.04, 0.006, 0.08)))
    return jnp.minimum(jnp.minimum(body, wings), tail)


@functools.cache
def _field() -> tuple[nets.TaskNet, np.ndarray]:
    """The published network and weights `[P]`, fitted for a few seconds to points half near the surface."""
    net = tasks.build({"name": "field"}, (3,), 1)
    candidates = jax.random.uniform(jax.random.key(0), (400_000, 3), minval=-0.5, maxval=0.5)
    near = candidates[jnp.argsort(jnp.abs(_aeroplane(candidates)))[:40_000]]
    points = jnp.concatenate([near, candidates[: len(near)]])
    inside = (_aeroplane(points) < 0).astype(jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, _FIT_STEPS))

    def loss(vector, chosen):
        logits = net.apply(vector, points[chosen])[:, 0]
        return jnp.sum(optax.sigmoid_binary_cross_entropy(logits, inside[chosen]))

    def step(state, key):
        vector, moments = state
        gradient = jax.grad(loss)(vector, jax.random.randint(key, (_FIT_BATCH,), 0, len(points)))
        change, moments = optimizer.update(gradient, moments, vector)
        return (optax.apply_updates(vector, change), moments), None

    start = net.init(jax.random.key(1))
    keys = jax.random.split(jax.random.key(2), _FIT_STEPS)
    (vector, _), _ = jax.jit(lambda s: jax.lax.scan(step, s, keys))((start, optimizer.init(start)))
    return net, np.asarray(vector)


def _extract() -> Work:
    net, vector = _field()
    mesh = parallel.make_mesh()

    def run(times):
        found = meshing.extract(net, np.broadcast_to(vector, (times, len(vector))), mesh=mesh)
        assert all(len(x.faces) for x in found)

    return Work(run, float)


def _march(values: np.ndarray) -> None:
    """Marching cubes over a slab, which may have no surface."""
    if values.min() < meshing.LEVEL < values.max():
        voxels.marching_cubes(values, meshing.LEVEL)


def _slabs(count: int) -> list[int]:
    """First indices of slabs of the grid; consecutive ones are far from each other."""
    starts = np.arange(0, meshing.RESOLUTION - _SLAB + 1, _SLAB)
    return [int(starts[17 * i % len(starts)]) for i in range(count)]


def _of_a_mesh(slabs: int) -> float:
    return slabs * _SLAB / meshing.RESOLUTION


def _mesh_dense() -> Work:
    """All points of the grid in blocks of a thousand, spread over the devices."""
    net, vector = _field()
    mesh = parallel.make_mesh()
    side, rows = meshing.RESOLUTION, 1024
    plane = np.stack(np.meshgrid(*[np.arange(side) / (side - 1) - 0.5] * 2, indexing="ij"), axis=-1).reshape(-1, 2)

    def blocks(vector, points):
        return jax.lax.map(lambda x: net.apply(vector, x)[:, 0], points)

    evaluate = parallel.map_rows(blocks, mesh)

    def run(slabs):
        for start in _slabs(slabs):
            heights = np.repeat(np.arange(start, start + _SLAB) / (side - 1) - 0.5, len(plane))
            points = np.concatenate([heights[:, None], np.tile(plane, (_SLAB, 1))], axis=1).astype(np.float32)
            values = evaluate(vector, parallel.pad_rows(points, rows).reshape(-1, rows, 3))
            _march(np.array(values).reshape(-1)[: len(points)].reshape(_SLAB, side, side))

    return Work(run, _of_a_mesh)


def _mesh_torch() -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    net, vector = _field()
    leaves = {k: torch.as_tensor(np.array(v)) for k, v in _leaves(net, vector).items()}
    side = meshing.RESOLUTION

    def forward(x):
        x = torch.cat([x, *(f(2.0**octave * x) for octave in range(4) for f in (torch.sin, torch.cos))], dim=1)
        for layer in range(4):
            x = torch.nn.functional.linear(x, leaves[f"layers_{layer}/weight"], leaves[f"layers_{layer}/bias"])
            x = torch.relu(x) if layer < 3 else x
        return x

    def run(slabs):
        with torch.no_grad():
            for start in _slabs(slabs):
                index = torch.arange(start * side**2, (start + _SLAB) * side**2)
                samples = torch.zeros(len(index), 4)
                for axis in range(3):
                    samples[:, axis] = (index // side ** (2 - axis) % side) / (side - 1) - 0.5
                for head in range(0, len(samples), _CHUNK):
                    samples[head : head + _CHUNK, 3] = forward(samples[head : head + _CHUNK, :3])[:, 0]
                _march(samples[:, 3].contiguous().view(_SLAB, side, side).numpy())

    return Work(run, _of_a_mesh)


def _leaves(net: nets.TaskNet, vector: np.ndarray) -> dict[str, np.ndarray]:
    params = net.spec.unflatten(jnp.asarray(vector))
    return {f"{layer}/{name}": leaf for layer, leaves in params.items() for name, leaf in leaves.items()}


@functools.cache
def _clouds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, CLOUDS, POINTS, 3)).astype(np.float32)
    return first, second


def _chamfer() -> Work:
    """Row by row of the matrix, so that any number of rows is one program."""
    a, b = _clouds()
    mesh = parallel.make_mesh()

    def run(rows):
        for i in range(rows):
            shapes.chamfer(a[i % CLOUDS][None], b, mesh)

    return Work(run, lambda rows: rows * float(CLOUDS), peak_mib=_chamfer_mib(mesh))


def _chamfer_mib(mesh) -> float | None:
    """Memory of the compiled program: clouds, results and one tile per device."""
    program, shape = shapes._plan(POINTS, POINTS, mesh)
    index = jax.ShapeDtypeStruct((2, mesh.size * shape.groups, shape.pairs), jnp.int32)
    cloud = jax.ShapeDtypeStruct((CLOUDS, POINTS, 3), jnp.float32)
    return measure.compiled(program, cloud, cloud, index, jax.ShapeDtypeStruct((), jnp.int32))[2]


def _chamfer_products() -> Work:
    """The plain way: norms and one batched product."""
    a, b = _clouds()

    @jax.jit
    def batch(x, y):
        squared = jnp.sum(x**2, axis=2)[:, :, None] + jnp.sum(y**2, axis=2)[:, None, :]
        squared -= 2 * jnp.einsum("bik,bjk->bij", x, y, precision="highest")
        return squared.min(axis=1).mean(axis=1) + squared.min(axis=2).mean(axis=1)

    def run(batches):
        for i in range(batches):
            first = np.repeat(a[i % CLOUDS][None], BATCH, axis=0)
            jax.block_until_ready(batch(first, b[:BATCH]))

    return Work(run, lambda batches: batches * float(BATCH))


def _chamfer_torch() -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    a, b = (torch.as_tensor(x) for x in _clouds())
    diagonal = torch.arange(POINTS)

    def run(batches):
        for i in range(batches):
            x, y = a[i % CLOUDS].expand(BATCH, -1, -1).contiguous(), b[:BATCH]
            xx, yy, xy = (torch.bmm(u, v.transpose(2, 1)) for u, v in ((x, x), (y, y), (x, y)))
            of_x = xx[:, diagonal, diagonal].unsqueeze(1).expand_as(xx)
            of_y = yy[:, diagonal, diagonal].unsqueeze(1).expand_as(yy)
            squared = of_x.transpose(2, 1) + of_y - 2 * xy
            _ = squared.min(dim=1)[0].mean(dim=1) + squared.min(dim=2)[0].mean(dim=1)

    return Work(run, lambda batches: batches * float(BATCH))
