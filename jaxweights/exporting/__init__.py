"""Networks for other programs: in several formats, with a data card and checksums."""

from __future__ import annotations

from jaxweights.checks import choose
from jaxweights.errors import UserError
from jaxweights.exporting.base import Format
from jaxweights.exporting.each import NPZ, SAFETENSORS, STATE_DICTS
from jaxweights.exporting.facts import Origin as Origin
from jaxweights.exporting.model_zoos import ModelZoos
from jaxweights.exporting.networks import Contents as Contents
from jaxweights.exporting.rows import Hdf5, Npz, Safetensors
from jaxweights.exporting.selection import Selection as Selection
from jaxweights.exporting.writing import export as export

FORMATS: dict[str, Format] = {
    "state_dicts": STATE_DICTS,
    "safetensors": Safetensors(),
    "safetensors_each": SAFETENSORS,
    "npz": Npz(),
    "npz_each": NPZ,
    "hdf5": Hdf5(),
    "model_zoos": ModelZoos(),
}
"""Those of state dicts and "each" have a file per network."""


def get(name: str) -> Format:
    """A format by name; raises `UserError` for an unknown one."""
    if name not in FORMATS:
        raise UserError(f"There is no format {name!r}; {choose(name, list(FORMATS))}.")
    return FORMATS[name]
