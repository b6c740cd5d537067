"""Rendered scenes: solids and their distances, what cameras and lights see of them, designs, and the network that reads
them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxweights import parallel
from jaxweights.errors import UserError
from jaxweights.probing import probes
from jaxweights.probing.data import Dots, ScenePairs, Scenes, scenes_solids, scenes_tracing
from jaxweights.probing.data.scenes_placement import Placement
from jaxweights.probing.data.scenes_tracing import GROUND, HALF_VIEW, Objects
from jaxweights.probing.estimators.scenes import SceneEstimator, density_of
from jaxweights.probing.features import Design

KEY = jax.random.key(0)
SCENES = Scenes(side=16, supersample=1, steps=16)
PAIRS = ScenePairs(side=16, supersample=1, steps=16)


def one_object(shape, size=1.5, centre=(0.0, 0.0)):
    return Objects(
        jnp.int32(1),
        jnp.array([scenes_solids.SHAPES.index(shape)], jnp.int32),
        jnp.array([centre]),
        jnp.array([size]),
        jnp.array([0.3]),
        jnp.ones((1, 3)),
        jnp.array([False]),
    )


def test_distances_of_solids_at_known_points():
    edge, tip = np.sqrt(0.5), np.sqrt(0.2)
    known = {
        "cube": [((0, 0, 2), 2 - edge), ((0, 2, 0), 2 - edge), ((0, 0, 0), -edge)],
        "sphere": [((0, 0, 3), 2), ((0, 0, 0), -1)],
        "cylinder": [((2, 0, 0), 1), ((0, 0, -3), 2), ((0.5, 0, 0), -0.5)],
        "cone": [((0, 0, 3), 2), ((0, 0, -2), 1), ((2, 0, -1), 1), ((0, 0, 0), -tip), ((2, 0, -2), np.sqrt(2))],
        "torus": [((0, 0, 0), 0.36), ((2, 0, 0), 1), ((0.68, 0, 0.5), 0.18), ((0.68, 0, 0), -0.32)],
    }
    assert set(known) == set(scenes_solids.SHAPES)
    cloud = np.random.default_rng(0).uniform(-1.5, 1.5, (3, 20_000)).astype(np.float32)
    chosen = np.array([point for facts in known.values() for point, _ in facts], np.float32).T
    points = np.concatenate([chosen, cloud], axis=1)
    every = jax.jit(jax.vmap(lambda shape: scenes_solids.distance(shape, jnp.asarray(points))))(jnp.arange(5))
    for shape, facts in known.items():
        place = scenes_solids.SHAPES.index(shape)
        found = np.asarray(every[place])
        for point, wanted in facts:
            own = (chosen == np.array(point, np.float32)[:, None]).all(axis=0)
            np.testing.assert_allclose(found[: len(own)][own], wanted, atol=2e-6, err_msg=shape)
        # Nothing of it lies outside of the unit circle, the ground and its ball.
        inside = points[:, found < 0]
        assert np.hypot(inside[0], inside[1]).max() <= 1
        assert inside[2].min() >= -scenes_solids.HEIGHTS[place]
        assert np.linalg.norm(inside, axis=0).max() <= scenes_solids.BOUNDS[place]


def test_a_sphere_covers_the_pixels_of_its_silhouette_and_darkens_the_ground_behind_it():
    side, objects, eye = 32, one_object("sphere"), jnp.array(scenes_tracing.EYE)
    light = scenes_tracing.unit(jnp.array([-1.0, 0.0, 1.0]))

    @jax.jit
    def look(objects):
        directions = scenes_tracing.rays(eye, side)
        seen = scenes_tracing.trace(objects, eye, 24, directions)
        points = eye[:, None] + seen.depth[None] * directions
        return directions, seen, points, scenes_tracing.lit(objects, seen, points, light, 0.05)

    directions, seen, points, free = jax.device_get(look(objects))
    to_centre = np.array([0, 0, 1.5]) - scenes_tracing.EYE
    along = to_centre @ directions
    closest = np.sqrt(to_centre @ to_centre - along**2)
    clear = np.abs(closest - 1.5) > 0.02  # rays that graze take more steps than there are
    np.testing.assert_array_equal((seen.id == 0)[clear], (closest < 1.5)[clear])
    hit = (seen.id == 0) & clear
    exact = along[hit] - np.sqrt(1.5**2 - closest[hit] ** 2)
    np.testing.assert_allclose(seen.depth[hit], exact, atol=0.05)
    np.testing.assert_allclose(np.linalg.norm(points[:, hit] - [[0], [0], [1.5]], axis=0), 1.5, atol=0.01)
    np.testing.assert_allclose(seen.normal[:, hit] * 1.5 + [[0], [0], [1.5]], points[:, hit], atol=0.02)
    # The shadow on the ground is an ellipse, moved to the right by the height of the sphere.
    ground = seen.id == GROUND
    x, y = points[:2, ground]
    shadow = np.sqrt(((x - 1.5) / np.sqrt(2)) ** 2 + y**2) / 1.5
    assert (free[ground][shadow < 0.85] < 0.2).all() and (free[ground][shadow > 1.2] > 0.8).all()
    assert 1 > HALF_VIEW > 0 and (shadow < 0.85).any()


@functools.cache
def rendered():
    """Four scenes and their ids; the last two rows alone give the same images."""
    values = jnp.array([[3.0], [6.0], [1.0], [jnp.nan]])
    keys = jax.random.split(KEY, 4)
    program = jax.jit(SCENES.view)
    return program, values, keys, jax.device_get(program(values, keys))


def test_every_object_is_seen_and_none_overlap():
    _, values, _, (images, features, ids, objects) = rendered()
    assert images.shape == (4, 16, 16, 3) and images.min() >= 0 and images.max() <= 1
    np.testing.assert_array_equal(features[:3], values[:3])
    assert features[3, 0] in range(1, 7)
    for row, count in enumerate(features[:, 0].astype(int)):
        seen = np.unique(ids[row][ids[row] >= 0], return_counts=True)
        np.testing.assert_array_equal(seen[0], range(count))
        assert seen[1].min() >= SCENES.visible * 16**2
        centre, size = objects.centre[row, :count], objects.size[row, :count]
        apart = np.linalg.norm(centre[:, None] - centre[None], axis=-1) + 99 * np.eye(count)
        assert (apart >= size[:, None] + size[None] + SCENES.gap - 1e-5).all()
        assert np.abs(centre).max() <= SCENES.reach


def test_an_image_depends_on_its_own_values_and_key_alone(bitwise):
    program, values, keys, (images, *_) = rendered()
    order = jnp.array([2, 0, 3, 3])
    np.testing.assert_array_equal(program(values[order], keys[order])[0], images[order])


@pytest.mark.parametrize("size", [1.0, 1.45])
def test_places_keep_their_distance_where_hardly_any_draw_is_free(size):
    placement = Placement(reach=3.0, gap=0.1)
    placement.check(6, size)
    sizes = jnp.full(6, size)
    draw = jax.jit(jax.vmap(lambda key: placement.draw(key, jnp.int32(6), sizes)))
    centre = np.asarray(draw(jax.random.split(KEY, 64)))
    apart = np.linalg.norm(centre[:, :, None] - centre[:, None], axis=-1) + 99 * np.eye(6)
    assert apart.min() >= 2 * size + 0.1 - 1e-5 and np.abs(centre).max() <= 3
    assert len(np.unique(centre.sum(axis=(1, 2)))) > 32


def test_pairs_with_exceptions_are_those_published():
    three = ScenePairs(colors=("red", "blue", "green"), shapes=("sphere", "cylinder", "cone"))
    probe = probes.make({"kind": "exceptions", "rare": (2, 1), "kept": ((0, 1), (2, 2))})
    (design,) = probe.designs(three.features, seed=0).values()
    assert len(design) == 74
    of_pair = (design.column("left_shape") == 2) & (design.column("right_shape") == 1)
    np.testing.assert_array_equal(design.values[of_pair], [[0, 1, 2, 1], [2, 2, 2, 1]])
    two = ScenePairs(colors=("red", "blue"), shapes=("cone", "torus"))
    colors = {"pair": ("left_color", "right_color"), "rare": (0, 1), "kept": ((0, 1),)}
    (design,) = probes.make({"kind": "exceptions", **colors}).designs(two.features, seed=0).values()
    assert len(design) == 13


def test_designs_that_cannot_be_drawn_are_refused_with_the_bound():
    def check(data, *rows):
        data.check(Design(data.features, np.array(rows, np.float32)))

    check(SCENES, [6], [np.nan])
    check(PAIRS, [0, 3, np.nan, 3])
    with pytest.raises(UserError, match="asks for 7"):
        check(SCENES, [7])
    with pytest.raises(UserError, match="asks for 4"):
        check(PAIRS, [0, 0, 4, 0])
    wide = SCENES.replace(size=(1.5, 1.5), gap=0.2)
    check(wide, [4])
    with pytest.raises(UserError, match=r"5 objects of size 1.5 do not fit: .* for at most 4 objects"):
        check(wide, [5])
    with pytest.raises(UserError, match=r"at the far edge covers 0\.0\d+ of the pixels: lower visible"):
        check(SCENES.replace(visible=0.1), [1])
    with pytest.raises(UserError, match="least size first"):
        check(SCENES.replace(size=(1.1, 1.0)), [1])


def test_the_network_that_counts_is_trained_once_and_knows_too_many(tmp_path, monkeypatch):
    data, mesh = SCENES.replace(largest=1), parallel.make_mesh(1)
    made = SceneEstimator(images=8, steps=2, batch_size=8, widths=(4,), hidden=4)
    state = made.fit(data, KEY, mesh, tmp_path)
    monkeypatch.setattr(SceneEstimator, "_examples", None)
    jax.tree.map(np.testing.assert_array_equal, state, made.fit(data, KEY, mesh, tmp_path))
    found = made.measure(state, data, np.full((5, *data.shape), 0.5, np.float32))
    assert found.shape == (5, 1) and found.dtype == np.float32 and np.isin(found, [0, 1, 2]).all()
    with pytest.raises(UserError, match="reads scenes and scene_pairs, not dots"):
        made.check(Dots())


def test_objects_are_divided_among_the_cells_around_them():
    places = np.array([[0.5, 0.5], [0.125, 0.875], [np.nan, np.nan]], np.float32)
    density = np.zeros((4, 4))
    density[1:3, 1:3] = 0.25
    density[0, 3] = 1
    np.testing.assert_allclose(density_of(jnp.asarray(places), 4), density, atol=1e-6)
