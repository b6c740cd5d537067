"""Studies on the report: conclusions follow from the numbers, and whatever part is absent leaves no trace."""

from __future__ import annotations

import copy
import json

import matplotlib
import numpy as np
import pytest
from reports import Page, make_experiment, sketched

from jaxweights import report
from jaxweights.auditing import statistics
from jaxweights.errors import UserError
from jaxweights.report import autoencoder, autoencoder_figures, studies, style

NAME, INDEPENDENT = "hyper_representations", "hyper_independent"
PARTS = ("reconstruction", "probes", "symmetry", "published", "samplers")


def mean(values):
    return statistics.bootstrap_mean(np.asarray(values), 50).to_json("mean")


def around(value, half, n=40):
    return {"mean": value, "ci95": [value - half, value + half], "n": n}


def make_study():
    """A study as the experiment stores it, and its arrays."""
    rng = np.random.default_rng(0)
    layers = {"conv1": 0.97, "conv2": 0.91, "conv3": 0.84, "fc1": 0.88, "fc2": 0.93}
    reconstruction = {
        split: {
            "r2": r2,
            "r2_by_layer": {k: v - (0.92 - r2) for k, v in layers.items()},
            "accuracy": around(0.61 - loss, 0.01),
            "original_accuracy": around(0.65, 0.004),
            "distance": around(3.2 + 10 * loss, 0.1),
        }
        for split, r2, loss in (("train", 0.92, 0.0), ("heldout", 0.61, 0.1))
    }
    reconstruction["heldout"]["r2_by_layer"]["conv3"] = -7.3
    targets = {
        target: {
            "latents": {"train": 0.95, "heldout": latents},
            "statistics": {"train": 0.9, "heldout": 0.8},
        }
        for target, latents in (("accuracy", 0.87), ("epoch", 0.62), ("generalization gap", -0.2))
    }
    arrays, rows = {}, {}
    for row, points, unlike in (("original", 12.7, 0.54), ("permuted", 6.0, 0.38), ("sign_flipped", 5.8, 0.6)):
        values = {
            "accuracy_difference": rng.exponential(points, 200),
            "error_dissimilarity": rng.beta(10 * unlike, 10 * (1 - unlike), 200),
        }
        rows[row] = {k: mean(v) for k, v in values.items()}
        arrays |= {f"symmetry/{row}/{k}": v for k, v in values.items()}
    published = {}
    for one, accuracy, distance, similarity in (
        ("training", 0.65, 50.0, 0.75),
        (NAME, 0.6, 7.0, 0.97),
        (INDEPENDENT, 0.3, 30.0, 0.6),
        ("noise_0.02", 0.62, 1.0, 0.87),
        ("noise_0.04", 0.55, 2.0, 0.77),
    ):
        values = {
            "accuracy": rng.normal(accuracy, 0.04, 150),
            "min_l2": np.abs(rng.normal(distance, 0.1 * distance, 150)),
            "max_error_iou": np.clip(rng.normal(similarity, 0.03, 150), 0, 1),
        }
        published[one] = {k: mean(v) for k, v in values.items()} | {"kind": "noise" if "noise" in one else "generated"}
        arrays |= {f"published/{one}/{k}": v for k, v in values.items()}
    shared = {"kind": "kde", "top": 0.3}
    samplers = {
        NAME: shared
        | {
            "mode": "faithful",
            "nearest_latent": around(0.02, 0.003),
            "own_parent_share": statistics.share([1] * 40).to_json(),
        },
        INDEPENDENT: shared | {"mode": "independent", "nearest_latent": around(4.1, 0.1), "own_parent_share": None},
    }
    study = {
        "reconstruction": reconstruction,
        "probes": {"n_train": 200, "n_heldout": 50, "targets": targets},
        "symmetry": {"n": 200, "rows": rows, "function_change": {"permuted": 0.0, "sign_flipped": 0.0}},
        "published": {"series": published},
        "samplers": samplers,
    }
    return json.loads(json.dumps(study)), arrays


def make_studied(workdir, kept=PARTS):
    """A workdir with a study of those parts; returns the arguments of `report.write`."""
    arguments = make_experiment(workdir, generated=((NAME, "pdiff"), (INDEPENDENT, "pdiff")), curves=False)
    study, arrays = make_study()
    arguments["metrics"]["studies"] = {NAME: {"study": "autoencoder"} | {k: v for k, v in study.items() if k in kept}}
    (workdir / "studies").mkdir()
    np.savez(workdir / "studies" / f"{NAME}.npz", **{k: v for k, v in arrays.items() if k.split("/")[0] in kept})
    return arguments


