"""Config files and their overrides on the command line: read and checked before the flags are parsed, so that every
mistake in them ends in a sentence."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import pathlib
import traceback
from collections.abc import Mapping, Sequence
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
      The arguments without those that add something: an entry of an open section, or a setting that the config leaves
      at its default; and what they add, by dotted name.

    Raises:
      UserError: see `load`; or an override of a setting that the config does not have.
    """
    spec = _value(argv, flag)
    if spec is None:
        if any(argument.lstrip("-").startswith(f"{flag}.") for argument in argv[1:]):
            raise UserError("No experiment was named. Give its config first, e.g. --config=configs/digits.py.")
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
        elif _section_or_value(config, dotted, _literal(value)):
            kept.append(argument)
        else:
            _check(_names(config), dotted)
            if not equals:
                raise UserError(f"--config.{dotted} has no value; give it after an equals sign: --config.{dotted}=...")
            added[dotted] = _literal(value)
    return kept, added


def rows(config: Mapping[str, Any]) -> list[Any]:
    """Every setting in force, see `settings.rows`, of an experiment, a comparison, a probing or annotations.

    Raises:
      UserError: a config that none of these can use.
    """
    from jaxweights import settings  # JAX is imported after the flags are read
    from jaxweights.bias import annotations
    from jaxweights.bias.settings import parse as parse_comparison
    from jaxweights.experiment import parse
    from jaxweights.probing import settings as probing

    if annotations.is_one(config):
        return [row for key, one in annotations.parse(config).items() for row in settings.rows(one, key)]
    if probing.is_one(config):
        return settings.rows(probing.parse(config), probing.ProbingSettings.SECTION)
    if "bias" in config:
        return settings.rows(parse_comparison(config), "bias")
    return settings.rows(parse(config))


def add(config: ConfigDict, entries: dict[str, Any]) -> None:
    """Puts the entries that `prepare` found into a config."""
    for dotted, entry in entries.items():
        *sections, last = dotted.split(".")
        with config.unlocked():
            node: Any = config
            for name in sections:
                if name not in node:
                    node[name] = ConfigDict()
                node = node[name]
            if last in node:
                del node[last]  # a value of another type
            node[last] = ConfigDict(entry) if isinstance(entry, dict) else entry


def _section(config: ConfigDict, name: str) -> ConfigDict:
    section = config.get(name)
    if not isinstance(section, ConfigDict):
        raise UserError(f"The config has no section {name}, a ConfigDict of entries by name.")
    return section


def _section_or_value(config: ConfigDict, dotted: str, value: Any) -> bool:
    """Whether absl can set what a config has under a name: a section by a dict, or a value by another."""
    node: Any = config
    for key in dotted.split("."):
        if not isinstance(node, ConfigDict) or key not in node:
            return False
        node = node[key]
    return isinstance(node, ConfigDict) or not isinstance(value, dict)


def _names(config: ConfigDict) -> list[str]:
    """The dotted names of all settings, of the config and of what it leaves at its default."""

    def leaves(node: ConfigDict, prefix: str) -> list[str]:
        own = [(f"{prefix}{key}", node[key]) for key in node]
        return [n for name, v in own for n in (leaves(v, f"{name}.") if isinstance(v, ConfigDict) and v else [name])]

    return list(dict.fromkeys([*leaves(config, ""), *(row.path for row in rows(config.to_dict()))]))


def _literal(text: str) -> Any:
    """The value of a Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _value(argv: Sequence[str], flag: str) -> str | None:
    for i, argument in enumerate(argv[1:], 1):
        name, equals, value = argument.partition("=")
        if name in (f"--{flag}", f"-{flag}"):
            return value if equals else next(iter(argv[i + 1 :]), None)
    return None


def _entry(dotted: str, text: str) -> dict[str, Any]:
    entry = _literal(text)
    if not isinstance(entry, dict):
        raise UserError(
            f"--config.{dotted} is {text!r}; a new entry is a dict, e.g. "
            f'--config.{dotted}=\'{{"kind": "file", "path": "samples.npz"}}\'.'
        )
    return entry


def _check(names: Sequence[str], dotted: str) -> None:
    """Refuses what is none of the known names."""
    keys = dotted.split(".")
    for i, key in enumerate(keys):
        prefix = "".join(f"{name}." for name in keys[:i])
        below = [name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)]
        known, place = list(dict.fromkeys(below)), prefix[:-1] or "the config"
        if "[" in key and key.partition("[")[0] in known:
            name = f"--config.{prefix}{key.partition('[')[0]}"
            raise UserError(f"--config.{dotted} is an entry of a tuple; give the whole tuple, e.g. {name}='(8, 8)'.")
        if not known:
            raise UserError(f"--config.{dotted}: {place} is a value and has no settings of its own.")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}? There are" if near else "there are"
            raise UserError(f"--config.{dotted}: {place} has no setting {key}; {hint} {', '.join(known)}.")
