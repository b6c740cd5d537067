"""Networks compared by what they compute: predictions, decisions, ensembles, barriers, and the probe set.

Laws: whatever order hidden units are in, a copy has no functional distance; searches and means over pairs are those of
their definitions; an undefined network counts nowhere; images are moved by what the settings say.
"""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import softmax

from jaxweights import auditing, parallel, tasks
from jaxweights.auditing.alignment.hidden_units import apply_permutation
from jaxweights.auditing.distances import function
from jaxweights.auditing.measure import Measurer
from jaxweights.data import probe
from jaxweights.data.probe import ProbeSettings
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluator, Predictor
from jaxweights.population import Population

NET = tasks.build({"name": "mlp", "hidden": (5,)}, (3, 3, 1), 3)
IMAGES = np.random.default_rng(0).normal(size=(40, 3, 3, 1)).astype(np.float32)
LABELS = np.arange(40) % 3
RUNS, COUNT, BROKEN = 12, 40, 7
DEFINED = np.arange(COUNT) != BROKEN
PROBE = ProbeSettings(size=96, noise=0.5)


def rng(seed=0):
    return np.random.default_rng(seed)


def population(count, seed, first):
    weights = 0.8 * rng(seed).normal(size=(count, NET.spec.num_params))
    return Population.create(weights.astype(np.float32), NET.spec, run=first + np.arange(count))


def probabilities(networks, images):
    """`[n, T, 3]` float64, one network after the other."""
    return np.stack([softmax(np.asarray(NET.apply(w, images), np.float64), axis=-1) for w in networks.weights])


@pytest.fixture(scope="module")
def subject():
    """Reordered copies of training networks, one of them with a weight that is NaN."""
    train = population(RUNS, 1, 0)
    parents = rng(2).integers(0, RUNS, COUNT)
    orders = np.stack([rng(i).permutation(5) for i in range(COUNT)])
    copies = apply_permutation(train.weights[parents], NET.spec.units(0)[0], orders)
    copies[BROKEN, 0] = np.nan
    return auditing.Subject(
        train=train,
        heldout=population(10, 3, 100),
        generated={"copy": train.derive(copies.astype(np.float32), parents, "copy")},
        evaluate=Evaluator(NET, IMAGES, LABELS, parallel.make_mesh(2)),
    )


@pytest.fixture(scope="module")
def measurer(subject):
    settings = auditing.AuditSettings(barriers=4, hull_neighbours=4, hull_aligned_neighbours=3, probe=PROBE)
    return Measurer(subject, settings, parallel.make_mesh(2))


@pytest.fixture(scope="module")
def copied(subject, measurer):
    return measurer(subject.generated["copy"].select(np.flatnonzero(DEFINED)), "copy")


@pytest.fixture(scope="module")
def heldout(subject, measurer):
    return measurer(subject.heldout, auditing.HELDOUT)


def test_reordered_copies_have_the_outputs_of_their_parents(subject, copied):
    np.testing.assert_array_equal(copied.function_nearest, subject.generated["copy"].records["run"][DEFINED])
    assert copied.function_max.max() < 1e-6 and copied.function_second.min() > 1e-2
    assert not copied.nearest_disagreement.any() and (copied.max_error_iou == 1).all()
    known = np.isfinite(copied.barrier)
    assert known.sum() == np.isfinite(copied.aligned_barrier).sum() == 4
    assert copied.aligned_barrier[known].max() < 1e-5 < copied.barrier[known].max()


