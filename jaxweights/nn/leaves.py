"""How a network declares the leaves of its flat vector and the symmetries of its hidden units."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxweights.nn.parameters import Convention
from jaxweights.spec import FIXED, Group, Leaf, WeightSpec


class Leaves:
    """Collects the leaves and groups of a network in flat order.

    A layer is declared with the group of hidden units that it reads and the group that it writes, `FIXED` for inputs
    and outputs of the network:

        leaves = Leaves()
        hidden = leaves.group(16, "positive")
        leaves.dense("fc1", 64, 16, writes=hidden)
        leaves.dense("fc2", 16, 10, reads=hidden)
        spec = leaves.spec()
    """

    def __init__(self) -> None:
        self._leaves: list[Leaf] = []
        self._groups: list[Group] = []

    def group(self, size: int, scaling: str = "none") -> int:
        """A new group of hidden units that can be permuted together; returns its id.

        Args:
          size: number of units.
          scaling: the rescaling that they admit, see `spec.Group`.
        """
        self._groups.append(Group(size, scaling))
        return len(self._groups) - 1

    def tensor(
        self,
        name: str,
        axes: Sequence[int],
        groups: Sequence[int],
        roles: Sequence[int],
        shape: Sequence[int] | None = None,
        order: Sequence[int] | None = None,
    ) -> None:
        """A leaf with the fields of `spec.Leaf`; roles count where there is a group.

        Args:
          name: path in the parameter tree.
          axes: factors of the shape that carry the symmetry.
          groups: one group per axis.
          roles: one role per axis.
          shape: shape in the parameter tree; the axes by default.
          order: order of the axes in the flat vector; as they are by default.
        """
        roles = tuple(0 if group == FIXED else role for group, role in zip(groups, roles, strict=True))
        shape, order = axes if shape is None else shape, range(len(axes)) if order is None else order
        self._leaves.append(Leaf(name, tuple(shape), tuple(axes), tuple(groups), roles, tuple(order)))

    def dense(
        self,
        name: str,
        inputs: int | Sequence[int],
        outputs: int,
        reads: int = FIXED,
        writes: int = FIXED,
        use_bias: bool = True,
    ) -> None:
        """Weight `[outputs, inputs]` and bias of a `Dense` layer.

        Args:
          name: layer name.
          inputs: number of inputs, or the factors of a flattened feature map, e.g. `(3, 3, 4)`; the group that is read
            is that of the last.
          outputs: number of units.
          reads: group of the inputs.
          writes: group of the outputs.
          use_bias: whether there is a bias.
        """
        factors = (inputs,) if isinstance(inputs, int) else tuple(inputs)
        n = len(factors)
        self.tensor(
            f"{name}/weight",
            (outputs, *factors),
            (writes,) + (FIXED,) * (n - 1) + (reads,),
            (1,) + (0,) * (n - 1) + (-1,),
            shape=(outputs, math.prod(factors)),
            # A flattened map is channel first in the flat vector, as PyTorch flattens it: (out, C, H, W).
            order=(0, n, *range(1, n)),
        )
        if use_bias:
            self.vector(f"{name}/bias", outputs, writes)

    def conv(
        self,
        name: str,
        window: int,
        inputs: int,
        outputs: int,
        reads: int = FIXED,
        writes: int = FIXED,
        use_bias: bool = True,
        convention: Convention = "torch",
    ) -> None:
        """Kernel `[window, window, inputs, outputs]` (out, in, rows, columns in the flat vector) and bias of a
        convolution.

        Args:
          name: layer name.
          window: rows and columns of the window.
          inputs: input channels; 1 for `DepthwiseConv`, which writes the group that it reads.
          outputs: output channels.
          reads: group of the input channels.
          writes: group of the output channels.
          use_bias: whether there is a bias.
          convention: names of the layer's parameters.
        """
        axes, groups = (window, window, inputs, outputs), (FIXED, FIXED, reads, writes)
        kernel = "weight" if convention == "torch" else "kernel"
        self.tensor(f"{name}/{kernel}", axes, groups, (0, 0, -1, 1), order=(3, 2, 0, 1))
        if use_bias:
            self.vector(f"{name}/bias", outputs, writes)

    def vector(self, name: str, size: int, writes: int = FIXED) -> None:
        """One value per unit of a group."""
        self.tensor(name, (size,), (writes,), (1,))

    def norm(self, name: str, shape: int | Sequence[int], writes: int = FIXED, statistics: bool = False) -> None:
        """Weight and bias of a normalisation.

        Args:
          name: layer name.
          shape: shape of both, the first axis being the units of the group.
          writes: group of the normalised units.
          statistics: whether there are running statistics.
        """
        axes = (shape,) if isinstance(shape, int) else tuple(shape)
        groups = (writes,) + (FIXED,) * (len(axes) - 1)
        for part in ("weight", "bias") + ("running_mean", "running_var") * statistics:
            self.tensor(f"{name}/{part}", axes, groups, (1,) + (0,) * (len(axes) - 1))

    def spec(self) -> WeightSpec:
        """The meaning of a flat vector of these leaves."""
        return WeightSpec(tuple(self._leaves), tuple(self._groups))
