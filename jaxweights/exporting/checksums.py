"""SHA256SUMS: the checksum of every file of a folder, in the form that `sha256sum --check` reads."""

from __future__ import annotations

import concurrent.futures
import pathlib
from collections.abc import Callable

from jaxweights import files, parallel

NAME = "SHA256SUMS"


def write(folder: pathlib.Path, report: Callable[[int], None]) -> int:
    """Writes the checksums of all files in a folder; returns the number of their bytes.

    Args:
      folder: the folder.
      report: is told how many files are done.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = []
    with concurrent.futures.ThreadPoolExecutor(parallel.num_cores()) as pool:
        for name, digest in zip(names, pool.map(lambda name: files.sha256(folder / name), names), strict=True):
            lines.append(f"{digest}  {name}\n")
            report(len(lines))
    size = sum((folder / name).stat().st_size for name in names)
    (folder / NAME).write_text("".join(lines), encoding="utf-8")
    return size


def damaged(folder: pathlib.Path, report: Callable[[int], None] = lambda done: None) -> list[str]:
    """The files of a folder that are missing or not as they were written."""
    found = []
    lines = (folder / NAME).read_text(encoding="utf-8").splitlines()
    for done, line in enumerate(lines, 1):
        digest, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file() or files.sha256(path) != digest:
            found.append(name)
        report(done)
    return found
