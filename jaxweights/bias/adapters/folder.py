"""A model applied to many images, one small file for each: what is there is not computed again, so that a run that was
killed goes on where it was, and outputs belong to images by their names, so that one bad image shifts no other."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from jaxweights import extras, files, locks, parallel, provenance
from jaxweights.bias.collections.reading import Reading, decode
from jaxweights.bias.collections.sources import SUFFIXES, image_paths
from jaxweights.errors import UserError
from jaxweights.progress import Progress

MANIFEST, FAILED = "manifest.json", "failed.json"
_WINDOW = 4  # batches that are read together, among which those of one shape are sought
_AHEAD = 2  # windows that are read while one is computed
_NAMED = 3  # failed images that a message names
_COMPRESSION = 1  # of pictures; the usual 6 takes several times as long for slightly smaller files


class Input(NamedTuple):
    """An image for a model.

    Attributes:
      name: its path below the folder, or another name that is its own.
      image: `[H, W, 3]` uint8.
      digest: hash of the pixels as they came, before shrinking; see `collections.digest`.
    """

    name: str
    image: np.ndarray
    digest: str

    @property
    def seed(self) -> int:
        """Of what is drawn for this image, below 2**31."""
        return int(self.digest[:8], 16) >> 1


class Failure(NamedTuple):
    """In place of an output: why there is none.

    Attributes:
      reason: the rest of a sentence that begins with the image's name.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Form:
    """What kind of file an output becomes.

    Attributes:
      suffix: the end of its name.
      write: writes an output to a path.
    """

    suffix: str
    write: Callable[[pathlib.Path, Any], None]


def _write_picture(path: pathlib.Path, picture: np.ndarray) -> None:
    with extras.importing("adapters"):
        from PIL import Image
    Image.fromarray(picture).save(path, "PNG", compress_level=_COMPRESSION)


def _write_json(path: pathlib.Path, data: Any) -> None:
    path.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")


PICTURE = Form(".png", _write_picture)
"""Of `[H, W]` or `[H, W, 3]` uint8."""
JSON = Form(".json", _write_json)


def _one_shape(prepared: Any) -> Hashable:
    del prepared
    return ()


@dataclasses.dataclass(frozen=True)
class Running:
    """A model that is loaded.

    Attributes:
      run: outputs of a batch of prepared images, in their order; a `Failure` for one that has none.
      prepare: of an image, what `run` gets, or a `Failure`; called in threads, while `run` computes.
      key: of what is prepared; images in a batch have the same, such as a shape.
      weights: what tells the model's weights from others.
    """

    run: Callable[[Sequence[Any]], Sequence[Any]]
    prepare: Callable[[Input], Any] = lambda given: given
    key: Callable[[Any], Hashable] = _one_shape
    weights: str = ""


@dataclasses.dataclass(frozen=True)
class Step:
    """What is done to images.

    Attributes:
      name: for progress and messages.
      facts: JSON data that the outputs depend on, such as settings; a folder with other ones is refused.
      begin: loads the model; called where something is left to do.
      batch_size: images that the model gets at a time, at most.
      side: larger images are resized to this short side first; 0 to leave them.
      form: kind of file of an output.
    """

    name: str
    facts: Mapping[str, Any]
    begin: Callable[[], Running]
    batch_size: int = 8
    side: int = 0
    form: Form = PICTURE


class Converted(NamedTuple):
    """What is in a folder.

    Attributes:
      outputs: path of the output of every image that has one, by the image's name, in the order of the images.
      failed: why there is none, by name.
    """

    outputs: dict[str, pathlib.Path]
    failed: dict[str, str]


def convert(
    step: Step,
    images: Mapping[str, pathlib.Path | np.ndarray],
    target: pathlib.Path | str,
    digests: Mapping[str, str] | None = None,
) -> Converted:
    """Applies a model to every image that has no output in a folder yet.

    Args:
      step: what is done.
      images: files, or `[H, W, C]` uint8, by name; see `listed`.
      target: folder of the outputs, `manifest.json`, and `failed.json`, which says why an image has no output; images
        that failed are tried again next time.
      digests: of images as they came from their source, by name, where these are not the ones that are given.

    Raises:
      UserError: the target is of another step or other weights, is no folder of outputs, or cannot be written; the
        model cannot be loaded; or two images would have one output.
    """
    target, paths = pathlib.Path(target), output_paths(step, images, pathlib.Path(target))
    target = files.make_dir(target)
    with locks.locked(target):
        weights = _kept_weights(step, target)
        there = {path for path in target.rglob(f"*{step.form.suffix}") if path.stat().st_size}
        missing = [name for name, path in paths.items() if path not in there]
        failed: dict[str, str] = {}
        if missing:
            running = step.begin()
            _claim(step, target, weights, running.weights)
            rest = {name: images[name] for name in missing}
            for name, given in _computed(step, running, rest, paths, digests or {}):
                failed[name] = given.reason
        files.write_json(target / FAILED, failed)
        return Converted({name: path for name, path in paths.items() if name not in failed}, failed)


def listed(source: pathlib.Path | str) -> dict[str, pathlib.Path]:
    """The images below a folder by their paths in it, sorted.

    Raises:
      UserError: there is no such folder, or it has no images.
    """
    source = pathlib.Path(source)
    if not source.is_dir():
        raise UserError(f"There is no folder {source}; give one of images.")
    found = {path.relative_to(source).as_posix(): path for path in image_paths(source)}
    if not found:
        raise UserError(f"{source} has no images ({', '.join(SUFFIXES)}); give another folder.")
    return found


