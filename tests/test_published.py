"""The published protocol equals its definitions written out pair by pair."""

import jax
import numpy as np
import pytest

from jaxweights import parallel, tasks
from jaxweights.auditing import published
from jaxweights.errors import UserError
from jaxweights.population import Population

RUNS, STEPS, T = 6, 3, 45
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def case():
    """Reconstructions of six runs at three steps; the last run lacks its last step. Labels that many networks get."""
    net = tasks.build({"name": "mlp", "hidden": (5,)}, (3, 2, 1), 3)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(RUNS, 1, net.spec.num_params))
    weights = base + 0.3 * rng.normal(size=(RUNS, STEPS, net.spec.num_params))
    run, step = np.repeat(np.arange(RUNS), STEPS), np.tile([10, 20, 30], RUNS)
    order = rng.permutation(RUNS * STEPS)
    order = order[order != RUNS * STEPS - 1]
    accuracy = rng.permutation(len(order)) / len(order)
    columns = {"run": run[order], "step": step[order], "accuracy": accuracy}
    reconstructed = Population.create(weights.reshape(-1, net.spec.num_params)[order], net.spec, **columns)
    images = rng.normal(size=(T, 3, 2, 1)).astype(np.float32)
    # The first row makes no errors, and neither do its copies.
    labels = np.asarray(jax.jit(net.apply)(reconstructed.weights[0], images)).argmax(axis=1).astype(np.int32)
    # As many as the noise series have, so that all series share their compiled programs.
    near = reconstructed.weights[:5] + 0.01 * rng.normal(size=(5, net.spec.num_params)).astype(np.float32)
    copy = np.repeat(reconstructed.weights[:1], 5, axis=0)
    generated = {name: Population.create(w, net.spec) for name, w in {"near": near, "copy": copy}.items()}
    return net, images, labels, reconstructed, generated


@pytest.fixture(scope="module")
def wrong(case):
    """Boolean error masks of weight vectors by the network's own logits."""
    net, images, labels, _, _ = case
    apply = jax.jit(jax.vmap(net.apply, in_axes=(0, None)))
    return lambda weights: np.asarray(apply(weights, images)).argmax(axis=2) != labels[None, :]


def by_definition(queries, reference, same, faithful):
    """Largest error IoU of every query, one pair at a time."""
    out = np.zeros(len(queries))
    for i, a in enumerate(queries):
        for j, b in enumerate(reference):
            union = (a | b).sum()
            iou = (a & b).sum() / (union + 1e-8) if faithful else (a & b).sum() / union if union else 1.0
            out[i] = max(out[i], 0.0 if same and i == j else iou)
    return out


@pytest.mark.parametrize("faithful", [False, True])
def test_every_number_is_that_of_the_definition(case, wrong, faithful):
    net, images, labels, reconstructed, generated = case
    mesh = parallel.make_mesh(1)
    metrics, arrays = published.run(
        net, images, labels, mesh, reconstructed, generated, key=KEY, faithful=faithful, resamples=50
    )
    weights, step = reconstructed.weights.astype(np.float64), reconstructed.records["step"]
    run, accuracy = reconstructed.records["run"], reconstructed.records["accuracy"]
    last = step == 30 if faithful else step == np.where(run == RUNS - 1, 20, 30)
    assert last.sum() == (RUNS - 1 if faithful else RUNS)
    best = np.flatnonzero(accuracy >= np.quantile(accuracy, 0.7))
    assert len(best) == len(generated["near"])
    names = ["training", "near", "copy", "noise_0.02", "noise_0.04"]
    assert list(metrics["series"]) == names and len(arrays) == 3 * len(names)
    errors = wrong(reconstructed.weights)
    for name in names:
        if name in generated:
            queries = generated[name].weights
        elif name == "training":
            queries = reconstructed.weights
        else:
            normals = noise(case, float(name.removeprefix("noise_")))
            queries = reconstructed.weights[best] + np.float32(name.removeprefix("noise_")) * normals[best]
        masks = wrong(queries)
        np.testing.assert_array_equal(arrays[f"published/{name}/accuracy"], (T - masks.sum(axis=1)) / T)
        expected = by_definition(masks, errors, name == "training", faithful)
        # Exact counts; the sum with 1e-8 is rounded once on either side.
        np.testing.assert_allclose(arrays[f"published/{name}/max_error_iou"], expected, rtol=1e-12)
        measured = queries[last] if name == "training" else queries
        pairs = np.linalg.norm(measured.astype(np.float64)[:, None, :] - weights[last][None, :, :], axis=2)
        if name == "training":
            np.fill_diagonal(pairs, np.inf)
        # The audit resolves ties of squared distances up to 1e-9 only; there are none here but for rounding.
        np.testing.assert_allclose(arrays[f"published/{name}/min_l2"], pairs.min(axis=1), rtol=1e-9)
        kind = metrics["series"][name].pop("kind")
        assert kind == {"training": published.TRAINING}.get(name, published.NOISE if "noise" in name else "generated")
        for measure, estimate in metrics["series"][name].items():
            values = arrays[f"published/{name}/{measure}"]
            assert estimate["n"] == len(values)
            np.testing.assert_allclose(estimate["mean"], values.mean(), rtol=1e-12)
            assert estimate["ci95"][0] <= estimate["mean"] <= estimate["ci95"][1]
    assert (arrays["published/copy/max_error_iou"] == (0.0 if faithful else 1.0)).all()


def noise(case, amplitude):
    """The normals of every reconstruction at one published amplitude."""
    number, width = published.AMPLITUDES.index(amplitude), case[0].spec.num_params
    rows = range(len(case[3]))
    key = jax.random.fold_in(KEY, number)
    return np.stack([np.asarray(jax.random.normal(jax.random.fold_in(key, row), (width,))) for row in rows])


def test_noise_of_a_row_does_not_depend_on_which_others_are_chosen(case):
    net, _, _, reconstructed, _ = case
    rows = published._best(reconstructed.records["accuracy"], 0.3)
    some = published._noisy(reconstructed, rows, (0.5, 2.0), KEY)
    every = published._noisy(reconstructed, np.arange(len(reconstructed)), (0.5, 2.0), KEY)
    for name in ("noise_0.5", "noise_2"):
        np.testing.assert_array_equal(some[name], every[name][rows])
    added = np.stack([(every[n] - reconstructed.weights) / a for n, a in [("noise_0.5", 0.5), ("noise_2", 2.0)]])
    # Five standard errors of the variance of n independent normals, and of the correlation of two amplitudes.
    count = added[0].size
    np.testing.assert_allclose(np.square(added).mean(axis=(1, 2)), 1.0, atol=5 * np.sqrt(2 / count))
    assert abs((added[0] * added[1]).mean()) < 5 / np.sqrt(count)


def test_what_cannot_be_measured_is_refused(case):
    net, images, labels, reconstructed, generated = case
    mesh = parallel.make_mesh(1)
    records = reconstructed.records
    unknown = Population.create(reconstructed.weights, net.spec, run=records["run"], step=records["step"])
    for population, series, settings, message in [
        (reconstructed, {"noise_0.02": generated["near"]}, {}, "noise_0.02 stands twice"),
        (reconstructed, {}, {"noise": (0.1, 0.1)}, "a noise amplitude stands twice"),
        (reconstructed, {}, {"top": 0.0}, "share of networks"),
        (unknown, {}, {}, "no recorded accuracy"),
        (reconstructed.where(run=2), {}, {}, "at least two runs"),
    ]:
        with pytest.raises(UserError, match=message):
            published.run(net, images, labels, mesh, population, series, key=KEY, **settings)
