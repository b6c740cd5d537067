"""Where the latents of generated networks come from: the samplers of Hyper-Representations, and simpler ones.

The published samplers are those of Schürholt et al. 2022 (arXiv 2209.14733): S_KDE, S_U, S_Neigh and the direct
baseline, each on all latents or on those of the best networks ("30": the best 30 %). arXiv 2506.07998 audits S_KDE30.

Everything runs on the host: random bits come from the keys, one independent stream per sample, and all further
arithmetic is NumPy in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import ClassVar, NamedTuple, cast

import jax
import numpy as np
from scipy import special

from jaxweights.errors import UserError
from jaxweights.generators.densities import Covariance, fit_clusters
from jaxweights.population import top_rows
from jaxweights.settings import Settings, setting

MODES: dict[str, tuple[str, ...]] = {
    "kde": ("independent", "faithful"),
    "joint_kde": (),
    "gaussian": (),
    "mixture": ("full", "diag"),
    "uniform": (),
    "neighbourhood": (),
    "direct": (),
    "reconstruct": ("ordered", "random"),
}
"""Kinds of samplers and the modes that they have, the default first."""

NEIGHBOURHOOD_COMPONENTS = 3
"""Dimensions of the UMAP embedding in the published S_Neigh."""
_CLUSTERS = 8  # of "mixture"
_UMAP = {"n_neighbors": 15, "min_dist": 0.01, "n_components": NEIGHBOURHOOD_COMPONENTS, "metric": "euclidean"}


def misfit(kind: str, mode: str, bandwidth: float) -> tuple[str, str] | None:
    """The field whose value does not go with the kind of sampler, and what to do about it; None where all do."""
    modes = MODES[kind]
    if mode and mode not in modes:
        cure = f"set it to one of {', '.join(modes)}" if modes else 'set it to ""'
        return "mode", f"the sampler {kind} has no such mode, so {cure}"
    return ("bandwidth", "set it above 0") if kind == "kde" and not bandwidth else None


class Draw(NamedTuple):
    """Drawn latents.

    Attributes:
      latents: `[n, L]` float32.
      parents: `[n]` int32, row of the given latents that each was derived from, or -1 where there is no single one.
    """

    latents: np.ndarray
    parents: np.ndarray


@dataclasses.dataclass(frozen=True)
class LatentSampler(Settings):
    """How latents are drawn.

    Attributes:
      kind: kind of sampler.
        "kde": a Gaussian kernel density estimate per dimension (S_KDE, S_KDE30).
        "joint_kde": a random latent plus Gaussian noise, one kernel density estimate of all dimensions together.
        "gaussian": the normal distribution with the mean and full covariance of the latents.
        "mixture": eight normal distributions, fitted by expectation maximisation; of fewer than 16 latents half as many
          as there are.
        "uniform": uniform on the cube from -1 to 1 (S_U); no latent is used.
        "neighbourhood": UMAP to three dimensions, uniform there, and back (S_Neigh); needs the package umap-learn.
        "direct": the rows of the last step in order, without randomness. The published baseline takes the weights of
          these rows as they are, not their decoded latents; `Draw.parents` names them.
        "reconstruct": the latents themselves.
      top: share of the latents to use, those of the best networks: scores of at least the (1 - top)-quantile, 1 for
        all. Not used by "uniform" and "direct".
      bandwidth: standard deviation of the kernels of "kde" and "joint_kde", in latent units. 0 gives "joint_kde"
        Scott's rule (Scott 1992): `n ** (-1 / (L + 4))` times the standard deviation of each dimension. In many
        dimensions that is nearly the whole standard deviation.
      mode: "" for the default of the kind.
        "kde": "independent" draws row and noise of every dimension independently, a true product of the marginal
          densities. "faithful" is the published code, which seeds the generator anew for every dimension: all
          dimensions take the same row and the same noise, so each sample is one latent shifted along the diagonal.
        "mixture": covariances, "full" or "diag" for independent dimensions within each distribution.
        "reconstruct": "ordered" takes the first rows, "random" draws rows with replacement.
      seed: random seed of the published code: of "kde" in faithful mode, and of UMAP; of the fit of "mixture".

    Raises:
      UserError: an unknown kind or mode, or a number out of range.
    """

    SECTION: ClassVar[str] = "latent_sampler"

    kind: str = setting("kde", one_of=MODES)
    top: float = setting(0.3, above=0, at_most=1)
    bandwidth: float = setting(0.002, at_least=0)
    mode: str = ""
    seed: int = setting(42, at_least=0, at_most=2**32 - 1)

    def __post_init__(self) -> None:
        """Raises UserError for what no latents can be drawn by."""
        super().__post_init__()
        wrong = misfit(self.kind, self.mode, self.bandwidth)
        if wrong:
            self.refuse(*wrong)
        if not self.mode and MODES[self.kind]:
            object.__setattr__(self, "mode", MODES[self.kind][0])

    @property
    def needs_scores(self) -> bool:
        """Whether `draw` needs scores."""
        return self.top < 1.0 and self.kind not in ("uniform", "direct")


def draw(
    sampler: LatentSampler,
    latents: np.ndarray,
    keys: jax.Array,
    scores: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Draw:
    """Draws one latent per key.

    A sample depends on its own key alone, except where the published code looks at all samples together: "kde" in
    faithful mode ignores the keys and depends on how many there are; "direct" and "reconstruct" in order take one row
    after the other; and UMAP's inverse optimises all samples together.

    Args:
      sampler: how to draw.
      latents: `[N, L]` float32, one per training row.
      keys: `[n]` typed PRNG keys.
      scores: `[N]` accuracies (larger is better) by which the top share is chosen; needed if `sampler.needs_scores`.
      steps: `[N]` training step of every row; needed for "direct".

    Returns:
      The latents `[n, L]` and their parents.

    Raises:
      UserError: if the latents are not finite, scores or steps are missing or do not fit, too few rows are left, or the
        package that "neighbourhood" needs is absent.
    """
    latents = _checked(latents)
    if sampler.kind == "uniform":
        units = _uniforms(keys, latents.shape[1])
        return _without_parents(2.0 * units - 1.0)
    if sampler.kind == "direct":
        last = _last_step(steps, len(latents))
        return _in_order(latents, last, len(keys), "of the last step")
    if sampler.needs_scores:
        rows = top_rows(_column(scores, len(latents), "scores", f"top {sampler.top:g}"), sampler.top)
    else:
        rows = np.arange(len(latents))
    return _DRAWS[sampler.kind](sampler, latents, rows, keys)


def _kde(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, keys: jax.Array) -> Draw:
    if sampler.mode == "faithful":
        return _shared_seed_kde(sampler, latents, rows, len(keys))
    size = latents.shape[1]
    units = _uniforms(keys, 2 * size)
    chosen = rows[_picks(units[:, :size], len(rows))]
    values = np.take_along_axis(latents, chosen, axis=0)
    return _without_parents(values + sampler.bandwidth * special.ndtri(units[:, size:]))


def _shared_seed_kde(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, count: int) -> Draw:
    """The published loop over dimensions in closed form: scikit-learn draws all rows first, then all noise."""
    rng = np.random.RandomState(sampler.seed)
    chosen = rows[_picks(rng.uniform(0.0, 1.0, count), len(rows))]
    shift = sampler.bandwidth * rng.normal(size=count)
    return _draw(latents[chosen].astype(np.float64) + shift[:, None], chosen)


def _joint_kde(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, keys: jax.Array) -> Draw:
    size = latents.shape[1]
    bandwidth = np.full(size, sampler.bandwidth)
    if not sampler.bandwidth:
        _need(rows, 2, sampler)
        scott = len(rows) ** (-1.0 / (size + 4))
        bandwidth = scott * latents[rows].std(axis=0, dtype=np.float64, ddof=1)
    units = _uniforms(keys, 1 + size)
    chosen = rows[_picks(units[:, 0], len(rows))]
    return _draw(latents[chosen] + bandwidth[None, :] * special.ndtri(units[:, 1:]), chosen)


def _gaussian(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, keys: jax.Array) -> Draw:
    _need(rows, 2, sampler)
    chosen = latents[rows].astype(np.float64)
    mean = chosen.mean(axis=0)
    # R of the centred rows has R'R = (rows' scatter), with fewer rows than dimensions too, where the covariance is
    # singular and has no Cholesky factor.
    factor = np.linalg.qr(chosen - mean[None, :], mode="r") / np.sqrt(len(rows) - 1)
    normals = special.ndtri(_uniforms(keys, len(factor)))
    # Not a BLAS product: its summation order may change with the number of rows, and with it a sample.
    return _without_parents(mean[None, :] + np.einsum("nr,rl->nl", normals, factor))


def _mixture(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, keys: jax.Array) -> Draw:
    _need(rows, 2, sampler)
    chosen = latents[rows].astype(np.float64)
    found = fit_clusters(chosen, min(_CLUSTERS, len(rows) // 2), cast(Covariance, sampler.mode), sampler.seed)
    units = _uniforms(keys, 1 + latents.shape[1])
    which = np.minimum(np.searchsorted(np.cumsum(found.shares), units[:, 0]), len(found.shares) - 1)
    normals, factors = special.ndtri(units[:, 1:]), found.factors[which]
    # As in `_gaussian`, not a BLAS product.
    spread = factors * normals if factors.ndim == 2 else np.einsum("nij,nj->ni", factors, normals)
    return _without_parents(found.means[which] + spread)


def _neighbourhood(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, keys: jax.Array) -> Draw:
    try:
        umap = importlib.import_module("umap")
    except ImportError as error:
        raise UserError(
            f"The latent sampler 'neighbourhood' needs the package umap-learn, which cannot be imported ({error}). "
            "Install it with `pip install umap-learn`, or choose another kind of latent sampler."
        ) from error
    _need(rows, _UMAP["n_neighbors"] + 1, sampler)
    # One thread is what UMAP falls back to, with a warning, when it is given a seed.
    reducer = umap.UMAP(**_UMAP, random_state=sampler.seed, n_jobs=1)
    embedding = reducer.fit_transform(latents[rows])
    low, high = float(embedding.min()), float(embedding.max())
    points = low + (high - low) * _uniforms(keys, NEIGHBOURHOOD_COMPONENTS)
    return _without_parents(np.asarray(reducer.inverse_transform(points.astype(np.float32))))


def _reconstruct(sampler: LatentSampler, latents: np.ndarray, rows: np.ndarray, keys: jax.Array) -> Draw:
    if sampler.mode == "ordered":
        return _in_order(latents, rows, len(keys), f"among the top {sampler.top:g}")
    chosen = rows[_picks(_uniforms(keys, 1)[:, 0], len(rows))]
    return _draw(latents[chosen], chosen)


_DRAWS: dict[str, Callable[[LatentSampler, np.ndarray, np.ndarray, jax.Array], Draw]] = {
    "kde": _kde,
    "joint_kde": _joint_kde,
    "gaussian": _gaussian,
    "mixture": _mixture,
    "neighbourhood": _neighbourhood,
    "reconstruct": _reconstruct,
}


@functools.partial(jax.jit, static_argnums=1)
def _bits(keys: jax.Array, width: int) -> jax.Array:
    return jax.vmap(lambda key: jax.random.bits(key, (width,), "uint32"))(keys)


def _uniforms(keys: jax.Array, width: int) -> np.ndarray:
    """Returns `[n, width]` float64 uniforms strictly between 0 and 1, of 32 bits, row by row from its own key."""
    return (np.asarray(_bits(keys, width)) + 0.5) * 2.0**-32


def _picks(uniforms: np.ndarray, count: int) -> np.ndarray:
    """Turns uniforms into integers below `count`, as scikit-learn does."""
    return (uniforms * count).astype(np.int64)


def _draw(latents: np.ndarray, parents: np.ndarray) -> Draw:
    return Draw(latents.astype(np.float32), parents.astype(np.int32))


def _without_parents(latents: np.ndarray) -> Draw:
    return _draw(latents, np.full(len(latents), -1))


def _in_order(latents: np.ndarray, rows: np.ndarray, count: int, which: str) -> Draw:
    if count > len(rows):
        raise UserError(
            f"{count} samples are asked for, but there are {len(rows)} training rows {which} to take in order. Ask for "
            f"{len(rows)} at most, or choose a random latent sampler."
        )
    return _draw(latents[rows[:count]], rows[:count])


def _last_step(steps: np.ndarray | None, count: int) -> np.ndarray:
    steps = _column(steps, count, "steps", "kind 'direct'")
    return np.flatnonzero(steps == steps.max())


def _column(values: np.ndarray | None, count: int, name: str, reason: str) -> np.ndarray:
    if values is None:
        raise UserError(f"The latent sampler with {reason} needs the {name} of the training rows. Give them.")
    values = np.asarray(values)
    if values.shape != (count,):
        raise UserError(f"The {name} have shape {values.shape} for {count} latents. Give one number per latent.")
    if not np.isfinite(values).all():
        raise UserError(
            f"The {name} are not finite in {int((~np.isfinite(values)).sum())} of {count} training rows, so the latent "
            f"sampler with {reason} cannot order them. Evaluate the training networks first, or use all latents."
        )
    return values


def _checked(latents: np.ndarray) -> np.ndarray:
    latents = np.asarray(latents, np.float32)
    if latents.ndim != 2 or 0 in latents.shape:
        raise UserError(f"The latents have shape {latents.shape}; a sampler needs a non-empty [N, L] matrix.")
    bad = np.flatnonzero(~np.isfinite(latents).all(axis=1))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(latents)} latents are not finite, the first in row {bad[0]}: encodings "
            "overflow on these networks. Remove them, or train it with other settings."
        )
    return latents


def _need(rows: np.ndarray, count: int, sampler: LatentSampler) -> None:
    if len(rows) < count:
        raise UserError(
            f"The latent sampler {sampler.kind!r} needs {count} latents, but only {len(rows)} are left by top "
            f"{sampler.top:g}. Raise top, or train on more networks."
        )
