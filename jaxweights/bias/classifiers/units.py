"""The classifier of networks that does not see the order of hidden units: every unit is a token, and layers of units
exchange messages along the weights between them."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxweights.bias.classifiers.base import Classifier
from jaxweights.errors import UserError
from jaxweights.nn.dense import Dense
from jaxweights.settings import setting
from jaxweights.spec import FIXED, WeightSpec


class _Between(NamedTuple):
    """Weights between the units of two groups.

    Attributes:
      groups: the two groups.
      index: `[first, second, window]` flat indices.
    """

    groups: tuple[int, int]
    index: np.ndarray


class _Layout(NamedTuple):
    """Where a spec has what belongs to hidden units.

    Attributes:
      own: for every group `[size, F]` flat indices of the weights that belong to one unit alone: those from inputs, to
        outputs, biases.
      between: weights between two units.
      rest: `[R]` flat indices of all others.
    """

    own: list[np.ndarray]
    between: list[_Between]
    rest: np.ndarray


def layout(spec: WeightSpec) -> _Layout:
    """Sorts the entries of a flat vector by the hidden units that they belong to.

    Raises:
      UserError: no hidden units, or a tensor with more than two axes of them, or one group on two.
    """
    if not spec.groups:
        raise UserError(
            "The classifier units takes networks with hidden units that can be reordered, and these have none. Set "
            "bias.classifier.kind to mlp or linear."
        )
    own: list[list[np.ndarray]] = [[np.zeros((group.size, 0), np.int64)] for group in spec.groups]
    between, rest = [], [np.zeros(0, np.int64)]
    for leaf, span in spec.spans():
        index = np.arange(span.start, span.stop).reshape(leaf.stored_axes)
        groups = [leaf.groups[axis] for axis in leaf.order]
        places = [i for i, group in enumerate(groups) if group != FIXED]
        named = tuple(groups[i] for i in places)
        if len(places) > 2 or len(set(named)) < len(named):
            raise UserError(
                f"The classifier units cannot take these networks: {leaf.name} has hidden units on {len(places)} axes. "
                "Set bias.classifier.kind to mlp or linear."
            )
        index = np.moveaxis(index, places, range(len(places)))
        if not places:
            rest.append(index.reshape(-1))
        elif len(places) == 1:
            own[named[0]].append(index.reshape(len(index), -1))
        else:
            between.append(_Between((named[0], named[1]), index.reshape(*index.shape[:2], -1)))
    return _Layout([np.concatenate(parts, axis=1) for parts in own], between, np.concatenate(rest))


class UnitTokens(nn.Module):
    """Logits of flat weight vectors `[B, P]` that no reordering of hidden units changes.

    Every unit's token begins as a function of the weights that belong to it alone. In each round it is changed by the
    mean token of its group, and by the mean message over the units that it shares weights with. At the end the means
    and the maxima of all groups are read out, together with the weights that belong to no unit.
    """

    spec: WeightSpec
    features: int
    rounds: int
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        found = layout(self.spec)
        tokens = [
            nn.relu(Dense(self.features, name=f"unit{g}")(jnp.take(x, index, axis=1)))
            if index.size
            else jnp.zeros((len(x), len(index), self.features))
            for g, index in enumerate(found.own)
        ]
        for r in range(self.rounds):
            heard = [jnp.broadcast_to(t.mean(axis=1, keepdims=True), t.shape) for t in tokens]
            for i, (groups, index) in enumerate(found.between):
                weights = Dense(self.features, name=f"weight{r}_{i}")(jnp.take(x, index, axis=1))
                for side, (to, by) in enumerate((groups, groups[::-1])):
                    sent = Dense(self.features, use_bias=False, name=f"sent{r}_{i}_{side}")(tokens[by])
                    message = nn.relu(weights + jnp.expand_dims(sent, 1 + side)).mean(axis=2 - side)
                    heard[to] = jnp.concatenate([heard[to], message], axis=-1)
            tokens = [
                nn.relu(t + Dense(self.features, name=f"round{r}_{g}")(jnp.concatenate([t, h], axis=-1)))
                for g, (t, h) in enumerate(zip(tokens, heard, strict=True))
            ]
        read = [part for t in tokens for part in (t.mean(axis=1), t.max(axis=1))]
        joined = jnp.concatenate([*read, jnp.take(x, found.rest, axis=1)], axis=-1)
        hidden = nn.relu(Dense(self.features, name="read")(joined))
        return Dense(self.num_classes, name="fc")(hidden)


@dataclasses.dataclass(frozen=True)
class Units(Classifier):
    """A classifier of weight vectors that is blind to the order of hidden units.

    Attributes:
      features: width of a unit's token.
      rounds: exchanges of messages.
    """

    KIND: ClassVar[str] = "units"
    NETWORKS: ClassVar[bool] = True

    features: int = setting(32, at_least=1)
    rounds: int = setting(1, at_least=0)
    learning_rate: float = setting(3e-3, above=0)

    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Only a classifier of a spec has a module, see `of_spec`."""
        raise UserError(
            f"The classifier {self.KIND} takes weight vectors of networks, and not what the transformation makes of "
            "them. Set bias.classifier.kind to mlp or linear."
        )

    def of_spec(self, spec: WeightSpec) -> Classifier:
        layout(spec)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _UnitsOf(**fields, spec=spec)


@dataclasses.dataclass(frozen=True)
class _UnitsOf(Units):
    """The classifier of networks of one spec.

    Attributes:
      spec: meaning of the vectors.
    """

    spec: WeightSpec | None = None

    def module(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        assert self.spec is not None
        return UnitTokens(self.spec, self.features, self.rounds, num_classes)

    def standardisation(self, examples: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of all entries of a tensor together: each by itself would tell units apart."""
        assert self.spec is not None
        scale, shift = [], []
        for leaf, span in self.spec.spans():
            of_leaf: Any = super().standardisation(examples[:, span].reshape(-1, 1))
            scale.append(jnp.broadcast_to(of_leaf[0], (1, leaf.size)))
            shift.append(jnp.broadcast_to(of_leaf[1], (1, leaf.size)))
        return jnp.concatenate(scale, axis=1), jnp.concatenate(shift, axis=1)
