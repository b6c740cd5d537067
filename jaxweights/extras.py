"""Optional dependencies, which pyproject.toml groups into extras."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator
from typing import Any, Literal

from jaxweights.errors import UserError

Extra = Literal["data", "shapes", "track", "bias", "formats", "adapters", "fast"]


@contextlib.contextmanager
def importing(extra: Extra) -> Iterator[None]:
    """Surrounds imports of an extra's packages.

    Raises:
      UserError: a package is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is not installed; it comes with `pip install "jaxweights[{extra}]"`.') from error


def module(extra: Extra, name: str) -> Any:
    """A module of an extra's packages, for those that are too large to be installed where types are checked.

    Raises:
      UserError: see `importing`.
    """
    with importing(extra):
        return importlib.import_module(name)


@functools.cache
def installed(package: str) -> bool:
    """Whether a package is there, of an extra that makes things faster and changes no result."""
    return importlib.util.find_spec(package) is not None
