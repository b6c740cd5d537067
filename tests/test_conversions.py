"""The command that a refusal prints makes a file that is read, for every kind of file that there is a command for."""

import importlib.util
import pickle
import subprocess

import numpy as np
import pytest
import scipy.io
from foreign import READERS, ROWS, TENSORS, P, npy

from jaxweights.errors import UserError

ZOO, SERIES, BASE = "zoo.import_npz", "generators.mine.path", "zoo.base.import_npz"


def installed(*modules):
    return [
        pytest.param(m, marks=pytest.mark.skipif(importlib.util.find_spec(m) is None, reason=f"no {m} here"))
        for m in modules
    ]


def plain(path):
    """Files that NumPy and the standard library write."""
    files = {
        "rows.npy": (npy(ROWS), ZOO),
        'it\'s a "zoo" $1.npy': (npy(ROWS), ZOO),
        "objects.npy": (npy(np.array([*ROWS, None], dtype=object)[:-1], allow_pickle=True), ZOO),
        "zoo.pkl": (pickle.dumps(list(ROWS)), SERIES),
        "base.pkl": (pickle.dumps(TENSORS), BASE),
        "base.npy": (npy(ROWS[0]), BASE),
        "zoo.csv": ("\n".join(",".join(map(repr, row.tolist())) for row in ROWS).encode(), ZOO),
    }
    for name, (content, setting) in files.items():
        (path / name).write_bytes(content)
        yield name, setting


def of_torch(path):
    import torch

    def tensor(array):
        return torch.nn.Parameter(torch.from_numpy(array.copy()))

    state = {name: tensor(array) for name, array in TENSORS.items()}
    files = {
        "zoo.pt": (tensor(ROWS), ZOO),
        "list.pt": (list(map(tensor, ROWS)), SERIES),
        "named.pt": ({"weights": tensor(ROWS), "epoch": 3}, ZOO),
        "base.pth": (state, BASE),
        "checkpoint.pt": ({"state_dict": state, "epoch": 3}, BASE),
        "half.pt": (torch.from_numpy(ROWS).to(torch.bfloat16), SERIES),
    }
    for name, (content, setting) in files.items():
        torch.save(content, path / name)
        yield name, setting
    torch.save({"model": state}, path / "old.pt", _use_new_zipfile_serialization=False)
    yield "old.pt", BASE


def of_h5py(path, ending=".h5", turn=lambda array: array, **options):
    import h5py

    for stem, content, setting in (("zoo", {"weights": ROWS}, ZOO), ("base", TENSORS, BASE)):
        with h5py.File(path / (stem + ending), "w", **options) as file:
            for key, array in content.items():
                file[key.replace(".", "/")] = turn(array)
        yield stem + ending, setting


def of_matlab_7(path):
    """HDF5 behind a header of text; the axes in reverse order, vectors as rows."""
    for name, setting in of_h5py(path, ".mat", lambda array: np.atleast_2d(array).T, userblock_size=512):
        with open(path / name, "r+b") as file:
            file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")
        yield name, setting


def of_matlab(path):
    nested = {}
    for name, array in TENSORS.items():
        layer, _, tensor = name.partition(".")
        nested.setdefault(layer, {})[tensor] = array
    for name, content, setting in (("zoo.mat", {"weights": ROWS}, ZOO), ("base.mat", nested, BASE)):
        scipy.io.savemat(path / name, content)
        yield name, setting


def of_safetensors(path):
    import ml_dtypes
    from safetensors.numpy import save_file

    save_file({"weights": ROWS}, path / "zoo.safetensors")
    save_file(TENSORS, path / "base.safetensors")
    save_file({"weights": ROWS.astype(ml_dtypes.bfloat16)}, path / "half.safetensors")
    return [("zoo.safetensors", ZOO), ("base.safetensors", BASE), ("half.safetensors", SERIES)]


WRITERS = {"numpy": plain, "scipy": of_matlab, "torch": of_torch, "h5py": of_h5py, "safetensors": of_safetensors}


def command(path, setting):
    """The command that the refusal of a file prints; other files are not overwritten."""
    path.with_suffix(".npz").touch()
    with pytest.raises(UserError) as found:
        READERS[setting](path)
    return str(found.value).splitlines()[-1].strip()


@pytest.mark.parametrize("module", installed(*WRITERS))
def test_the_printed_commands_convert(module, tmp_path):
    written = list(WRITERS[module](tmp_path))
    if module == "h5py":
        written += of_matlab_7(tmp_path)
    commands = [command(tmp_path / name, setting) for name, setting in written]
    printing = "python() { printf '%s\\0' \"$2\"; }\n"  # what the shell hands to Python, which runs it here
    shell = subprocess.run(["bash", "-ec", printing + "\n".join(commands)], check=True, capture_output=True, text=True)
    for code in shell.stdout.split("\0")[:-1]:
        exec(code, {})
    for name, setting in written:
        read = READERS[setting]((tmp_path / name).with_name(f"{(tmp_path / name).stem}_converted.npz"))
        tolerance = 2**-8 if "half" in name else 0  # of bfloat16
        np.testing.assert_allclose(read.reshape(-1, P), ROWS[: len(read.reshape(-1, P))], rtol=tolerance)
