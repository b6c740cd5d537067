"""Rows of text tables: comma-separated values with a head, or JSON lines."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxweights.errors import UserError

_SHOWN = 3  # bad lines that a message names


def read_text(path: pathlib.Path) -> str:
    """The text of a file in UTF-8.

    Raises:
      UserError: absent, unreadable, or in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Give the path of a table or a text.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason}, byte {error.start}). Convert it.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def rows(path: pathlib.Path, one_of: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of `.csv`, `.tsv`, or `.jsonl` as mappings.

    Args:
      path: the file.
      one_of: keys of which every row needs one.

    Raises:
      UserError: another kind of file, lines that are no rows, or rows with none of the keys; the first ones are named.
    """
    text, kind = read_text(path), path.suffix.lower()
    if kind in (".csv", ".tsv"):
        lines = text.splitlines()
        reader = csv.DictReader(lines, delimiter="\t" if kind == ".tsv" else ",", strict=True)
        try:
            found = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise UserError(f"Line {reader.line_num} of {path} is no row of a table: {error}.") from error
        bad = [n for n, row in found if None in row or None in row.values()]
    elif kind == ".jsonl":
        found, bad = [], []
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    found.append((number, json.loads(line)))
                except ValueError:
                    bad.append(number)
        bad += [n for n, row in found if not isinstance(row, dict)]
    else:
        raise UserError(f"{path} is no table that can be read. Give a file .csv, .tsv or .jsonl.")
    bad += [n for n, row in found if isinstance(row, dict) and not any(key in row for key in one_of)]
    if bad:
        shown = ", ".join(map(str, sorted(set(bad))[:_SHOWN]))
        raise UserError(
            f"{len(set(bad))} lines of {path} are no rows with {' or '.join(one_of)} (first: {shown}). Mend or remove "
            "them."
        )
    return [row for _, row in found]
