"""The act of an export: all files in a folder beside the final one, which takes its name once it is whole."""

from __future__ import annotations

import collections
import csv
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any

from jaxweights import files, locks
from jaxweights.errors import UserError
from jaxweights.exporting import checksums, readme
from jaxweights.exporting.base import Format
from jaxweights.exporting.facts import BASE, Origin, facts, meaning
from jaxweights.exporting.networks import RECORDS, Contents, columns
from jaxweights.progress import Progress

CARD, SPEC = "card.json", "spec.json"
FORMAT, VERSION = "jaxweights-export", 1
_SHAPE = {"format": str, "version": int, "layout": dict, "checksums": {"sha256": str}}
_PER_FILE = 1024  # bytes of a network's file beside its weights, and of its record
_SLACK = 16 << 20


def export(
    folder: pathlib.Path, layout: Format, contents: Contents, origin: Origin, request: Mapping[str, Any]
) -> pathlib.Path:
    """Writes networks, their records, the data card and checksums into a new folder.

    Args:
      folder: where they are to be; absent or empty, or a former export by the same request, which is left as it is.
      layout: how the networks are written.
      contents: the networks.
      origin: where they come from.
      request: JSON data on what was asked for; goes into the card.

    Returns:
      The folder.

    Raises:
      UserError: another export or other files there, files that were damaged since, or a disk that is too small.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give a new folder to export to.")
    request = {**request, "source": origin.digest}
    if _is_there(folder, request):
        return folder
    files.make_dir(folder.parent)
    _check_disk(folder.parent, contents)
    part = files.make_dir(folder.with_name(f".{folder.name}.part"))
    with locks.locked(part):
        inner = part / "files"  # without the lock, which is none of the export's files
        shutil.rmtree(inner, ignore_errors=True)  # of a killed export
        try:
            _write(files.make_dir(inner), layout, contents, origin, request)
            os.sync()  # all files at once; one after the other takes longer than writing them
            if folder.exists():
                folder.rmdir()
            os.replace(inner, folder)
        except OSError as error:
            raise files.unwritable(folder, error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _is_there(folder: pathlib.Path, request: Mapping[str, Any]) -> bool:
    """Whether the folder is a whole export by the same request."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    cure = "Choose another folder, or remove this one."
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} has files in it, but no {CARD}: it is no export. {cure}")
    card = files.read_json(folder / CARD, "card of an export", cure, _SHAPE)
    if card["layout"] != json.loads(json.dumps(request)):
        raise UserError(f"{folder} is another export ({json.dumps(card['layout'])}). {cure}")
    whole = (folder / checksums.NAME).is_file() and files.sha256(folder / checksums.NAME) == card["checksums"]["sha256"]
    wrong = checksums.damaged(folder) if whole else [checksums.NAME]
    if wrong:
        raise UserError(
            f"{folder} was damaged since it was written: {', '.join(wrong[:3])}. Remove it and export again."
        )
    return True


def _check_disk(parent: pathlib.Path, contents: Contents) -> None:
    count, size = len(contents.networks), 4 * contents.networks.spec.num_params
    needed, free = count * (size + _PER_FILE) + _SLACK, shutil.disk_usage(parent).free
    if needed > free:
        raise UserError(
            f"The export needs about {needed / 1e9:.1f} GB, but {parent} has {free / 1e9:.1f} GB free. Choose another "
            "folder, or fewer networks."
        )


def _write(
    folder: pathlib.Path, layout: Format, contents: Contents, origin: Origin, request: Mapping[str, Any]
) -> None:
    networks = contents.networks
    with Progress(len(networks), "exporting", "networks") as bar:
        layout.write(folder, contents, bar.update)
    _write_records(folder / RECORDS, layout, contents)
    files.write_json(folder / SPEC, meaning(networks.spec, origin))
    if origin.base is not None:
        shutil.copyfile(origin.base, folder / BASE)
    card = {"format": FORMAT, "version": VERSION, **facts(contents, origin), "layout": dict(request)}
    card["provenance"]["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    (folder / "README.md").write_text(readme.text(card, layout.usage(contents)), encoding="utf-8")
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    with Progress(count, "checksums", "files") as bar:
        size = checksums.write(folder, bar.update)
    sums = {"file": checksums.NAME, "sha256": files.sha256(folder / checksums.NAME), "files": count, "bytes": size}
    files.write_json(folder / CARD, {**card, "checksums": sums})


def _write_records(path: pathlib.Path, layout: Format, contents: Contents) -> None:
    """A line per network: its file, the row in it where it holds many, and its records, numbers to the last bit."""
    places = layout.files(contents)
    table: dict[str, list[Any]] = {"file": places}
    if layout.MANY:
        rows = collections.defaultdict(itertools.count)
        table["row"] = [next(rows[place]) for place in places]
    table |= {name: column.tolist() for name, column in columns(contents.networks).items()}
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))
