"""Networks of which some leaves vary and all others keep the values of a base: P-diff's partial parameters.

Most of such a network computes the same for every model. Which part that is follows from the network's own program:
`whole.apply` is traced for one image, and whatever the varying leaves do not reach is `PartialNet.prepare`, computed
once per image; `PartialNet.apply` is the rest, under `vmap` over models. (Traced programs carry no record of the device
axes that their values vary over, so `shard_map` around them needs `check_vma=False`.)
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import hashlib
import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxweights import files
from jaxweights.errors import UserError
from jaxweights.nets.base import TaskNet
from jaxweights.nn.normalization import is_statistic
from jaxweights.spec import WeightSpec

_STATISTICS = "running_"


class Prepared(NamedTuple):
    """What a partial network computes of images alone; any rows of it are what `prepare` makes of those images.

    Attributes:
      values: `[n, ...]` arrays that the rest of the network reads.
    """

    values: tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class PartialNet(TaskNet):
    """A network of which some leaves vary.

    `spec` describes these alone. Two partial networks are equal where their networks, leaves and bases are.

    Attributes:
      whole: the network.
      digest: checksum of the base and the chosen names.
      base: `[P_whole]` float32, the values of all leaves.
      parameters: all leaves of the base as the parameter tree has them, in the order of `whole.spec`; empty where every
        leaf varies.
    """

    whole: TaskNet
    digest: str
    base: np.ndarray = dataclasses.field(compare=False, repr=False)
    parameters: tuple[Any, ...] = dataclasses.field(compare=False, repr=False)

    __hash__ = TaskNet.__hash__

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the leaves that vary, in flat order."""
        return tuple(leaf.name for leaf in self.spec.leaves)

    @property
    def start(self) -> np.ndarray:
        """`[P]` float32, the base's own values of the leaves that vary."""
        chosen = set(self.names)
        return np.concatenate([self.base[span] for leaf, span in self.whole.spec.spans() if leaf.name in chosen])

    def init(self, key: jax.Array) -> jax.Array:
        """`start`, whatever the key."""
        del key
        return jnp.asarray(self.start)

    @property
    def frozen(self) -> tuple[Any, ...]:
        return self.parameters

    def bind(self, frozen: tuple[Any, ...]) -> PartialNet:
        return dataclasses.replace(self, parameters=tuple(frozen))

    def params(self, vector: jax.Array) -> dict[str, Any]:
        """The whole network's parameter tree with a vector `[P]` put in."""
        if not self.parameters:
            return self.whole.spec.unflatten(vector)
        return _tree(self.whole.spec, self.spec, vector, self.parameters)

    def insert(self, vector: jax.Array) -> jax.Array:
        """Vectors `[..., P]` as those of the whole network, `[..., P_whole]`.

        In a compiled program the base becomes a constant here: take `params` there.
        """
        parts, done = [], 0
        starts = dict(zip((leaf.name for leaf in self.whole.spec.leaves), self.whole.spec.offsets, strict=False))
        for leaf, span in self.spec.spans():
            start = starts[leaf.name]
            parts += [jnp.broadcast_to(self.base[done:start], vector.shape[:-1] + (start - done,)), vector[..., span]]
            done = start + leaf.size
        parts.append(jnp.broadcast_to(self.base[done:], vector.shape[:-1] + (len(self.base) - done,)))
        return jnp.concatenate(parts, axis=-1)

    def prepare(self, images: jax.Array) -> Any:
        """All of `[n, ...]` images that the leaves that vary do not reach; `apply` takes it in the images' place."""
        if not self.parameters:
            return self.whole.prepare(images)
        fixed = self._split.fixed
        return Prepared(tuple(jax.vmap(lambda image: fixed(*self.parameters, image))(self.resized(images))))

    def apply(self, vector: jax.Array, images: Any) -> jax.Array:
        """Logits `[n, num_classes]` of images, or of what `prepare` made of them, under the weights `[P]`."""
        if not self.parameters:
            return self.whole.apply(vector, images)
        prepared = images if isinstance(images, Prepared) else self.prepare(images)
        rest = self._split.rest
        return jax.vmap(lambda values: rest(vector, *self.parameters, *values)[0])(prepared.values)

    @property
    def _split(self) -> _Split:
        return _split(self.whole, self.spec, jax.sharding.get_abstract_mesh())

    @functools.cached_property
    def activation_size(self) -> int:
        """Floats that `apply` computes per prepared image, for sizing blocks of work."""
        if not self.parameters:
            return self.whole.activation_size
        return self._split.rest_size

    def save(self, path: pathlib.Path | str) -> None:
        """Writes the base and the chosen names as one .npz file; `load_partial` reads it."""
        with files.atomic(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, base=self.base, names=np.array(self.names), digest=np.array(self.digest))


def partial(net: TaskNet, base: np.ndarray | jax.Array, patterns: Sequence[str]) -> PartialNet:
    """The network whose leaves of matching names vary, with all others as in a base.

    Args:
      net: the whole network.
      base: `[P_whole]` float32, its weights.
      patterns: patterns of leaf names, as `fnmatch` reads them, e.g. "layer4/1/bn*"; an asterisk matches slashes, too.
        Running statistics are left out unless a pattern spells "running_". No patterns choose every leaf.

    Raises:
      UserError: a pattern that matches nothing, or a base of another length.
    """
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    names = [leaf.name for leaf in net.spec.leaves]
    chosen = set() if patterns else set(names)
    for pattern in patterns:
        matches = {name for name in fnmatch.filter(names, pattern) if not is_statistic(name) or _STATISTICS in pattern}
        if not matches:
            raise UserError(
                f"The pattern {pattern!r} of zoo.subset matches no leaf that is trained. The leaves of {net.name!r}: "
                f"{', '.join(names)}."
            )
        chosen |= matches
    return _make(net, base, [name for name in names if name in chosen])


