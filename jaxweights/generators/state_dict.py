"""Reads state dicts of published generators (PyTorch); the transformers' as parameters of `transformer`'s modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxweights.errors import UserError
from jaxweights.nn.transformer import TokenLayout

_DENSE = {"qkv": ("attn.query", "attn.key", "attn.value"), "out": ("attn.proj",), "up": ("mlp.0",), "down": ("mlp.2",)}
_NORMS = {"norm_1": "ln1", "norm_2": "ln2"}


class StateDict:
    """A published state dict whose tensors are taken one after the other, until none is left.

    Args:
      checkpoint: arrays by name.
      prefix: prefix of all names, left out below.
      kind: kind of the generator, for errors.
    """

    def __init__(self, checkpoint: Mapping[str, np.ndarray], prefix: str, kind: str):
        self._rest = {name: np.asarray(value) for name, value in checkpoint.items()}
        self._prefix = prefix
        self._cure = (
            f"Set the fields of the generator {kind}, and the task network, as in the checkpoint's configuration."
        )

    def take(self, name: str) -> np.ndarray:
        """The tensor of this name.

        Raises:
          UserError: there is none.
        """
        name = self._prefix + name
        if name not in self._rest:
            raise UserError(f"The checkpoint has no tensor {name!r}. {self._cure}")
        return self._rest.pop(name)

    def kernel(self, name: str) -> np.ndarray:
        """The matrix `[in, out]` of a dense layer."""
        return self.take(f"{name}.weight").T

    def norm(self, name: str) -> dict[str, np.ndarray]:
        """The parameters of `Norm`."""
        return {"scale": self.take(f"{name}.weight"), "bias": self.take(f"{name}.bias")}

    def stack(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Tensors of one shape as one.

        Raises:
          UserError: their shapes differ.
        """
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            raise UserError(
                f"The checkpoint has tensors of shapes {sorted(shapes)} where one is expected. {self._cure}"
            )
        return np.stack(arrays)

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
                block[f"{ours}_kernel"] = np.concatenate([self.kernel(f"{name}.{part}") for part in theirs], axis=1)
                block[f"{ours}_bias"] = np.concatenate([self.take(f"{name}.{part}.bias") for part in theirs])
            for ours, theirs in _NORMS.items():
                block |= {f"{ours}_{key}": value for key, value in self.norm(f"{name}.{theirs}").items()}
            blocks.append(block)
        return {key: self.stack([block[key] for block in blocks]) for key in blocks[0]}

    def finish(self, params: Any, expected: Any, table: np.ndarray, num_frequencies: int) -> None:
        """Checks that everything was taken and fits.

        Args:
          params: what was made of the tensors.
          expected: shapes of the module's parameters.
          table: the checkpoint's frequencies.
          num_frequencies: how many the module needs.

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
        if table.shape != (num_frequencies,):
            raise UserError(
                f"The checkpoint has {table.size} frequencies, this transformer {num_frequencies}. {self._cure}"
            )
