"""Meshes: coarse-to-fine extraction equals the dense grid, a known surface has its closed form, orientation points
outward, the surface is followed out of the blocks that coarse values tell of, devices change nothing, empty fields are
empty; points on surfaces have the distribution of their area.

The known surface: with weights set by hand, the logit is g (cos x + cos y + cos z - c).
"""

import jax
import numpy as np
import pytest
from skimage import measure

from jaxweights import parallel, tasks
from jaxweights.errors import UserError
from jaxweights.evaluation import meshing

RESOLUTION = 45
_GAIN, _SUM = 50.0, 2.95


@pytest.fixture(scope="module")
def net():
    return tasks.build({"name": "field", "hidden": (16, 16)}, (3,), 1)


@pytest.fixture(scope="module")
def cosines(net) -> np.ndarray:
    """`[P]` weights of the known surface, made of units that a ReLU lets pass."""
    params = jax.tree.map(np.array, net.spec.unflatten(np.zeros(net.spec.num_params, np.float32)))
    features = [f"{name}{axis}" for name in ("x", "s1", "c1") for axis in "xyz"]
    params["layers_0"]["weight"][0, [features.index(f"c1{axis}") for axis in "xyz"]] = 1.0
    params["layers_1"]["weight"][0, 0] = 1.0
    params["layers_2"]["weight"][0, 0] = _GAIN
    params["layers_2"]["bias"][0] = -_GAIN * _SUM
    return np.asarray(net.spec.flatten(params))


@pytest.fixture(scope="module")
def wild(net) -> np.ndarray:
    """`[3, P]` random weights, whose surfaces have several parts and leave the cube."""
    keys = jax.random.split(jax.random.key(0), 3)
    return 3.0 * np.asarray(jax.jit(jax.vmap(net.init))(keys))


def _dense(net, vector, level, resolution=RESOLUTION):
    """Marching cubes over the whole grid, and the volume."""
    axis = np.arange(resolution, dtype=np.float32) / (resolution - 1) - 0.5
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    values = np.array(jax.jit(net.apply)(vector, points)).reshape((resolution,) * 3)
    vertices, faces, *_ = measure.marching_cubes(values, level)
    return vertices / (resolution - 1) - 0.5, faces[:, ::-1], values


def _volume(shape: meshing.Mesh) -> float:
    """Signed, by the divergence theorem; positive if faces are counter-clockwise seen from outside."""
    a, b, c = np.moveaxis(shape.vertices[shape.faces].astype(np.float64), 1, 0)
    return float(np.einsum("ni,ni->n", a, np.cross(b, c)).sum() / 6)


def _median_level(net, vector) -> float:
    points = np.random.default_rng(1).uniform(-0.5, 0.5, (2000, 3)).astype(np.float32)
    return float(np.median(jax.jit(net.apply)(vector, points)))


@pytest.mark.parametrize("resolution", [RESOLUTION, 42])
def test_equals_the_dense_grid(net, cosines, wild, resolution, mesh):
    vectors = np.stack([cosines, *wild])
    level = float(np.median([_median_level(net, v) for v in wild]))
    for i, shape in enumerate(meshing.extract(net, vectors, resolution=resolution, level=level, mesh=mesh)):
        vertices, faces, _ = _dense(net, vectors[i], level, resolution)
        np.testing.assert_array_equal(shape.faces, faces)
        # A rounding of the logit moves a vertex by that over the slope, here less than a thousandth of a voxel.
        np.testing.assert_allclose(shape.vertices, vertices, atol=1e-3 / resolution)
        assert shape.vertices.dtype == np.float32 and shape.faces.dtype == np.int32


@pytest.mark.parametrize("coarse", [1, 3, 8])
def test_spacing_of_coarse_points_changes_nothing(net, wild, coarse, mesh):
    level = _median_level(net, wild[0])
    vertices, faces, _ = _dense(net, wild[0], level)
    (shape,) = meshing.extract(net, wild[:1], resolution=RESOLUTION, level=level, coarse=coarse, mesh=mesh)
    np.testing.assert_array_equal(shape.faces, faces)
    np.testing.assert_allclose(shape.vertices, vertices, atol=1e-3 / RESOLUTION)


def test_evaluates_only_near_the_surface(net, cosines, mesh):
    evaluator = meshing._Evaluator(net, 300, 4, mesh)
    field = meshing._Blocks(evaluator, cosines[None], evaluator.coarse(cosines[None])(), 0.0)
    corners = np.linspace(-0.5, 0.5, evaluator.cells + 1)  # a ball of radius 0.32, 0.013 between coarse points
    away = np.abs(np.linalg.norm(np.stack(np.meshgrid(*[corners[:-1]] * 3)), axis=0) - 0.32)
    assert field._active[away < 0.005].all() and not field._active[away > 0.1].any()


def test_follows_the_surface_from_one_block(net, cosines, mesh):
    """The coarse values are replaced by ones that tell of a single spot of the surface."""
    level = 0.0
    vertices, faces, values = _dense(net, cosines, level)
    evaluator = meshing._Evaluator(net, RESOLUTION, 4, mesh)
    lattice = np.full((evaluator.cells + 1,) * 3, -1.0, np.float32)
    inside = np.argwhere(values[::4, ::4, ::4] > level)
    lattice[tuple(inside[inside[:, 0].argmax()])] = 1e-3
    field = meshing._Blocks(evaluator, cosines[None], lattice, level)
    before = field._active.sum()
    field.flood(field.start())
    assert field._active.sum() > 2 * before
    shape = field.march()
    np.testing.assert_array_equal(shape.faces, faces)
    np.testing.assert_allclose(shape.vertices, vertices, atol=1e-3 / RESOLUTION)


