"""Plain folders of state dicts, a file per network, in any folders."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator

from jaxweights.layouts.base import Entry, Found, Layout, Options, natural, nothing
from jaxweights.layouts.names import parse
from jaxweights.layouts.tensors import SUFFIXES, Files

_DEPTH = 4
_OTHERS = ("optimizer", "scheduler", "training_args", "rng_state")  # files of tensors that hold no network


def files_in(folder: pathlib.Path, depth: int = _DEPTH) -> Iterator[pathlib.Path]:
    """Files below a folder whose ending is that of a file of tensors; hidden ones are left out."""
    for path in sorted(folder.iterdir(), key=lambda p: natural(p.name)):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if depth > 1:
                yield from files_in(path, depth - 1)
        elif path.suffix in SUFFIXES and not path.stem.startswith(_OTHERS):
            yield path


def recognise(path: pathlib.Path) -> bool:
    """Whether there are files of tensors in a folder."""
    return path.is_dir() and next(files_in(path), None) is not None


def find(path: pathlib.Path, options: Options) -> Found:
    """Every file of tensors below a folder is a network."""
    paths = [file.relative_to(path) for file in files_in(path)]
    if not paths:
        raise nothing("a folder of state dicts", path, f"files ending in {', '.join(SUFFIXES)}")
    entries = [_entry(file, options.runs) for file in paths]
    if options.runs == "folders":
        entries = _numbered(entries)
    for _, same in itertools.groupby(sorted(entries, key=lambda e: (e.run, e.step)), key=lambda e: (e.run, e.step)):
        if len(list(same)) > 1 and options.runs == "names":
            # Names without a step, or files of other kinds of one network: which is later is not known.
            entries = [_entry(file, "files") for file in paths]
            return Found("plain", path, entries, Files(path), notes=(_EACH,))
    checkpoints = options.runs == "folders" or any(entry.step >= 0 for entry in entries)
    note = _OF_FOLDERS if options.runs == "folders" else _BY_NAMES if checkpoints else _EACH
    return Found("plain", path, entries, Files(path), notes=(note,))


_EACH = "every file is a run of its own (--runs=folders where the files of a folder are one run's checkpoints)"
_BY_NAMES = (
    "files whose names differ in epoch, step, iteration or checkpoint alone are of one run (--runs=files, folders)"
)
_OF_FOLDERS = "the files of a folder are the checkpoints of one run, in the order of their names"


def _numbered(entries: list[Entry]) -> list[Entry]:
    """Steps by the order of names in every run of which some step is not known."""
    found = []
    for _, same in itertools.groupby(sorted(entries, key=lambda e: e.run), key=lambda e: e.run):
        run = list(same)
        if len({entry.step for entry in run}) < len(run):
            run = [dataclasses.replace(entry, step=number) for number, entry in enumerate(run)]
        found += run
    return found


def _entry(file: pathlib.Path, runs: str) -> Entry:
    key, said, folder = file.as_posix(), parse(file.stem), file.parent.as_posix()
    if runs == "files":
        return Entry(key, file.with_suffix("").as_posix(), said.step, seed=said.seed, accuracy=said.accuracy)
    if runs == "folders":
        return Entry(key, folder, said.step, seed=said.seed, accuracy=said.accuracy)
    step = said.step
    if step < 0 and folder != ".":  # checkpoint-500/model.safetensors
        outer = parse(file.parent.name)
        if outer.step >= 0:
            step, folder = outer.step, (file.parent.parent / outer.run).as_posix()
    run = f"{folder}/{said.run}" if folder != "." and said.run else said.run or folder
    return Entry(key, run, step, seed=said.seed, accuracy=said.accuracy)


LAYOUT = Layout(
    "plain",
    "folder of state dicts, a file per network",
    f"files of tensors ({', '.join(SUFFIXES)}) in folders up to {_DEPTH} deep",
    recognise,
    find,
    rank=2,
)