def test_functions_are_compared_on_the_probe_set_as_defined(subject, heldout):
    images, labels = probe.probe_set(IMAGES, LABELS, PROBE)
    ours, theirs = (probabilities(x, images) for x in (subject.heldout, subject.train))
    apart = cdist(ours.reshape(10, -1), theirs.reshape(RUNS, -1)) / np.sqrt(ours[0].size)
    nearest = apart.argmin(axis=1)
    np.testing.assert_array_equal(heldout.function_nearest, nearest)
    np.testing.assert_allclose(heldout.function_l2, apart.min(axis=1), rtol=1e-5)
    np.testing.assert_allclose(heldout.function_second, np.sort(apart, axis=1)[:, 1], rtol=1e-5)
    np.testing.assert_allclose(heldout.function_max, np.abs(ours - theirs[nearest]).max(axis=(1, 2)), rtol=1e-5)
    decided, others = ours.argmax(axis=-1), theirs.argmax(axis=-1)
    differ = (decided[:, None] != decided[None]).mean(axis=2)
    np.testing.assert_allclose(heldout.disagreement, differ.sum(axis=1) / 9)
    np.testing.assert_allclose(heldout.nearest_disagreement, (decided != others[nearest]).mean(axis=1))
    np.testing.assert_array_equal(heldout.wrong, (decided != labels[None]).sum(axis=1))
    clean = probabilities(subject.heldout, IMAGES).argmax(axis=-1)
    np.testing.assert_allclose(heldout.accuracy, (clean == LABELS[None]).mean(axis=1))


def test_undefined_networks_are_wrong_on_the_whole_probe_set_and_have_no_function(subject, measurer):
    networks = subject.generated["copy"]
    result = measurer.subject.evaluate(networks.weights)
    errors = measurer._probed(networks, result, "copy")
    assert np.bitwise_count(errors[BROKEN]).sum() == PROBE.size
    fields = measurer._functions(networks.weights, result, False)
    assert fields["function_nearest"][BROKEN] == -1
    assert all(np.isnan(v[BROKEN]) for name, v in fields.items() if name != "function_nearest")
    assert np.isfinite(fields["disagreement"][DEFINED]).all() and np.isfinite(fields["ensemble_gain"]).sum() == 2


def test_both_searches_find_the_same(subject, measurer, heldout, monkeypatch):
    monkeypatch.setattr(function, "_FEW", 0)
    again = measurer._functions(subject.heldout.weights, measurer.unseen, False)
    for name in ("function_l2", "function_second", "function_nearest"):
        np.testing.assert_allclose(again[name], getattr(heldout, name), rtol=1e-9)


def test_networks_that_err_on_different_examples_gain_by_their_mean():
    """Of 32 classifiers each is wrong on an example of its own: every ensemble is right on all."""

    def predict(weights, inputs):
        scores = np.tile([1.0, 0.0], (len(inputs), 1))
        scores[int(weights[0])] = [0.4, 0.6]
        return scores

    evaluate = Predictor(predict, np.zeros(32), np.zeros(32, int))
    weights = np.arange(32, dtype=np.float32)[:, None]
    functional = function.Functional(evaluate, weights[:4], np.arange(4), parallel.make_mesh(1))
    found = functional.measure(weights, evaluate(weights), False, lambda *_: np.zeros(32))
    gains = found["ensemble_gain"][np.isfinite(found["ensemble_gain"])]
    np.testing.assert_allclose(gains, [1 / 32, 1 / 32])
    np.testing.assert_allclose(found["disagreement"], 2 / 32)
    np.testing.assert_allclose(found["nearest_disagreement"], np.where(np.arange(32) < 4, 0, 2 / 32))
    numbers = Predictor(lambda w, x: np.zeros(len(x), int), np.zeros(32), np.zeros(32, int))
    assert function.Functional(numbers, weights, np.arange(32), parallel.make_mesh(1)).trained is None


def test_networks_of_a_group_do_not_count_as_disagreeing():
    decisions, groups = rng().integers(0, 3, (9, 70)), np.array([0, 1, 0, 2, 1, 1, 3, 4, 5])
    differ = (decisions[:, None] != decisions[None]).mean(axis=2)
    other = groups[:, None] != groups[None, :]
    expected = (differ * other).sum(axis=1) / other.sum(axis=1)
    np.testing.assert_allclose(function.disagreement(decisions, groups), expected)
    assert np.isnan(function.disagreement(decisions, np.zeros(9))).all()


