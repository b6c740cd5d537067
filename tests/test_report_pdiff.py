"""The figures of a single run's checkpoints: which networks, classes and parameters are drawn, and where they lie.

The arrays that are drawn are compared with closed forms, the classes with the published draw, and the decision regions
of partial networks with those of the whole ones.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from reports import CONTROLS, Page, make_dataset, make_measured, sketched

from jaxweights import auditing, generators, nets, parallel, report, settings, tasks
from jaxweights.errors import UserError
from jaxweights.population import Population
from jaxweights.report import boundary, components, figures, style, weights

WHOLE = tasks.build({"name": "mlp", "hidden": (4,)}, (3, 3, 1), 3)
STEPS, UNSEEN = 24, 16
KINDS = {"ours": "pdiff", "jitter": "noise", "soup": "average", "published_soup": "average", "blob": "gaussian"}


def walks(net, runs, seed=0):
    """Random walks from the base, `STEPS` checkpoints each."""
    moves = 0.1 * np.random.default_rng(seed).normal(size=(len(runs), STEPS, net.spec.num_params))
    steps = np.tile(np.arange(2, 2 + STEPS), len(runs))
    vectors = (net.start + moves.cumsum(axis=1)).reshape(len(steps), -1).astype(np.float32)
    return Population.create(vectors, net.spec, run=np.repeat(runs, STEPS), step=steps, accuracy=0.5)


def make_one_run(workdir):
    """A workdir after the audit of one run's checkpoints; returns the arguments of `report.write`."""
    rng = np.random.default_rng(1)
    net = nets.partial(WHOLE, np.asarray(jax.jit(WHOLE.init)(jax.random.key(0))), ("fc2/*",))
    train, checkpoints = walks(net, [0]), walks(net, np.arange(1, 1 + UNSEEN), 1)
    heldout = checkpoints.where(step=1 + STEPS)
    samples = {
        name: Population.create(train.weights[rng.integers(STEPS, size=12)] + 0.01, net.spec)
        for name in (*KINDS, *CONTROLS)
    }
    sizes = {auditing.TRAINING: STEPS, auditing.HELDOUT: UNSEEN, **dict.fromkeys(samples, 12)}
    measured = {
        name: make_measured(rng, n, STEPS, 0.0 if name in CONTROLS else 2.0, False) for name, n in sizes.items()
    }
    baselines = [name for name, kind in KINDS.items() if generators.is_baseline(kind)]
    metrics = auditing.summarise(measured, CONTROLS, 20, 0, baselines=baselines) | {
        "zoo": {"num_params": net.spec.num_params, "runs_by_split": {"train": 1, "heldout": UNSEEN}},
        "timing": {},
        "versions": {},
    }
    for name, kind in {**KINDS, "ours_again": "pdiff"}.items():
        if name in metrics["series"]:
            metrics["series"][name]["kind"] = kind
    (workdir / "audit").mkdir(parents=True)
    for name, one in measured.items():
        np.savez(workdir / "audit" / f"{name}.npz", **dataclasses.asdict(one))
    return {
        "metrics": metrics,
        "config": {
            "seed": 3,
            "num_samples": 12,
            "data": {"name": "tiny"},
            "zoo": {},
            "report": {"boundary_resolution": 11},
            "generators": {name: {"kind": kind} for name, kind in KINDS.items()} | {"ours_again": {"of": "ours"}},
        },
        "net": net,
        "dataset": make_dataset(),
        "train": train,
        "samples": samples,
        "mesh": parallel.make_mesh(2),
        "heldout": heldout,
        "heldout_checkpoints": checkpoints,
    }


@pytest.fixture(scope="module")
def one_run(tmp_path_factory):
    """The arguments of the report, its series, and its workdir."""
    workdir = tmp_path_factory.mktemp("one_run") / "run"
    arguments = make_one_run(workdir)
    return arguments, style.collect(workdir, arguments["metrics"]), workdir


@pytest.fixture
def drawing():
    """The style of figures."""
    with style.drawing():
        yield


