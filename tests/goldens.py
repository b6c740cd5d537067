"""Golden arrays of the published implementations, see `golden/README.md`, and agreement with them."""

import pathlib
import re

import jax
import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent / "golden"
RELATIVE = 2e-5
"""Float32 sums in another order: a few units of the last place of the largest entry per operation, some hundred
operations deep."""


def load(name):
    """All arrays of a golden file by name."""
    with np.load(FOLDER / f"{name}_reference.npz") as archive:
        return {key: archive[key] for key in archive.files}


def draw(shapes, seed, ones="ln.*weight$"):
    """The weights and inputs of the golden runs, in the order that the README documents; around 1 where the name
    matches `ones`."""
    rng = np.random.RandomState(seed)
    return {
        name: (bool(re.search(ones, name)) + 0.3 * rng.normal(size=shapes[name])).astype(np.float32)
        for name in sorted(shapes)
    }


def agree(found, expected, relative=RELATIVE, scale=None):
    """All leaves agree relative to the largest entry (of each leaf, or `scale`)."""
    found, expected = (dict(jax.tree_util.tree_leaves_with_path(t)) for t in (found, expected))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        size = scale or np.abs(value).max()
        np.testing.assert_allclose(found[path], value, rtol=0, atol=relative * size, err_msg=jax.tree_util.keystr(path))
