"""The study of shapes: distances and scores agree with brute force, controls behave as they must, pictures are true.

All networks here are boxes: one hidden layer of six ReLU units falls off linearly outside of each face.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from jaxweights import data, parallel, tasks
from jaxweights.auditing import statistics
from jaxweights.data import Signals
from jaxweights.errors import UserError
from jaxweights.evaluation import meshing
from jaxweights.population import Population
from jaxweights.report import rendering, style, viewer
from jaxweights.report import shapes as page
from jaxweights.report.style import Picture, Section
from jaxweights.studies import Estimation, Series, shapes

NET = tasks.build({"name": "field", "hidden": (6,), "octaves": 0}, (3,), 1)
STEEPNESS = 20.0
POINTS = 320
SETTINGS = {
    "networks": 10,
    "resolution": 28,
    "level": 1.386,
    "points": POINTS,
    "emd": 4,
    "up": "z",
}
RNG = np.random.default_rng(0)
SIZES = RNG.uniform(0.06, 0.42, (28, 3))  # half the sides of boxes: 10 training, 9 held-out runs, 9 unseen shapes


def box_network(half):
    """Weights of a field whose logit passes 1.386 on the surface of a box around the origin."""
    inside = 1.0  # above the level
    rise = STEEPNESS * np.concatenate([np.eye(3), -np.eye(3)])
    start = -STEEPNESS * (np.tile(half, 2) - inside / STEEPNESS)
    return np.concatenate([rise.ravel(), start, -np.ones(6), [1.386 + inside]]).astype(np.float32)


def box_points(half, count, rng):
    """Points on a box's surface, evenly by area."""
    area = np.array([half[1] * half[2], half[0] * half[2], half[0] * half[1]])
    axis = rng.choice(3, count, p=area / area.sum())
    points = rng.uniform(-1, 1, (count, 3))
    points[np.arange(count), axis] = rng.choice([-1, 1], count)
    return (points * half).astype(np.float32)


def boxes(sizes, **columns):
    return Population.create(np.stack([box_network(x) for x in sizes]), NET.spec, **columns)


def signals(sizes):
    surface = np.stack([box_points(x, POINTS, RNG) for x in sizes])
    names = tuple(str(i) for i in range(len(sizes)))
    return Signals("occupancy", names, np.zeros((1, 8, 3), np.float32), np.zeros((len(sizes), 1), np.uint8), surface)


