"""The published files of the known data sets: addresses, download, reading.

The builders of tensorflow-datasets need TensorFlow to unpack these files; here they are read without. Addresses and
checksums are those recorded in tensorflow-datasets 4.9.10.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.client
import os
import pathlib
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

import numpy as np

from jaxweights.data import cifar
from jaxweights.data.inspection import Bad, Inspection
from jaxweights.data.raw import AS_STORED, Raw, Reading
from jaxweights.errors import UserError

# Enough for a slow name server and a distant host; the longest wait without a network.
_CONNECT_SECONDS = 10.0
_STALL_SECONDS = 30.0
_BLOCK_BYTES = 1 << 20
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)


@dataclasses.dataclass(frozen=True)
class Original:
    """One published file: address of its folder, name, and SHA-256 of its content."""

    folder: str
    file: str
    sha256: str

    @property
    def url(self) -> str:
        """Address of the file."""
        return self.folder + self.file


def _at(folder: str, checksums: dict[str, str]) -> tuple[Original, ...]:
    return tuple(Original(folder, file, sha256) for file, sha256 in checksums.items())


ORIGINALS: dict[str, tuple[Original, ...]] = {
    "mnist": _at(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": _at(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "svhn_cropped": _at(
        "http://ufldl.stanford.edu/housenumbers/",
        {
            "train_32x32.mat": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            "test_32x32.mat": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        },
    ),
    "cifar10": _at(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    "cifar100": _at(
        "https://www.cs.toronto.edu/~kriz/",
        {"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
    ),
}


def download(name: str, folder: pathlib.Path, report: Callable[[str], None]) -> None:
    """Downloads the published files of a data set; complete files are not downloaded again.

    Args:
      name: a key of `ORIGINALS`.
      folder: destination, created when absent. A file appears under its name only when complete and checked.
      report: function called with one line per file.

    Raises:
      UserError: a host cannot be reached within 10 s, a transfer fails, or a checksum is wrong.
    """
    for original in ORIGINALS[name]:
        target = folder / original.file
        if target.is_file() and _sha256(target) == original.sha256:
            report(f"{target} exists already")
            continue
        _require_reachable(original, name, folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{original.file}.part-{os.getpid()}"
        try:
            with urllib.request.urlopen(original.url, timeout=_STALL_SECONDS) as response, partial.open("wb") as file:
                while block := response.read(_BLOCK_BYTES):
                    file.write(block)
            if _sha256(partial) != original.sha256:
                raise UserError(
                    f"{original.url} gave a file of {partial.stat().st_size} bytes with a wrong SHA-256; try again, or "
                    f"download it by hand and use --from."
                )
            partial.replace(target)
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in _DISK:
                raise UserError(
                    f"{folder} cannot be written ({error}). Free the disk, or give another --data_dir."
                ) from error
            raise _unreachable(original, name, folder, error) from error
        finally:
            partial.unlink(missing_ok=True)
        report(f"{target}: {target.stat().st_size / 1e6:.1f} MB from {original.url}")


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _require_reachable(original: Original, name: str, folder: pathlib.Path) -> None:
    """Raises unless the host answers in time.

    The attempt runs in a thread because the time limit of a socket does not cover name resolution.
    """
    outcome: list[BaseException | None] = []

    def attempt() -> None:
        try:
            urllib.request.urlopen(
                urllib.request.Request(original.url, method="HEAD"), timeout=_CONNECT_SECONDS
            ).close()
            outcome.append(None)
        except urllib.error.HTTPError as error:
            error.close()
            outcome.append(error)
        except (OSError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    if not outcome:
        raise _unreachable(original, name, folder, f"no answer within {_CONNECT_SECONDS:.0f} s")
    if outcome[0] is not None:
        raise _unreachable(original, name, folder, outcome[0])


def _unreachable(original: Original, name: str, folder: pathlib.Path, reason) -> UserError:
    urls = ", ".join(each.url for each in ORIGINALS[name])
    return UserError(
        f"{original.url} could not be downloaded to {folder} ({reason}). Where there is a network, download {urls}; "
        f"put the files into one folder here and run `python -m launch.prepare_data --dataset={name} "
        "--from=THAT_FOLDER` with the same --data_dir."
    )


def read(name: str, folder: pathlib.Path, reading: Reading = AS_STORED) -> Raw | None:
    """Reads the published files of `svhn_cropped`, `cifar10` or `cifar100`.

    Args:
      name: the data set.
      folder: directory of the files.
      reading: whether damaged files are left out.

    Returns:
      The arrays in the published order, or None when there are no such files or the data set has other ones.

    Raises:
      UserError: files are damaged or missing; the message lists all of them.
    """
    found = cifar.find(name, folder)
    if found is not None:
        return cifar.read(*found, reading)
    files = [folder / original.file for original in ORIGINALS.get(name, ())]
    if name != "svhn_cropped" or not any(path.is_file() for path in files):
        return None
    inspection = Inspection(folder, "files", "Get these files again")
    parts = [inspection.look(path.name, _read_svhn, path) for path in files]
    inspection.settle(0)
    arrays = [array for part in parts if part is not None for array in part]
    return Raw(*arrays, files="original " + ", ".join(path.name for path in files), where=str(files[0]))


def _read_svhn(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat

    if not path.is_file():
        raise Bad(path, "is missing", "Get it.")
    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"]
        if images.ndim != 4 or labels.dtype.kind not in "iu":
            raise ValueError(f"X is {images.dtype} {images.shape}, y {labels.dtype} {labels.shape}")
        # The image axis is the last one in the file; the digit 0 is labelled 10.
        return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels.reshape(-1).astype(np.int32) % 10
    except Exception as error:  # what SciPy raises for damaged files is no closed list
        reason = f"is truncated, damaged or of another kind ({error or type(error).__name__})"
        raise Bad(path, reason, "Get the file again.") from error
