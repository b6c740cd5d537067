"""Figures of the report: what they are drawn from, and what of damaged files is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from reports import NET, images, make_experiment, make_measured

from jaxweights import auditing
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.report import boundary, compare, components, figures, heatmap, style, training

UNITS = NET.spec.units(0)[0]


def test_histograms_lose_no_network():
    rng = np.random.default_rng(0)
    for _ in range(300):  # the published bins lose the largest value in about a quarter of such draws
        values = [rng.normal(size=5) * rng.uniform(0.1, 10) + rng.normal() for _ in range(2)]
        edges = figures.histogram_edges(values)
        assert len(edges) == 16
        for v in values:
            np.testing.assert_allclose(figures.percent_of_networks(v, edges).sum(), 100, rtol=1e-12)
    equal = np.full(4, 2.5)
    assert figures.percent_of_networks(equal, figures.histogram_edges([equal])).max() == 100


def test_accuracy_bins_hold_equally_many_values():
    for examples, low, high in ((360, 300, 351), (10, 3, 3), (10_000, 0, 10_000)):
        possible = np.arange(examples + 1) / examples
        edges = training.accuracy_edges([np.array([low, high]) / examples], examples)
        inside = possible[(possible > edges[0]) & (possible < edges[-1])]
        counts = np.histogram(inside, edges)[0]
        assert len(edges) <= 21
        assert inside[0] * examples <= low and inside[-1] * examples >= min(high, examples) - 1e-9
        assert len(set(counts[:-1])) <= 1


def test_smoothing_averages_noise_and_keeps_straight_lines():
    values = np.random.default_rng(0).uniform(1, 2, 50)
    smoothed = training.smooth(values)
    assert smoothed.shape == values.shape and smoothed.std() < 0.5 * values.std()
    np.testing.assert_allclose(smoothed[20], values[15:26].mean(), rtol=1e-12)
    for length in (1, 2, 3, 4, 10, 11, 12):
        line = 1 + 0.5 * np.arange(length)
        np.testing.assert_allclose(training.smooth(line), line, rtol=1e-12)


def test_loss_curves_take_the_last_row_of_a_step_and_skip_a_torn_line(tmp_path):
    def row(step, loss):
        return json.dumps({"generator": "g", "stage": "s", "step": step, "loss": loss})

    path = tmp_path / "metrics.jsonl"
    path.write_text(
        "\n".join([row(1, 9.0), row(2, 8.0), row(2, 7.0)[:20], row(4, 5.0), row(3, 6.0), row(2, 7.5)]) + "\n"
    )
    assert style.read_curves(path) == {("g", "s"): {1: 9.0, 2: 7.5, 3: 6.0, 4: 5.0}}
    assert style.read_curves(tmp_path / "absent.jsonl") == {}


def _flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes(b ^ 255 for b in content[middle : middle + 40]) + content[middle + 40 :]


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "flipped": _flip,
    "foreign": lambda content: b"[]",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_arrays_are_one_sentence_with_a_cure(tmp_path, damage):
    for folder, read, cure in (
        ("audit", lambda path: auditing.load(path), r"Remove it.*metrics\.json.*run again|run launch\.run again"),
        ("studies", lambda path: compare.read_arrays(tmp_path, path.stem), r"Remove .*one\.json and .*metrics\.json"),
    ):
        path = tmp_path / folder / "one.npz"
        path.parent.mkdir()
        np.savez(path, **dataclasses.asdict(make_measured(np.random.default_rng(0), 5, 10, 1.0)))
        assert read(path)
        path.write_bytes(DAMAGES[damage](path.read_bytes()))
        with pytest.raises(UserError, match=rf"one\.npz.*({cure})"):
            read(path)


@pytest.mark.parametrize("line", ["[]", "null", "{}", '"text"', '{"generator": "g", "stage": "s", "step": 1}', "3"])
def test_what_is_no_point_of_a_curve_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps({'generator': 'g', 'stage': 's', 'step': 1, 'loss': 0.5})}\n{line}\n")
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl .*Remove the line"):
        style.read_curves(path)


def test_heatmap_shows_a_permuted_copy_as_equal_rows():
    rng = np.random.default_rng(0)
    train = Population.create(rng.normal(size=(5, NET.spec.num_params)).astype(np.float32), NET.spec)
    order = np.array([2, 0, 3, 1])
    copies = np.asarray(NET.spec.permute(train.weights, [order]))
    measured = make_measured(rng, 5, 5, 0.0)
    rows = np.arange(5)[:, None]
    measured = dataclasses.replace(
        measured, aligned_nearest=rows, aligned_permutation=np.broadcast_to(order, (5, 1, 4))
    )
    nearest, weights = heatmap.nearest_training(measured, train, copies, 3)
    np.testing.assert_array_equal(nearest, rows[:3])
    np.testing.assert_allclose(weights[:, 0], copies[:3], rtol=1e-12)  # balanced and back
    assert not np.array_equal(weights[:, 0], train.weights[:3])


@pytest.mark.parametrize("dense_size", [8, 16])
def test_plane_is_that_of_the_principal_components(monkeypatch, dense_size):
    monkeypatch.setattr(components, "_DENSE_SIZE", dense_size)
    pictures = images(200, (4, 4, 1)) * np.linspace(1, 3, 16, dtype=np.float32).reshape(4, 4, 1)
    pictures[:, 1, 1] += 2 * pictures[:, 0, 0]
    pictures[:, 3, 3] = 7.0  # a constant pixel stays what it is
    labels = np.zeros(200, np.int32)
    plane = boundary.fit_plane(pictures, labels, 1)
    flat = pictures.reshape(200, -1).astype(np.float64)
    scale = np.where(flat.std(axis=0) > 0, flat.std(axis=0), 1)
    standard = (flat - flat.mean(axis=0)) / scale
    _, singular, right = np.linalg.svd(standard, full_matrices=False)
    np.testing.assert_allclose(plane.points.std(axis=0), singular[:2] / np.sqrt(200), rtol=1e-9)
    directions = plane.basis / scale
    np.testing.assert_allclose(np.abs(np.sum(directions * right[:2], axis=1)), 1, rtol=1e-9)
    assert (directions[np.arange(2), np.abs(directions).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose((plane.mean + plane.points @ plane.basis)[:, 15], 7.0, rtol=1e-6)
    shuffled = boundary.fit_plane(pictures[::-1], labels, 1)
    np.testing.assert_allclose(shuffled.basis, plane.basis, atol=1e-9)  # the order of the images means nothing
    left, right_side, bottom, top = plane.extent()
    np.testing.assert_allclose([right_side - left, top - bottom], np.ptp(plane.points, axis=0) + 2, rtol=1e-12)


def test_regions_are_the_networks_own_predictions(mesh):
    plane = boundary.fit_plane(images(), (np.arange(40) % 3).astype(np.int32), 3)
    weights = 3 * np.asarray(jax.jit(jax.vmap(NET.init))(jax.random.split(jax.random.key(1), 3)))
    classes = boundary.classify(NET, weights, plane, mesh, resolution=9)
    assert classes.shape == (3, 9, 9) and len(np.unique(classes)) > 1
    left, right, bottom, top = plane.extent()
    rows, columns = np.divmod(np.arange(81), 9)
    points = np.stack([left + (right - left) * columns / 8, bottom + (top - bottom) * rows / 8], axis=1)
    pictures = np.clip(plane.mean + points @ plane.basis, images().min(), images().max())
    pictures = pictures.astype(np.float32).reshape(-1, 3, 3, 1)
    logits = np.asarray(jax.jit(jax.vmap(NET.apply, in_axes=(0, None)))(weights, pictures))
    sorted_logits = np.sort(logits, axis=-1)
    clear = sorted_logits[..., -1] - sorted_logits[..., -2] > 1e-4  # rounding may decide the others
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(classes.reshape(3, 81)[clear], logits.argmax(axis=-1)[clear])


def test_class_colours_are_distinct():
    for count in (2, 10):
        assert len(np.unique(boundary.class_colours(count).round(6), axis=0)) == count


def test_figures_share_the_height_of_their_axes(tmp_path):
    """What a panel shows must not depend on the order in which panels are drawn."""
    arguments = make_experiment(tmp_path / "run")
    series = style.collect(tmp_path / "run", arguments["metrics"])
    with style.drawing():
        drawn = figures.min_distance(series)
    panels = [axes for axes in drawn.axes if axes.get_title()]
    assert len(panels) == 2
    for axes, field in zip(panels, ("aligned_min_l2", "min_l2"), strict=True):
        values = [getattr(s.measured, field) for s in series if s.role not in (style.BASELINE, style.CONTROL)]
        tallest = max(figures.percent_of_networks(v, figures.histogram_edges(values)).max() for v in values)
        assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] >= tallest


def test_many_series_look_different():
    looks = list(itertools.islice(style.learned_colours(), 36))
    assert len(set(looks)) == len(looks) and looks[0][0] == looks[6][0] == "#d62728"