ONE, PROBES, LABELS = np.ones(1, np.float32), np.zeros((8, 3), np.float32), np.zeros((8, 9), np.uint8)
DATASET = data.Dataset(
    "boxes", PROBES, LABELS, PROBES, LABELS, 1, ONE, 0 * ONE, "made up", signals(SIZES[:19]), signals(SIZES[19:])
)
# The rows are not in the order of the runs.
ORDER = np.array([3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
TRAIN, HELDOUT = boxes(SIZES[ORDER], run=ORDER), boxes(SIZES[10:19], run=np.arange(10, 19))
NOTHING = box_network(SIZES[0]) - np.append(np.zeros(30), 9.0).astype(np.float32)  # the logit stays below the level


def population(*weights):
    return Population.create(np.stack(weights), NET.spec)


SERIES = {
    "copies": population(NOTHING, *(box_network(SIZES[i]) for i in (5, 2, 8, 0, 1, 3))),
    "new": boxes(np.random.default_rng(5).uniform(0.06, 0.42, (6, 3))),
    "collapsed": boxes(np.tile([[0.3, 0.2, 0.1]], (6, 1))),
    "noised": boxes(SIZES[:4] + 0.01),
    "nothing": population(NOTHING, NOTHING),
}
AUGMENTED = {"new": 1, "collapsed": 8}


def study(series=SERIES, train=TRAIN, devices=8, **settings):
    kinds = dict.fromkeys(series, "hyperdiffusion") | {"noised": "noise"}
    subject = Series(NET, DATASET, train, HELDOUT, series, kinds, ("copies", "nothing"), AUGMENTED)
    estimation = Estimation(100, 0, parallel.make_mesh(devices))
    return shapes.run(subject, shapes.ShapesSettings(**{**SETTINGS, **settings}), estimation)


@pytest.fixture(scope="module")
def found():
    """Metrics and arrays of all series."""
    return study()


def brute_force(a, b):
    squared = [[cdist(x, y, "sqeuclidean") for y in b] for x in a]
    return np.array([[d.min(axis=0).mean() + d.min(axis=1).mean() for d in row] for row in squared])


@pytest.mark.parametrize("kind, faithful", [(shapes.CHAMFER, False), (shapes.PUBLISHED, True)])
def test_training_shapes_agree_with_brute_force(found, kind, faithful):
    def normal(clouds):
        centred = clouds - clouds.mean(axis=1, keepdims=True)
        return centred / (clouds if faithful else centred).reshape(len(clouds), -1).std(axis=1, ddof=1)[:, None, None]

    own, unseen = normal(DATASET.signals.surface[ORDER].astype(float)), normal(DATASET.unseen.surface.astype(float))
    siblings, cross, known = brute_force(own, own), brute_force(own, unseen), brute_force(unseen, unseen)
    for table in (siblings, known):
        np.fill_diagonal(table, np.inf)
    metrics, arrays = found
    close = {"rtol": 1e-4}  # of sums of float32 squares
    name = shapes.TRAINING_SHAPES
    np.testing.assert_allclose(arrays[f"{kind}/{name}/to_training"], siblings.min(axis=1), **close)
    np.testing.assert_allclose(arrays[f"{kind}/{name}/to_unseen"], cross.min(axis=1), **close)
    entry = metrics["series"][name][kind]
    cross, siblings = cross[:9], siblings[:9, :9]  # as many as there are unseen ones
    np.testing.assert_allclose(entry["mmd"]["mean"], cross.min(axis=0).mean(), **close)
    assert entry["cov"]["value"] == pytest.approx(len(set(cross.argmin(axis=1))) / 9)
    nearer_to_own = [*(siblings.min(axis=1) < cross.min(axis=1)), *(known.min(axis=1) < cross.min(axis=0))]
    assert entry["one_nna"]["value"] == pytest.approx(np.mean(nearer_to_own))
    assert (entry["cov"]["n"], entry["one_nna"]["n"]) == (9, 18)


def test_copies_are_as_near_to_training_shapes_as_training_networks(found):
    metrics, arrays = found
    copies, fitted = (metrics["series"][name][shapes.CHAMFER]["to_training"] for name in ("copies", "training"))
    assert copies["mean"] == pytest.approx(fitted["mean"], rel=0.3)  # other points on the same surfaces
    fresh = metrics["series"]["heldout"][shapes.CHAMFER]["to_training"]
    assert copies["ci95"][1] < fresh["ci95"][0]
    tests = metrics["series"]["copies"][shapes.CHAMFER]
    distance, null = (arrays[f"chamfer/{name}/to_training"] for name in ("copies", "heldout"))
    assert tests["z_u"]["value"] == pytest.approx(statistics.z_u(distance, null)) and tests["z_u"]["ci95"][1] < 0
    assert tests["closer_than_heldout"]["value"] == pytest.approx(np.mean(distance < null.min()))
    assert "z_u" not in metrics["series"]["heldout"][shapes.CHAMFER]
    # Row 0 has no surface but weights; the others are copies of these runs, in weights and in shape.
    np.testing.assert_array_equal(arrays["shown/copies/runs"], [[0, -1], [5, 5], [2, 2], [8, 8]])
    np.testing.assert_array_equal(arrays["shown/copies/distances"][1:, 0], 0.0)
    assert np.isnan(arrays["shown/copies/distances"][0, 1])
    for i, run in ((1, 5), (2, 2), (3, 8)):
        for part in ("vertices", "faces"):
            np.testing.assert_array_equal(arrays[f"shown/copies/{i}/{part}"], arrays[f"shown/training/{run}/{part}"])
        extent = np.abs(arrays[f"shown/copies/{i}/vertices"]).max(axis=0)
        np.testing.assert_allclose(extent, SIZES[run], atol=0.5 / 27)  # half a voxel


def test_a_collapsed_series_covers_one_shape_and_is_told_apart(found):
    entry = found[0]["series"]["collapsed"]
    for kind in (shapes.CHAMFER, "emd"):
        assert entry[kind]["cov"]["value"] == pytest.approx(1 / entry[kind]["cov"]["n"])
    assert entry[shapes.CHAMFER]["one_nna"]["value"] > 0.8
    siblings = {name: found[0]["series"][name][shapes.CHAMFER]["to_sibling"]["mean"] for name in ("collapsed", "new")}
    assert siblings["collapsed"] < 0.5 * siblings["new"]


def test_networks_without_a_surface_are_counted_and_enter_nothing_else(found):
    metrics, arrays = found
    counts = {name: (entry["empty"], entry["networks"]) for name, entry in metrics["series"].items()}
    assert counts == {
        "training_shapes": (0, 10),
        "training": (0, 10),
        "heldout": (0, 9),
        "copies": (1, 7),
        "new": (0, 6),
        "collapsed": (0, 6),
        "noised": (0, 4),
        "nothing": (2, 2),
    }
    assert metrics["series"]["copies"][shapes.CHAMFER]["to_training"]["n"] == 6
    assert metrics["series"]["nothing"]["emd"] == {}
    assert set(metrics["series"]["nothing"][shapes.CHAMFER].values()) == {None}
    assert arrays["chamfer/nothing/to_training"].shape == (0,)
    json.dumps(metrics, allow_nan=False)


def test_the_published_figure_has_training_shapes_generated_and_noised_networks(found):
    names = {name for name, entry in found[0]["series"].items() if shapes.PUBLISHED in entry}
    assert names == {"training_shapes", "copies", "noised", "nothing"}


def test_device_count_and_emd_change_nothing_else_and_fewer_networks_are_drawn():
    one, eight = (study(devices=d, emd=0, networks=4, points=64) for d in (1, 8))
    assert one[0] == eight[0]
    for name, values in one[1].items():
        np.testing.assert_array_equal(values, eight[1][name])
    assert one[0]["points"] == 64
    assert one[0]["series"]["training"]["networks"] == 4 and "emd" not in one[0]["series"]["training"]


def test_only_occupancy_fields_in_space_with_surfaces_have_a_study():
    assert shapes.exists(NET, DATASET)
    flat = dataclasses.replace(DATASET.unseen, surface=np.zeros((9, 0, 3), np.float32))
    assert not shapes.exists(NET, dataclasses.replace(DATASET, unseen=flat))
    assert not shapes.exists(NET, dataclasses.replace(DATASET, signals=None))
    image = {"name": "field", "hidden": (4,), "octaves": 0, "signal": "image"}
    for other in (tasks.build(image, (2,), 1), tasks.build({"name": "mlp", "hidden": (4,)}, (3, 3, 1), 3)):
        assert not shapes.exists(other, DATASET)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"networks": 1}, r"studies\.shapes\.networks is 1"),
        ({"emd": -1}, "emd is -1"),
        ({"up": "w"}, "x, y, z"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        study(**settings)


def test_runs_without_a_signal_are_refused():
    with pytest.raises(UserError, match="19 signals.*numbers 0 to 40"):
        study(train=boxes(SIZES[:2], run=[0, 40]))


# -- the report ------------------------------------------------------------------------------------------------------


def draw(found, folder):
    with style.drawing():
        return list(page.parts(*found, [], 0, folder))


@pytest.fixture(scope="module")
def drawn(found, tmp_path_factory):
    """The parts of the page, and the folder of the figures."""
    folder = tmp_path_factory.mktemp("figures")
    return draw(found, folder), folder


def test_the_same_study_gives_the_same_files_and_html(found, drawn, tmp_path):
    parts, folder = drawn
    again = draw(found, tmp_path)
    pictures = [p.path.name for p in parts if isinstance(p, Picture)]
    assert pictures == [
        "shapes_copies.png",
        "shapes_nothing.png",
        "shape_novelty.png",
        "shape_scores.png",
        "permutation_augmentation.png",
    ]
    for name in pictures:
        for file in (name, name.replace("png", "svg")):
            assert (folder / file).read_bytes() == (tmp_path / file).read_bytes()
    assert [p for p in parts if isinstance(p, Section)] == [p for p in again if isinstance(p, Section)]
    assert [p.caption for p in parts if isinstance(p, Picture)] == [p.caption for p in again if isinstance(p, Picture)]


def test_the_page_holds_the_meshes(found, drawn):
    sections = {p.identity: p.content for p in drawn[0] if isinstance(p, Section)}
    content = sections["shapes-turn"]
    assert re.findall(r'data-mesh="(\d+)"', content) == ["0", "1", "2", "3", "4", "3", "4"]
    assert content.count("no surface") == 2  # the sample without one, and what would be nearest to it
    assert content.isascii() and "<noscript>" in content
    packed = json.loads(re.search(r"\}\)\((\[.*\]),-?\d+,\d+\);</script>", content, re.DOTALL).group(1))
    for (count, text), run in zip(packed, (5, 2, 0, 5, 2), strict=True):
        raw = base64.b64decode(text)
        vertices = np.frombuffer(raw, "<i2", 3 * count).reshape(-1, 3) / 40_000
        faces = np.frombuffer(raw, "<u2", offset=6 * count).reshape(-1, 3)
        assert faces.max() == count - 1
        np.testing.assert_allclose(np.abs(vertices).max(axis=0), SIZES[run], atol=1 / 27)
    assert len(content) < 150_000


def test_axes_that_point_up_are_turned_before_they_are_packed():
    mesh = meshing.Mesh(np.diag([0.1, 0.2, 0.3]).astype(np.float32), np.array([[0, 1, 2]], np.int32))
    for up in range(3):
        content = viewer.table(["a"], ["b"], [[mesh]], 0, 0, up)
        raw = base64.b64decode(re.search(r'\(\[\[3,"([^"]+)"\]\]', content).group(1))
        vertices = np.frombuffer(raw, "<i2", 9).reshape(3, 3) / 40_000
        assert vertices[up, 2] == pytest.approx((0.1, 0.2, 0.3)[up])
        assert np.linalg.det(vertices) > 0  # turned, not mirrored


def test_sentences_follow_the_numbers(found, drawn):
    text = next(p.caption for p in drawn[0] if isinstance(p, Picture) and p.path.name == "shape_novelty.png")
    assert "Shapes of copies are not clearly farther from training shapes than that" in text
    assert "No network of nothing has a surface" in text
    metrics = {**found[0], "shown": ["new"]}
    text = page.novelty_text(metrics)
    assert "Shapes of new lie about as far from training shapes as those of held-out networks" in text
    text = page.augmentation_text(found[0])
    assert "With &times;8 networks lie closer to each other than with &times;1" in text
    assert "1 of 7 (copies), 2 of 2 (nothing)" in page.empty_text(found[0])


def test_without_several_factors_there_is_no_figure_of_augmentation(found, tmp_path):
    metrics = {**found[0], "augmented": {"new": 1}, "shown": []}
    names = [p.path.name for p in draw((metrics, found[1]), tmp_path) if isinstance(p, Picture)]
    assert names == ["shape_novelty.png", "shape_scores.png"]


# -- pictures of meshes ----------------------------------------------------------------------------------------------


def mesh_of(half):
    return meshing.extract(NET, box_network(half)[None], resolution=28, level=1.386, mesh=parallel.make_mesh(1))[0]


@pytest.mark.parametrize("up", range(3))
def test_a_view_is_a_rotation_with_its_axis_upwards(up):
    rotation = rendering.view(37.0, 21.0, up)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1.0)
    right, upwards, towards = rotation @ np.eye(3)[up]
    assert right == pytest.approx(0.0)
    assert (upwards, towards) == pytest.approx((np.cos(np.deg2rad(21)), np.sin(np.deg2rad(21))))


