"""Linear probes equal scikit-learn's ridge regression, and choose their strength without leaks."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from jaxweights import tasks
from jaxweights.auditing import probes
from jaxweights.errors import UserError

# Both sides solve in float64; the weakest strength leaves a condition number of up to 1e8.
TOLERANCE = 1e-6


def rows(seed, n, f=6, noise=0.5):
    """Features, targets that a linear map with an offset explains in part, and runs of three checkpoints each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, f)) * np.logspace(0, -2, f)[None, :]
    y = x @ np.logspace(0, 1, f) + 3.0 + noise * rng.normal(size=n)
    return x, y, rng.permutation(np.arange(n) // 3)


def ridge(x, y, strength):
    def constant(a):
        return np.concatenate([a, np.ones((len(a), 1))], axis=1)

    model = Ridge(strength, fit_intercept=False, solver="svd").fit(constant(x), y)
    return lambda a: model.predict(constant(a))


@pytest.mark.parametrize("n,f", [(60, 6), (15, 40)], ids=["more rows than features", "fewer"])
def test_every_strength_is_a_ridge_regression(n, f):
    x, y, _ = rows(0, n, f)
    other = rows(1, 11, f)[0]
    found = probes._fit(x, y)(other)
    assert len(probes.STRENGTHS) == 17 and list(probes.STRENGTHS) == sorted(probes.STRENGTHS, reverse=True)
    for column, strength in zip(found.T, probes.STRENGTHS, strict=True):
        np.testing.assert_allclose(column, ridge(x, y, strength)(other), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("select", ["folds", "split", "training"])
def test_probe_is_the_direct_computation(select):
    x, y, runs = rows(2, 45, noise=2.0)
    x_test, y_test, _ = rows(3, 20)
    x_val, y_val, _ = rows(4, 30)
    scores = []
    for strength in probes.STRENGTHS:
        if select == "folds":
            held_out = np.empty_like(y)
            for fold in range(5):  # runs are numbered from 0 without gaps
                held = runs % 5 == fold
                held_out[held] = ridge(x[~held], y[~held], strength)(x[held])
            scores.append(r2_score(y, held_out))
        elif select == "split":
            scores.append(r2_score(y_val, ridge(x, y, strength)(x_val)))
        else:
            scores.append(r2_score(y, ridge(x, y, strength)(x)))
    strength = probes.STRENGTHS[int(np.argmax(scores))]
    found = probes.probe(
        x,
        y,
        x_test,
        y_test,
        runs,
        select="training" if select == "training" else "validation",
        validation=(x_val, y_val) if select == "split" else None,
    )
    assert found["strength"] == strength and (found["n_train"], found["n_test"]) == (45, 20)
    predict = ridge(x, y, strength)
    np.testing.assert_allclose(found["r2_train"], r2_score(y, predict(x)), rtol=TOLERANCE)
    np.testing.assert_allclose(found["r2_test"], r2_score(y_test, predict(x_test)), rtol=TOLERANCE)
    if select == "training":
        assert found["r2_validation"] is None and strength == min(probes.STRENGTHS)
    else:
        np.testing.assert_allclose(found["r2_validation"], max(scores), rtol=TOLERANCE)
        assert min(probes.STRENGTHS) < strength


def test_runs_are_never_on_both_sides_of_a_fold():
    """Targets that only name the run can be read off duplicates of a row, and not at all from other runs."""
    rng = np.random.default_rng(5)
    runs = np.repeat(np.arange(20), 4)
    x = np.repeat(np.eye(20), 4, axis=0)
    y = np.repeat(rng.normal(size=20), 4)
    leaking = probes.probe(x, y, x, y, np.arange(80))
    grouped = probes.probe(x, y, x, y, runs)
    assert leaking["r2_validation"] > 0.9 and grouped["r2_validation"] < 0.1


def test_unknown_targets_are_left_out():
    x, y, runs = rows(6, 40)
    x_test, y_test, _ = rows(7, 20)
    holes, test_holes = np.where(np.arange(40) % 7 == 0, np.nan, y), np.where(np.arange(20) < 3, np.nan, y_test)
    keep = ~np.isnan(holes)
    assert probes.probe(x, holes, x_test, test_holes, runs) == probes.probe(
        x[keep], y[keep], x_test[3:], y_test[3:], runs[keep]
    )


def test_probe_reads_an_exact_linear_map():
    x, y, runs = rows(8, 60, noise=0.0)
    x_test, y_test, _ = rows(9, 30, noise=0.0)
    found = probes.probe(x, y, x_test, y_test, runs)
    assert found["r2_test"] > 1 - 1e-6  # the weakest penalty, 1e-5, against a scatter of a few thousandths at least


def test_weight_statistics_are_those_of_every_tensor(monkeypatch):
    net = tasks.build({"name": "mlp", "hidden": (5,)}, (3, 2, 1), 4)
    weights = np.random.default_rng(0).normal(size=(7, net.spec.num_params)).astype(np.float32)
    whole = probes.weight_statistics(weights, net.spec)
    assert whole.shape == (7, 7 * 4) and whole.dtype == np.float64
    for n, vector in enumerate(weights.astype(np.float64)):
        for i, (_, span) in enumerate(net.spec.spans()):
            tensor = vector[span]
            moments = [tensor.mean(), tensor.var()]
            expected = moments + [np.percentile(tensor, q) for q in (0, 25, 50, 75, 100)]
            # The same float64 sums in another order.
            np.testing.assert_allclose(whole[n, 7 * i : 7 * i + 7], expected, rtol=1e-12, atol=1e-15)
    monkeypatch.setattr(probes, "_BLOCK_BYTES", 1)
    np.testing.assert_array_equal(probes.weight_statistics(weights, net.spec), whole)
    # Reordering hidden units moves entries within the tensors only.
    spec = net.spec
    permuted = np.asarray(spec.permute(weights, (np.array([4, 2, 0, 1, 3]),)))
    np.testing.assert_allclose(probes.weight_statistics(permuted, spec), whole, rtol=1e-12, atol=1e-15)


def test_what_does_not_fit_is_refused():
    x, y, runs = rows(10, 12)
    for arguments, message in [
        ((x, y, x[:, 1:], y, runs), r"\[N, 6\]"),
        ((x, y[1:], x, y, runs[1:]), r"\[N, F\]"),
        ((x, y, x, y, runs[1:]), "one per row"),
        ((np.where(x == x[3, 3], np.inf, x), y, x, y, runs), "training rows"),
        ((x, y, x, np.ones(12), runs), "R\\^2 is undefined"),
        ((x, y, x[:1], y[:1], runs), "R\\^2 is undefined"),
        ((x, y, x, y, np.zeros(12, int)), "1 run"),
    ]:
        with pytest.raises(UserError, match=message):
            probes.probe(*arguments)
    with pytest.raises(ValueError, match="select"):
        probes.probe(x, y, x, y, runs, select="test")
