"""Files of many networks: `weights` `[N, P]` and a column `[N]` per record."""

from __future__ import annotations

import json
import pathlib
import zipfile
from collections.abc import Mapping

import numpy as np

from jaxweights import extras
from jaxweights.exporting.archive import DATE
from jaxweights.exporting.base import Format, splits
from jaxweights.exporting.networks import Contents, Report, blocks, chosen, columns, raw
from jaxweights.exporting.tensors import FLOAT32, Layout, npy_header, safetensors_header
from jaxweights.population import Population


class Npz(Format):
    """An `.npz` file, which `zoo.import_npz` and `launch.audit` read."""

    MANY = True

    def files(self, contents: Contents) -> list[str]:
        return ["networks.npz"] * len(contents.networks)

    def write(self, folder: pathlib.Path, contents: Contents, report: Report) -> None:
        networks = contents.networks
        with zipfile.ZipFile(folder / "networks.npz", "w", zipfile.ZIP_STORED) as archive:
            with archive.open(_member("weights"), "w", force_zip64=True) as file:
                file.write(npy_header(Layout(FLOAT32, networks.weights.shape)))
                for start, block in blocks(networks):
                    file.write(raw(block))
                    report(start + len(block))
            for name, column in columns(networks).items():
                with archive.open(_member(name), "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, column)

    def usage(self, contents: Contents) -> str:
        networks = contents.networks
        return (
            '```python\nimport numpy as np\n\nnetworks = np.load("networks.npz")\n'
            f'weights = networks["weights"]  # {list(networks.weights.shape)} float32\n```'
        )


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy", DATE)
    info.external_attr = 0o644 << 16
    return info


class Safetensors(Format):
    """A safetensors file per split; the format has no texts, so `split` and `transform` stand in its metadata."""

    MANY = True

    def files(self, contents: Contents) -> list[str]:
        return [f"{split}.safetensors" for split in contents.networks.records["split"].tolist()]

    def write(self, folder: pathlib.Path, contents: Contents, report: Report) -> None:
        networks = contents.networks
        done = 0
        for split in splits(networks):
            part = chosen(networks, np.flatnonzero(networks.records["split"] == split))
            # Larger types first, so that all of them are aligned.
            numbers = sorted(_numbers(part).items(), key=lambda item: -item[1].dtype.itemsize)
            layouts = {name: Layout(column.dtype, column.shape) for name, column in numbers}
            layouts["weights"] = Layout(FLOAT32, part.weights.shape)
            with open(folder / f"{split}.safetensors", "wb") as file:
                file.write(safetensors_header(layouts, _metadata(part, split)))
                for _, column in numbers:
                    file.write(column.tobytes())
                for start, block in blocks(part):
                    file.write(raw(block))
                    report(done + start + len(block))
            done += len(part)

    def usage(self, contents: Contents) -> str:
        networks = contents.networks
        names = ", ".join(f"`{split}.safetensors`" for split in splits(networks))
        first = splits(networks)[0]
        return (
            f"Files: {names}.\n\n```python\nfrom safetensors.numpy import load_file  # or safetensors.torch, .flax\n\n"
            f'weights = load_file("{first}.safetensors")["weights"]  # [N, {networks.spec.num_params}] float32\n```'
        )


def _numbers(networks: Population) -> dict[str, np.ndarray]:
    """The columns of numbers."""
    return {name: column for name, column in columns(networks).items() if column.dtype.kind in "fiu"}


def _metadata(networks: Population, split: str) -> Mapping[str, str]:
    made = sorted(set(networks.records["transform"].tolist()))
    return {"format": "np", "split": split, "transform": ",".join(made), "spec": json.dumps(networks.spec.to_json())}


class Hdf5(Format):
    """An HDF5 file with a data set per array; hyper-parameters are in the group `hyper`."""

    MANY = True

    def files(self, contents: Contents) -> list[str]:
        return ["networks.h5"] * len(contents.networks)

    def write(self, folder: pathlib.Path, contents: Contents, report: Report) -> None:
        networks = contents.networks
        h5py = extras.module("formats", "h5py")
        with h5py.File(folder / "networks.h5", "w") as file:
            weights = file.create_dataset("weights", networks.weights.shape, FLOAT32)
            for start, block in blocks(networks):
                weights[start : start + len(block)] = block
                report(start + len(block))
            for name, column in columns(networks).items():
                file[name] = np.char.encode(column, "utf-8") if column.dtype.kind == "U" else column
            file.attrs["spec"] = np.void(json.dumps(networks.spec.to_json()).encode())

    def usage(self, contents: Contents) -> str:
        networks = contents.networks
        return (
            '```python\nimport h5py\n\nwith h5py.File("networks.h5") as file:\n'
            f'    weights = file["weights"][:]  # {list(networks.weights.shape)} float32\n```'
        )
