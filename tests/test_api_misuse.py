"""Mistakes in what the functions of `jw` are given end in one sentence that names the argument."""

import numpy as np
import pytest
from flax import linen as nn

from jaxweights.api.audit import audit
from jaxweights.api.generators import Model, fit, sample
from jaxweights.api.zoo import evaluate, train_zoo
from jaxweights.errors import UserError
from jaxweights.population import Population, from_array

RNG = np.random.default_rng(0)
ROWS, HELDOUT, DRAWN = (RNG.normal(size=(n, 5)).astype(np.float32) for n in (12, 9, 10))
X, X_TEST = RNG.normal(size=(12, 3)).astype(np.float32), RNG.normal(size=(6, 3)).astype(np.float32)
Y, Y_TEST = np.arange(12) % 3, np.arange(6) % 3
MODEL = fit("copy", ROWS)
MODULE = nn.Dense(3)
BROKEN = Population(ROWS * np.nan, from_array(ROWS).spec, from_array(ROWS).records)


def zoo(x=X, y=Y, x_test=X_TEST, y_test=Y_TEST, **options):
    return train_zoo(MODULE, data=(x, y, x_test, y_test), runs=2, heldout=1, epochs=1, **options)


def but(array, row, value):
    changed = np.array(array)
    changed[row] = value
    return changed


