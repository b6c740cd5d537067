"""Transformations applied to whole sets of images: chunk by chunk on devices, image by image in threads, and kept on
disk where a folder is given."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import files, parallel, processes, settings
from jaxweights.bias.collections.base import digest
from jaxweights.bias.transformations import base
from jaxweights.bias.transformations.base import Arithmetic, Fitted, Library, Pretrained, Stage, Transformation
from jaxweights.bias.transformations.concatenation import Concatenation
from jaxweights.progress import Progress

_CHUNK_VALUES = 1 << 24  # pixels times channels that are on the devices at a time
_PART = 512  # images of a part that is kept on disk

Program = Callable[[jax.Array, jax.Array], jax.Array]
"""Of images `[B, H, W, C]` float32 in [0, 1] and keys `[B]`, see `Arithmetic.apply`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where transformed images are computed and kept.

    Attributes:
      mesh: devices, all of this process by default.
      folder: folder of what is computed once; parts that are there are not computed again. None to keep nothing.
      state: of a `Fitted` transformation, for the collection that the images are from; the name of that collection
        for a `Pretrained` one.
      digests: `[n]`, of the images as they came from their source, for a `Pretrained` transformation; None where they
        are as they came.
    """

    mesh: Mesh | None = None
    folder: pathlib.Path | None = None
    state: Any = None
    digests: np.ndarray | None = None


NOWHERE = Place()


def transform(transformation: Transformation, images: np.ndarray, key: jax.Array, place: Place = NOWHERE) -> np.ndarray:
    """Transforms images without augmenting them; what is random is drawn once.

    Args:
      transformation: what to do.
      images: `[n, H, W, C]` uint8.
      key: PRNG key; the result of an image depends on the key and its row, not on chunks or devices.
      place: devices, folder, and the state of a fitted transformation.

    Returns:
      `[n, H', W', C']`, uint8 where bytes become bytes, else float32.

    Raises:
      UserError: images that the transformation cannot take, or a library that is not installed.
    """
    found = stored(transformation, images, key, place)
    if transformation.stage != Stage.AFTER:
        return found
    return _on_devices(transformation, found, key, place)


def stored(transformation: Transformation, images: np.ndarray, key: jax.Array, place: Place = NOWHERE) -> np.ndarray:
    """What is kept in place of the images, before these are augmented; see `transform` for arguments and errors.

    Returns:
      `[n, H', W', C']` uint8 or float32; the images themselves for a transformation that acts on access alone.
    """
    transformation.check((images.shape[1], images.shape[2], images.shape[3]))
    if isinstance(transformation, Concatenation):
        keys = [jax.random.fold_in(key, number) for number in range(len(transformation.parts))]
        pairs = zip(transformation.transformations, keys, strict=True)
        return transformation.join([stored(part, images, own, place) for part, own in pairs])
    if transformation.stage == Stage.AFTER:
        return images
    if isinstance(transformation, Pretrained):
        digests = [digest(image) for image in images] if place.digests is None else place.digests.tolist()
        with processes.in_turn("images of a model"):
            return transformation.of_images(images, digests, str(place.state or ""), place.folder)
    compute = _by_library if isinstance(transformation, Library) else _on_devices
    if place.folder is None or transformation.stage != Stage.OFFLINE:
        return compute(transformation, images, key, place)
    return _kept(transformation, images, key, place, compute)


def fit(transformation: Fitted, images: Sequence[np.ndarray], key: jax.Array, place: Place = NOWHERE) -> list[Any]:
    """Fits a transformation to collections, or goes on where an interrupted call was.

    Args:
      transformation: what to fit.
      images: `[n, H, W, C]` uint8 of every collection, without those that classifiers are evaluated on.
      key: PRNG key.
      place: devices and folder; what is kept there belongs to these images, settings and key.

    Returns:
      One state per collection, for `Place.state`.

    Raises:
      UserError: images that do not fit, or fewer than a batch.
    """
    folder = None
    if place.folder is not None:
        name = _identity(transformation, np.concatenate(images), key, [len(of) for of in images])
        folder = files.make_dir(place.folder / f"fit-{name}")
    return transformation.fit(images, key, place.mesh, folder)


def accessed(transformation: Transformation) -> Program:
    """What happens at every access, behind the augmentation; nothing for what was computed before."""
    if isinstance(transformation, Concatenation):
        return transformation.on_access([accessed(part) for part in transformation.transformations])
    if isinstance(transformation, Arithmetic) and transformation.stage == Stage.AFTER:
        return transformation.apply
    return lambda images, keys: images


def _on_devices(
    transformation: Transformation, images: np.ndarray, key: jax.Array, place: Place, first: int = 0
) -> np.ndarray:
    """Applies a transformation chunk by chunk; `first` is the row of the first image in its collection."""
    mesh = parallel.resolve(place.mesh)
    program = _program(transformation, mesh)
    size = max(1, _CHUNK_VALUES // int(np.prod(_prepared(transformation, images[:1]).shape)))
    size = min(size, len(images)) + -min(size, len(images)) % mesh.size
    state = place.state, jax.random.key_data(key)
    parts = []
    with Progress(len(images), f"transforming ({transformation.KIND})", "images") as bar:
        for start in range(0, len(images), size):
            chunk = _prepared(transformation, images[start : start + size])
            rows = np.arange(start, start + size, dtype=np.int32) + first
            out = program(state, (parallel.pad_rows(chunk, size), rows))
            parts.append(np.asarray(out)[: len(chunk)])
            bar.update(start + len(chunk))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _prepared(transformation: Transformation, images: np.ndarray) -> np.ndarray:
    """What the program of a transformation gets."""
    if not isinstance(transformation, Arithmetic) or transformation.stage == Stage.AFTER:
        return images
    first = transformation.prepare(images[0])
    if first is images[0] or np.shares_memory(first, images):
        return images
    with futures.ThreadPoolExecutor(parallel.num_cores()) as pool:
        return np.stack([first, *pool.map(transformation.prepare, images[1:])])


@functools.lru_cache(maxsize=64)
def _program(transformation: Transformation, mesh: Mesh) -> Callable[[Any, Any], jax.Array]:
    """Compiled for `(state, key), (images, rows)`."""

    def run(state, chunk):
        (fitted, words), (images, rows) = state, chunk
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.wrap_key_data(words), rows)
        if isinstance(transformation, Fitted):
            return transformation.apply(fitted, base.as_floats(images), keys)
        if not isinstance(transformation, Arithmetic):
            return accessed(transformation)(base.as_floats(images), keys)
        return transformation.apply(images if transformation.BYTES else base.as_floats(images), keys)

    return parallel.map_rows(run, mesh)


def _by_library(
    transformation: Transformation, images: np.ndarray, key: jax.Array, place: Place, first: int = 0
) -> np.ndarray:
    """Transforms images one by one, in as many threads as there are cores."""
    del place
    assert isinstance(transformation, Library)
    words = np.asarray(jax.random.key_data(key)).tolist()
    rows = range(first, first + len(images))
    seeds = (int(np.random.default_rng([*words, row]).integers(2**31)) for row in rows)
    out: np.ndarray | None = None
    with (
        Progress(len(images), f"transforming ({transformation.KIND})", "images") as bar,
        futures.ThreadPoolExecutor(parallel.num_cores()) as pool,
    ):
        for row, made in enumerate(pool.map(transformation.one, images, seeds)):
            if out is None:
                out = np.empty((len(images), *made.shape), np.uint8)
            out[row] = made
            bar.update(row + 1)
    assert out is not None, "there are no images"
    return out


def _kept(
    transformation: Transformation,
    images: np.ndarray,
    key: jax.Array,
    place: Place,
    compute: Callable[..., np.ndarray],
) -> np.ndarray:
    """Computes in parts, each in a file of its own in a folder that is named by all that the result depends on."""
    assert place.folder is not None
    folder = files.make_dir(place.folder / _identity(transformation, images, key, place.state))
    parts = []
    for start in range(0, len(images), _PART):
        path, chunk = folder / f"{start:08d}.npy", images[start : start + _PART]
        part = _read_part(path, len(chunk))
        if part is None:
            part = compute(transformation, chunk, key, place, start)
            with files.atomic(path) as temporary:
                np.save(temporary, part)
        parts.append(part)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _read_part(path: pathlib.Path, count: int) -> np.ndarray | None:
    """A part of so many images, or None where its file is absent, truncated or foreign."""
    try:
        part = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return part if isinstance(part, np.ndarray) and part.ndim == 4 and len(part) == count else None


def _identity(transformation: Transformation, images: np.ndarray, key: jax.Array, state: Any) -> str:
    """Name of the folder of a result."""
    words = {
        "kind": transformation.KIND,
        "settings": settings.plain(transformation),
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "shape": images.shape,
    }
    found = hashlib.blake2b(json.dumps(words, sort_keys=True).encode(), digest_size=10)
    for array in (images, *jax.tree.leaves(state)):
        found.update(np.ascontiguousarray(array).tobytes())
    return f"{transformation.KIND}-{found.hexdigest()}"
