"""What a file holds, and the ways in which a file is not read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


class Refused(Exception):
    """A file that is not read; the message goes on where the file's name ends: "holds a program. Save ..."."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
      value: arrays, texts, numbers, None, and dicts, lists, tuples and `Bag`s of these. Arrays are read-only and have
        the type of the file; those of one storage share their memory.
      kind: what kind of file it is, e.g. "a PyTorch file".
      metadata: texts by name that the file has besides, as safetensors files do.
    """

    value: Any
    kind: str
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Bag:
    """An object of a class that is not at hand: its attributes, without anything that it could do.

    Attributes:
      name: module and name of its class.
      attributes: values by name.
    """

    name: str
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def largest(size: int) -> int:
    """Bytes that a file of so many may unpack to: compressed weights are hardly smaller, zeros are."""
    return 64 * size + (1 << 30)


_CONTAINERS = (dict, list, tuple, set, frozenset, Bag)


def check_tree(value: Any, largest: int, deepest: int = 100) -> None:
    """Raises `ValueError` for containers that hold themselves, are nested too deeply, or hold the same ones so often
    that walking through them does not end, and for views of few numbers that are larger than `largest` bytes."""
    sizes: dict[int, int] = {}  # of containers with all that they hold; 0 while that is being counted
    arrays: dict[int, int] = {}
    frames: list[list[Any]] = []

    def enter(container: Any) -> None:
        if len(frames) >= deepest:
            raise ValueError(f"containers are nested more than {deepest} deep")
        sizes[id(container)] = 0
        frames.append([id(container), iter(_items(container)), 1])

    def leaf(inner: Any) -> int:
        if isinstance(inner, np.ndarray):
            arrays[id(inner)] = inner.nbytes
        return 1

    enter([value])
    while frames:
        frame = frames[-1]
        for inner in frame[1]:
            known = sizes.get(id(inner)) if isinstance(inner, _CONTAINERS) else leaf(inner)
            if known is None:
                enter(inner)
                break
            if not known:
                raise ValueError("a container holds itself")
            frame[2] += known
        else:
            frames.pop()
            sizes[frame[0]] = frame[2]
            if frames:
                frames[-1][2] += frame[2]
            elif frame[2] > 1_000_000 + 16 * len(sizes):
                raise ValueError("it holds the same containers again and again")
    if sum(arrays.values()) > largest:
        raise ValueError(f"its tensors would take {sum(arrays.values()):,} bytes, far more than it has")


def _items(container: Any) -> Iterable[Any]:
    if isinstance(container, dict):
        return container.values()
    return container.attributes.values() if isinstance(container, Bag) else container