ZOO = [
    (lambda: train_zoo(3), "first argument is int"),
    (lambda: train_zoo("digits", runs="many"), "runs is 'many', of type str; give a whole number"),
    (lambda: train_zoo("digits", runs=2.5), "runs is 2.5"),
    (lambda: train_zoo("digits", runs=0), "runs is 0; set it to at least 1"),
    (lambda: train_zoo("digits", heldout=-1), "heldout is -1"),
    (lambda: train_zoo("digits", seed=-1), "seed is -1; set it between 0"),
    (lambda: train_zoo("digits", seed=2**70), "seed is 1180591620717411303424"),
    (lambda: train_zoo("digits", seed=True), "seed is True, of type bool"),
    (lambda: train_zoo("digits", spec=3), "spec is of type int; give a WeightSpec"),
    (lambda: train_zoo(MODULE), "A module needs data"),
    (lambda: train_zoo(MODULE, data=(X, Y)), "A module needs data"),
    (lambda: zoo(x=X.astype(str)), "data: x .*It holds text"),
    (lambda: zoo(x=X * 1j), "data: x .*complex"),
    (lambda: zoo(x=X > 0), "data: x .*truth values"),
    (lambda: zoo(x=None), "data: x is None"),
    (lambda: zoo(x=[[1.0], [2.0, 3.0]]), "data: x .*NumPy cannot read"),
    (lambda: zoo(x=but(X, 4, np.nan)), r"data: x has NaN or infinite values in 1 of 12 rows \(first: \[4\]\)"),
    (lambda: zoo(x_test=but(X_TEST, 2, np.inf)), "data: x_test has NaN or infinite values"),
    (lambda: zoo(x=but(X.astype(float), 1, 1e300)), "data: x has values beyond 3.4e"),
    (lambda: zoo(x=X[:, 0]), "training data have inputs of shape"),
    (lambda: zoo(x=X[:0], y=Y[:0]), "training data have inputs of shape"),
    (lambda: zoo(x=X[1:]), "training data have inputs of shape"),
    (lambda: zoo(x=X[:, 1:]), "both must be alike"),
    (lambda: zoo(x=np.zeros((12, 3), np.uint8)), "both must be bytes, or neither"),
    (lambda: zoo(y=Y.astype(str)), "data: y .*It holds text"),
    (lambda: zoo(y=Y > 0, y_test=Y_TEST > 0), "data: y .*truth values"),
    (lambda: zoo(y=Y[:, None]), "targets of shape"),
    (lambda: zoo(y=Y - 1), "negative numbers"),
    (lambda: zoo(y=Y + 1, y_test=Y_TEST + 1), "training labels are 1 to 3, .* have no training image"),
    (lambda: zoo(y=but(Y, 0, 255)), "have no training image"),
    (lambda: zoo(y=but(Y, 0, 2**40)), "have no training image"),
    (lambda: zoo(y_test=but(Y_TEST, 0, 3)), "test labels range from 0 to 3"),
    (lambda: zoo(y=np.zeros(12, int), y_test=np.zeros(6, int)), "all training labels are 0"),
    (lambda: zoo(y_test=Y_TEST + 0.5), "Targets are int64 in training and float64 in the test"),
    (lambda: zoo(y=Y + 0.5, task="classification"), "classes are integers from 0"),
    (
        lambda: zoo(y=but(Y + 0.5, 3, np.nan)),
        r"data: y has NaN or infinite targets in 1 of 12 entries \(first: \[3\]\)",
    ),
    (lambda: zoo(y=but(Y + 0.5, 3, 1e60)), "data: y has targets beyond"),
    (lambda: zoo(task="polcy"), "polcy"),
    (lambda: zoo(epochz=3), "did you mean epochs"),
    (lambda: evaluate(ROWS), "first argument is of type ndarray; give a population"),
    (lambda: evaluate(from_array(ROWS)), "has no evaluator"),
]
MODELS = [
    (lambda: fit("gaussian", None), "training population is None"),
    (lambda: fit("gaussian", "zoo.npz"), "training population is of type str.*numpy.load"),
    (lambda: fit("gaussian", BROKEN), "training population has NaN or infinite weights in 12 of 12"),
    (lambda: fit("gaussian", ROWS * np.float32(1e20)), "too large for float32"),
    (lambda: fit("gaussian", ROWS, seed=-1), "seed is -1"),
    (lambda: fit("gaussian", ROWS, seed="a"), "seed is 'a'"),
    (lambda: sample("copy", 3), "first argument is of type str; give the result of fit"),
    (lambda: sample(MODEL, "3"), "count is '3'"),
    (lambda: sample(MODEL, 2.5), "count is 2.5"),
    (lambda: sample(MODEL, 0), "count is 0; set it to at least 1"),
    (lambda: sample(MODEL, 3, seed=2**32), "seed is 4294967296"),
    (lambda: sample(MODEL, 3, starts=ROWS), "starts is of type ndarray; give a population"),
    (lambda: sample(MODEL, 3, starts=from_array(ROWS[:, 1:])), "starts has 4 parameters per network"),
    (lambda: sample(Model(MODEL.generator, {**MODEL.state, "weights": ROWS * np.nan}, MODEL.training), 3), "NaN"),
]
AUDITS = [
    (lambda: audit(None, HELDOUT, DRAWN), "train is None"),
    (lambda: audit({"a": ROWS}, HELDOUT, DRAWN), "train is of type dict"),
    (lambda: audit(ROWS, [[1.0], [2.0, 3.0]], DRAWN), "heldout is of type list, which NumPy cannot read"),
    (lambda: audit(ROWS, HELDOUT, {"mine": DRAWN.astype(str)}), r'generated\["mine"\] .*It holds text'),
    (lambda: audit(ROWS, HELDOUT, DRAWN.astype(float) * 1e60), "generated has weights beyond"),
    (lambda: audit(BROKEN, HELDOUT, DRAWN), "train has NaN or infinite weights in 12 of 12 rows"),
    (lambda: audit(from_array(ROWS).select(np.arange(0)), HELDOUT, DRAWN), "train is empty"),
    (lambda: audit(ROWS, HELDOUT, from_array(DRAWN).select(np.arange(0))), "generated is empty"),
    (lambda: audit(ROWS, HELDOUT, {}), "generated is empty"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, seed=-3), "seed is -3"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, spec="mlp"), "There is no spec of weights at mlp"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, spec=3), "spec is of type int; give a WeightSpec"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, settings=3), "settings is of type int; give AuditSettings"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, baselines="noise_low"), "baselines is 'noise_low'; give True, False"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, baselines=3), "baselines is 3"),
    (lambda: audit(ROWS, HELDOUT, DRAWN, bootstrap=0), "bootstrap is 0"),
]


@pytest.mark.parametrize(("call", "message"), ZOO + MODELS + AUDITS)
def test_mistakes_name_the_argument(call, message):
    with pytest.raises(UserError, match=message) as found:
        call()
    assert "diverged" not in str(found.value) and "learning rate" not in str(found.value)


def test_real_targets_that_are_whole_are_mentioned(capsys):
    with pytest.raises(UserError, match="epochz"):
        zoo(y=Y.astype(float), y_test=Y_TEST.astype(float), epochz=3)
    assert "this is a regression; for classes give integers" in capsys.readouterr().err
