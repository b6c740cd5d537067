"""Settings: every wrong key, type and value is refused by name, and what is in force can be listed."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

import jaxweights
from jaxweights import settings
from jaxweights.errors import UserError
from jaxweights.experiment import config
from jaxweights.settings import Settings, setting
from jaxweights.zoo import Distribution


@dataclasses.dataclass(frozen=True)
class Inner(Settings):
    """Inner settings.

    Attributes:
      rate: learning rate,
        per step.
      names: of things.
    """

    rate: float = setting(0.1, above=0, at_most=1)
    names: tuple[str, ...] = setting(("a",), length=(1, 3), one_of=("a", "b"))


@dataclasses.dataclass(frozen=True)
class Outer(Settings):
    """Outer settings.

    Attributes:
      count: how many.
      kind: of count.
      inner: more.
      best: limit, or None.
      pair: first and last.
      flag: switch.
      free: anything by name.
    """

    count: int = setting(3, at_least=1)
    kind: Literal["one", "two"] = "one"
    inner: Inner = Inner()
    best: float | None = None
    pair: tuple[int, int] = (0, 1)
    flag: bool = False
    free: Mapping[str, Any] = dataclasses.field(default_factory=dict)


REFUSED = [
    ({"cuont": 1}, r"There is no setting top\.cuont; did you mean count\?"),
    ({"inner": {"rat": 1.0}}, r"top\.inner\.rat; did you mean rate\?"),
    ({"count": 0}, r"top\.count is 0; set it to at least 1\."),
    ({"count": 1.5}, r"top\.count is 1\.5, of type float; give a whole number\."),
    ({"count": True}, r"top\.count is True"),
    ({"count": "3"}, r"top\.count is '3', of type str"),
    ({"kind": "three"}, r"top\.kind is 'three'; set it to one of one, two"),
    ({"inner": {"rate": 0}}, r"rate is 0; set it above 0 and to at most 1\."),
    ({"inner": {"rate": float("nan")}}, r"set it to a finite number"),
    ({"inner": {"rate": float("inf")}}, r"set it to a finite number"),
    ({"inner": {"names": ()}}, r"give 1 to 3 entries"),
    ({"inner": {"names": ("a", "c")}}, r"set it to one of a, b"),
    ({"inner": {"names": "a"}}, r"give a tuple, each entry a text"),
    ({"inner": 3}, r"top\.inner is 3, of type int; give a mapping with the settings rate, names"),
    ({"pair": (1, 2, 3)}, r"give a tuple of 2"),
    ({"flag": 1}, r"give True or False"),
    ({"best": "high"}, r"give a number"),
    ({"free": 3}, r"top\.free is 3"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_wrong_settings_are_refused_by_name(values, message):
    with pytest.raises(UserError, match=message):
        settings.make(Outer, values, "top")


def test_values_come_in_the_annotated_types():
    made = settings.make(Outer, {"inner": {"rate": 1, "names": ["b"]}, "pair": [2, 3], "best": 4})
    assert made.inner == Inner(1.0, ("b",)) and isinstance(made.inner.rate, float)
    assert made.pair == (2, 3) and made.best == 4.0


def test_construction_and_replacement_check_as_well():
    with pytest.raises(UserError, match="count is -1"):
        Outer(count=-1)
    with pytest.raises(UserError, match="count is -1"):
        Outer().replace(count=-1)


def test_plain_round_trip():
    made = settings.make(Outer, {"count": 5, "free": {"x": 1}})
    assert settings.make(Outer, settings.plain(made)) == made


def test_config_dict_round_trip_and_placeholders():
    config = settings.config_dict(Outer())
    config.best = 2.5
    assert settings.make(Outer, config.to_dict()).best == 2.5
    with pytest.raises(TypeError):
        config.count = "many"


def test_rows_name_value_default_and_meaning():
    rows = {r.path: r for r in settings.rows(settings.make(Outer, {"inner": {"rate": 0.5}}), "top")}
    assert rows["top.inner.rate"] == ("top.inner.rate", 0.5, 0.1, "learning rate, per step.")
    assert rows["top.count"].value == rows["top.count"].default == 3


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "a.b", ".hidden", "-x", "a\nb", "a" * 65, "\u00e9"])
def test_names_of_generators_are_names_of_folders(name):
    generators = {"fine_1-2": {"kind": "noise", "sigma": 0.1}}
    assert config.parse({"generators": generators}).generators
    with pytest.raises(UserError, match="cannot be called .*its folders have that name"):
        config.parse({"generators": {**generators, name: {"kind": "noise", "sigma": 0.1}}})


def settings_classes(base=Settings):
    """Every class of settings of the library that can be made."""
    for kind in base.__subclasses__():
        if (
            kind.__module__.startswith("jaxweights.")
            and dataclasses.is_dataclass(kind)
            and not inspect.isabstract(kind)
        ):
            yield kind
        yield from settings_classes(kind)


def numeric_fields():
    """The class, the name, how many entries (0 for a number) and whether they are whole, of every numeric field; once
    for inherited ones."""
    for module in pkgutil.walk_packages(jaxweights.__path__, "jaxweights."):
        importlib.import_module(module.name)
    found = {}
    for kind in settings_classes():
        hints = get_type_hints(kind)
        for field in dataclasses.fields(kind):
            types = {hints[field.name], *get_args(hints[field.name])}
            if types & {int, float, Distribution}:
                owner = next(c for c in reversed(kind.__mro__) if field.name in getattr(c, "__annotations__", {}))
                found[owner.__name__, field.name, repr(field.default)] = (
                    kind,
                    field.name,
                    entries(hints[field.name], field),
                    int in types,
                )
    return list(found.values())


def entries(hint, field):
    """The length of a tuple, the least where it may have several, 0 for a number."""
    if get_origin(hint) is not tuple:
        return 0
    check = field.metadata.get("check")
    if get_args(hint)[-1] is ...:
        return max(1, check.length[0]) if check is not None and check.length else 1
    return len(get_args(hint))


FREE = {"values", "prompt", "best_prompt", "level", "erase_value", "z_u", "mean", "snapshots", "time_mean"}
"""Fields that may be negative."""


def test_every_number_has_a_range():
    """No field takes what is not finite or overflows the types of compiled programs, and few take negative numbers."""
    fields = numeric_fields()
    assert len(fields) > 150 and {name for _, name, *_ in fields} >= FREE
    needed = {config.ExperimentSettings: config.parse({})}
    accepted = []
    for kind, name, many, whole in fields:
        values = [-(2**70), 2**70] if whole else [float("nan"), float("inf"), -float("inf"), 1e30, -1e30, 10**400]
        values += [] if name in FREE else [-1]
        for value in values:
            change = {name: (value,) * many if many else value}
            try:
                needed[kind].replace(**change) if kind in needed else kind(**change)
                accepted.append((kind.__name__, change))
            except UserError as error:
                assert f"{name}" in str(error) and "set it" in str(error), error
    assert not accepted


@pytest.mark.parametrize(
    "value, message",
    [
        ({"kind": "uniform", "low": -1.0, "high": 1.0}, "set it to at least 0"),
        ({"kind": "uniform", "low": 2.0, "high": 1.0}, "low must not exceed high"),
        ({"kind": "uniform", "low": 1.0}, "with low and high"),
        ({"kind": "uniform", "low": 1.0, "high": 2.0, "mean": 1.5}, "with low and high"),
        ({"kind": "log_uniform", "low": 0.0, "high": 1.0}, "needs low > 0"),
        ({"kind": "choice", "values": ()}, "with values"),
        ({"kind": "choice", "values": (1.0, float("nan"))}, "finite"),
        ({"kind": "choice", "values": ("a",)}, r"learning_rate\[0\] is 'a', of type str"),
        ({"kind": ["choice"]}, "with values"),
        ("0.1", "with values"),
        (None, "with values"),
        (True, "with values"),
        (1e-50, None),
    ],
)
def test_distributions_are_checked_like_numbers(value, message):
    if message is None:
        assert config.parse({"zoo": {"learning_rate": value}}).zoo.learning_rate.values == (value,)
        return
    with pytest.raises(UserError, match=message):
        config.parse({"zoo": {"learning_rate": value}})


@pytest.mark.parametrize("value", [1.0 - 1e-9, 1e-50])
def test_bounds_are_those_of_float32(value):
    with pytest.raises(UserError, match="above 0|below 1"):
        config.parse({"generators": {"pdiff": {"kind": "pdiff", "beta_start": value}}})