def refuse_within(source: pathlib.Path | str, target: pathlib.Path | str) -> None:
    """Raises `UserError` where outputs would be taken for images of the source by the next run."""
    if pathlib.Path(target).resolve().is_relative_to(pathlib.Path(source).resolve()):
        raise UserError(f"The target {target} lies in the source {source}. Choose a folder outside of it.")


def complaint(converted: Converted) -> str:
    """How many images have no output, and why the first ones have none; empty where all have one."""
    if not converted.failed:
        return ""
    shown = "; ".join(f"{name} {reason}" for name, reason in itertools.islice(converted.failed.items(), _NAMED))
    total = len(converted.failed) + len(converted.outputs)
    return f"{len(converted.failed)} of {total} images have no output: {shown}."


def output_paths(step: Step, images: Iterable[str], target: pathlib.Path) -> dict[str, pathlib.Path]:
    """Where the output of every image is: its name, with the suffix behind it where it has another one."""
    suffix = step.form.suffix
    found = {name: target / (name if name.lower().endswith(suffix) else name + suffix) for name in images}
    if len(set(found.values())) < len(found):
        counts = collections.Counter(found.values())
        twice = [name for name, path in found.items() if counts[path] > 1]
        raise UserError(f"The outputs of {' and '.join(twice[:2])} would have one name. Rename one of the images.")
    return found


def _kept_weights(step: Step, target: pathlib.Path) -> str | None:
    """Weights that outputs in a folder were made with; None in a new folder."""
    path = target / MANIFEST
    if path.exists():
        kept = files.read_json(path, "manifest of outputs", f"Remove the folder {target}.", {"weights": str})["weights"]
        provenance.refuse_another(path, {"step": step.name, **step.facts, "weights": kept}, "set of outputs")
        return kept
    if any(path for path in target.iterdir() if not path.name.startswith(".")):
        raise UserError(f"{target} has files, but no {MANIFEST}, and is no folder of outputs. Choose another.")
    return None


def _claim(step: Step, target: pathlib.Path, kept: str | None, weights: str) -> None:
    """Binds a folder to a step and weights, or refuses another one's."""
    facts = {"step": step.name, **step.facts, "weights": weights}
    if kept is None:
        files.write_json(target / MANIFEST, json.loads(json.dumps(facts)))
    else:
        provenance.refuse_another(target / MANIFEST, facts, "set of outputs")


def _computed(
    step: Step,
    running: Running,
    images: Mapping[str, pathlib.Path | np.ndarray],
    paths: Mapping[str, pathlib.Path],
    digests: Mapping[str, str],
) -> Iterator[tuple[str, Failure]]:
    """Computes and writes outputs; yields what failed."""
    reading = Reading(shrink=step.side)

    def prepared(name: str) -> Any:
        given = images[name]
        found = decode(given if isinstance(given, np.ndarray) else _content(given), reading)
        if isinstance(found, str):
            return Failure(found)
        return running.prepare(Input(name, found.image, digests.get(name, found.digest)))

    def written(path: pathlib.Path, output: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic(path) as temporary:
            step.form.write(temporary, output)

    done, writing = 0, list[futures.Future[None]]()
    with (
        Progress(len(images), step.name, "images") as bar,
        futures.ThreadPoolExecutor(parallel.num_cores()) as readers,
        futures.ThreadPoolExecutor(parallel.num_cores()) as writers,
    ):
        for window in _ahead(readers, prepared, list(images), _WINDOW * step.batch_size):
            yield from ((name, given) for name, given in window if isinstance(given, Failure))
            done += sum(isinstance(given, Failure) for _, given in window)
            for batch in _batches(window, running.key, step.batch_size):
                outputs = running.run([given for _, given in batch])
                for future in writing:  # of the batch before
                    future.result()
                made = [(name, output) for (name, _), output in zip(batch, outputs, strict=True)]
                yield from ((name, output) for name, output in made if isinstance(output, Failure))
                good = [(paths[name], output) for name, output in made if not isinstance(output, Failure)]
                writing = [writers.submit(written, *each) for each in good]
                done += len(batch)
                bar.update(done)
        for future in writing:
            future.result()


def _ahead(
    pool: futures.Executor, function: Callable[[str], Any], names: Sequence[str], size: int
) -> Iterator[list[tuple[str, Any]]]:
    """Names with what a function gives for them, in windows, some of which are computed before they are asked for."""
    waiting: collections.deque[tuple[Sequence[str], list[futures.Future]]] = collections.deque()
    starts = iter(range(0, len(names), size))
    try:
        while True:
            for start in itertools.islice(starts, 1 + _AHEAD - len(waiting)):
                window = names[start : start + size]
                waiting.append((window, [pool.submit(function, name) for name in window]))
            if not waiting:
                return
            window, made = waiting.popleft()
            yield [(name, future.result()) for name, future in zip(window, made, strict=True)]
    finally:
        for _, made in waiting:
            for future in made:
                future.cancel()


def _batches(
    window: Sequence[tuple[str, Any]], key: Callable[[Any], Hashable], size: int
) -> Iterator[list[tuple[str, Any]]]:
    """Good images in batches of one key."""
    alike: dict[Hashable, list[tuple[str, Any]]] = {}
    for name, given in window:
        if not isinstance(given, Failure):
            alike.setdefault(key(given), []).append((name, given))
    for group in alike.values():
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _content(path: pathlib.Path) -> bytes:
    """Bytes of a file; none of one that cannot be read, which then fails as empty."""
    try:
        return path.read_bytes()
    except OSError:
        return b""
