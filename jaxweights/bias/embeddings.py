"""Tables of embeddings of images, as `launch.annotate --task=embed` writes them."""

from __future__ import annotations

import base64
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxweights import files
from jaxweights.bias import reading
from jaxweights.errors import UserError

_FACTS = ("model", "revision", "dtype", "weights")  # in a manifest, of `Model`


class Model(NamedTuple):
    """What embedded images, as `launch.annotate` wrote it down.

    Attributes:
      name: of the model on the hub, or its folder.
      revision: on the hub.
      dtype: what it computes with.
      weights: what tells its weights from others.
    """

    name: str
    revision: str
    dtype: str
    weights: str


@dataclasses.dataclass(frozen=True, eq=False)
class Embeddings:
    """Images of K collections in the space that a model shares between images and texts.

    Attributes:
      vectors: `[n, D]` float32 of length 1.
      labels: `[n]` int32, the collection of every image.
      model: what embedded them.
    """

    vectors: np.ndarray
    labels: np.ndarray
    model: Model


def encoded(vector: np.ndarray) -> str:
    """An embedding as text: base64 of its little-endian float32 values."""
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


def read(paths: Mapping[str, str], seed: int) -> Embeddings:
    """Reads a table per collection, `.jsonl` with `image` and `embedding`, and the model from `manifest.json` in the
    folder of the same name beside it.

    Args:
      paths: collection → file.
      seed: the larger collections are cut to the size of the smallest at random.

    Raises:
      UserError: a file that cannot be read, has no embeddings, or ones of another model or length than the first.
    """
    tables = {name: pathlib.Path(path) for name, path in paths.items()}
    models = {name: _model(path) for name, path in tables.items()}
    found = {name: _vectors(path) for name, path in tables.items()}
    kinds = {(models[name].weights, one.shape[1]) for name, one in found.items()}
    if len(kinds) != 1:
        told = ", ".join(
            f"{name} by {models[name].name} of {models[name].weights} ({one.shape[1]} numbers)"
            for name, one in found.items()
        )
        raise UserError(f"Embeddings are of different models: {told}. Write all of them with one.")
    count, rng = min(map(len, found.values())), np.random.default_rng(seed)
    kept = [one[np.sort(rng.permutation(len(one))[:count])] for one in found.values()]
    labels = np.repeat(np.arange(len(kept), dtype=np.int32), count)
    return Embeddings(np.concatenate(kept), labels, next(iter(models.values())))


def _model(table: pathlib.Path) -> Model:
    path = table.with_suffix("") / "manifest.json"
    cure = "Write the table with launch.annotate --task=embed, and keep its folder beside it."
    kept = files.read_json(path, "manifest of embeddings", cure, dict.fromkeys(_FACTS, str))
    return Model(*(kept[key] for key in _FACTS))


def _vectors(path: pathlib.Path) -> np.ndarray:
    rows = reading.rows(path, ("embedding",))
    try:
        found = [np.frombuffer(base64.b64decode(row["embedding"], validate=True), "<f4") for row in rows]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path} has an embedding that is no base64 of float32 numbers ({error}). Remove it."
        ) from error
    if not found or len({len(one) for one in found}) != 1:
        raise UserError(f"{path} has no embeddings, or some of different lengths. Write it with launch.annotate.")
    vectors = np.stack(found).astype(np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise UserError(f"{path} has embeddings of no direction (zeros, or numbers that are not finite). Remove them.")
    return vectors / lengths
