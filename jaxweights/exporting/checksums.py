"""SHA256SUMS: the checksum of every file of a folder, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Sequence

from jaxweights import files, parallel

NAME = "SHA256SUMS"
_TOGETHER = 256  # files that a thread takes at a time
_SMALL = 1 << 20  # bytes of a file that is read at once


def write(folder: pathlib.Path, report: Callable[[int], None]) -> int:
    """Writes the checksums of all files in a folder; returns the number of their bytes.

    Args:
      folder: the folder.
      report: is told how many files are done.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines, size = [], 0
    for name, (digest, bytes_) in _digests(folder, names):
        lines.append(f"{digest}  {name}\n")
        size += bytes_
        report(len(lines))
    (folder / NAME).write_text("".join(lines), encoding="utf-8")
    return size


def damaged(folder: pathlib.Path, report: Callable[[int], None] = lambda done: None) -> list[str]:
    """The files of a folder that are missing or not as they were written."""
    lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = []
    for done, (name, (digest, _)) in enumerate(_digests(folder, list(expected)), 1):
        if digest != expected[name]:
            found.append(name)
        report(done)
    return found


def _digests(folder: pathlib.Path, names: Sequence[str]) -> Iterator[tuple[str, tuple[str, int]]]:
    """The checksum and the bytes of every file, in order; an absent one has none."""
    parts = [names[start : start + _TOGETHER] for start in range(0, len(names), _TOGETHER)]
    with concurrent.futures.ThreadPoolExecutor(parallel.num_cores()) as pool:
        for part, found in zip(parts, pool.map(lambda part: [_digest(folder / n) for n in part], parts), strict=True):
            yield from zip(part, found, strict=True)


def _digest(path: pathlib.Path) -> tuple[str, int]:
    if not path.is_file():
        return "", 0
    size = path.stat().st_size
    if size > _SMALL:
        return files.sha256(path), size
    return hashlib.sha256(path.read_bytes()).hexdigest(), size
