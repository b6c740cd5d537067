"""Published image files: what is downloaded is checked, and archives of any layout are read."""

from __future__ import annotations

import hashlib
import http.server
import pathlib
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from image_sets import assert_holds, make, save_npz, write_idx

from jaxweights import data
from jaxweights.data import checks, cifar, originals, prepare
from jaxweights.data.files import read_files
from jaxweights.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def server(tmp_path):
    """Serves `tmp_path/www` on this machine; yields the address."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/", folder
        running.shutdown()
        thread.join()


def published(address, folder):
    return tuple(
        originals.Original(address, path.name, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.iterdir())
    )


def test_download_is_checked_and_not_repeated(tmp_path, monkeypatch, server):
    address, folder = server
    arrays = make(train=5, test=5)
    write_idx(folder, arrays)
    monkeypatch.setitem(originals.ORIGINALS, "mnist", published(address, folder))
    target = tmp_path / "downloads"
    lines = []
    originals.download("mnist", target, lines.append)
    assert_holds(checks.check(read_files("mnist", target), "mnist"), arrays)
    for path in folder.iterdir():
        path.unlink()
    originals.download("mnist", target, lines.append)
    assert [line.endswith("already") for line in lines] == [False] * 4 + [True] * 4
    (target / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    with pytest.raises(UserError, match="t10k-labels.*404"):
        originals.download("mnist", target, lines.append)
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="wrong SHA-256"):
        originals.download("mnist", target, lines.append)
    assert len(list(target.iterdir())) == 4


def test_download_without_a_network_gives_up_in_time(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # It accepts the connection and never answers.
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        monkeypatch.setitem(originals.ORIGINALS, "cifar10", (originals.Original(address, "file.gz", ""),))
        monkeypatch.setattr(originals, "_CONNECT_SECONDS", 0.3)
        started = time.monotonic()
        with pytest.raises(UserError, match="file.gz could not be downloaded.*--from"):
            originals.download("cifar10", tmp_path / "x", print)
        assert time.monotonic() - started < 5
    with pytest.raises(UserError, match="file.gz could not be downloaded"):
        originals.download("cifar10", tmp_path / "x", print)
    assert not (tmp_path / "x").exists()


def python2_batch(images, labels, key):
    """A batch as Python 2 pickled it: byte strings, and an array by `numpy.core.multiarray._reconstruct`."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    def number(value):
        return b"J" + struct.pack("<i", value)

    dtype = (
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN" + 2 * number(-1) + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R(K\x01"
    array += number(len(images)) + number(3072) + b"\x86" + dtype + b"\x89T" + struct.pack("<i", images.size)
    array += images.tobytes() + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key) + listed + b"u."


@pytest.mark.parametrize(
    "layout", [layout for layouts in cifar.LAYOUTS.values() for layout in layouts], ids=lambda x: x[1]
)
def test_cifar_is_read_packed_and_unpacked(tmp_path, layout):
    name = next(name for name, layouts in cifar.LAYOUTS.items() if layout in layouts)
    arrays = make((32, 32, 3), train=10 * len(layout.train), test=10)
    folder = tmp_path / layout.folder
    folder.mkdir()
    for part, files in (("train", layout.train), ("test", layout.test)):
        images = arrays[f"{part}_images"].transpose(0, 3, 1, 2).reshape(-1, 3072)
        labels = arrays[f"{part}_labels"].astype(np.uint8)
        for file, rows in zip(files, np.array_split(np.arange(len(labels)), len(files)), strict=True):
            if isinstance(layout.label, bytes):
                content = python2_batch(images[rows], labels[rows].tolist(), layout.label)
            else:
                coarse = np.full((len(rows), layout.label - 1), 77, np.uint8)
                content = np.concatenate([coarse, labels[rows, None], images[rows]], 1).tobytes()
            (folder / file).write_bytes(content)
    for place in (tmp_path, folder):
        assert_holds(data.load(name, place), arrays)
        assert_holds(prepare.read_source(name, place), arrays)
    archive = tmp_path / layout.archive
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, layout.folder)
    (folder / layout.train[0]).write_bytes(b"c__builtin__\neval\n")
    with pytest.raises(
        UserError, match=f"{layout.folder} has files that cannot be used: {layout.train[0]} is trunc.*again"
    ):
        data.load(name, tmp_path)
    folder.rename(tmp_path / "elsewhere")
    assert_holds(data.load(name, tmp_path), arrays)
    assert_holds(prepare.read_source(name, archive), arrays)
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(UserError, match=archive.name):
        prepare.read_source(name, tmp_path)


def test_svhn_matrices_are_read(tmp_path):
    from scipy.io import savemat

    arrays = make((32, 32, 3))
    for part in ("train", "test"):
        labels = np.where(arrays[f"{part}_labels"] == 0, 10, arrays[f"{part}_labels"])[:, None]
        content = {"X": arrays[f"{part}_images"].transpose(1, 2, 3, 0), "y": labels}
        savemat(tmp_path / f"{part}_32x32.mat", content, do_compression=True)
    assert_holds(prepare.read_source("svhn_cropped", tmp_path), arrays)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=path.name):
        prepare.read_source("svhn_cropped", tmp_path)


def test_program_prepares_or_says_what_is_wrong(tmp_path):
    save_npz(tmp_path / "source.npz", make())
    command = [sys.executable, "-m", "launch.prepare_data", "--dataset=mnist", f"--data_dir={tmp_path}"]

    def run(*flags):
        return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)

    done = run(f"--from={tmp_path / 'source.npz'}")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/mnist/3.0.1: 40 training and 20 test images" in done.stdout and "60000" in done.stdout
    wrong = run(f"--from={tmp_path / 'absent.npz'}")
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and "Traceback" not in wrong.stderr
    assert "absent.npz does not exist" in wrong.stderr.replace("\n", " ")
