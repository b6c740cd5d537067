"""Shapes as data: distances against closed forms, samples that are where they should be, and unfit files refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from jaxweights import data
from jaxweights.data import shapes
from jaxweights.data.shapes import families, sampling, solids, triangles, voxels
from jaxweights.data.shapes.clouds import unseen_clouds
from jaxweights.data.shapes.meshes import Meshes, read_mesh
from jaxweights.data.shapes.procedural import Procedural, distances, surface_points
from jaxweights.errors import UserError

SIZES = {"runs": 5, "unseen": 3, "samples": 2048, "surface": 512, "probes": 256}


@functools.cache
def chairs() -> data.Dataset:
    return shapes.load("chairs", **SIZES)


def bits(signals) -> np.ndarray:
    return np.unpackbits(signals.values, axis=1, count=signals.num_points)


def grid(side: int) -> np.ndarray:
    axis = (np.arange(side) + 0.5) / side - 0.5
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)


def one_part(*, cone=None, plate=None) -> solids.Solid:
    """A solid of one cone or plate, the other being absent, in a stack of its own."""
    cone = cone or ([0, 0, 0], [0, 0, 0.1], 0.1, 0.1)
    plate = plate or (np.zeros((4, 2)), 0.1, 0.1, 0.1)
    hinge = solids.Hinge(jnp.zeros(3), jnp.array([1.0, 0, 0]), jnp.zeros(()))
    parts = solids.Cones(*(jnp.asarray([x], jnp.float32) for x in cone), jnp.array([True]), jnp.array([False]))
    corners, rim, half, rounding = (jnp.asarray([x], jnp.float32) for x in plate)
    flat = solids.Plates(
        jnp.zeros((1, 3)), jnp.eye(3)[None], corners, rim, half, rounding, jnp.array([True]), jnp.array([False])
    )
    if plate[0] is not None and np.any(plate[0]):
        parts = parts._replace(present=jnp.array([False]))
    else:
        flat = flat._replace(present=jnp.array([False]))
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], solids.Solid(parts, flat, jnp.asarray(1e-3), hinge))


# ---- distances ----


def test_distances_of_ball_cone_and_box_are_their_closed_forms():
    points = grid(20)
    ball = one_part(cone=([0.1, 0, 0], [0.1, 0, 0], 0.25, 0.25))
    expected = np.linalg.norm(points - [0.1, 0, 0], axis=1) - 0.25
    # 1e-6 under the square roots keeps their gradients finite.
    np.testing.assert_allclose(distances(ball, points[None])[0], expected, atol=2e-6)

    # A cone is the hull of two balls: the union of all balls between.
    cone = one_part(cone=([-0.2, 0, 0], [0.2, 0, 0.1], 0.2, 0.05))
    share = np.linspace(0, 1, 2001)[:, None]
    centres, radii = [-0.2, 0, 0] + share * [0.4, 0, 0.1], (0.2 - 0.15 * share)[:, 0]
    expected = np.min(np.linalg.norm(points[:500, None] - centres, axis=2) - radii, axis=1)
    np.testing.assert_allclose(distances(cone, points[None, :500])[0], expected, atol=1e-5)

    half = np.array([0.3, 0.2, 0.1])
    corners = [(0.3, -0.2), (0.3, 0.2), (-0.3, 0.2), (-0.3, -0.2)]
    box = one_part(plate=(corners, 0.0, 0.1, 0.0))
    beyond = np.abs(points) - half
    expected = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)
    np.testing.assert_allclose(distances(box, points[None])[0], expected, atol=2e-6)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_distance_never_exceeds_the_true_one_and_shapes_fill_their_box(family):
    solid = Procedural(family, 6, 1, False, 0).solids(np.arange(6))
    rng = np.random.default_rng(0)
    points = rng.uniform(-0.5, 0.5, (1, 4096, 3)).astype(np.float32)
    moved = points + rng.normal(0, 0.02, points.shape).astype(np.float32)
    slope = np.abs(distances(solid, moved) - distances(solid, points)) / np.linalg.norm(moved - points, axis=2)
    # float32 rounding of coordinates near 1, over steps of about 0.03.
    assert 0.9 < slope.max() < 1.001
    # Nothing reaches out of the box: planes just outside of it are at a distance, up to blends.
    outside = np.concatenate([sign * 0.479 * axis + grid(12) * (1 - axis) for axis in np.eye(3) for sign in (-1, 1)])
    assert (distances(solid, outside[None].astype(np.float32)) > 0).all()


def test_every_shape_is_another_and_depends_on_its_number_alone():
    draws = families.draw("planes", 3, np.arange(4000))
    np.testing.assert_array_equal(draws[[17, 3999]], families.draw("planes", 3, [17, 3999]))
    assert len(np.unique(draws.round(4), axis=0)) == 4000
    assert not np.isclose(draws[:100], families.draw("planes", 4, np.arange(100))).all(axis=1).any()
    values = families.parameters("planes", draws)
    for name, (low, high) in families.PLANE.items():
        assert low <= values[name].min() and values[name].max() <= high and np.ptp(values[name]) > 0.9 * (high - low)

    few = shapes.load("chairs", **{**SIZES, "runs": 2, "unseen": 1})
    for part in ("signals", "unseen"):
        small, large = getattr(few, part), getattr(chairs(), part)
        for field in ("points", "values", "surface"):
            np.testing.assert_array_equal(getattr(small, field), getattr(large, field)[: len(small)])
    occupied = bits(shapes.load("chairs", **SIZES, seed=1).signals)
    assert (occupied != bits(chairs().signals)).any()


# ---- samples ----


def test_samples_are_near_the_surface_then_uniform_and_labelled_by_the_distance():
    dataset = chairs()
    solid = Procedural("chairs", 5, 3, False, 0).solids(np.arange(5))
    signals = dataset.signals
    away = distances(solid, signals.points)
    np.testing.assert_array_equal(bits(signals), away < 0)
    near, uniform = away[:, :1024], signals.points[:, 1024:]
    # The component of N(0, 0.01^2)^3 along the normal; less where parts are thin.
    assert 0.006 < np.abs(near).mean() < 0.009 and 0.35 < (near < 0).mean() < 0.5
    # Deviation of the mean of 5120 uniform numbers, five times.
    assert np.abs(uniform.mean((0, 1))).max() < 5 * 12**-0.5 / 5120**0.5 and 0.49 < np.abs(uniform).max() <= 0.5
    assert np.abs(distances(solid, signals.surface)).max() < 5e-4
    assert all(len(np.unique(points, axis=0)) == 512 for points in signals.surface)
    assert signals.names == tuple(f"chairs-0-{i}" for i in range(5)) and not set(signals.names) & set(
        dataset.unseen.names
    )


def test_surface_points_are_even_by_area():
    """Shares of a ball's surface between heights (Archimedes) and of a box's six faces."""

    def sample(solid):
        return surface_points(solid, np.zeros((1, 1), np.float32), [np.random.default_rng(0)], 8192)[0, 0]

    points = sample(one_part(cone=([0, 0, 0], [0, 0, 0], 0.4, 0.4)))
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 0.4, atol=1e-5)
    counts = np.histogram(points[:, 2], 8, (-0.4, 0.4))[0]
    assert np.abs(counts - 1024).max() < 4 * 1024**0.5

    corners = [(0.4, -0.3), (0.4, 0.3), (-0.4, 0.3), (-0.4, -0.3)]
    points = sample(one_part(plate=(corners, 0.0, 0.02, 0.0)))
    areas = np.array([0.6 * 0.04, 0.8 * 0.04, 0.8 * 0.6]) * 2
    side = np.argmin(np.abs(np.abs(points) - [0.4, 0.3, 0.02]), axis=1)
    counts, expected = np.bincount(side, minlength=3), 8192 * areas / areas.sum()
    assert (np.abs(counts - expected) < 4 * expected**0.5).all()


def test_probe_points_separate_shapes_and_are_labelled():
    dataset = chairs()
    assert dataset.test_images.shape == (256, 3) and dataset.test_labels.shape == (256, 3)
    source = Procedural("chairs", 5, 3, False, 0)
    np.testing.assert_array_equal(dataset.train_labels, source.inside(np.arange(5), dataset.test_images[None]).T)
    np.testing.assert_array_equal(dataset.test_labels, source.inside(np.arange(5, 8), dataset.test_images[None]).T)
    assert dataset.train_labels[128:].any(axis=1).all()
    assert dataset.train_labels[:128].mean() < 0.15


def test_moving_shapes_have_a_period_and_points_on_their_surface_at_all_times():
    dataset = shapes.load("chairs", **{**SIZES, "runs": 2, "unseen": 1, "samples": 1024, "surface": 64}, moving=True)
    assert dataset.signals.points.shape == (2, 1024, 4) and dataset.scale.shape == (4,)
    source = Procedural("chairs", 2, 1, True, 0)
    solid = source.solids(np.arange(2))

    def at(time):
        points = grid(8)
        return distances(solid, np.insert(points, 3, np.float32(time), axis=1)[None])

    np.testing.assert_allclose(at(0.0), at(0.5), atol=1e-5)
    assert np.abs(at(0.0) - at(0.25)).max() > 0.05
    times = dataset.signals.points[:, :, 3]
    assert times.min() < -0.4 and times.max() > 0.4
    surface = source.surface(np.arange(2), 512, True)
    away = distances(solid, surface)
    assert np.abs(away).max() < 5e-4 and len(np.unique(surface[0, :, 3])) == 16


# ---- voxels ----


def test_voxels_equal_their_grid_at_the_centres_in_every_layout(tmp_path):
    rng = np.random.default_rng(0)
    grids = rng.random((6, 9, 7, 8)) < 0.4
    np.savez(tmp_path / "packed.npz", packed=np.packbits(grids.reshape(6, -1), axis=1), shape=grids.shape[1:])
    np.savez(tmp_path / "plain.npz", grids)
    np.save(tmp_path / "bytes.npy", grids.astype(np.uint8))
    for name in ("packed.npz", "plain.npz", "bytes.npy"):
        np.testing.assert_array_equal(voxels.read_grids(tmp_path / name), grids)

    source = voxels.Voxels(grids, "random.npz", 0)
    places = np.stack(np.meshgrid(*map(np.arange, grids.shape[1:]), indexing="ij"), -1).reshape(-1, 3)
    for row, taken in enumerate(grids):
        used = np.argwhere(taken)
        middle, longest = (used.max(0) + used.min(0)) / 2, (np.ptp(used, axis=0) + 1).max()
        points = ((places - middle) * 0.95 / longest).astype(np.float32)
        np.testing.assert_array_equal(source.inside(np.array([row]), points[None])[0], taken.reshape(-1))


def test_a_voxel_box_keeps_its_size_its_inside_and_its_surface():
    grids = np.zeros((1, 12, 12, 12), bool)
    grids[0, 1:11, 3:8, 4:6] = True
    source = voxels.Voxels(grids, "box.npz", 0)
    half = 0.475 * np.array([1, 0.5, 0.2])
    points = grid(32)
    inside = source.inside(np.array([0]), points[None])[0]
    # Edges are rounded within half a voxel; elsewhere the box is exact.
    beyond = np.sort(np.abs(points) - half, axis=1)
    edge = beyond[:, 1] > -0.0475
    np.testing.assert_array_equal(inside[~edge], (beyond[:, 2] < 0)[~edge])
    surface = source.surface(np.array([0]), 4000, False)[0]
    assert np.abs(surface).max() <= 0.4751
    top = np.isclose(np.abs(surface[:, 2]), half[2], atol=1e-4)
    # Faces less the rounded half voxel at each side, of a surface whose edges are bevelled by sqrt(1/2) of a voxel.
    lengths, voxel = 2 * half, 0.095
    flat = [np.prod(np.delete(lengths, i) - voxel) * 2 for i in range(3)]
    bevels = 4 * np.sum(lengths - voxel) * voxel * 0.5**0.5 + 8 * 3**0.5 / 8 * voxel**2
    share = flat[2] / (sum(flat) + bevels)
    assert abs(top.mean() - share) < 4 * (share / 4000) ** 0.5


def test_real_chairs_from_packed_voxels(shared_data):
    dataset = shapes.load("modelnet10_chair_voxels32", shared_data, **{**SIZES, "runs": 12, "unseen": 4})
    again = shapes.load("modelnet10_chair_voxels32.npz", shared_data, **{**SIZES, "runs": 4, "unseen": 4})
    np.testing.assert_array_equal(again.signals.points, dataset.signals.points[:4])
    np.testing.assert_array_equal(again.unseen.values, dataset.unseen.values)
    assert not set(dataset.signals.names) & set(dataset.unseen.names)
    occupied = bits(dataset.signals)
    assert 0.4 < occupied[:, :1024].mean() < 0.55 and 0.01 < occupied[:, 1024:].mean() < 0.15
    assert 0.47 < np.abs(dataset.signals.surface).max() <= 0.4751
    with pytest.raises(UserError, match="839 shapes, but 800 for the runs and 40 unseen"):
        shapes.load("modelnet10_chair_voxels32", shared_data, runs=800, unseen=40)


# ---- meshes ----


@pytest.fixture(scope="module")
def mesh_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("meshes")
    trimesh.creation.box(extents=(4, 2, 1)).apply_translation((5, 5, 5)).export(folder / "a_box.obj")
    trimesh.creation.icosphere(subdivisions=3, radius=3).export(folder / "b_ball.off")
    trimesh.creation.torus(major_radius=1, minor_radius=0.3).export(folder / "c_torus.ply")
    # The same box inside out and without two of its triangles.
    damaged = trimesh.creation.box(extents=(4, 2, 1))
    damaged.update_faces(np.arange(len(damaged.faces)) != 3)
    damaged.invert()
    damaged.export(folder / "d_damaged.stl")
    return folder


def test_meshes_have_the_inside_of_their_closed_forms(mesh_folder):
    source = Meshes(mesh_folder, 0)
    assert source.names == ("a_box", "b_ball", "c_torus", "d_damaged")
    points = grid(24)
    box, ball, torus, mended = source.inside(np.arange(4), points[None])
    np.testing.assert_array_equal(box, (np.abs(points) < 0.475 * np.array([1, 0.5, 0.25])).all(axis=1))
    np.testing.assert_array_equal(mended, box)
    radius = np.linalg.norm(points, axis=1) / 0.475
    # An icosphere of 3 subdivisions lies within 1 % of the sphere, the torus's facets within 2 %.
    clear = np.abs(radius - 1) > 0.01
    np.testing.assert_array_equal(ball[clear], (radius < 1)[clear])
    tube = np.hypot(np.hypot(points[:, 0], points[:, 1]) * 1.3 / 0.475 - 1, points[:, 2] * 1.3 / 0.475)
    clear = np.abs(tube - 0.3) > 0.03
    np.testing.assert_array_equal(torus[clear], (tube < 0.3)[clear])
    surface = source.surface(np.array([1]), 2000, False)[0]
    assert np.abs(np.linalg.norm(surface, axis=1) - 0.475).max() < 0.01
    assert np.abs(np.histogram(surface[:, 2], 5, (-0.475, 0.475))[0] - 400).max() < 4 * 20


def test_meshes_become_a_data_set_and_lists_decide_the_split(mesh_folder):
    dataset = shapes.load(str(mesh_folder), **{**SIZES, "runs": 3, "unseen": 1})
    assert sorted(dataset.signals.names + dataset.unseen.names) == ["a_box", "b_ball", "c_torus", "d_damaged"]
    try:
        (mesh_folder / "train_split.lst").write_text("c_torus.ply\nb_ball.off\na_box.obj\n")
        (mesh_folder / "test_split.lst").write_text("d_damaged.stl\n")
        (mesh_folder / "problematic_shapes.txt").write_text("a_box\n")
        rows, others = Meshes(mesh_folder, 0).split(2, 1)
        assert rows.tolist() == [1, 2] and others.tolist() == [3]
        with pytest.raises(UserError, match="name 2 meshes .* but 3 are needed"):
            Meshes(mesh_folder, 0).split(3, 1)
        (mesh_folder / "train_split.lst").write_text("c_torus.ply\n")
        (mesh_folder / "val_split.lst").write_text("b_ball.off\n")
        assert Meshes(mesh_folder, 0).split(2, 1)[0].tolist() == [2, 1]
    finally:
        for path in [*mesh_folder.glob("*.lst"), *mesh_folder.glob("*.txt")]:
            path.unlink()


def test_meshes_without_an_inside_are_refused_with_the_reason(tmp_path):
    open_box = trimesh.creation.icosphere(subdivisions=2)
    open_box.update_faces(open_box.triangles_center[:, 2] < 0)
    open_box.export(tmp_path / "open.off")
    with pytest.raises(UserError, match=r"open.off is not closed: \d+ of its \d+ edges do not join two faces"):
        read_mesh(tmp_path / "open.off")
    (tmp_path / "bad.obj").write_text("v 0 0 0\n")
    with pytest.raises(UserError, match="bad.obj"):
        read_mesh(tmp_path / "bad.obj")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no mesh; put files ending in"):
        shapes.load("empty", tmp_path, runs=1, unseen=1)


def test_points_on_triangles_are_even_by_area():
    corners = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[2, 0, 0], [5, 0, 0], [2, 1, 0]]], np.float32)
    points = triangles.points_on(corners, 40000, np.random.default_rng(0))
    first = points[points[:, 0] < 1.5]
    assert abs(len(first) - 10000) < 4 * 87
    # Centroid of the triangle; deviation of a coordinate is 1 / sqrt(18).
    np.testing.assert_allclose(first.mean(0), [1 / 3, 1 / 3, 0], atol=4 * 18**-0.5 / 100)


# ---- clouds, images, unfit input ----


def test_clouds_are_read_from_files_and_folders(tmp_path):
    clouds = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    np.save(tmp_path / "all.npy", clouds)
    np.savez(tmp_path / "all.npz", clouds)
    (tmp_path / "folder").mkdir()
    for name, cloud in zip("bac", clouds, strict=True):
        np.save(tmp_path / "folder" / f"{name}.npy", cloud)
    np.testing.assert_array_equal(shapes.read_clouds(tmp_path / "all.npy"), clouds[..., :3])
    np.testing.assert_array_equal(shapes.read_clouds(tmp_path / "all.npz"), clouds[..., :3])
    np.testing.assert_array_equal(shapes.read_clouds(tmp_path / "folder"), clouds[[1, 0, 2], :, :3])
    np.save(tmp_path / "folder" / "d.npy", clouds[0, :5])
    with pytest.raises(UserError, match="d.npy has 5 points, but most clouds have 20"):
        shapes.read_clouds(tmp_path / "folder")
    with pytest.raises(UserError, match="does not exist"):
        shapes.read_clouds(tmp_path / "none.npy")
    np.save(tmp_path / "nan.npy", np.full((2, 3, 3), np.nan))
    with pytest.raises(UserError, match="NaN"):
        shapes.read_clouds(tmp_path / "nan.npy")


def test_clouds_take_the_place_of_unseen_surfaces(tmp_path):
    """In a folder as published: listed ones, without those of fitted shapes; occupancy stays that of the data set."""
    clouds = np.random.default_rng(0).normal(size=(6, 700, 3)).astype(np.float32)
    folder = tmp_path / "planes_2048_pc"
    folder.mkdir()
    names = ["chairs-0-1.obj", "a.obj", "b.obj", "c.obj", "d.obj", "e.obj"]
    for name, cloud in zip(names, clouds, strict=True):
        np.save(folder / f"{name}.npy", cloud)
    found = shapes.load("chairs", tmp_path, **SIZES, clouds="planes_2048_pc")
    np.testing.assert_array_equal(found.unseen.surface, clouds[1:4])
    np.testing.assert_array_equal(found.test_labels, chairs().test_labels)
    np.testing.assert_array_equal(found.signals.surface, chairs().signals.surface)
    assert found.source.startswith(chairs().source + ", unseen surfaces from clouds planes_2048_pc; blake2b ")
    (folder / "test_split.lst").write_text("chairs-0-1.obj\ne.obj\nb.obj\nc.obj.npy\n")
    np.testing.assert_array_equal(unseen_clouds(folder, 3, ["chairs-0-1"]), clouds[[2, 3, 5]])
    np.save(tmp_path / "few.npy", clouds[:2])
    for name, changes, message in (
        ("planes_2048_pc", {"unseen": 4}, "has 3 clouds of unseen shapes, but 4 .* at most 3"),
        ("few", {}, "has 2 clouds"),
        ("none", {}, "none does not exist"),
        ("few", {"moving": True}, "of shapes at rest"),
    ):
        with pytest.raises(UserError, match=message):
            shapes.load("chairs", tmp_path, **SIZES | changes, clouds=name)


def test_images_become_fields_of_their_pixels():
    digits = data.load("digits")
    fields = shapes.signals_of_images(digits, 7, 4)
    signals = fields.signals
    assert signals.kind == "image" and signals.points.shape == (1, 64, 2) and len(fields.unseen) == 4
    column, row = 5, 2
    place = row * 8 + column
    np.testing.assert_allclose(signals.points[0, place], [(column + 0.5) / 8 - 0.5, (row + 0.5) / 8 - 0.5])
    np.testing.assert_array_equal(signals.values[3, place], digits.train_images[3, row, column] / np.float32(16))
    np.testing.assert_array_equal(fields.test_labels, (digits.test_images[:4].reshape(4, 64) > 8).T)
    with pytest.raises(UserError, match="360 test images, but 400"):
        shapes.signals_of_images(digits, 7, 400)


def test_unfit_settings_and_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "keys.npz", a=np.zeros(1), b=np.zeros(1))
    np.savez(tmp_path / "short.npz", packed=np.zeros((2, 3), np.uint8), shape=[4, 4, 4])
    np.save(tmp_path / "flat.npy", np.zeros((4, 4), bool))
    grids = np.ones((4, 3, 3, 3), bool)
    grids[2] = False
    np.save(tmp_path / "hollow.npy", grids)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    for name, settings, message in (
        ("planes", {"runs": 0}, "runs is 0"),
        ("planes", {"near": -1.0}, "near is -1"),
        ("birds", {}, "one of the procedural planes, chairs, tables"),
        ("keys", {"moving": True}, "cannot move"),
        ("keys", {}, r"keys \['a', 'b'\]; it must have packed and shape"),
        ("short", {}, r"need uint8 \[n, 8\]"),
        ("flat", {}, r"bool \(4, 4\); grids must be"),
        ("hollow", {}, "grids 2 have no occupied voxel"),
        ("torn", {}, "is truncated or damaged"),
    ):
        with pytest.raises(UserError, match=message):
            shapes.load(name, tmp_path, **{**SIZES, **settings})


def test_both_ends_of_the_shuffle_do_not_depend_on_each_other():
    rows, others = sampling.shuffled_split(20, 12, 8, 0, "")
    assert sorted([*rows, *others]) == list(range(20))
    np.testing.assert_array_equal(sampling.shuffled_split(20, 5, 3, 0, "")[0], rows[:5])
    np.testing.assert_array_equal(sampling.shuffled_split(20, 5, 3, 0, "")[1], others[-3:])
