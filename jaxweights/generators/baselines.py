"""The baselines that a learned generator has to beat, and the positive controls that an audit has to flag.

Each is a closed-form generator (`base.ClosedFormGenerator`): fitted on training rows `[N, P]`, then one sample per key.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import shuffle
from jaxweights.errors import UserError
from jaxweights.generators import domain, principal
from jaxweights.generators.base import ClosedFormGenerator, Samples, Training, keys_for
from jaxweights.population import Population
from jaxweights.settings import setting
from jaxweights.spec import WeightSpec

_SORTED = 1 << 16  # rows that are sorted to draw some of them; of more, a shuffle without sorting says which come first


class Baseline(ClosedFormGenerator):
    """What a learned generator has to beat, or an audit to flag."""

    least: ClassVar[int] = 1
    """Fewest training networks."""

    def check(self, training: Training) -> None:
        """Refuses fewer networks than `least`, and those that `sample` cannot draw from."""
        if training.rows < self.least:
            raise UserError(
                f"The generator {self.name!r} needs at least {self.least} training networks, but the training split "
                f"has {training.rows}. Train more runs (zoo.num_runs) or change the generator's settings."
            )


@dataclasses.dataclass(frozen=True)
class Copy(Baseline):
    """Copies of training networks: the plainest memorization.

    Attributes:
      permute: whether the hidden units of each copy are reordered at random; the function stays, the raw distance does
        not.
      rescale: whether hidden units of ReLU-like activations are rescaled at random, likewise.
      flip: whether hidden units of odd activations (tanh, sine) change sign at random, likewise.
    """

    name: str = "copy"
    permute: bool = False
    rescale: bool = False
    flip: bool = False

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training rows and the spec."""
        self.check(Training.of(training))
        return {"weights": jnp.asarray(training.weights), "spec": Static(training.spec)}

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Random training rows under random symmetries."""
        spec = state["spec"].value
        parents = _pick(keys_for(keys, 0), state["weights"].shape[0])
        rows = state["weights"][parents]
        kinds = ("positive",) * self.rescale + ("sign",) * self.flip
        if kinds:
            rows = jax.vmap(functools.partial(_rescaled, spec, kinds))(keys_for(keys, 1), rows)
        if self.permute:
            rows = jax.vmap(lambda k, row: spec.permute(row, spec.random_permutation(k)))(keys_for(keys, 2), rows)
        return Samples(rows, parents)


def _rescaled(spec: WeightSpec, kinds: Collection[str], key: jax.Array, row: jax.Array) -> jax.Array:
    """A network `[P]` with the units of these kinds rescaled at random."""
    drawn = zip(spec.groups, spec.random_scales(key), strict=True)
    return spec.rescale(row, [x if group.scaling in kinds else jnp.ones_like(x) for group, x in drawn])


@dataclasses.dataclass(frozen=True)
class Noise(Baseline):
    """Training networks plus Gaussian noise.

    Attributes:
      variances: running variances of batch normalisation that fall below the smallest one of the training networks.
        clip: that one takes their place; published: they stay, and negative ones leave a network without outputs.
      sigma: standard deviation of the noise.
      relative: whether it is multiplied by a standard deviation of the training rows; the memorization paper uses
        amplitudes that are absolute (Hyper-Representations) or relative to all entries (G.pt).
      relative_to: "tensor" for the entries of the tensor that a weight belongs to, as in P-diff's own evaluator, or
        "all" entries of the vectors.
    """

    name: str = "noise"
    variances: domain.Variances = "clip"
    sigma: float = setting(0.05, at_least=0)
    relative: bool = False
    relative_to: Literal["tensor", "all"] = "tensor"

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training rows and the noise amplitude of every entry."""
        self.check(Training.of(training))
        weights = training.weights
        amplitude = np.full(weights.shape[1], self.sigma, np.float32)
        if self.relative:
            tensors = [span for _, span in training.spec.spans()]
            for span in tensors if self.relative_to == "tensor" else [slice(None)]:
                amplitude[span] *= weights[:, span].std(dtype=np.float64)
        return {
            "weights": jnp.asarray(weights),
            "amplitude": jnp.asarray(amplitude),
            **domain.floors(training),
        }

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Random training rows with fresh noise."""
        parents = _pick(keys_for(keys, 0), state["weights"].shape[0])
        noise = _normal(keys_for(keys, 1), state["amplitude"].shape[0]) * state["amplitude"][None, :]
        return Samples(domain.inside(state["weights"][parents] + noise, state, self.variances), parents)


@dataclasses.dataclass(frozen=True)
class Average(Baseline):
    """Means of `k` different training networks (a soup).

    Attributes:
      k: networks per average.
      faithful: whether the published baseline's aliasing is reproduced: its accumulator is the first drawn checkpoint
        itself, so every average overwrites one training row, and later averages average averages (about 21 instead of
        16 constituents).
    """

    TINY: ClassVar[Mapping[str, Any]] = {"k": 4}

    name: str = "average"
    k: int = setting(16, at_least=1)
    faithful: bool = False

    @property
    def least(self) -> int:  # type: ignore[override]
        """As many as one average takes."""
        return self.k

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training rows."""
        self.check(Training.of(training))
        return {"weights": jnp.asarray(training.weights)}

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Means of rows drawn without replacement; in faithful mode the samples depend on the ones before."""
        weights = state["weights"]
        chosen = different_rows(keys, weights.shape[0], self.k)
        parents = jnp.full(keys.shape, -1, jnp.int32)
        if not self.faithful:
            return Samples(jax.lax.map(lambda rows: jnp.mean(weights[rows], axis=0), chosen), parents)

        def overwrite(pool, rows):
            mean = jnp.mean(pool[rows], axis=0)
            return pool.at[rows[0]].set(mean), mean

        return Samples(jax.lax.scan(overwrite, weights, chosen)[1], parents)


@dataclasses.dataclass(frozen=True)
class Gaussian(Baseline):
    """An independent normal distribution per parameter, with the training rows' mean and unbiased standard
    deviation.

    Attributes:
      variances: see `Noise`.
    """

    least: ClassVar[int] = 2

    name: str = "gaussian"
    variances: domain.Variances = "clip"

    def fit(self, training: Population) -> dict[str, Any]:
        """Mean and standard deviation of every entry."""
        self.check(Training.of(training))
        weights = training.weights
        mean = weights.mean(axis=0, dtype=np.float64)
        std = weights.std(axis=0, dtype=np.float64, ddof=1)
        moments = {"mean": jnp.asarray(mean, jnp.float32), "std": jnp.asarray(std, jnp.float32)}
        return moments | domain.floors(training)

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Fresh vectors; no parents."""
        noise = _normal(keys, state["mean"].shape[0])
        drawn = state["mean"][None, :] + state["std"][None, :] * noise
        return Samples.new(domain.inside(drawn, state, self.variances))


