"""Nulls that are nulls: held-out networks are no samples, duplicates no neighbours, variances positive, and no verdict
rests on a control that failed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_coordinates import disguised

from jaxweights import auditing, generators, tasks
from jaxweights.api.audit import audit
from jaxweights.auditing.alignment import twins
from jaxweights.errors import UserError
from jaxweights.evaluation import Evaluation
from jaxweights.generators import ClosedFormGenerator, domain
from jaxweights.population import Population, variance_spans
from jaxweights.report import summary, tables
from jaxweights.spec import FIXED, Leaf, WeightSpec

NET = tasks.build({"name": "mlp", "hidden": (4,)}, (2, 2, 1), 3)
P, SPEC = NET.spec.num_params, NET.spec
ALONE = {"bootstrap": 20, "baselines": False, "controls": False, "spec": SPEC}
X, Y = np.random.default_rng(9).normal(size=(12, 4)), np.arange(12) % 3


def networks(seed, count):
    return np.random.default_rng(seed).normal(size=(count, P)).astype(np.float32)


def shuffled(rows):
    orders = jax.random.split(jax.random.key(0), len(rows))
    return np.asarray(jax.vmap(lambda k, w: SPEC.permute(w, SPEC.random_permutation(k)))(orders, rows))


TRAIN, HELDOUT, FRESH = networks(0, 20), networks(1, 10), networks(2, 12)


def predict(weights, x):
    first, bias, second, last = np.split(weights, np.cumsum([16, 4, 12]))
    return np.maximum(x @ first.reshape(4, 4).T + bias, 0) @ second.reshape(3, 4).T + last


def test_networks_are_known_in_any_order_and_scale_of_their_units_and_no_other_way():
    known = np.concatenate([TRAIN, -TRAIN])  # of the same lengths
    assert twins.equal_weights(disguised(SPEC, TRAIN), known, SPEC).all()
    noise = 1e-4 * networks(3, 20)
    assert not twins.equal_weights(np.concatenate([FRESH, TRAIN + noise]), known, SPEC).any()
    again = Population.create(np.concatenate([known, disguised(SPEC, known), TRAIN + noise]), SPEC)
    np.testing.assert_array_equal(twins.first_of_each(again), [*range(40), *range(80, 100)])
    moved = np.roll(TRAIN, 1, axis=1)
    assert not twins.equal_weights(moved, TRAIN, SPEC).any()
    fixed = dataclasses.replace(
        SPEC,
        leaves=tuple(
            dataclasses.replace(x, groups=(-1,) * len(x.groups), roles=(0,) * len(x.groups)) for x in SPEC.leaves
        ),
        groups=(),
    )
    assert (
        not twins.equal_weights(TRAIN[:, ::-1], TRAIN, fixed).any() and twins.equal_weights(TRAIN, TRAIN, fixed).all()
    )


@pytest.fixture(scope="module")
def leaked():
    """Half of the samples are held-out networks: as they are, shuffled, and with other weights after a unit that is
    never on."""
    dead = HELDOUT.copy()
    dead[:, :4], dead[:, 16] = 0, -1  # whatever its outgoing weights are
    scaled = dead.copy()
    scaled[:, [20, 24, 28]] = 5
    samples = np.concatenate([FRESH[:6], dead[:2], shuffled(dead[2:4]), scaled[4:6]])
    return audit(TRAIN, dead, samples, predict=predict, test=(X, Y), **ALONE)


def test_held_out_networks_among_samples_are_leaks(leaked):
    found = leaked.metrics["series"]["generated"]["leaks"]
    assert found["count"] == 6 and found["outputs"] == 2 and found["share"]["value"] == 0.5
    assert leaked.measured["generated"].leak.tolist() == [0] * 6 + [1] * 4 + [2] * 2
    assert "LEAK: 6 of its 12 networks" in leaked.verdict_texts["generated"]
    assert "LEAK: 6 of 12 networks of generated" in summary(leaked.metrics)
    assert leaked.metrics["series"]["training"]["leaks"]["count"] == 0


def test_some_training_networks_stand_for_all_where_these_are_many(leaked):
    samples, heldout = (leaked.subject.generated["generated"].weights, leaked.subject.heldout.weights)
    found = audit(TRAIN, heldout, samples, predict=predict, test=(X, Y), training_queries=8, **ALONE)
    assert found.metrics["training"] | {"compared": 20} == leaked.metrics["training"]
    every, some = (x.measured["training"] for x in (leaked, found))
    rows = some.training_row
    assert len(some) == 8 and (np.diff(rows) > 0).all() and not len(every.training_row)
    alone = {"sibling_l2", "disagreement", "ensemble_gain", "barrier", "aligned_barrier", "training_row"}
    for field in dataclasses.fields(some):
        if field.name not in alone:  # which are of the series by itself, or of a random part of it
            kept = getattr(every, field.name)
            kept = kept[rows] if len(kept) else kept
            np.testing.assert_allclose(getattr(some, field.name), kept, 1e-12, err_msg=field.name)
        for series in {"heldout", "generated"} & found.measured.keys():
            both = (getattr(x.measured[series], field.name) for x in (leaked, found))
            np.testing.assert_allclose(*both, 1e-12, err_msg=field.name)
    entry = found.metrics["series"]["generated"]["tests"]["auth_pct"]
    nearest = found.measured["generated"].nearest_row
    known = np.isin(nearest, rows)
    farther = found.measured["generated"].distance > every.distance[nearest]
    assert entry["n"] == known.sum() > 0 and entry["value"] == pytest.approx(100 * farther[known].mean())
    assert some.places(rows).tolist() == list(range(8)) and (some.places(np.setdiff1d(np.arange(20), rows)) == -1).all()
    assert every.places(rows) is not None and "A random 8 of the training networks" in found.methods()


def test_a_training_set_twice_is_one_training_set():
    """Every network again with its units in another order and scale, as a run of its own."""
    once = audit(TRAIN, HELDOUT, FRESH, **ALONE)
    twice = audit(np.concatenate([TRAIN, disguised(SPEC, TRAIN)]), HELDOUT, FRESH, **ALONE)
    assert twice.metrics["training"]["duplicates"] == 20
    assert twice.metrics["training"]["duplicate_rows"] == list(range(20, 40))
    assert twice.metrics["series"] == once.metrics["series"]
    assert tables.notes(once.metrics) == [] and "DUPLICATES: 20 training" in summary(twice.metrics)


def measured(count, distance, defined=True, accuracy=0.875):
    one, none = np.full(count, 1.0), np.zeros((0, 0), np.int64)
    return auditing.Measured(
        accuracy=accuracy * one,
        loss=one if defined else np.nan * one,
        max_error_iou=0.5 * one,
        min_l2=distance * one,
        nearest=np.zeros((count, 1), np.int64),
        second_l2=1.2 * distance * one,
        aligned_min_l2=np.zeros(0),
        aligned_nearest=none,
        aligned_second_l2=np.zeros(0),
        aligned_permutation=none[:, :, None],
        hull_residual=0.9 * distance * one,
    )


def joined(*parts):
    arrays = ([getattr(p, f.name) for p in parts] for f in dataclasses.fields(auditing.Measured))
    return auditing.Measured(*map(np.concatenate, arrays))


def judged(controls=(), **series):
    base = {auditing.TRAINING: measured(20, 8.0), auditing.HELDOUT: measured(20, 8.0)}
    return auditing.summarise({**base, **series}, controls, 20, 0)


def test_undefined_networks_are_counted_and_left_out():
    some = joined(measured(20, 8.0), measured(4, 1e3, False, 0.0))
    found = judged(one=some, all=measured(9, 1.0, False, 0.0))["series"]
    one = found["one"]
    assert one["n"] == 24 and one["undefined"]["count"] == 4 and one["undefined"]["share"]["n"] == 24
    assert one["min_l2"]["mean"] == 8 and one["min_l2"]["n"] == one["loss"]["n"] == 20
    assert one["accuracy"]["mean"] == pytest.approx(0.875 * 20 / 24) and one["accuracy"]["n"] == 24
    assert "4 of its networks have outputs that are not finite" in one["verdict"]["text"]
    assert found["all"]["verdict"]["label"] == "undefined" and found["all"]["tests"] is None
    assert found["all"]["min_l2"] is None and found["heldout"]["undefined"] == {"count": 0, "share": None}


def test_verdicts_that_rest_on_a_failed_control_are_undecided():
    """A copy that is not found takes away what says that nothing was found, and nothing else."""
    series = {"copy": measured(20, 8.0), "new": measured(20, 8.0), "near": measured(20, 1.0)}
    good = judged(new=series["new"], near=series["near"])["series"]
    assert [good[n]["verdict"]["label"] for n in ("new", "near")] == ["as novel as new runs", "variations"]
    found = judged(("copy",), **series)
    assert found["checks"] == {"controls_passed": False, "failed_controls": ["copy"]}
    new = found["series"]["new"]["verdict"]
    assert (new["label"], new["without_controls"], new["failed_controls"]) == (
        "undecided",
        "as novel as new runs",
        ["copy"],
    )
    assert not new["flagged"] and "'as novel as new runs' rests" in new["text"]
    assert found["series"]["near"]["verdict"]["label"] == "variations"
    assert found["series"]["copy"]["verdict"]["label"] == "as novel as new runs"
    assert "UNDECIDED" in summary({**found, "task": "classification"})


def test_variances_are_drawn_in_their_domain():
    net = tasks.build({"name": "resnet18", "widths": (2,), "depths": (1,), "stem": "cifar"}, (8, 8, 1), 2)
    rng = np.random.default_rng(0)
    weights = rng.exponential(size=(6, net.spec.num_params)).astype(np.float32)
    train, keys = Population.create(weights, net.spec, run=np.arange(6)), jax.random.split(jax.random.key(0), 30)
    places = np.concatenate([np.arange(s.start, s.stop) for s in variance_spans(net.spec)])
    for kind, more in (("gaussian", {}), ("pca_gaussian", {}), ("noise", {"sigma": 1.0})):
        drawn = {}
        for variances in ("clip", "published"):
            made = generators.build("x", {"kind": kind, "variances": variances, **more})
            assert isinstance(made, ClosedFormGenerator)
            drawn[variances] = np.asarray(jax.jit(made.sample)(made.fit(train), keys).weights)
        assert (drawn["published"][:, places] < 0).any()
        np.testing.assert_array_equal(
            drawn["clip"][:, places], np.maximum(drawn["published"][:, places], weights[:, places].min(axis=0)[None, :])
        )
        rest = np.setdiff1d(np.arange(net.spec.num_params), places)
        np.testing.assert_array_equal(drawn["clip"][:, rest], drawn["published"][:, rest])


def test_generators_that_reorder_units_have_one_floor_per_tensor():
    names = ("bn/running_mean", "bn/running_var", "fc/weight")
    spec = WeightSpec(tuple(Leaf(name, (2,), (2,), (FIXED,), (0,), (0,)) for name in names))
    weights = 1 + np.arange(12, dtype=np.float32).reshape(2, 6)
    floors = domain.floors(Population.create(weights, spec), by_tensor=True)
    drawn = jnp.asarray(weights - 2)
    assert np.asarray(domain.inside(drawn, floors, "clip")).tolist() == [[-1, 0, 3, 3, 3, 4], [5, 6, 7, 8, 9, 10]]
    assert domain.inside(drawn, floors, "published") is drawn and domain.inside(drawn, {}, "clip") is drawn
    for kind in ("hyperrep", "gpt", "hyperdiffusion"):
        made = generators.build("x", {"kind": kind})
        assert "variances" in made.SAMPLING and made.variances == "clip"
    assert domain.floors(Population.create(TRAIN, SPEC)) == {}


def test_one_run_on_both_sides_is_refused():
    train = Population.create(TRAIN, SPEC, run=np.arange(20), seed=0, step=1)
    heldout = Population.create(HELDOUT, SPEC, run=10 + np.arange(10), seed=0, step=2, split="heldout")
    with pytest.raises(UserError, match=r"checkpoints of 10 common runs \(first: run 10, seed 0\)"):
        audit(train, heldout, FRESH, **ALONE)


def test_held_out_networks_without_outputs_are_refused():
    bad = dataclasses.replace(
        Population.create(HELDOUT, SPEC),
        evaluator=None,
    )
    train = dataclasses.replace(
        Population.create(TRAIN, SPEC, run=np.arange(20)),
        evaluator=lambda w: Evaluation(
            np.zeros(len(w)), np.where(w[:, 0] == HELDOUT[3, 0], np.nan, 1.0), np.zeros((len(w), 2), np.uint8)
        ),
    )
    with pytest.raises(UserError, match=r"1 of 10 heldout networks .*not finite \(first: row 3\)"):
        audit(train, bad, FRESH, **{**ALONE, "spec": None})
