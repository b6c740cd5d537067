"""Comparisons of collections in a folder: what they find, what they keep, what they refuse."""

import json
import re

import numpy as np
import pytest

from jaxweights.bias import study, table
from jaxweights.bias.settings import parse
from jaxweights.errors import UserError

CONFIG = {
    "seed": 0,
    "bias": {
        "sets": {
            "forms": {
                "of": {"kind": "image_set", "part": "all", "limit": 200, "size": 8},
                "parts": {"plain": {}, "coarse": {"shrink": 2}},
            },
            "classes": {
                "of": {"kind": "image_set", "part": "all", "limit": 200, "size": 8},
                "cut": "classes",
                "parts": {"low": {}, "high": {}},
            },
        },
        "main": "forms",
        "transformations": {
            "original": "identity",
            "colour": "mean_rgb",
            "patches_2": {"kind": "patch_shuffle", "patch": 2},
            "patches_4": {"kind": "patch_shuffle", "patch": 4},
        },
        "classifier": {"kind": "mlp", "epochs": 20, "batch_size": 16, "hidden": (16,)},
        "repeats": 2,
        "controls": 1,
        "num_train": 60,
        "num_validation": 20,
        "shown": 2,
    },
}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """A comparison, and its folder."""
    folder = tmp_path_factory.mktemp("bias") / "run"
    return study.run(CONFIG, folder), folder


def test_what_is_found(tried):
    result, folder = tried
    assert json.loads((folder / "metrics.json").read_text())["chance"] == 0.5
    found = result["transformations"]
    # Coarse images are told from others, by their means hardly; digits of some classes from those of others.
    assert found["original"]["accuracy"]["ci95"][0] > max(0.7, found["colour"]["accuracy"]["value"])
    assert result["sets"]["classes"]["transformations"]["original"]["accuracy"]["ci95"][0] > 0.6
    for one in found.values():
        low, high = one["control"]["ci95"]
        assert 0 <= low <= one["control"]["value"] <= high <= 1
        assert one["accuracy"]["n"] == 80 and np.sum(one["confusion"]) == 80
    assert list(result["collections"]) == ["coarse", "plain"]
    text = table.text(result)
    assert "original" in text and "classes: high / low" in text


def test_page(tried):
    _, folder = tried
    page = (folder / "report.html").read_text()
    for title in ("Accuracy per transformation", "Examples before and after", "Size of the patches", "Confusion"):
        assert title in page
    assert "82.0 &#177; 0.3" in page and not re.search(r'src="(?!data:)', page)


def test_cells_are_kept(tried):
    result, folder = tried
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("cells/*")}
    page = (folder / "report.html").read_bytes()
    lost = [path for path in before if path.stem.startswith("forms.")]  # numbers and examples
    for path in lost:
        path.unlink()
    assert study.run(CONFIG, folder) == result
    for path, (changed, content) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == changed) == (path not in lost)
    assert (folder / "report.html").read_bytes() == page


def test_what_does_not_fit_is_refused_before_anything_is_trained(tmp_path):
    """The folder is then free for another config."""
    for changes, message in (
        ({"num_validation": 70}, "The set forms cannot be compared: .* 2 repeats of 70 for validation"),
        ({"transformations": {"a": {"kind": "patch_shuffle", "patch": 3}}}, "patch is 3, but the images are 8 x 8"),
    ):
        with pytest.raises(UserError, match=message):
            study.run({**CONFIG, "bias": {**CONFIG["bias"], **changes}}, tmp_path)
        assert not (tmp_path / "cells").exists()


def test_what_is_refused(tried):
    _, folder = tried
    changed = {**CONFIG, "bias": {**CONFIG["bias"], "repeats": 3}}
    with pytest.raises(UserError, match="another comparison; it differs in bias.repeats"):
        study.run(changed, folder)
    with pytest.raises(
        UserError, match="no section bias, objects, language or questions.*experiments are run by launch.run"
    ):
        parse({"seed": 0, "zoo": {}})
    for changes, message in (
        ({"main": "form"}, "forms"),
        ({"transformations": {"a": "identiti"}}, "identity"),
        ({"classifier": {"kind": "cnm"}}, "cnn"),
        ({"classifier": {"kind": "units"}}, "is for networks, but bias.kind is images"),
        (
            {"transformations": {"a": {"kind": "dit", "models": {"low": "x/y"}}}},
            "no model for coarse, high, plain. Give",
        ),
        ({"sets": {"forms": {"collections": {"a": {}, "b": {}}, "parts": {"c": {}}}}}, "cut or parts of none"),
        ({"sets": {"forms": {"of": {"kind": "image_set"}, "parts": {"one": {}}}}}, "two or more"),
        ({"sets": {"forms": {"of": {"kind": "image_set"}, "parts": {"a": {"limit": 1}, "b": {}}}}}, "limit"),
    ):
        with pytest.raises(UserError, match=message):
            parse({**CONFIG, "bias": {**CONFIG["bias"], **changes}})