def test_barriers_of_parabolas_have_a_closed_form():
    first, second = rng(1).normal(size=(2, 6, 4))
    squares = lambda rows: np.square(rows).sum(axis=1)  # noqa: E731
    height = 0.25 * squares(first - second)  # at the middle of the line
    hill = function.barriers(lambda rows: -squares(rows), first, second, -squares(first), -squares(second))
    np.testing.assert_allclose(hill, height, rtol=1e-5)
    assert not function.barriers(squares, first, second, squares(first), squares(second)).any()
    broken = function.barriers(lambda rows: np.full(len(rows), np.nan), first, second, height, height)
    assert np.isnan(broken).all()


def test_the_interval_of_disagreement_is_the_jackknife_over_networks(heldout):
    decisions, count = rng(4).integers(0, 2, (12, 40)), 12
    differ = (decisions[:, None] != decisions[None]).mean(axis=2)
    means = []
    for left_out in range(count):
        rest = np.delete(np.delete(differ, left_out, axis=0), left_out, axis=1)
        means.append(rest.sum() / ((count - 1) * (count - 2)))
    deviation = np.sqrt((count - 1) / count * np.square(np.array(means) - np.mean(means)).sum())
    found = function._pairwise(function.disagreement(decisions, np.arange(count)))
    assert found is not None
    assert found["mean"] == pytest.approx(differ.sum() / (count * (count - 1)))
    np.testing.assert_allclose(found["ci95"], found["mean"] + 1.96 * deviation * np.array([-1, 1]))
    described = function.describe(heldout, 50, 0)
    assert described is not None
    assert described["ensemble_gain"] is None and described["barrier"]["n"] == 4
    assert described["function_l2"]["mean"] == pytest.approx(heldout.function_l2.mean())


def test_probe_images_are_the_test_images_moved_by_what_the_settings_say():
    images = rng(5).uniform(size=(2, 4, 4, 2)).astype(np.float32)
    turned = probe._moved(images, np.full(2, np.pi / 2), np.zeros((2, 2)))
    assert min(np.abs(turned - np.rot90(images, k, axes=(1, 2))).max() for k in (1, 3)) < 1e-6
    shifted = probe._moved(images, np.zeros(2), np.tile([1.0, -0.5], (2, 1)))
    black = np.broadcast_to(images.min(axis=(0, 1, 2)), (2, 4, 1, 2))
    right = np.concatenate([images[:, :, 1:], black], axis=2)
    np.testing.assert_allclose(shifted[:, 1:], (0.5 * images + 0.5 * right)[:, :-1], atol=1e-6)
    still = ProbeSettings(size=9, shift=0, rotate=0, noise=0, seed=3)
    same, labels = probe.probe_set(images, np.array([4, 8]), still)
    assert sorted(np.bincount(labels // 4 - 1)) == [4, 5]
    np.testing.assert_allclose(same, images[labels // 4 - 1], atol=1e-6)
    noisy, again = probe.probe_set(images, np.array([4, 8]), still.replace(noise=0.2))
    assert np.std(noisy - same) == pytest.approx(0.2, rel=0.15) and (labels == again).all()


def test_a_probe_set_needs_images_of_a_known_test_set(subject):
    with pytest.raises(UserError, match=r"audit.probe.size is 96; the inputs of a regression are no images"):
        tasks.get("regression").check_probe(PROBE)
    with pytest.raises(UserError, match=r"with a function for predictions set it to 0"):
        Predictor(lambda w, x: x, np.zeros(3), np.zeros(3, int)).probing(PROBE)
    plain = auditing.Subject(subject.train, subject.heldout, {}, evaluate=lambda weights: None)
    with pytest.raises(UserError, match=r"the test set of these networks is not known"):
        _ = Measurer(plain, auditing.AuditSettings(probe=PROBE), parallel.make_mesh(1)).probe
