"""Collections of images as the subject of a comparison."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxweights import extras, settings
from jaxweights.bias import collections, transformations
from jaxweights.bias.collections import Collection, Reading
from jaxweights.bias.collections.reading import formed
from jaxweights.bias.settings import BiasSettings, SetSettings
from jaxweights.bias.subject import Labelled, Sizes, Subject
from jaxweights.bias.transformations import Concatenation, Fitted, Place, Pretrained, Transformation, stored, transform
from jaxweights.errors import UserError

_FIT, _APPLY = 0, 1  # purposes of a transformation's key


class Images(Subject):
    """Collections of images.

    Args:
      options: the section of a config.
      seed: random seed.
      data_dir: folder of data sets.
      folder: of transformed images that are kept; None for none.
    """

    KIND: ClassVar[str] = "images"

    def __init__(self, options: BiasSettings, seed: int, data_dir: str | None, folder: pathlib.Path | None = None):
        self._options, self._seed, self._data_dir, self._folder = options, seed, data_dir, folder
        self._made = options.chosen_transformations()
        self.classifier = options.chosen_classifier()
        self.sizes = Sizes(options.repeats, options.controls, options.num_train, options.num_validation, seed)
        self.transformations = {k: {"kind": t.KIND, **settings.plain(t)} for k, t in self._made.items()}

    @functools.cached_property
    def _collections(self) -> dict[str, tuple[tuple[Collection, ...], tuple[str, ...]]]:
        """Collections and notes of every set."""
        read, found = dict[str, Collection](), {}
        for name, chosen in self._options.chosen_sets().items():
            section = f"bias.sets.{name}"
            sources = chosen.sources(section)
            if chosen.of:
                same = repr(sources[""])
                if same not in read:
                    read[same] = sources[""].read(str(chosen.of.get("dataset", "the collection")), self._data_dir)
                given = _cut(read[same], chosen, section, self._seed)
            else:
                given = [source.read(key, self._data_dir) for key, source in sources.items()]
            least = len(given) * self.classifier.batch_size
            checked = collections.check(given, repeated=self._options.repeated, least=least)
            found[name] = (tuple(collections.balanced(checked.collections, self._seed)), checked.notes)
        return found

    @functools.cached_property
    def _sets(self) -> dict[str, Labelled]:
        return {name: _labelled(*found) for name, found in self._collections.items()}

    def sets(self) -> Mapping[str, Labelled]:
        return self._sets

    def check(self) -> None:
        """See `Subject.check`; also libraries that are not installed."""
        super().check()
        for made in self._made.values():
            for parts, _ in self._collections.values():
                made.check(parts[0].shape)
                for part in made.transformations if isinstance(made, Concatenation) else (made,):
                    if isinstance(part, Pretrained):
                        part.ready([one.name for one in parts])
            if isinstance(made, transformations.Library):
                with extras.importing("bias"):
                    importlib.import_module(made.LIBRARY)

    @functools.cache  # noqa: B019  (lives as long as the study)
    def _images(self, of: str) -> np.ndarray:
        return np.concatenate([one.images for one in self._collections[of][0]])

    def transformed(self, of: str, name: str, rows: np.ndarray, unseen: np.ndarray, mesh: Mesh) -> np.ndarray:
        return self._made_of(of, name, rows, unseen, mesh, transform)

    def stored(self, of: str, name: str, rows: np.ndarray, unseen: np.ndarray, mesh: Mesh) -> np.ndarray:
        """What is kept in place of the images, before these are augmented; arguments as of `transformed`."""
        return self._made_of(of, name, rows, unseen, mesh, stored)

    def transformation(self, name: str) -> Transformation:
        """The transformation of a name."""
        return self._made[name]

    def _made_of(self, of: str, name: str, rows, unseen, mesh: Mesh, how: Callable[..., np.ndarray]) -> np.ndarray:
        images, made, labels = self._images(of), self._made[name], self._sets[of].labels
        key = jax.random.fold_in(jax.random.key(self._seed), _APPLY)
        place = Place(mesh, self._folder, digests=self._sets[of].groups[rows])
        if isinstance(made, Pretrained) and made.PER_COLLECTION:
            return _by_collection(how, made, images[rows], labels[rows], list(self._sets[of].names), key, place)
        if not isinstance(made, Fitted):
            return how(made, images[rows], key, place)
        free = [np.setdiff1d(np.flatnonzero(labels == i), unseen) for i in range(self._sets[of].num_classes)]
        if not all(map(len, free)):
            raise UserError(
                f"Transformation {name} learns from images that no classifier is asked about, and there are none left. "
                "Lower bias.num_validation or bias.repeats."
            )
        fit_key = jax.random.fold_in(jax.random.key(self._seed), _FIT)
        states = transformations.fit(made, [images[own] for own in free], fit_key, place)
        return _by_collection(how, made, images[rows], labels[rows], states, key, place)

    def shown(self, of: str, transformed: np.ndarray, rows: np.ndarray) -> np.ndarray:
        examples, count = self._sets[of], self._options.shown
        first = [np.flatnonzero(examples.labels[rows] == i)[:count] for i in range(examples.num_classes)]
        found = transformed[np.stack(first)]
        return found if found.dtype == np.uint8 else np.round(np.clip(found, 0, 1) * 255).astype(np.uint8)


def _by_collection(
    how: Callable[..., np.ndarray],
    made: Transformation,
    images: np.ndarray,
    labels: np.ndarray,
    states: list[Any],
    key: jax.Array,
    place: Place,
) -> np.ndarray:
    """Transforms the images of every collection under the state of that."""
    out: np.ndarray | None = None
    for i, state in enumerate(states):
        own = np.flatnonzero(labels == i)
        digests = None if place.digests is None else place.digests[own]
        of_this = dataclasses.replace(place, state=state, digests=digests)
        part = how(made, images[own], jax.random.fold_in(key, i), of_this)
        out = np.empty((len(images), *part.shape[1:]), part.dtype) if out is None else out
        out[own] = part
    assert out is not None
    return out


def _cut(whole: Collection, chosen: SetSettings, section: str, seed: int) -> list[Collection]:
    """Parts of a collection, each re-encoded in its own way."""
    forms = chosen.forms(section)
    if chosen.cut == "classes":
        parts = collections.by_class(whole, len(forms))
    else:
        parts = collections.identical(whole, len(forms), seed)
    return [_formed(part, name, form) for part, (name, form) in zip(parts, forms.items(), strict=True)]


def _formed(part: Collection, name: str, form: Reading) -> Collection:
    words = form.words
    form = form.replace(channels=part.shape[2], size=form.size or part.shape[0])
    if not form.shrink and not form.quality and part.shape[:2] == (form.size, form.size):
        return dataclasses.replace(part, name=name)
    images = np.stack([formed(image, form) for image in part.images])
    return dataclasses.replace(
        part, name=name, images=images, source=f"{part.source}{words}", shrink=form.shrink, quality=form.quality
    )


def _labelled(found: tuple[Collection, ...], notes: tuple[str, ...]) -> Labelled:
    labels = np.repeat(np.arange(len(found), dtype=np.int32), [len(one) for one in found])
    digest = hashlib.blake2b(digest_size=10)
    for one in found:
        digest.update(np.ascontiguousarray(one.images).data)
    described = {
        one.name: {"examples": len(one), "shape": list(one.shape), "source": one.source, "formats": dict(one.formats)}
        for one in found
    }
    facts: dict[str, Any] = {"collections": described, "notes": list(notes), "digest": digest.hexdigest()}
    return Labelled(tuple(one.name for one in found), labels, np.concatenate([one.digests for one in found]), facts)