def points(axes):
    """What a panel's scatters show, by label: `[n, 2]`."""
    return {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections if len(c.get_offsets())}


def test_the_page_of_one_run_has_every_figure_and_says_what_was_trained(one_run):
    arguments, _, workdir = one_run
    with sketched():
        page = Page(report.write(workdir, **arguments).read_text())
    names = {p.stem for p in (workdir / "figures").iterdir()}
    assert {"accuracy_similarity", "interpolation_residual", "value_distributions", "tsne", "trajectory"} < names
    size = arguments["net"].spec.num_params
    assert f"{size} of the {WHOLE.spec.num_params} parameters of a network" in page.text
    assert f"trained once, of which the generators learn {STEPS} checkpoints" in page.text
    assert "beside those of the same run, itself left out" in page.text


@pytest.mark.parametrize("resolution", [1, 2.5, "300"])
def test_impossible_resolutions_are_refused(resolution):
    with pytest.raises(UserError, match=r"report\.boundary_resolution"):
        settings.make(report.ReportSettings, {"boundary_resolution": resolution})
    assert report.ReportSettings().boundary_resolution == 300


def test_similarity_sets_go_by_kind_whatever_the_names(one_run, drawing):
    _, series, _ = one_run
    top = figures.accuracy_similarity(series, 40, 0).axes[:2]
    common = {"training", "ours"}
    sets = [common | {"jitter"}, common | {"soup", "published soup", "blob"}]
    assert [set(points(axes)) for axes in top] == sets
    assert top[0].get_xlim() == top[1].get_xlim() and top[0].get_ylim() == top[1].get_ylim()
    one = {s.label: s.measured for s in series}["ours"]
    for axes in top:
        low, high = axes.get_ylim()
        assert all((low < p[:, 1]).all() and (p[:, 1] < high).all() for p in points(axes).values())
        shown = points(axes)["ours"]
        assert set(shown[:, 0]) <= set(one.max_error_iou)  # similarity as it is, accuracy within a third of an example
        places = [np.abs(one.accuracy - y)[one.max_error_iou == x].min() for x, y in shown]
        assert max(places) <= 1 / 120
    np.testing.assert_array_equal(points(top[0])["ours"], points(top[1])["ours"])
    assert figures.accuracy_similarity([s for s in series if s.name == "training"], 40, 0) is None


def test_residuals_are_relative_to_heldout_runs_and_to_the_own_neighbour(one_run, drawing):
    _, series, _ = one_run
    middle = np.median(next(s for s in series if s.role == auditing.HELDOUT).measured.hull_residual)
    soup = next(i for i, s in enumerate(series) if s.name == "soup")
    copies = dataclasses.replace(series[soup].measured, min_l2=np.zeros(12), hull_residual=np.zeros(12))
    far = dataclasses.replace(series[soup].measured, hull_residual=np.full(12, 50 * middle))
    changed = [*series[:soup], dataclasses.replace(series[soup], measured=copies), *series[soup + 1 :]]
    changed[-1] = dataclasses.replace(series[-1], measured=far, role=style.BASELINE)
    left, right = figures.interpolation_residual(changed).axes
    rows = [s for s in changed if s.role != style.CONTROL]
    assert [t.get_text() for t in left.get_yticklabels()] == [s.label for s in rows]
    shown = [np.asarray(c.get_offsets())[:, 0] for c in left.collections]
    for s, values in zip(rows, shown, strict=True):
        np.testing.assert_allclose(values, np.minimum(s.measured.hull_residual / middle, 3.0), rtol=1e-12)
    assert left.get_xticklabels()[-1].get_text() == "\u2265 3"
    ratios = [np.asarray(c.get_offsets())[:, 0] for c in right.collections]
    np.testing.assert_allclose(ratios[0], rows[0].measured.hull_residual / rows[0].measured.min_l2, rtol=1e-12)
    assert not ratios[[s.name for s in rows].index("soup")].any()  # copies have no distance to be a share of