def test_a_picture_shows_the_silhouette_and_the_nearest_surface():
    half, size = np.array([0.1, 0.3, 0.2]), 120
    image = rendering.render(*mesh_of(half), rendering.view(0.0, 0.0, 2), size)  # along x: y to the right, z upwards
    side = 2 * rendering.FRAME / size
    assert image[..., 1].sum() * side**2 == pytest.approx(4 * half[1] * half[2], rel=0.05)
    covered = np.argwhere(image[..., 1] > 0.5)
    extent = np.ptp(covered, axis=0) * side
    np.testing.assert_allclose(extent, [2 * half[2], 2 * half[1]], atol=3 * side)
    assert ((image >= 0) & (image <= 1)).all() and image[size // 2, size // 2, 0] > 0
    # Of two parallel squares the nearer hides the other, which is turned away from the light.
    square = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]]) * 0.3
    tilted = square + np.array([[0.1, 0, 0], [0.1, 0, 0], [-0.1, 0, 0], [-0.1, 0, 0]])
    quad = np.array([[0, 1, 2], [0, 2, 3]])
    flat, behind = (rendering.render(x, quad, rendering.view(0.0, 0.0, 2), size) for x in (square, tilted))
    both = [np.concatenate([square + np.array([[shift, 0, 0]]), tilted]) for shift in (0.3, -0.3)]
    faces = np.concatenate([quad, quad + 4])
    for points, expected in zip(both, (flat, behind), strict=True):
        image = rendering.render(points, faces, rendering.view(0.0, 0.0, 2), size)
        assert image[size // 2, size // 2, 0] == pytest.approx(expected[size // 2, size // 2, 0], abs=1e-3)


def test_fewer_triangles_keep_the_shape():
    mesh = mesh_of([0.3, 0.2, 0.1])

    def volume(vertices, faces):
        return np.linalg.det(vertices[faces].astype(float)).sum() / 6

    vertices, faces = rendering.simplify(*mesh, 200)
    assert len(mesh.faces) > 1000 and len(faces) <= 200
    assert np.unique(faces).size == len(vertices)
    assert volume(vertices, faces) == pytest.approx(volume(*mesh), rel=0.02)
    np.testing.assert_allclose(np.ptp(vertices, axis=0), np.ptp(mesh.vertices, axis=0), atol=1 / 27)
    same = rendering.simplify(*mesh, 10**6)
    np.testing.assert_array_equal(same[0][same[1]], mesh.vertices[mesh.faces])
