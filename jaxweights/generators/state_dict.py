"""Reads state dicts of published generators (PyTorch); the transformers' as parameters of `transformer`'s modules."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxweights import array_files, arrays
from jaxweights.errors import UserError
from jaxweights.nn.transformer import TokenLayout

_DENSE = {"qkv": ("attn.query", "attn.key", "attn.value"), "out": ("attn.proj",), "up": ("mlp.0",), "down": ("mlp.2",)}
_NORMS = {"norm_1": "ln1", "norm_2": "ln2"}


Checkpoint = Mapping[str, Any] | str | os.PathLike[str]
"""Tensors by name, as anything that NumPy reads, or the path of a file of them, e.g. of PyTorch."""


class StateDict:
    """A published state dict whose tensors are taken one after the other, until none is left.

    Args:
      checkpoint: tensors by name, or the file of them.
      prefix: prefix of all names, left out below; others are ignored.
      kind: kind of the generator, for errors.
      ignored: endings of names that are ignored.

    Raises:
      UserError: no such file, or something else than tensors by name.
    """

    def __init__(self, checkpoint: Checkpoint, prefix: str, kind: str, ignored: Iterable[str] = ()):
        content = _tensors(checkpoint)
        chosen = (name for name in content if name.startswith(prefix) and not name.endswith(tuple(ignored)))
        self._rest = {name: content[name] for name in chosen}
        self._prefix = prefix
        self._cure = (
            f"Set the fields of the generator {kind}, and the task network, as in the checkpoint's configuration."
        )

    @property
    def names(self) -> frozenset[str]:
        """Names of the tensors that are not taken yet, without the prefix."""
        return frozenset(name.removeprefix(self._prefix) for name in self._rest)

    def take(self, name: str, ndim: int | None = None) -> np.ndarray:
        """The tensor of this name, float32.

        Args:
          name: without the prefix.
          ndim: number of its axes; None for any.

        Raises:
          UserError: there is none, its values are no finite numbers, or it has other axes.
        """
        name = self._prefix + name
        if name not in self._rest:
            raise UserError(f"The checkpoint has no tensor {name!r}. {self._cure}")
        tensor = arrays.float32(self._rest.pop(name), f"The checkpoint's tensor {name!r}")
        if ndim is not None and tensor.ndim != ndim:
            raise UserError(
                f"The checkpoint's tensor {name!r} has shape {tensor.shape}, but needs {ndim} axes. {self._cure}"
            )
        return tensor

    def kernel(self, name: str) -> np.ndarray:
        """The matrix `[in, out]` of a dense layer."""
        return self.take(f"{name}.weight", 2).T

    def dense(self, name: str) -> dict[str, np.ndarray]:
        """The parameters of a dense layer."""
        return {"kernel": self.kernel(name), "bias": self.take(f"{name}.bias", 1)}

    def norm(self, name: str, scale: str = "weight") -> dict[str, np.ndarray]:
        """The parameters of `Norm`, whose factor may have another name."""
        return {"scale": self.take(f"{name}.{scale}", 1), "bias": self.take(f"{name}.bias", 1)}

    def variances(self, name: str) -> np.ndarray:
        """Running variances `[n]`; raises `UserError` for negative ones."""
        found = self.take(name, 1)
        if (found < 0).any():
            raise UserError(
                f"The checkpoint's tensor {self._prefix + name!r} has negative variances ({found.min():.4g}): it is "
                "damaged, or not what its name says."
            )
        return found

    def stack(self, parts: list[np.ndarray]) -> np.ndarray:
        """Tensors of one shape as one.

        Raises:
          UserError: their shapes differ.
        """
        shapes = {part.shape for part in parts}
        if len(shapes) > 1:
            raise UserError(
                f"The checkpoint has tensors of shapes {sorted(shapes)} where one is expected. {self._cure}"
            )
        return np.stack(parts)

    def concatenate(self, parts: list[np.ndarray]) -> np.ndarray:
        """Tensors that differ in their last axis at most as one; raises `UserError` for others."""
        if len({part.shape[:-1] for part in parts}) > 1:
            self.stack(parts)
        return np.concatenate(parts, axis=-1)

    def grouped(self, kernels: list[np.ndarray], layout: TokenLayout) -> dict[str, np.ndarray]:
        """The parameters of `Embedding` or `Unembedding` from one matrix per token."""
        return {f"size_{group.size}_kernel": self.stack([kernels[t] for t in group.tokens]) for group in layout.groups}

    def blocks(self, count: int) -> dict[str, np.ndarray]:
        """The parameters of `Blocks`."""
        blocks = []
        for i in range(count):
            name = f"decoder.blocks.{i}"
            block = {}
            for ours, theirs in _DENSE.items():
                block[f"{ours}_kernel"] = self.concatenate([self.kernel(f"{name}.{part}") for part in theirs])
                block[f"{ours}_bias"] = self.concatenate([self.take(f"{name}.{part}.bias", 1) for part in theirs])
            for ours, theirs in _NORMS.items():
                block |= {f"{ours}_{key}": value for key, value in self.norm(f"{name}.{theirs}").items()}
            blocks.append(block)
        return {key: self.stack([block[key] for block in blocks]) for key in blocks[0]}

    def finish(self, params: Any, expected: Any) -> None:
        """Checks that everything was taken and fits.

        Args:
          params: what was made of the tensors.
          expected: shapes of the module's parameters.

        Raises:
          UserError: a tensor is left over, or has another shape.
        """
        if self._rest:
            left = ", ".join(sorted(self._rest)[:5])
            raise UserError(f"The checkpoint holds tensors that this generator does not have: {left}. {self._cure}")
        theirs = dict(jax.tree_util.tree_leaves_with_path(params))
        for path, shape in jax.tree_util.tree_leaves_with_path(expected):
            if theirs[path].shape != shape.shape:
                raise UserError(
                    f"The checkpoint's tensor for {jax.tree_util.keystr(path)} has shape {theirs[path].shape}, this "
                    f"generator needs {shape.shape}. {self._cure}"
                )

    def frequencies(self, count: int) -> np.ndarray:
        """The table `[count]` of a transformer's frequencies.

        Raises:
          UserError: none, or of another size.
        """
        table = self.take("scalar_embedder.frequencies", 1)
        if len(table) != count:
            raise UserError(f"The checkpoint has {len(table)} frequencies, this transformer {count}. {self._cure}")
        return table


def _tensors(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The content of a checkpoint; tensors are looked at when they are taken."""
    if isinstance(checkpoint, (str, os.PathLike)):
        return array_files.tensors(pathlib.Path(checkpoint), array_files.Wanted("The checkpoint"))
    if not isinstance(checkpoint, Mapping):
        kind = type(checkpoint).__name__
        raise UserError(f"The checkpoint is of type {kind}; give its tensors by name, or a file of them.")
    nested = [name for name, value in checkpoint.items() if isinstance(value, Mapping)]
    if nested:
        raise UserError(f"The checkpoint has a mapping under {nested[0]!r}; give that: checkpoint[{nested[0]!r}].")
    return checkpoint
