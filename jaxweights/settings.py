"""Settings: frozen dataclasses that own their fields, defaults, documentation and checks.

A class of settings derives from `Settings` and is a frozen dataclass. Annotations are the types that values must have,
`setting` adds declarative checks, and the text of a field is its entry under "Attributes:" in the class's docstring.
`make` turns a mapping, such as a section of a config file, into an instance; `rows` lists what is in force.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

from jaxweights.checks import Check, Readable, choose, shown, suggest
from jaxweights.errors import UserError

_CHECK = "check"
T = TypeVar("T", bound="Settings")


def setting(
    default: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    one_of: Iterable[Any] | Callable[[], Iterable[Any]] | None = None,
    length: tuple[int, int | None] | None = None,
) -> Any:
    """A field with a default and the conditions of `Check`; `dataclasses.MISSING` for a field without a default."""
    check = Check(at_least, above, at_most, below, one_of, length)
    if default is not dataclasses.MISSING and isinstance(default, (dict, list)):
        raise TypeError("The default of a setting is immutable.")
    return dataclasses.field(default=default, metadata={_CHECK: check})


class Settings:
    """Base of frozen dataclasses of settings: types and checks of all fields are enforced on construction.

    Values are brought to the annotated type where nothing is lost: lists to tuples, integers to floats where a float is
    expected, mappings to nested settings.

    Raises:
      UserError: a value of another type or outside of its range; the message names section and field.
    """

    SECTION: ClassVar[str] = ""
    """Where a config has these settings, for messages, e.g. "zoo.ppo"."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            path = _join(self.section, field.name)
            value = _checked(field, hints[field.name], getattr(self, field.name), path)
            object.__setattr__(self, field.name, value)

    @property
    def section(self) -> str:
        """Where these settings stand in a config; instances may say it better than their class."""
        return self.SECTION

    def refuse(self, field: str, cure: str) -> typing.NoReturn:
        """Raises the `UserError` of a field whose value does not fit the others; `cure` says what to do."""
        raise UserError(f"{_join(self.section, field)} is {shown(getattr(self, field))}; {cure}.")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def make(kind: type[T], values: Mapping[str, Any], section: str | None = None) -> T:
    """Settings from a mapping.

    Args:
      kind: the class of settings.
      values: by field name; missing ones take their defaults.
      section: where the mapping stands in a config, for messages; the class's own by default.

    Raises:
      UserError: an unknown key (with the nearest known one), a missing field, a value of another type than the field's,
        or one that fails its check.
    """
    section = kind.SECTION if section is None else section
    fields = {f.name: f for f in _fields(kind) if f.init}
    refuse_unknown(values, fields, section)
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"{section or 'The config'} lacks {', '.join(missing)}; there is no default for it.")
    hints = _hints(kind)
    checked = {k: _checked(fields[k], hints[k], v, _join(section, k)) for k, v in values.items()}
    return kind(**checked)


def make_kind(kinds: Mapping[str, type[T]], values: Mapping[str, Any] | str, section: str) -> T:
    """Settings of one of several kinds.

    Args:
      kinds: classes of settings by `kind`.
      values: a mapping with `kind` and any settings of that kind, or the kind alone.
      section: where the values stand in a config, for messages.

    Raises:
      UserError: an unknown kind (with the nearest known one), or as `make`.
    """
    values = {"kind": values} if isinstance(values, str) else dict(values)
    kind = values.pop("kind", None)
    if kind not in kinds:
        raise UserError(f"{section}.kind is {kind!r}; {choose(kind, list(kinds))}.")
    return make(kinds[kind], values, section)


def refuse_unknown(values: Mapping[str, Any], known: Iterable[str], section: str) -> None:
    """Raises `UserError` for the first key that is not known; the message has the nearest known one."""
    known = list(known)
    for key in values:
        if key not in known:
            raise UserError(f"There is no setting {_join(section, str(key))}; {suggest(key, known)}.")


def plain(value: Any) -> Any:
    """Settings as nested dicts of JSON-like values (tuples stay tuples)."""
    if isinstance(value, Settings):
        return {f.name: plain(getattr(value, f.name)) for f in _fields(type(value)) if f.init}
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    return value.to_setting() if isinstance(value, Readable) else value


def config_dict(value: Settings):
    """Settings as an `ml_collections.ConfigDict`; optional fields that are None become typed placeholders, so that
    flags can set them."""
    from ml_collections import config_dict as collections

    out = collections.ConfigDict()
    hints = _hints(type(value))
    for field in _fields(type(value)):
        if not field.init:
            continue
        found = getattr(value, field.name)
        if isinstance(found, Settings):
            out[field.name] = config_dict(found)
        elif found is None:
            out[field.name] = collections.placeholder(_optional(hints[field.name]) or object)
        else:
            out[field.name] = plain(found)
    return out


