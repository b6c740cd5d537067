"""Optional dependencies, which pyproject.toml groups into extras."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from jaxweights.errors import UserError


@contextlib.contextmanager
def importing(extra: Literal["data", "shapes", "track", "bias"]) -> Iterator[None]:
    """Surrounds imports of an extra's packages.

    Raises:
      UserError: a package is not installed; the message names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is not installed; it comes with `pip install "jaxweights[{extra}]"`.') from error
