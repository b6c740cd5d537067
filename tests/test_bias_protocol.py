"""Subsets, intervals and the training of source classifiers."""

import numpy as np
import pytest
from scipy import stats

from jaxweights import parallel
from jaxweights.bias import classifiers, protocol
from jaxweights.bias.transfer import Transfer
from jaxweights.errors import UserError


def _vectors(shift: float, seed: int = 0):
    """Three collections of 80 vectors each, in groups of two; the last collection is shifted."""
    rng = np.random.default_rng(seed)
    labels, groups = np.repeat(np.arange(3), 80), np.arange(240) // 2
    return rng.normal(size=(240, 5)).astype(np.float32) + shift * (labels == 2)[:, None], labels, groups


def _trials(labels, groups, repeats=2):
    real = protocol.splits(labels, groups, 24, 12, repeats)
    control = protocol.control_splits(labels, groups, 24, 12, repeats)
    return [s.trial(0, i) for i, s in enumerate(real + control)], [False] * len(real) + [True] * len(control)


def test_subsets_are_balanced_and_share_no_group():
    _, labels, groups = _vectors(0.0)
    found = protocol.splits(labels, groups, 24, 12, repeats=3)
    for split in found:
        assert not np.intersect1d(groups[split.train], groups[split.validation]).size
        np.testing.assert_array_equal(np.bincount(labels[split.train]), 48)
        np.testing.assert_array_equal(np.bincount(labels[split.validation]), 24)
    asked = np.concatenate([split.validation for split in found])
    assert len(np.unique(asked)) == len(asked)
    with pytest.raises(UserError, match="Collection 0 has 40 independent examples"):
        protocol.splits(labels, groups, 30, 12)


def test_collections_of_the_same_groups_are_split_alike():
    labels, groups = np.repeat(np.arange(2), 30), np.tile(np.arange(30), 2)
    (split,) = protocol.splits(labels, groups, 20, 10, repeats=1)
    assert not np.intersect1d(groups[split.train], groups[split.validation]).size
    groups = np.concatenate([np.arange(30), np.arange(15, 45)])
    with pytest.raises(UserError, match="in several collections"):
        protocol.splits(labels, groups, 20, 10, repeats=1)


def test_control_cuts_one_collection():
    _, labels, groups = _vectors(0.0)
    for r, split in enumerate(protocol.control_splits(labels, groups, 24, 12)):
        rows = np.concatenate([split.train, split.validation])
        assert set(labels[rows]) == {r}
        assert not np.intersect1d(groups[split.train], groups[split.validation]).size
        assert set(np.bincount(split.labels[split.validation])) == {8}  # 4 of 13 groups, 2 rows each


def test_wilson_interval_solves_its_equation():
    # The ends are the shares p at which the score test just rejects: (k / n - p)^2 = z^2 p (1 - p) / n.
    z = stats.norm.ppf(0.975)
    for k, n in [(0, 10), (7, 10), (123.5, 300), (300, 300)]:
        found = protocol.wilson(k, n)
        for p in (found.low, found.high):
            np.testing.assert_allclose((k / n - p) ** 2, z**2 * p * (1 - p) / n, atol=1e-14)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_vectors(kind):
    inputs, labels, groups = _vectors(3.0)
    trials, control = _trials(labels, groups)
    classifier = classifiers.build({"kind": kind, "epochs": 8, "batch_size": 16})
    outcomes = classifiers.train(classifier, inputs[None], trials, 3)
    found = protocol.summary(trials, outcomes, 3, control)
    # The shifted collection is told apart; between the others, and between pseudo-collections, there is nothing.
    assert found["recall"][2] > 0.9 and found["accuracy"]["value"] < 0.9
    assert abs(found["control"]["value"] - 1 / 3) < 0.2
    assert found["accuracy"]["n"] == 144 and np.sum(found["confusion"]) == 144
    if kind == "linear":
        alone = classifiers.train(classifier, inputs[None], trials[1:2], 3, parallel.make_mesh(1))
        np.testing.assert_array_equal(alone[0].predictions, outcomes[1].predictions)


def test_images():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 40)
    images = rng.integers(0, 200, (2, 80, 8, 8, 3)).astype(np.uint8)
    images[1, labels == 1] += 40  # brighter under the second transformation alone
    splits = protocol.splits(labels, np.arange(80), 30, 10, repeats=1)
    trials = [split.trial(t, 0) for t in range(2) for split in splits]
    classifier = classifiers.CNN(channels=(4, 8), epochs=8, batch_size=20, learning_rate=0.02)
    outcomes = classifiers.train(classifier, images, trials, 2)
    plain, brighter = (protocol.accuracy([t], [o])["value"] for t, o in zip(trials, outcomes, strict=True))
    assert brighter > 0.9 and plain < 0.8
    explain = outcomes[1].explain
    assert explain is not None
    maps = explain(images[1, 39:41], labels[39:41])
    assert maps is not None and maps.shape == (2, 8, 8) and maps.min() >= 0 and maps[1].max() == pytest.approx(1)
    with pytest.raises(UserError, match="takes images"):
        classifiers.train(classifier, np.zeros((1, 80, 5), np.float32), trials[:1], 2)
    with pytest.raises(UserError, match="not finite"):
        classifiers.train(classifiers.Linear(), np.full((1, 80, 5), np.nan, np.float32), trials[:1], 2)


@pytest.mark.parametrize("parents", [True, False])
def test_transfers_learn_on_one_side_and_ask_on_the_other(parents):
    """Samples that were made from a network are not asked about where that is learned from; controls are balanced."""
    labels = np.tile(np.repeat([0, 1, 2], 20), 2)
    groups = np.concatenate([np.arange(60), np.arange(60) if parents else 60 + np.arange(60)])
    asked = np.repeat([False, True], 60)
    for train in (9, 0):
        drawn = Transfer(labels, groups, asked, train, 4).splits()
        controls = Transfer(labels, groups, asked, train, 4).control_splits()
        for split in drawn + controls:
            assert not asked[split.train].any() and asked[split.validation].all()
            assert not np.intersect1d(groups[split.train], groups[split.validation]).size
            for rows in (split.train, split.validation):
                counts = np.bincount(split.labels[rows], minlength=3)
                assert counts.min() == counts.max() > 0
        assert all(len(split.train) == 3 * (train or (16 if parents else 20)) for split in drawn)
        seen = np.concatenate([split.validation for split in drawn])
        assert len(np.unique(seen)) == len(seen) == 3 * 3 * 4
        assert all(len(np.unique(labels[split.train])) == 1 for split in controls)
    with pytest.raises(UserError, match="too few for 6 repeats of 4"):
        Transfer(labels, groups, asked, 9, 4).splits(6)
    with pytest.raises(UserError, match="control of 3 pseudo-collections"):
        Transfer(labels[::10], groups[::10], asked[::10], 9, 4).control_splits()
