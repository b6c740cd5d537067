"""The battery of whole series: known positives and negatives, equal sizes, runs, what cannot be compared."""

import json

import numpy as np
import pytest

from jaxweights.auditing import battery
from jaxweights.errors import UserError

SETTINGS = battery.BatterySettings(permutations=99, bootstrap=200)


def drawn(seed, count, width=12):
    """Networks of one law on a plane with noise."""
    rng = np.random.default_rng(seed)
    plane = np.random.default_rng(99).normal(size=(4, width))
    return (rng.normal(size=(count, 4)) @ plane + 0.3 * rng.normal(size=(count, width)) + 2).astype(np.float32)


TRAIN, HELDOUT = drawn(0, 96), drawn(1, 48)


@pytest.fixture(scope="module")
def found():
    series = {"training": TRAIN, "heldout": HELDOUT, "new": drawn(2, 48), "copies": TRAIN[:48]}
    series |= {"collapsed": np.repeat(HELDOUT[:1], 48, axis=0), "nothing": HELDOUT[:0]}
    steps = []
    result = battery.describe(series, SETTINGS, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (6, 6)
    return result


def test_it_is_json_and_every_statistic_has_an_interval(found):
    json.dumps(found, allow_nan=False)
    for name in ("heldout", "new"):
        assert set(found[name]) == set(battery.NAMES)
        assert found[name]["c2st_invariant"] is None  # these are coordinates of no network
        for statistic in set(battery.NAMES) - {"c2st_invariant"}:
            entry = found[name][statistic]
            low, high = entry["ci95"]
            assert low <= entry["value"] <= high and entry["n"] > 0, statistic
    assert found["new"]["vendi"]["heldout"] == found["heldout"]["vendi"]["value"]
    assert found["new"]["twonn"]["training"] == found["training"]["twonn"]["value"]
    assert {k for k, v in found["training"].items() if v} == {"vendi", "vendi_gaussian", "twonn", "levina_bickel"}
    assert not any(found["nothing"].values())


def test_new_networks_pass(found):
    new = found["new"]
    for statistic in ("c_t", "fld_gap", "mmd"):
        assert new[statistic]["ci95"][0] <= 0 <= new[statistic]["ci95"][1], statistic
    for statistic in ("one_nna", "c2st", "coverage", "pairs"):
        assert new[statistic]["ci95"][0] <= new[statistic]["expected"] <= new[statistic]["ci95"][1], statistic
    assert new["mmd"]["p"] > 0.01
    for statistic in ("calibrated_distance_share", "nn_ratio_share"):
        assert new[statistic]["ci95"][0] < 0.2  # 5 % is the truth, of a limit that rests on 48 networks


def test_copies_are_seen(found):
    copies = found["copies"]
    assert copies["c_t"]["ci95"][1] < -3
    assert copies["calibrated_distance_share"]["value"] == copies["nn_ratio_share"]["value"] == 1
    assert copies["fld"]["ci95"][0] > 1000
    assert copies["one_nna"]["generated_share"] == 0 and copies["one_nna"]["ci95"][1] < 0.4


def test_collapse_is_seen(found):
    collapsed = found["collapsed"]
    assert collapsed["vendi"]["value"] == pytest.approx(1) and collapsed["vendi"]["heldout"] > 3
    assert collapsed["vendi_gaussian"]["value"] == pytest.approx(1)
    assert collapsed["recall"]["value"] == 0 and collapsed["coverage"]["value"] < 0.2
    assert collapsed["c2st"]["ci95"][0] > 0.7 and collapsed["mmd"]["p"] == 0.01
    assert collapsed["twonn"] is None and collapsed["pairs"]["value"] == 0


def test_a_series_does_not_depend_on_the_others(found):
    alone = battery.describe({"training": TRAIN, "heldout": HELDOUT, "copies": TRAIN[:48]}, SETTINGS)
    assert alone["copies"] == found["copies"] and alone["heldout"] == found["heldout"]


def test_checkpoints_of_a_run_count_once():
    """Copies of any checkpoint are seen; balls reach to other runs."""
    train = np.concatenate([TRAIN, TRAIN + 0.01, TRAIN + 0.02])
    runs = np.tile(np.arange(96), 3)
    copies = TRAIN[:40] + np.float32(0.02)
    small = SETTINGS.replace(largest=40)
    found = battery.describe({"training": train, "heldout": HELDOUT, "copies": copies}, small, runs=runs)
    assert found["copies"]["nn_ratio_share"]["value"] == 1
    assert found["heldout"]["precision"]["value"] > 0.5 and found["heldout"]["precision"]["n"] == 40
    # The spacing of checkpoints is not that of networks, which fill a plane of four dimensions and noise around it.
    assert 3 < found["training"]["twonn"]["value"] < 13
    # Checkpoints of a single run are networks of their own, and none of another run is second.
    one = battery.describe({"training": TRAIN, "heldout": HELDOUT}, small, runs=np.zeros(96, int))
    assert one["heldout"]["nn_ratio_share"] is None and one["heldout"]["calibrated_distance_share"]["n"] == 20


def test_distances_measured_elsewhere_are_taken():
    first = {"heldout": np.linspace(1, 2, 48), "new": np.full(48, 0.5)}
    nearest = {name: battery.NearestRuns(d, d / 0.9) for name, d in first.items()}
    series = {"training": TRAIN, "heldout": HELDOUT, "new": drawn(2, 48)}
    found = battery.describe(series, SETTINGS.replace(cells=1), nearest=nearest)["new"]
    assert found["c_t"]["value"] < -5 and found["nn_ratio_share"]["value"] in (0, 1)


@pytest.mark.parametrize(
    "series, message",
    [
        ({"training": TRAIN}, "no heldout"),
        ({"training": TRAIN, "heldout": HELDOUT, "new": HELDOUT[:, :3]}, "new have shape"),
        ({"training": TRAIN, "heldout": HELDOUT, "new": np.full_like(HELDOUT, np.nan)}, "48 of 48 networks of new"),
    ],
)
def test_what_cannot_be_compared_is_refused(series, message):
    with pytest.raises(UserError, match=message):
        battery.describe(series, SETTINGS)


def test_few_networks_give_what_they_can():
    found = battery.describe({"training": TRAIN[:9], "heldout": HELDOUT[:8], "new": HELDOUT[:3]}, SETTINGS)
    json.dumps(found, allow_nan=False)
    assert found["new"]["calibrated_distance_share"]["n"] == 3 and found["new"]["precision"] is None
