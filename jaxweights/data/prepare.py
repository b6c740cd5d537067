"""Writes arrays as a prepared directory of tensorflow-datasets, without TensorFlow.

The directory has the version and the features of tensorflow-datasets' own builder, so that `tfds.data_source` reads it
as well. It is renamed to its final name only after its content was read back and compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import io
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np

from jaxweights import extras
from jaxweights.data import cifar, npz, originals, prepared
from jaxweights.data.checks import check
from jaxweights.data.encoded import encode_png
from jaxweights.data.files import read_files
from jaxweights.data.known import test_split
from jaxweights.data.raw import Raw, Reading
from jaxweights.errors import UserError

_OWN_VERSION = "1.0.0"


def read_source(name: str, path: pathlib.Path, skip_bad: bool = False) -> Raw:
    """Reads and checks the images to prepare.

    Args:
      name: the data set.
      path: an `.npz` file, a published archive, or a folder of idx files, of `<name>.npz` or of the published files.
      skip_bad: whether images and files that cannot be used are left out.

    Raises:
      UserError: no such files, damaged files, or arrays that do not fit together.
    """
    reading = Reading(skip_bad=skip_bad)
    if not path.exists():
        raise UserError(f"--from={path} does not exist; give a folder or an .npz file.")
    if path.is_dir():
        raw = read_files(name, path, reading, own_folder=True)
    elif path.name in {layout.archive for layouts in cifar.LAYOUTS.values() for layout in layouts}:
        found = cifar.find(name, path.parent)
        raw = cifar.read(*found, reading) if found and found[0] == path else None
    else:
        raw = npz.read(path, reading)
    if raw is None:
        wanted = ", ".join(original.file for original in originals.ORIGINALS.get(name, ())) or "the four idx files"
        raise UserError(f"--from={path} has no images of '{name}'; give a folder with {wanted} or {name}.npz.")
    return check(raw, name, skip_bad)


def prepare(
    name: str, source: Raw, data_dir: pathlib.Path, file_format: str = "array_record", progress: bool = False
) -> pathlib.Path:
    """Writes a prepared directory, which appears under its name only when complete and equal to the source.

    Args:
      name: the data set.
      source: checked arrays.
      data_dir: existing directory.
      file_format: `array_record`, or `tfrecord` where TensorFlow is installed.
      progress: whether the progress bars of tensorflow-datasets are shown.

    Returns:
      `<data_dir>/<name>/<version>`; an existing one with the same images is left unchanged.

    Raises:
      UserError: the images are not bytes, other images exist under this name, or tfrecord is requested without
        TensorFlow.
      OSError: `data_dir` cannot be written.
    """
    if source.train_images.dtype != np.uint8 or source.train_images.shape[-1] == 2:
        raise UserError(
            f"{source.where}: {source.train_images.dtype} images with {source.train_images.shape[-1]} channels cannot "
            "be stored as PNG; keep the .npz file, which can be loaded directly."
        )
    if file_format == "tfrecord" and importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            "--format=tfrecord needs TensorFlow to write it: `pip install tensorflow-cpu`, or leave --format out "
            "(array_record)."
        )
    existing = prepared.find(name, data_dir)
    if existing is not None:
        if not same_images(check(prepared.read(existing, name), name), source):
            raise UserError(
                f"{existing.path} has other images than {source.where}; remove it or give another --data_dir."
            )
        return existing.path
    with _work_folder(name, data_dir) as work:
        written = _write(name, source, work, file_format, progress)
        found = prepared.find(name, work)
        assert found is not None  # it has just been written
        copy = check(prepared.read(found, name), name)
        if not _equal(copy, source):
            raise RuntimeError(f"tensorflow-datasets stored other images than it was given, in {written}")
        target = data_dir / name / written.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(written, target)
        except OSError as error:
            if not target.exists():
                raise
            raise UserError(
                f"{target} exists but is not a prepared directory, or another process has just made it; check it, "
                "remove it, and run this again."
            ) from error
    return target


@contextlib.contextmanager
def _work_folder(name: str, data_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder that only this process uses, and removes it afterwards.

    Its name is fixed and a lock shows whether it is in use, so that the next run removes what a killed one left.
    """
    folder = data_dir / f".prepare-{name}"
    folder.mkdir(exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is preparing {name} in {data_dir}; wait until it is done.") from error
        try:
            for leftover in folder.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            yield folder
        finally:
            shutil.rmtree(folder)
    finally:
        os.close(handle)


def _write(name: str, source: Raw, work: pathlib.Path, file_format: str, progress: bool) -> pathlib.Path:
    """Lets tensorflow-datasets write the directory below `work` and returns it."""
    with extras.importing("data"):
        import tensorflow_datasets as tfds

    if name in originals.ORIGINALS:
        published = tfds.builder(name, data_dir=work)
        version, features = published.version, published.info.features
    else:
        version = _OWN_VERSION
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=source.train_images.shape[1:]),
                "label": tfds.features.ClassLabel(num_classes=int(source.train_labels.max()) + 1),
            }
        )
    from tensorflow_datasets.core import registered

    with registered.skip_registration():
        builder_class = _builder_class(tfds, name, str(version), features, source)
    (tfds.enable_progress_bar if progress else tfds.disable_progress_bar)()
    builder = builder_class(data_dir=work, file_format=file_format)
    # The library prints the name of the temporary directory, which no longer exists when the user reads it.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            builder.download_and_prepare()
        except RuntimeError as error:  # what the writer raises, e.g. on a full disk
            raise OSError(str(error).splitlines()[0]) from error
    return pathlib.Path(builder.data_dir)


def _builder_class(tfds, dataset_name: str, version: str, dataset_features, source: Raw) -> type:
    """Returns a builder with the given features whose examples are those of `source`, in that order."""

    class Builder(tfds.core.GeneratorBasedBuilder):
        """Stores arrays from memory."""

        name = dataset_name
        VERSION = tfds.core.Version(version)

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"Prepared by jaxweights from {source.files}.",
                features=dataset_features,
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager
            return {
                "train": self._generate_examples("train", source.train_images, source.train_labels),
                test_split(dataset_name): self._generate_examples("test", source.test_images, source.test_labels),
            }

        def _generate_examples(self, split, images, labels):
            # The published features beyond image and label, an id and CIFAR-100's coarse label, are not in our sources;
            # -1 is the library's "unknown".
            fill = {"id": f"{split}_{{:06d}}", "coarse_label": -1}
            extra = {key: fill[key] for key in dataset_features if key not in ("image", "label")}
            for row, (image, label) in enumerate(zip(images, labels, strict=True)):
                example = {key: value.format(row) if key == "id" else value for key, value in extra.items()}
                yield row, {"image": io.BytesIO(encode_png(image)), "label": int(label), **example}

    return Builder


def same_images(left: Raw, right: Raw) -> bool:
    """Whether two checked sets have the same labelled images in each split, in any order."""
    return _equal(left, right) or (
        _multiset(left.train_images, left.train_labels) == _multiset(right.train_images, right.train_labels)
        and _multiset(left.test_images, left.test_labels) == _multiset(right.test_images, right.test_labels)
    )


def _equal(left: Raw, right: Raw) -> bool:
    return all(
        np.array_equal(getattr(left, field), getattr(right, field))
        for field in ("train_images", "train_labels", "test_images", "test_labels")
    )


def _multiset(images: np.ndarray, labels: np.ndarray) -> list[bytes]:
    return sorted(label.tobytes() + image.tobytes() for image, label in zip(images, labels, strict=True))
