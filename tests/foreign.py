"""Networks that other programs wrote to files, and the readers of such files."""

import io

import numpy as np

from jaxweights import tasks
from jaxweights.generators.imported import Imported
from jaxweights.population_files import load
from jaxweights.zoo.imported import read_weights

NET = tasks.build({"name": "mlp", "hidden": (3,)}, (2, 2, 1), 2)
SPEC, P = NET.spec, NET.spec.num_params
ROWS = np.random.default_rng(0).normal(size=(4, P)).astype(np.float32)
TENSORS = {leaf.name.replace("/", "."): ROWS[0, span].reshape(leaf.shape) for leaf, span in SPEC.spans()}

# The three settings that name a file of networks.
READERS = {
    "zoo.import_npz": lambda path: load(path, SPEC, "zoo.import_npz").weights,
    "generators.mine.path": lambda path: Imported(name="mine", path=str(path)).read(SPEC),
    "zoo.base.import_npz": lambda path: read_weights(path, NET, 0),
}


def npy(array, **options):
    """The content of a `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()
