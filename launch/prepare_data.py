"""Prepares an image set as a directory of tensorflow-datasets, from files or from the network, without TensorFlow.

    python -m launch.prepare_data --dataset=mnist --data_dir=DIR --from=FOLDER_OR_FILE
    python -m launch.prepare_data --dataset=mnist --data_dir=DIR --download

The result is `DIR/<dataset>/<version>`, with the version and the features of tensorflow-datasets' own builder, so that
`tfds.data_source` reads it as well. The images keep the order of the source, are stored as PNG (without loss), and are
read back and compared before the directory gets its name, so that an existing directory is complete. Running the same
command again changes nothing; with --from it compares the directory with the source.
"""

from __future__ import annotations

import pathlib
import re
import sys
import time

from absl import flags

from jaxweights import files
from jaxweights.data import default_data_dir, originals, prepared
from jaxweights.data.known import ALIASES, KNOWN
from jaxweights.data.prepare import prepare, read_source
from jaxweights.data.raw import Raw
from jaxweights.data.sources import as_path
from jaxweights.errors import UserError
from launch import common

_DATASET = flags.DEFINE_string(
    "dataset", None, "mnist, fashion_mnist, svhn_cropped, cifar10, cifar100, or a new name for your own images."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where to prepare it. Default: $TFDS_DATA_DIR, else ~/tensorflow_datasets."
)
_FROM = flags.DEFINE_string(
    "from",
    None,
    "An .npz file, a published archive, or a folder with the four idx files, <dataset>.npz, or the published files "
    "(cifar-10-python.tar.gz or cifar-10-binary.tar.gz, packed or not, the same of CIFAR-100, train_32x32.mat and "
    "test_32x32.mat).",
)
_SKIP_BAD = flags.DEFINE_boolean(
    "skip_bad", False, "Leave out images and files that cannot be used; <data_dir>/<dataset>-skipped.txt lists them."
)
_DOWNLOAD = flags.DEFINE_boolean("download", False, "Download the published files into <data_dir>/downloads first.")
_FORMAT = flags.DEFINE_enum(
    "format",
    "array_record",
    ["array_record", "tfrecord"],
    "array_record needs no TensorFlow; tfrecord, for users of tfds.load, needs it installed. Both are read here.",
)

# As tensorflow-datasets demands of its names.
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def main(argv) -> None:
    """Prepares what the flags ask for and prints where it is."""
    del argv
    name = ALIASES.get(_DATASET.value or "", _DATASET.value or "")
    if not _NAME.fullmatch(name) or name == "digits":
        problem = f"--dataset={name} cannot be prepared: give" if name else "No data set was named. Give --dataset="
        raise UserError(
            f"{problem} one of {', '.join(originals.ORIGINALS)}, or a new name of lower-case letters, digits and "
            "underscores (digits is embedded and needs no preparation)."
        )
    origin = _FROM.value
    if bool(origin) == _DOWNLOAD.value:
        raise UserError(
            "give either --from=FOLDER_OR_FILE or --download, so that it is clear where the images come from."
        )
    data_dir = default_data_dir() if _DATA_DIR.value is None else as_path(_DATA_DIR.value, "--data_dir")
    if data_dir.exists() and not data_dir.is_dir():
        raise UserError(f"--data_dir={data_dir} is a file; give a folder.")
    started = time.monotonic()
    existing = prepared.find(name, data_dir) if _DOWNLOAD.value else None
    if existing is not None:
        print(f"{existing.path} is prepared already; remove it to download it again")
        return
    try:
        if origin:
            source = read_source(name, as_path(origin, "--from"), _SKIP_BAD.value)
        else:
            source = _downloaded(name, data_dir)
        data_dir.mkdir(parents=True, exist_ok=True)
        progress = sys.stderr.isatty() and not common.QUIET.value
        path = prepare(name, source, data_dir, _FORMAT.value, progress)
        if source.skipped:
            listed = data_dir / f"{name}-skipped.txt"
            files.write_text(listed, "".join(f"{line}\n" for line in source.skipped))
            print(f"bad items were left out; {listed} lists them")
    except OSError as error:
        raise UserError(f"{data_dir} cannot be written ({error}); give another --data_dir or free the disk.") from error
    seconds = time.monotonic() - started
    print(
        f"{path}: {len(source.train_images)} training and {len(source.test_images)} test images from {source.files}, "
        f"read back and compared, in {seconds:.1f} s"
    )
    if name in KNOWN and (len(source.train_images), len(source.test_images)) != KNOWN[name].sizes:
        print(f"note: the published {name} has {KNOWN[name].sizes[0]} training and {KNOWN[name].sizes[1]} test images")


def _downloaded(name: str, data_dir: pathlib.Path) -> Raw:
    if name not in originals.ORIGINALS:
        raise UserError(
            f"--download knows no data set '{name}', only {', '.join(originals.ORIGINALS)}; --from takes others."
        )
    folder = data_dir / "downloads" / name
    originals.download(name, folder, print)
    return read_source(name, folder)


if __name__ == "__main__":
    common.run_main(main)