def load_partial(path: pathlib.Path | str, net: TaskNet) -> PartialNet:
    """Reads what `PartialNet.save` wrote, for the same whole network.

    Raises:
      UserError: no such file, a damaged one, or one of another network.
    """
    cure = f"Remove {path}, if it is there, and run the program that makes it again (launch.train_zoo)."
    try:
        # Opened here because numpy leaves a damaged file that it opened itself unclosed.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            base, names, digest = archive["base"], archive["names"].tolist(), archive["digest"].item()
    except FileNotFoundError as error:
        raise UserError(f"There is no base of a partial network at {path}. {cure}") from error
    except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is not the base of a partial network: truncated or foreign ({error}). {cure}"
        ) from error
    if digest != _digest(base, names):
        raise UserError(f"{path} is damaged: its content has another checksum than when it was written. {cure}")
    unknown = set(names) - {leaf.name for leaf in net.spec.leaves}
    if unknown or base.shape != (net.spec.num_params,):
        raise UserError(
            f"{path} is the base of another network: it has {base.size} weights, {net.name!r} {net.spec.num_params}. "
            "Set net to the one that it was made with, or make it again."
        )
    return _make(net, base, names)


def _make(net: TaskNet, base, names: Sequence[str]) -> PartialNet:
    base = np.asarray(base, np.float32)
    if base.shape != (net.spec.num_params,):
        raise UserError(
            f"A base of the network {net.name!r} has {net.spec.num_params} weights, this one has shape {base.shape}."
        )
    spec = net.spec.subset(names)
    frozen = () if spec is net.spec else tuple(leaf.from_flat(base[span]) for leaf, span in net.spec.spans())
    digest = _digest(base, names)
    parts = (net.name, net.module, spec, net.input_shape, net.num_classes)
    return PartialNet(*parts, net, digest, base, frozen, resize=net.resize, task=net.task)


def _digest(base: np.ndarray, names: Iterable[str]) -> str:
    return hashlib.sha256(base.tobytes() + "\n".join(names).encode()).hexdigest()


def _tree(whole: WeightSpec, spec: WeightSpec, vector, parameters) -> dict[str, Any]:
    tree = spec.unflatten(vector)
    chosen = {leaf.name for leaf in spec.leaves}
    for leaf, value in zip(whole.leaves, parameters, strict=True):
        *path, last = leaf.name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        if leaf.name not in chosen:
            node[last] = value
    return tree


class _Split(NamedTuple):
    """A network's program for one image, cut in two.

    Attributes:
      fixed: (all leaves, image) to values that the vector does not reach.
      rest: (vector, all leaves, those values) to `[logits]`.
      rest_size: numbers that `rest` computes of an image.
    """

    fixed: Any
    rest: Any
    rest_size: int


@functools.lru_cache(maxsize=32)
def _split(whole: TaskNet, spec: WeightSpec, mesh: Any) -> _Split:
    """Cuts a network where the leaves of `spec` come in.

    Args:
      whole: the network.
      spec: the leaves that vary.
      mesh: mesh of the devices that the caller is mapped over, to which a traced program belongs.
    """
    del mesh

    def network(vector, parameters, image):
        tree = _tree(whole.spec, spec, vector, parameters)
        return whole.module.apply({"params": tree}, whole.prepare(image[None]))[0]

    array = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    parameters = [array(leaf.shape) for leaf in whole.spec.leaves]
    program = jax.make_jaxpr(network)(array((spec.num_params,)), parameters, array(whole.image_shape))
    jaxpr = program.jaxpr
    vector, *parameters, image = jaxpr.invars
    varying, shared = {vector}, {image}
    for eqn in jaxpr.eqns:
        inputs = _variables(eqn.invars)
        if not varying.isdisjoint(inputs):
            varying.update(eqn.outvars)
        elif not shared.isdisjoint(inputs):
            shared.update(eqn.outvars)
    rest, needed = _reaching(jaxpr.eqns, jaxpr.outvars, shared)
    frontier = [v for v in (image, *(v for eqn in jaxpr.eqns for v in eqn.outvars)) if v in needed and v in shared]
    fixed, _ = _reaching(jaxpr.eqns, frontier, ())

    def function(invars, outvars, eqns):
        part = jaxpr.replace(invars=invars, outvars=outvars, eqns=eqns)
        # Public, but not marked so in JAX 0.12.
        closed = core.ClosedJaxpr(part, program.consts)  # pyright: ignore[reportPrivateImportUsage]
        return core.jaxpr_as_fun(closed)

    return _Split(
        function([*parameters, image], frontier, fixed),
        function([vector, *parameters, *frontier], jaxpr.outvars, rest),
        sum(_size(v) for eqn in rest for v in eqn.outvars),
    )


def _size(variable: core.Var) -> int:
    return math.prod(cast(Any, variable.aval).shape)


def _variables(atoms) -> list[core.Var]:
    return [v for v in atoms if not isinstance(v, core.Literal)]


def _reaching(eqns, outputs, given) -> tuple[list[core.JaxprEqn], set[core.Var]]:
    """The equations that make the outputs of given variables, and all variables that they and the outputs read."""
    needed, chosen = set(_variables(outputs)), []
    for eqn in reversed(eqns):
        wanted = [v for v in eqn.outvars if v in needed and v not in given]
        if wanted:
            chosen.append(eqn)
            needed.update(_variables(eqn.invars))
    return chosen[::-1], needed