def test_known_surface(net, cosines, mesh):
    (shape,) = meshing.extract(net, cosines[None], resolution=RESOLUTION, level=0.0, mesh=mesh)
    on_surface = np.cos(shape.vertices).sum(axis=1)
    # Interpolation between grid points errs by at most an eighth of a squared voxel times the second derivative, 1.
    assert np.abs(on_surface - _SUM).max() < 1 / 8 / (RESOLUTION - 1) ** 2 + 1e-6
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (1_000_000, 3))
    volume = (np.cos(points).sum(axis=1) > _SUM).mean()  # standard error 4e-4
    assert _volume(shape) == pytest.approx(volume, abs=2e-3)
    assert len(np.unique(shape.faces)) == len(shape.vertices)


def test_level_is_that_of_the_logit(net, cosines, mesh):
    low, high = (
        meshing.extract(net, cosines[None], resolution=RESOLUTION, level=x, mesh=mesh)[0] for x in (0.0, meshing.LEVEL)
    )
    assert pytest.approx(np.log(0.8 / 0.2)) == meshing.LEVEL
    assert 0 < _volume(high) < _volume(low)
    assert np.abs(np.cos(high.vertices).sum(axis=1) - _SUM - meshing.LEVEL / _GAIN).max() < 2e-4


def test_empty_fields_are_empty_and_keep_their_place(net, cosines, mesh):
    outside, broken = cosines.copy(), cosines.copy()
    outside[-1] = -1000.0
    broken[0] = np.nan
    empty = [outside, -outside, broken]
    shapes = meshing.extract(net, np.stack([*empty, cosines]), resolution=20, level=0.0, mesh=mesh)
    assert [len(s.faces) for s in shapes[:3]] == [0, 0, 0] and len(shapes[3].faces)
    points, ok = meshing.surface_points(shapes, 64, jax.random.key(0), mesh=mesh)
    assert ok.tolist() == [False, False, False, True]
    assert not points[:3].any() and points[3].all(axis=0).any()
    assert meshing.extract(net, np.zeros((0, net.spec.num_params)), resolution=20, mesh=mesh) == []
    points, ok = meshing.surface_points([], 64, jax.random.key(0), mesh=mesh)
    assert points.shape == (0, 64, 3) and ok.shape == (0,)


def test_progress_counts_networks(net, cosines, mesh):
    seen = []
    meshing.extract(net, np.stack([cosines] * 3), resolution=20, mesh=mesh, progress=lambda *x: seen.append(x))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_refuses_what_has_no_mesh(net, cosines, mesh):
    with pytest.raises(UserError, match="three coordinates"):
        meshing.extract(tasks.build({"name": "field"}, (2,), 1), cosines[None], mesh=mesh)
    with pytest.raises(UserError, match="no cells"):
        meshing.extract(net, cosines[None], resolution=1, mesh=mesh)


def _box() -> meshing.Mesh:
    """Two separate right triangles in the plane z = 0 and one far smaller, of areas 0.5, 1.5 and nothing."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]], np.float32)
    return meshing.Mesh(vertices, np.array([[0, 1, 2], [3, 4, 5], [3, 3, 5]], np.int32))


def test_points_are_even_by_area():
    count = 20_000
    points, ok = meshing.surface_points([_box()], count, jax.random.key(3))
    assert ok.all() and points.dtype == np.float32 and not points[..., 2].any()
    second = points[0, :, 0] >= 5
    # Four standard errors each; means over a triangle are its corners' mean.
    assert second.mean() == pytest.approx(0.75, abs=4 * np.sqrt(0.75 * 0.25 / count))
    np.testing.assert_allclose(points[0, ~second].mean(axis=0), [1 / 3, 1 / 3, 0], atol=4 * 0.24 / np.sqrt(count / 4))
    np.testing.assert_allclose(points[0, second].mean(axis=0), [6, 1 / 3, 0], atol=4 * 0.71 / np.sqrt(count * 3 / 4))
    # Uniform inside, not only in the mean: barycentric x + y of a uniform point has the distribution function t^2.
    assert (points[0, ~second, :2].sum(axis=1) < 0.5).mean() == pytest.approx(0.25, abs=0.03)
    assert points[0, ~second, :2].sum(axis=1).max() <= 1 + 1e-6 and points.min() >= 0


def test_points_depend_on_key_and_place_alone(net, cosines, mesh):
    shape = meshing.extract(net, cosines[None], resolution=20, level=0.0, mesh=mesh)[0]
    many, _ = meshing.surface_points([_box(), shape, _box()], 100, jax.random.key(0), mesh=mesh)
    few, _ = meshing.surface_points([meshing.EMPTY, shape], 100, jax.random.key(0), mesh=parallel.make_mesh(1))
    np.testing.assert_array_equal(many[1], few[1])
    assert (many[0] != many[2]).any()
    other, _ = meshing.surface_points([meshing.EMPTY, shape], 100, jax.random.key(1), mesh=mesh)
    assert (many[1] != other[1]).any()
    assert np.abs(np.cos(many[1]).sum(axis=1) - _SUM).max() < 1 / 8 * 3 / 19**2