def draw(workdir, arguments):
    """The parts alone, without the rest of the report."""
    series = style.collect(workdir, arguments["metrics"])
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    with style.drawing():
        return studies.parts(series, workdir, arguments["metrics"], 0, folder)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The report of an experiment with a whole study: its arguments and its workdir."""
    workdir = tmp_path_factory.mktemp("studied") / "run"
    arguments = make_studied(workdir)
    with sketched(kept=NAME):
        report.write(workdir, **arguments)
    return arguments, workdir


def test_every_number_of_the_studies_is_on_the_page(written):
    arguments, workdir = written
    page = Page((workdir / "report.html").read_text())

    def numbers(node):
        for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from numbers(value)
        if isinstance(node, float):
            yield node

    found = list(numbers(arguments["metrics"]["studies"]))
    assert len(found) > 60
    words = set(page.text.split())
    assert [x for x in found if f"{x:.6g}" not in words] == []
    assert len(set(page.ids)) == len(page.ids)
    drawn = {p.name for p in (workdir / "figures").iterdir() if p.stem.endswith(NAME)}
    assert drawn == {f"{n}_{NAME}.{s}" for n in ("autoencoder", "symmetry", "published") for s in ("png", "svg")}


def test_both_protocols_stand_side_by_side(written):
    arguments, workdir = written
    entries = arguments["metrics"]["series"]
    published = arguments["metrics"]["studies"][NAME]["published"]["series"]
    table = Page(autoencoder.protocols_table(published, arguments["metrics"])).words
    table = [word for word in table if word.strip()]
    start = table.index(style.label(NAME))
    row = table[start : start + table[start:].index(style.label(INDEPENDENT))]
    verdict, z = entries[NAME]["verdict"]["label"], entries[NAME]["tests"]["z_u"]["value"]
    # Decimals down to the first digit of half the interval's width.
    assert verdict in row and f"{z:.1f}" in row
    assert f"{published[NAME]['min_l2']['mean']:.2f}" in row
    assert f"{entries[NAME]['min_l2']['mean']:.1f}" in row
    assert "corrected: Z_U" in table and "published: min L2" in table


def test_parts_come_out_the_same_whatever_the_users_style_is(written, tmp_path):
    arguments, workdir = written
    again = make_studied(tmp_path / "again")
    with matplotlib.rc_context({"font.size": 30.0, "axes.grid": True, "svg.hashsalt": "other"}):
        draw(tmp_path / "again", again)
    for path in (tmp_path / "again" / "figures").iterdir():
        assert path.read_bytes() == (workdir / "figures" / path.name).read_bytes(), path.name


def test_an_absent_part_leaves_no_trace(tmp_path):
    whole = make_studied(tmp_path / "run")
    expected = {
        "reconstruction": [f"autoencoder-{NAME}", f"autoencoder_{NAME}"],
        "probes": [f"autoencoder-{NAME}", f"autoencoder_{NAME}"],
        "symmetry": [f"symmetry_{NAME}"],
        "published": [f"published_{NAME}", f"protocols-{NAME}"],
        "samplers": [f"samplers-{NAME}"],
    }
    assert list(expected) == list(PARTS)
    for kept, names in expected.items():
        arguments = {**whole, "metrics": copy.deepcopy(whole["metrics"])}
        study = arguments["metrics"]["studies"][NAME]
        arguments["metrics"]["studies"][NAME] = {"study": "autoencoder", kept: study[kept]}
        found = [getattr(p, "identity", None) or p.path.stem for p in draw(tmp_path / "run", arguments)]
        assert found == names
    for nothing in (
        {},
        {NAME: {"study": "autoencoder"}},
        {NAME: {"study": "autoencoder", "published": {"series": {}}}},
    ):
        assert draw(tmp_path / "run", {**whole, "metrics": {**whole["metrics"], "studies": nothing}}) == []
    metrics = {k: v for k, v in whole["metrics"].items() if k != "studies"}
    assert draw(tmp_path / "run", {**whole, "metrics": metrics}) == []


def test_undefined_and_missing_numbers_are_dashes(tmp_path):
    arguments = make_studied(tmp_path / "run", ("reconstruction", "probes", "published"))
    study = arguments["metrics"]["studies"][NAME]
    study["reconstruction"]["heldout"] |= {"r2": None, "distance": None}
    study["reconstruction"]["train"]["r2_by_layer"]["fc2"] = None
    study["probes"]["targets"]["epoch"] = {"latents": {"train": None, "heldout": None}}
    study["published"]["series"] = {"training": study["published"]["series"]["training"]}
    content = draw(tmp_path / "run", arguments)[0].content
    page = Page(content)
    assert "None" not in page.text and "nan" not in page.text
    assert "\u2013" in page.text


def test_missing_arrays_are_named(tmp_path):
    arguments = make_studied(tmp_path / "run")
    (tmp_path / "run" / "studies" / f"{NAME}.npz").unlink()
    with pytest.raises(UserError, match=rf"{NAME}\.npz.*{NAME}\.json.*metrics\.json.*launch\.run"):
        draw(tmp_path / "run", arguments)


def make_rows(permuted, original=10.0, half=0.5):
    row = {"accuracy_difference": around(permuted, half), "error_dissimilarity": around(permuted / 20, half / 20)}
    scale = {"accuracy_difference": around(original, half), "error_dissimilarity": around(original / 20, half / 20)}
    return {"rows": {"original": scale, "permuted": row}, "function_change": {"permuted": 0.0}}


@pytest.mark.parametrize(
    ("permuted", "original", "words"),
    [
        (0.0, 10.0, "knows this symmetry"),
        (4.0, 10.0, "not as different as those of two networks"),
        (9.5, 10.0, "does not know this symmetry"),
        (15.0, 10.0, "does not know this symmetry"),
        (0.0, 0.0, "nothing can be said"),
    ],
)
def test_what_is_said_of_a_symmetry_follows_from_the_intervals(permuted, original, words):
    assert words in autoencoder.symmetry_text(make_rows(permuted, original))


def test_measures_that_disagree_are_said_to(tmp_path):
    study = make_rows(4.0)
    study["rows"]["permuted"]["error_dissimilarity"] = around(0.5, 0.02)
    assert "by one measure" in autoencoder.symmetry_text(study)
    study["function_change"]["permuted"] = 0.25
    assert "at most 0.25 points" in autoencoder.symmetry_text(study)


@pytest.mark.parametrize(
    ("flags", "latents", "words"),
    [
        ((True, False), (0.1, 4.0), "sampler\u2019s doing"),
        ((True, False), (4.0, 4.05), "does not explain it"),
        ((True, True), (0.1, 4.0), "not the doing of the published sampler alone"),
        ((False, True), (0.1, 4.0), "not the reason"),
        ((False, False), (0.1, 4.0), "did not bring"),
    ],
)
def test_what_is_said_of_the_samplers_follows_from_the_numbers(flags, latents, words):
    names = ("a", "b<c")
    series = {
        name: {
            "accuracy": around(accuracy, 0.01),
            "min_l2": around(distance, 0.1),
            "verdict": {"flagged": flag, "label": "remembers" if flag else "degrades"},
        }
        for name, flag, accuracy, distance in zip(names, flags, (0.6, 0.3), (2.0, 9.0), strict=True)
    }
    samplers = {
        name: {"kind": "kde", "top": 0.3, "mode": mode, "nearest_latent": around(latent, 0.05)}
        for name, mode, latent in zip(names, ("faithful", "independent"), latents, strict=True)
    }
    text = Page(autoencoder.samplers_text(samplers, {"series": series})).text
    assert words in text and "b<c" in text
    assert "more accurate (60 against 30\xa0%)" in text and "lie closer to training networks" in text
    assert ("lie closer to training latents" in text) == (latents[0] < 1)
    # Samplers that differ in more than the mode show nothing about the mode.
    samplers["a"]["top"] = 1.0
    assert "Verdicts" not in Page(autoencoder.samplers_text(samplers, {"series": series})).text
    del samplers["a"]
    text = Page(autoencoder.samplers_text(samplers, {"series": {}})).text
    assert "independent" in text and "faithful" not in text


def test_what_is_said_of_reconstruction_and_probes_follows_from_the_numbers():
    def said(train, heldout):
        return autoencoder.reconstruction_text({"train": {"r2": train}, "heldout": {"r2": heldout}})

    assert "no better than by the mean" in said(0.9, -0.1)
    assert "90&nbsp;% of the variance" in said(0.9, 0.5) and "50&nbsp;%" in said(0.9, 0.5)
    assert "as well as" in said(0.5, 0.5)
    text = autoencoder.probes_text(make_study()[0]["probes"])
    assert "predict better: accuracy." in text
    assert "no better than weight statistics: epoch, generalization gap." in text


def test_every_series_of_the_published_protocol_has_a_look_of_its_own(tmp_path):
    arguments = make_studied(tmp_path / "run")
    series = style.collect(tmp_path / "run", arguments["metrics"])
    names = ["training", "noise_0.02", "unknown", NAME, "noise_0.04", INDEPENDENT, "noise_0.08", "other"]
    looks = autoencoder_figures.looks({n: {"kind": "noise" if "noise" in n else "generated"} for n in names}, series)
    assert len(set(looks.values())) == len(names)
    known = {s.name: (s.colour, s.marker) for s in series}
    assert all(looks[name] == known[name] for name in ("training", NAME, INDEPENDENT))
    assert looks["noise_0.02"][0] == "#493d8c"
