"""Probes on features of known distributions: what every judge says is what the closed form says."""

import itertools

import numpy as np
import pytest

from jaxweights.errors import UserError
from jaxweights.probing import probes
from jaxweights.probing.features import Feature
from jaxweights.probing.probes import Measured, combinations, coverage

COUNT = Feature.counted("count", 1, 12)
SHARE = Feature("red", (0.1, 0.3, 0.5, 0.7, 0.9), (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
GRID = tuple(Feature.counted(name, 0, 4) for name in ("a", "b", "c", "d"))
RNG = np.random.default_rng(0)


def _measured(generated, trained=None):
    """Measured features `[n]` or `[n, F]`, training and held-out ones equal."""
    generated, trained = (np.asarray(x, np.float32) for x in (generated, generated if trained is None else trained))
    two = [x.reshape(len(x), -1) for x in (generated, trained)]
    return Measured(two[1], two[1], two[0])


def _judge(probe, features, outputs, seeds=1):
    designs = probe.designs(features, seed=0)
    return probe.judge(designs, {name: [outputs(name, d) for _ in range(seeds)] for name, d in designs.items()})


def test_impulse_is_log_normal_and_weber():
    probe = probes.make({"kind": "impulse", "values": (2, 4, 8)})
    found = _judge(
        probe,
        (COUNT,),
        lambda name, d: _measured(
            d.values[0, 0] * np.exp(0.2 * RNG.normal(size=2000)), d.values[0, 0] + 0.1 * RNG.normal(size=2000)
        ),
        seeds=2,
    )
    for entry in found["values"].values():
        sd = np.sqrt(np.exp(0.04) - 1) * np.exp(0.02)
        assert entry["generated"]["cv"]["value"] == pytest.approx(np.sqrt(np.exp(0.04) - 1), abs=0.01)
        assert entry["excess"]["value"] == pytest.approx(entry["trained"] * sd / 0.1, rel=0.05)
        assert entry["log_normal"]["favours"] == "log-normal" and entry["generated"]["skew"]["ci95"][0] > 0.3
    low, high = found["weber"]["exponent"]["ci95"]
    assert low < 1 < high and high - low < 0.2
    assert found["weber"]["p_constant"] > 0.001
    constant = _judge(probe, (COUNT,), lambda name, d: _measured(d.values[0, 0] + 0.3 * RNG.normal(size=2000)))
    assert abs(constant["weber"]["exponent"]["value"]) < 0.1 and constant["weber"]["p_constant"] < 1e-6
    assert constant["values"]["2"]["log_normal"]["favours"] == "normal"


def test_impulse_counts_what_is_not_defined():
    found = _judge(
        probes.make({"kind": "impulse", "feature": "red", "values": (0.3,)}),
        (SHARE,),
        lambda name, d: _measured([np.nan] * 3 + [0.3] * 6 + [1.5], [0.3] * 10),
    )["values"]["0.3"]
    made = found["generated"]
    assert made["undefined"] == pytest.approx(0.3) and made["histogram"][-2:] == [0.1, 0.3]
    assert made["mean"]["n"] == 7 and found["excess"]["value"] is None  # held-out examples have no spread
    empty = _judge(
        probes.make({"kind": "impulse", "feature": "red", "values": (0.3,)}),
        (SHARE,),
        lambda name, d: _measured([np.nan] * 5, [0.3] * 5),
    )["values"]["0.3"]
    assert empty["generated"]["mean"] == {"value": None, "ci95": [None, None], "n": 0}
    assert empty["log_normal"]["favours"] == "neither"


def _counts(centres, spread, n=3000):
    return np.rint(RNG.choice(centres, n) + spread * RNG.normal(size=n))


def test_additivity_and_prototype():
    additive = probes.make({"kind": "additivity", "mixtures": ((2, 7), (2, 4))})
    prototype = probes.make({"kind": "prototype", "mixtures": ((2, 4),)})
    assert set(prototype.designs((COUNT,), 0)) <= set(additive.designs((COUNT,), 0))

    def output(name, d):
        return _measured(_counts([3] if name == "2+4" else d.values[:, 0], 0.5))

    found = _judge(additive, (COUNT,), output, seeds=2)["mixtures"]
    far, near = found["2+7"], found["2+4"]
    assert not far["beyond_null"] and far["power"] and far["distance"]["value"] < 0.05
    assert near["beyond_null"] and near["distance"]["ci95"][0] > 0.3
    assert near["gap"] == pytest.approx(2 / np.hypot(0.5, np.sqrt(1 / 12)), rel=0.05)
    raised = _judge(prototype, (COUNT,), output)["mixtures"]["2+4"]
    assert raised["holds"] and raised["mode"] == 3 and raised["enhancement"]["value"] == pytest.approx(0.53, abs=0.05)
    wide = _judge(prototype, (COUNT,), lambda name, d: _measured(_counts(d.values[:, 0], 3.0)))["mixtures"]["2+4"]
    assert not wide["power"] and not wide["holds"]


def _combined(kind):
    """Judges a generator of combinations that is known."""
    every = np.array(list(itertools.product(range(5), repeat=4)), float)

    def output(name, d):
        made = {
            "memoriser": d.values[RNG.integers(0, len(d), 20_000)],
            "uniform": every[RNG.integers(0, len(every), 20_000)],
            "collapsed": np.repeat(d.values[:1], 5000, 0),
            "undefined": np.full((100, 4), np.nan),
        }[kind]
        return _measured(made, d.values[RNG.integers(0, len(d), 20_000)])

    probe = probes.make({"kind": "combinations", "numbers": (10, 100), "lists": 2, "faithful": True})
    return _judge(probe, GRID, output)["numbers"]


def test_combinations_of_known_generators():
    memoriser = _combined("memoriser")["100"]
    assert memoriser["iou"]["value"] == memoriser["mass"]["value"] == memoriser["purity"]["value"] == 1
    assert memoriser["joint"]["value"] < 0.05 and memoriser["present"]["value"] == 100
    assert memoriser["published"][0] == {"precision": 0.91, "recall": 1.0}  # coverage and purity, at rank 90
    uniform = _combined("uniform")["100"]
    assert uniform["mass"]["value"] == pytest.approx(100 / 625, abs=0.02)
    assert uniform["iou"]["value"] == pytest.approx(uniform["chance"], abs=0.06)
    assert uniform["purity"]["value"] < 0.25 and uniform["product"]["value"] < 0.1
    assert uniform["joint"]["value"] == pytest.approx(1 - 100 / 625, abs=0.05)
    collapsed = _combined("collapsed")["10"]
    assert collapsed["purity"]["value"] is None and collapsed["reached"]["value"] == 0
    assert collapsed["iou"]["value"] == 0.1 and collapsed["mass"]["value"] == 1 and collapsed["product"]["value"] == 0
    assert collapsed["published"][0]["precision"] == 1 and collapsed["published"][0]["recall"] == 10 / 625
    nothing = _combined("undefined")["10"]
    assert nothing["undefined"]["value"] == 1 and nothing["iou"]["value"] == 0 and nothing["product"]["value"] is None
    assert nothing["joint"]["value"] == nothing["marginals"]["1"]["value"] == 1


def test_lists_are_nested_unless_asked_otherwise():
    probe = probes.make({"kind": "combinations", "numbers": (10, 20)})
    short, long = (probe.designs(GRID, 3)[f"{n}.0"] for n in (10, 20))
    assert np.isin(short.cells, long.cells).all()
    short, long = (probe.replace(nested=False).designs(GRID, 3)[f"{n}.0"] for n in (10, 20))
    assert not np.isin(short.cells, long.cells).all()
    part = probe.replace(features=("b", "d")).designs(GRID, 3)["20.0"]
    assert np.isnan(part.values[:, [0, 2]]).all() and len(np.unique(part.values[:, [1, 3]], axis=0)) == 20


def test_exceptions_of_known_generators():
    probe = probes.make({"kind": "exceptions", "pair": ("a", "b"), "rare": (0, 1), "kept": ((0, 0), (4, 2))})
    every = np.array(list(itertools.product(range(5), repeat=4)), float)
    (design,) = probe.designs(GRID, 0).values()
    assert len(design) == 625 - 25 + 2
    trained = _judge(probe, GRID, lambda name, d: _measured(d.values), seeds=2)
    assert trained["rare"]["value"] == pytest.approx(2 / 602) and trained["kept"]["value"] == 1
    free = _judge(probe, GRID, lambda name, d: _measured(every, d.values))
    assert free["unseen"]["value"] == pytest.approx(free["independent"]) and free["combined"]["value"] == 1
    assert free["fresh"]["value"] == 0
    nothing = _judge(probe, GRID, lambda name, d: _measured(np.full((3, 4), np.nan), d.values))
    assert nothing["unseen"]["value"] is None and nothing["rare"]["value"] == 0


def test_curve_takes_equal_frequencies_together():
    covered, pure = coverage.curve(np.array([5.0, 3, 3, 0]), np.array([0, 1]))
    assert covered.tolist() == [0.5, 1.0] and pure.tolist() == [1.0, 2 / 3]
    assert coverage.published(np.zeros(2000), np.arange(10), 0.9) == {"precision": 1.0, "recall": 10 / 2000}
    assert combinations.chance(100, 500) == pytest.approx(0.111, abs=1e-3)
    assert combinations.iou(np.array([0, 1]), np.zeros(4)) == 0


@pytest.mark.parametrize(
    ("values", "features", "words"),
    [
        ({"kind": "impulse", "feature": "size"}, (COUNT,), "count"),
        ({"kind": "impulse", "values": (13,)}, (COUNT,), "does not have"),
        ({"kind": "combinations", "numbers": (13,)}, (COUNT,), "12 combinations"),
        ({"kind": "combinations", "features": ("size",)}, (COUNT,), "count"),
        ({"kind": "additivity", "mixtures": ((2, 2),)}, (COUNT,), "different"),
        ({"kind": "exceptions", "pair": ("a", "b"), "kept": ((0, 7),)}, GRID, "different values"),
        ({"kind": "exceptions", "pair": ("a", "b"), "kept": ((0,),)}, GRID, "2 values"),
        ({"kind": "impulses"}, (COUNT,), "impulse"),
    ],
)
def test_refusals(values, features, words):
    with pytest.raises(UserError, match=words):
        probes.make(values).designs(features, 0)