class Row(NamedTuple):
    """One setting in force.

    Attributes:
      path: dotted name, e.g. "zoo.ppo.clip".
      value: what is in force.
      default: of the class; `dataclasses.MISSING` where there is none.
      text: what it means.
    """

    path: str
    value: Any
    default: Any
    text: str


def rows(value: Settings, section: str = "") -> list[Row]:
    """Every field of nested settings, in order of declaration."""
    out = []
    texts = documentation(type(value))
    for field in _fields(type(value)):
        if not field.init:
            continue
        found, path = getattr(value, field.name), _join(section, field.name)
        if isinstance(found, Settings):
            out += rows(found, path)
        elif isinstance(found, Mapping) and any(isinstance(v, Settings) for v in found.values()):
            for key, entry in found.items():
                out += rows(entry, _join(path, key)) if isinstance(entry, Settings) else []
        else:
            default = field.default
            if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            out.append(Row(path, plain(found), plain(default), texts.get(field.name, "")))
    return out


@functools.cache
def documentation(kind: type) -> dict[str, str]:
    """What the "Attributes:" section of a class's docstring, and of the classes it derives from, says of each field."""
    out: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        _, found, text = text.partition("Attributes:\n")
        if not found:
            continue
        block = re.split(r"\n(?=\S)", text, maxsplit=1)[0]
        for entry in re.split(r"\n(?=  \S)", "\n" + block):
            names, colon, meaning = entry.strip().partition(":")
            if colon:
                out |= {name.strip(): " ".join(meaning.split()) for name in names.split(",")}
    return out


def convert(value: Any, hint: Any, path: str) -> Any:
    """A value as the annotated type.

    Raises:
      UserError: a value of another type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is typing.Literal:
        if value in arguments and type(value) in {type(a) for a in arguments}:
            return value
        raise UserError(f"{path} is {shown(value)}; {choose(value, arguments)}.")
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        options = [a for a in arguments if a is not type(None)]
        for option in options:
            if len(options) > 1:
                try:
                    return convert(value, option, path)
                except UserError:
                    continue
            return convert(value, option, path)
        raise UserError(_expected(path, hint, value))
    if origin is tuple:
        return _as_tuple(value, arguments, hint, path)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, Any])) or hint in (dict, Mapping):
        if isinstance(value, Mapping):
            return value
        raise UserError(_expected(path, hint, value))
    return _as_plain(value, hint, path)


def _checked(field: dataclasses.Field, hint: Any, value: Any, path: str) -> Any:
    found = convert(value, hint, path)
    problem = field.metadata.get(_CHECK, Check()).problem(found)
    if problem:
        raise UserError(f"{path} is {shown(value)}; {problem}.")
    return found


def _as_tuple(value: Any, arguments: tuple[Any, ...], hint: Any, path: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, (Sequence, set)):
        raise UserError(_expected(path, hint, value))
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(v, arguments[0], f"{path}[{i}]") for i, v in enumerate(value))
    if arguments and len(value) != len(arguments):
        raise UserError(_expected(path, hint, value))
    pairs = enumerate(zip(value, arguments, strict=True)) if arguments else ()
    return tuple(convert(v, a, f"{path}[{i}]") for i, (v, a) in pairs) if arguments else tuple(value)


def _as_plain(value: Any, hint: Any, path: str) -> Any:
    """A value of a class."""
    if hint is bool or hint is str:
        if isinstance(value, hint):
            return value
    elif hint is int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool):
            return int(value)
    elif hint is float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:  # of a whole number
                return math.inf
    elif isinstance(value, hint):
        return value
    elif isinstance(hint, type) and issubclass(hint, Readable):
        return hint.from_setting(value, path)
    elif isinstance(hint, type) and issubclass(hint, Settings) and isinstance(value, Mapping):
        return make(hint, value, path)
    raise UserError(_expected(path, hint, value))


def _expected(path: str, hint: Any, value: Any) -> str:
    return f"{path} is {shown(value)}, of type {type(value).__name__}; give {_type_name(hint)}."


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    if hint in names:
        return names[hint]
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if a is type(None) else _type_name(a) for a in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a tuple, each entry {_type_name(arguments[0])}"
        return f"a tuple of {len(arguments)}: {', '.join(map(_type_name, arguments))}"
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if isinstance(hint, type) and issubclass(hint, Settings):
        return f"a mapping with the settings {', '.join(f.name for f in _fields(hint))}"
    return getattr(hint, "__name__", str(hint))


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _optional(hint: Any) -> Any:
    options = [a for a in typing.get_args(hint) if a is not type(None)]
    return options[0] if len(options) == 1 and isinstance(options[0], type) else None


def _fields(kind: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(kind)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