@dataclasses.dataclass(frozen=True)
class PCAGaussian(Baseline):
    """A normal distribution on the leading principal components of the training rows; exactly zero variance elsewhere.

    Attributes:
      components: number of components, 0 for all that the rows span (N - 1 at most).
      variances: see `Noise`.
    """

    least: ClassVar[int] = 2

    name: str = "pca_gaussian"
    components: int = setting(0, at_least=0)
    variances: domain.Variances = "clip"

    def check(self, training: Training) -> None:
        """Refuses fewer than two rows, and more components than the rows span."""
        super().check(training)
        most = _spanned(training)
        if self.components > most:
            raise UserError(
                f"The generator {self.name!r} asks for {self.components} principal components, but {training.rows} "
                f"training networks of {training.spec.num_params} parameters span {most}. Lower `components` or train "
                "more runs."
            )

    def fit(self, training: Population) -> dict[str, Any]:
        """Mean and scaled principal directions, through the smaller Gram matrix in float64.

        Raises:
          UserError: fewer than two rows, or more components than the rows span.
        """
        self.check(Training.of(training))
        most = _spanned(Training.of(training))
        found = principal.components(training.weights, self.components or most)
        mean, basis = found.mean, found.directions
        parts = {"mean": jnp.asarray(mean, jnp.float32), "basis": jnp.asarray(basis, jnp.float32)}
        return parts | domain.floors(training)

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Fresh vectors; no parents."""
        scores = _normal(keys, state["basis"].shape[0])
        drawn = state["mean"][None, :] + scores @ state["basis"]
        return Samples.new(domain.inside(drawn, state, self.variances))


@dataclasses.dataclass(frozen=True)
class Interpolation(Baseline):
    """Points at a uniform position on the segment between two different training networks."""

    least: ClassVar[int] = 2

    name: str = "interpolation"

    def fit(self, training: Population) -> dict[str, Any]:
        """Keeps the training rows."""
        self.check(Training.of(training))
        return {"weights": jnp.asarray(training.weights)}

    def sample(self, state: dict[str, Any], keys: jax.Array) -> Samples:
        """Mixtures; the parent is the nearer end."""
        weights = state["weights"]
        pairs = different_rows(keys_for(keys, 0), weights.shape[0], 2)
        t = jax.vmap(lambda k: jax.random.uniform(k, ()))(keys_for(keys, 1))
        mixed = (1 - t)[:, None] * weights[pairs[:, 0]] + t[:, None] * weights[pairs[:, 1]]
        return Samples(mixed, jnp.where(t < 0.5, pairs[:, 0], pairs[:, 1]).astype(jnp.int32))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """A spec inside a state of arrays."""

    value: WeightSpec


def _spanned(training: Training) -> int:
    """Principal components of the training networks."""
    return min(training.rows - 1, training.spec.num_params)


def different_rows(keys: jax.Array, count: int, k: int) -> jax.Array:
    """k different ones of `count` row indices per key, `[n, k]` int32."""
    if count <= _SORTED:
        return jax.vmap(lambda key: jax.random.choice(key, count, (k,), replace=False))(keys)
    places = jnp.arange(k, dtype=jnp.int32)
    return jax.vmap(lambda key: shuffle.permuted(places, jax.random.key_data(key), count))(keys)


def _pick(keys: jax.Array, count: int) -> jax.Array:
    """One uniform row index per key."""
    return jax.vmap(lambda k: jax.random.randint(k, (), 0, count))(keys)


def _normal(keys: jax.Array, size: int) -> jax.Array:
    return jax.vmap(lambda k: jax.random.normal(k, (size,)))(keys)
