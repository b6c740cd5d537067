"""Config files and their overrides on the command line: read and checked before the flags are parsed, so that every
mistake in them ends in a sentence."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import pathlib
import traceback
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxweights.errors import UserError

_OPEN = ("generators",)  # sections that flags may add entries to


def load(spec: str) -> ConfigDict:
    """The config that `path.py` or `path.py:argument` defines.

    Raises:
      UserError: no such file, a file that does not parse or raises, or one without a `get_config` that returns a
        ConfigDict.
    """
    name, _, argument = spec.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        kind = "is a folder" if name and path.is_dir() else "does not exist"
        raise UserError(f"The config {name!r} {kind}. Give a Python file, e.g. --config=configs/digits.py.")
    try:
        found = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
        if found is None or found.loader is None:
            raise UserError(f"The config {name} is no Python file (.py).")
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
        if not callable(getattr(module, "get_config", None)):
            raise UserError(f"The config {name} has no function get_config, which returns the ConfigDict.")
        config = module.get_config(*([argument] if argument else []))
    except UserError:
        raise
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = getattr(error, "lineno", None) or (frames[-1].lineno if frames else None)
        where = f" in line {line}" if line else ""
        raise UserError(f"The config {name} fails{where}: {type(error).__name__}: {error}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config of {name} returns {type(config).__name__}, not a ConfigDict.")
    return config


def prepare(argv: Sequence[str], flag: str = "config") -> tuple[list[str], dict[str, Any]]:
    """Checks the config and its overrides among the arguments of a program.

    Args:
      argv: the arguments.
      flag: name of the config's flag.

    Returns:
      The arguments without those that add an entry to an open section, and these entries by dotted name.

    Raises:
      UserError: see `load`; or an override of a setting that the config does not have.
    """
    spec = _value(argv, flag)
    if spec is None:
        return list(argv), {}
    config, kept, added = load(spec), [], {}
    for argument in argv:
        name, equals, value = argument.lstrip("-").partition("=")
        if not (argument.startswith("-") and name.startswith(f"{flag}.")):
            kept.append(argument)
            continue
        dotted = name.removeprefix(f"{flag}.")
        section, _, last = dotted.rpartition(".")
        if section in _OPEN and last not in _section(config, section) and equals:
            added[dotted] = _entry(dotted, value)
        else:
            _check(config, dotted)
            kept.append(argument)
    return kept, added


def add(config: ConfigDict, entries: dict[str, Any]) -> None:
    """Puts the entries that `prepare` found into a config."""
    for dotted, entry in entries.items():
        section, _, last = dotted.rpartition(".")
        with config.unlocked():
            _section(config, section)[last] = ConfigDict(entry)


def _section(config: ConfigDict, name: str) -> ConfigDict:
    section = config.get(name)
    if not isinstance(section, ConfigDict):
        raise UserError(f"The config has no section {name}, a ConfigDict of entries by name.")
    return section


def _value(argv: Sequence[str], flag: str) -> str | None:
    for i, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            return value if equals else next(iter(argv[i + 1 :]), None)
    return None


def _entry(dotted: str, text: str) -> dict[str, Any]:
    try:
        entry = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        entry = None
    if not isinstance(entry, dict):
        raise UserError(
            f"--config.{dotted} is {text!r}; a new entry is a dict, e.g. "
            f'--config.{dotted}=\'{{"kind": "file", "path": "samples.npz"}}\'.'
        )
    return entry


def _check(config: ConfigDict, dotted: str) -> None:
    node: Any = config
    path: list[str] = []
    for key in dotted.split("."):
        place = ".".join(path) or "the config"
        if not isinstance(node, ConfigDict):
            if isinstance(node, (tuple, list)) or "[" in key:
                return  # an entry of a tuple: absl's config flags know what to do
            raise UserError(f"--config.{dotted}: {place} is a value and has no settings of its own.")
        if key.partition("[")[0] not in node:
            near = difflib.get_close_matches(key, list(node), 1)
            hint = f"did you mean {near[0]}? There are" if near else "there are"
            raise UserError(f"--config.{dotted}: {place} has no setting {key}; {hint} {', '.join(node)}.")
        path.append(key)
        node = node.get_ref(key).get() if "[" not in key else None