def test_drawn_parameters_are_of_the_first_tensor_that_varies(one_run, drawing):
    arguments, series, _ = one_run
    train = arguments["train"]
    leaves = [(leaf.name, span) for leaf, span in train.spec.spans()]
    values = train.weights.copy()
    values[:, leaves[0][1]] = 1.0
    name, first, columns = weights.varying_values(train, values, 0)
    assert (name, first) == (leaves[1][0], leaves[1][1].start)
    assert set(columns) <= set(range(leaves[1][1].start, leaves[1][1].stop))
    many = Population.create(np.ones((3, WHOLE.spec.num_params)), WHOLE.spec)
    values = many.weights.copy()
    values[:, [0, *range(36, 52)]] += np.arange(3)[:, None]  # of fc1/weight one, of the two tensors after it all
    assert weights.varying_values(many, values, 0)[0] == "fc2/weight"  # the first that has as many as are shown
    assert not len(weights.varying_values(many, many.weights, 0)[2])
    found = weights.clouds(series, train, arguments["heldout"], arguments["samples"])
    panels = weights.value_distributions(found, train, 0).axes
    _, first, columns = weights.varying_values(train, train.weights, 0)
    assert [axes.get_title() for axes in panels] == [f"parameter {c - first}" for c in columns]
    for axes, column in zip(panels, columns, strict=True):
        assert [line.get_label() for line in axes.lines] == ["training", "held-out", "ours"]
        x, density = axes.lines[0].get_data()
        sample = train.weights[:, column].astype(np.float64)
        width = sample.std(ddof=1) * len(sample) ** -0.2  # Scott's rule in one dimension
        kernels = np.exp(-0.5 * ((x[:, None] - sample[None, :]) / width) ** 2).mean(axis=1) / np.sqrt(2 * np.pi) / width
        np.testing.assert_allclose(density, kernels, rtol=1e-9, atol=1e-12)


