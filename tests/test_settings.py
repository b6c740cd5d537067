"""Settings: every wrong key, type and value is refused by name, and what is in force can be listed."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from jaxweights import settings
from jaxweights.errors import UserError
from jaxweights.experiment import config
from jaxweights.settings import Settings, setting


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
