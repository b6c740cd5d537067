"""Files of one network each: its tensors by PyTorch's names."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxweights.exporting import pytorch, tensors
from jaxweights.exporting.base import Format, make_folders, numbered
from jaxweights.exporting.networks import Contents, Report, blocks
from jaxweights.population import Population
from jaxweights.spec import WeightSpec

Encoder = Callable[[np.ndarray], Any]
"""From a weight vector `[P]` float32 to the bytes of its file, which the next call may change."""


class Each(Format):
    """A file per network.

    Args:
      suffix: of the file names.
      encoder: what makes the files of networks of a spec.
      load: Python that reads FILE into `tensors`.
    """

    def __init__(self, suffix: str, encoder: Callable[[WeightSpec], Encoder], load: str):
        self._suffix, self._encoder, self._load = suffix, encoder, load

    def files(self, contents: Contents) -> list[str]:
        return numbered(contents.networks, self._suffix)

    def write(self, folder: pathlib.Path, contents: Contents, report: Report) -> None:
        networks = contents.networks
        write_each(folder, networks, self.files(contents), self._encoder(networks.spec), report)

    def usage(self, contents: Contents) -> str:
        return f"```python\n{self._load.replace('FILE', repr(self.files(contents)[0]))}\n```"


def write_each(folder: pathlib.Path, networks: Population, names: list[str], encode: Encoder, report: Report) -> None:
    """Writes a file per network, in the order of the rows."""
    make_folders(folder, names)
    for start, block in blocks(networks):
        for row, vector in enumerate(block, start):
            with open(folder / names[row], "wb") as file:
                file.write(encode(vector))
            if row % 256 == 0:
                report(row)
        report(start + len(block))


def _safetensors(spec: WeightSpec) -> Encoder:
    # Leaf by leaf, as the flat vector is.
    header = tensors.safetensors_header(tensors.layouts(spec), {"format": "pt"})
    return lambda vector: header + vector.tobytes()


STATE_DICTS = Each(
    pytorch.SUFFIX,
    lambda spec: pytorch.archive(spec).of,
    "import torch\n\n"
    'tensors = torch.load(FILE, map_location="cpu", weights_only=True)\nmodule.load_state_dict(tensors)',
)
SAFETENSORS = Each(
    ".safetensors",
    _safetensors,
    "from safetensors.torch import load_file  # or safetensors.flax, .numpy\n\n"
    "tensors = load_file(FILE)\nmodule.load_state_dict(tensors)",
)
NPZ = Each(".npz", lambda spec: tensors.npz(spec).of, "import numpy as np\n\ntensors = dict(np.load(FILE))")