def test_tsne_is_the_same_every_time_and_keeps_neighbours(one_run, drawing):
    arguments, series, _ = one_run
    rng = np.random.default_rng(0)
    groups = [Population.create(8.0 * i + rng.normal(size=(20, 15)), arguments["train"].spec) for i in range(3)]
    found = [weights.Cloud(s, g.weights.astype(np.float32)) for s, g in zip(series, groups, strict=False)]
    shown = []
    for _ in range(2):
        shown.append(np.concatenate(list(points(weights.tsne(found, 0).axes[0]).values())))
    np.testing.assert_array_equal(*shown)
    apart = np.linalg.norm(shown[0][:, None] - shown[0][None], axis=2) + np.where(np.eye(60), np.inf, 0)
    np.testing.assert_array_equal(apart.argmin(axis=1) // 20, np.arange(60) // 20)
    assert weights.tsne([weights.Cloud(series[0], np.ones((20, 15), np.float32))], 0) is None


def test_the_path_lies_on_its_own_principal_components(one_run, drawing):
    arguments, series, _ = one_run
    train = arguments["train"]
    shuffled = train.select(np.random.default_rng(0).permutation(STEPS))
    paths = weights.paths(shuffled, 1)
    np.testing.assert_array_equal(paths[0].weights, train.weights)
    assert weights.paths(arguments["heldout"], 9) == [] and len(weights.paths(arguments["heldout_checkpoints"], 9)) == 9
    mean = [weights.Cloud(series[1], train.weights.mean(axis=0)[None])]
    far = weights.Cloud(series[2], np.concatenate([train.weights[:3], train.weights[:2] + 50]))
    figure = weights.trajectory([*mean, far], paths, weights.paths(arguments["heldout_checkpoints"], 2), 0)
    assert figure.get_suptitle() == "Outside of a panel: 2 of 5 of ours."
    left, right, _ = figure.axes
    offsets = train.weights.astype(np.float64) - train.weights.mean(axis=0, dtype=np.float64)
    u, singular, _ = np.linalg.svd(offsets, full_matrices=False)
    shown = next(np.asarray(c.get_offsets()) for c in left.collections if len(c.get_offsets()) == STEPS)
    signs = np.sign((shown * u[:, :2]).sum(axis=0))
    np.testing.assert_allclose(shown, u[:, :2] * singular[:2] * signs, atol=1e-9)
    off = next(np.asarray(c.get_offsets()) for c in right.collections if len(c.get_offsets()) == STEPS)[:, 1]
    np.testing.assert_allclose(off, np.linalg.norm(u[:, 2:] * singular[2:], axis=1), atol=1e-6)
    np.testing.assert_allclose(points(left)[series[1].label], 0, atol=1e-6)
    distances = weights.distance_to_mean([*mean, weights.Cloud(series[0], train.weights)], paths, 0)
    np.testing.assert_allclose(list(distances.values()), [0, np.median(np.linalg.norm(offsets, axis=1))], atol=1e-6)


def test_components_of_few_rows_are_those_of_many_columns():
    rows = np.random.default_rng(0).normal(size=(9, 40)) * np.linspace(3, 1, 40)
    rows -= rows.mean(axis=0)
    _, _, right = np.linalg.svd(rows, full_matrices=False)
    for found in (components.leading(rows), components.leading(np.concatenate([rows] * 5))):
        np.testing.assert_allclose(np.abs((found * right[:2]).sum(axis=1)), 1, rtol=1e-9)
        assert (found[np.arange(2), np.abs(found).argmax(axis=1)] > 0).all()
    line = np.outer(np.arange(5) - 2.0, np.eye(7)[3])
    np.testing.assert_allclose(components.leading(line), [np.eye(7)[3], np.zeros(7)], atol=1e-12)


def test_the_ten_classes_are_the_published_draw():
    assert boundary.shown_classes(np.arange(100), 100).tolist() == [3, 13, 14, 17, 28, 31, 35, 81, 86, 94]
    assert boundary.shown_classes(np.array([7]), 10).tolist() == list(range(10))
    few = np.repeat([0, 5, 40], 4)  # of a small test set
    assert boundary.shown_classes(few, 100).tolist() == [0, 5, 40]


def test_regions_of_partial_networks_are_among_the_shown_classes_and_of_clamped_images(mesh):
    rng = np.random.default_rng(0)
    whole = tasks.build({"name": "mlp", "hidden": (6,)}, (4, 4, 3), 25)
    base = 3 * np.asarray(jax.jit(whole.init)(jax.random.key(1)))
    net = nets.partial(whole, base, ("fc2/*",))
    labels = np.arange(300) % 25
    pictures = rng.normal(size=(300, 4, 4, 3)) + 2 * rng.normal(size=(300, 1, 1, 1))
    pictures = (np.clip(pictures, -1, 1) * [1, 2, 3]).astype(np.float32)  # as of pixels, many are at the limits
    plane = boundary.fit_plane(pictures, labels, 25)
    chosen = boundary.shown_classes(labels, 25)
    assert len(chosen) == 10 and set(plane.labels) == set(chosen)
    inside = pictures[np.isin(labels, chosen)]
    assert len(plane.points) == len(inside)
    vectors = (net.start + rng.normal(size=(3, net.spec.num_params))).astype(np.float32)
    regions = boundary.classify(net, vectors, plane, mesh, 13)
    assert regions.shape == (3, 13, 13) and set(np.unique(regions)) <= set(chosen)
    grid = plane.mean + plane.grid(13) @ plane.basis
    grid = np.clip(grid.reshape(-1, 4, 4, 3), inside.min(axis=(0, 1, 2)), inside.max(axis=(0, 1, 2)))
    assert (grid.reshape(169, -1) != plane.mean + plane.grid(13) @ plane.basis).any()
    apply = jax.jit(jax.vmap(whole.apply, in_axes=(0, None)))
    logits = np.asarray(apply(net.insert(vectors), grid.astype(np.float32)))[..., chosen]
    clear = np.diff(np.sort(logits, axis=-1)[..., -2:])[..., 0] > 1e-4  # rounding may decide the others
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(regions.reshape(3, -1)[clear], chosen[logits.argmax(axis=-1)][clear])
