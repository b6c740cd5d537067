"""A network with an output that is not finite is undefined: it is never taken for one that guesses."""

import numpy as np
import pytest

from jaxweights import nets, parallel, tasks
from jaxweights.evaluation import Predictor, evaluate
from jaxweights.population import variance_spans

EXAMPLES = 8
# Sizes alone set vit_base and convnext_base apart, and tests have sizes of their own.
KINDS = [name for name in nets.NETWORKS if name not in ("vit_base", "convnext_base")]


def tiny(name):
    entry = nets.NETWORKS[name]
    return tasks.build({"name": name, **entry.tiny}, entry.tiny_input, 3 if len(entry.tiny_input) == 3 else 1)


@pytest.mark.parametrize("name", KINDS)
def test_a_nan_and_a_negative_variance_make_every_network_undefined(name):
    """A NaN in the first and in the last weight that is read, and a negative variance."""
    net, rng = tiny(name), np.random.default_rng(0)
    good = (0.2 + np.abs(0.1 * rng.normal(size=net.spec.num_params))).astype(np.float32)
    read = [span for leaf, span in net.spec.spans() if leaf.name != "log_std"]
    bad = [(read[0].start, np.nan), (read[-1].start, np.nan)]
    bad += [(span.start, -1.0) for span in variance_spans(net.spec)[:2]]
    rows = np.tile(good, (len(bad), 1))
    for row, (place, value) in zip(rows, bad, strict=True):
        row[place] = value
    inputs = rng.normal(size=(EXAMPLES, *net.input_shape)).astype(np.float32)
    targets = np.zeros((EXAMPLES, 1) if name == "field" else EXAMPLES, np.int32)
    found = evaluate(net, rows, inputs, targets, parallel.make_mesh(1))
    assert found.undefined.all() and len(found.loss) == len(bad)
    assert (found.accuracy == 0).all()
    if name != "field":  # its masks are what a shape covers, no errors
        assert (np.unpackbits(found.errors, axis=1)[:, :EXAMPLES] == 1).all()


def test_networks_beside_undefined_ones_keep_their_numbers():
    """Negative variances of a residual network, whose means over maps XLA takes NaN for 0 in."""
    net, rng = tiny("resnet18"), np.random.default_rng(0)
    rows = (0.2 + np.abs(0.1 * rng.normal(size=(3, net.spec.num_params)))).astype(np.float32)
    broken = rows.copy()
    broken[1, variance_spans(net.spec)[0].start] = -1
    inputs, labels = rng.normal(size=(EXAMPLES, *net.input_shape)).astype(np.float32), np.zeros(EXAMPLES, np.int32)
    whole, found = (evaluate(net, x, inputs, labels, parallel.make_mesh(1)) for x in (rows, broken))
    for one, other in zip(whole, found, strict=True):
        np.testing.assert_array_equal(one[[0, 2]], other[[0, 2]])
    assert found.undefined.tolist() == [False, True, False] and not whole.undefined.any()


def test_functions_of_any_framework_may_return_values_that_are_not_finite():
    scores = np.array([[3.0, 1.0], [0.0, 2.0]])
    evaluate = Predictor(lambda w, x: scores + w, np.zeros(2), np.array([0, 0]))
    found = evaluate(np.array([[0.0], [np.inf]]))
    assert found.accuracy.tolist() == [0.5, 0.0] and found.undefined.tolist() == [False, True]
    assert np.unpackbits(found.errors, axis=1)[:, :2].tolist() == [[0, 1], [1, 1]]
