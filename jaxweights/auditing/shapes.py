"""Distances of point clouds and of sets of them: Chamfer, earth mover's, MMD, COV and 1-NN accuracy.

The squared distances of a pair of clouds are made tile by tile, and each tile gives its minima in both directions
before the next one; nothing larger than a tile is kept. They are sums of three squared differences rather than
`|x|^2 + |y|^2 - 2 x.y`: with three coordinates the matrix product is no faster (measured), and differences do not
cancel, so that a cloud is at distance zero from itself and near duplicates are told apart.
"""

from __future__ import annotations

import functools
import multiprocessing
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from jaxweights import parallel
from jaxweights.auditing import statistics
from jaxweights.auditing.rows import Progress, data_mesh, placed, row_blocks
from jaxweights.errors import UserError

_TILE_ENTRIES = 1 << 18
_MATRIX_ENTRIES = 1 << 26  # distances kept at a time where only the smallest are asked for


def normalise(clouds: np.ndarray, faithful: bool = False) -> np.ndarray:
    """Centres each cloud on its mean and divides it by one scale.

    The scale is the standard deviation of the centred coordinates, all axes together, so that shapes of any size have a
    root mean square radius of sqrt(3). The published code takes that of the coordinates as they come, around their
    common mean, which depends on where the shape lies: a distance between the means of its axes makes it smaller.

    Args:
      clouds: `[n, m, 3]` floats.
      faithful: the published scale.

    Returns:
      `[n, m, 3]` float32; a cloud without extent becomes zero.

    Raises:
      UserError: if the clouds are not such an array, or a coordinate is not finite.
    """
    clouds = _checked(clouds, "clouds").astype(np.float64)
    centred = clouds - clouds.mean(axis=1, keepdims=True)
    # Both with the divisor of the published code, one less than the number of coordinates.
    scale = (clouds if faithful else centred).reshape(len(clouds), -1).std(axis=1, ddof=1)
    extent = np.abs(centred).max(axis=(1, 2)) > 1e-12
    factor = np.divide(1.0, scale, out=np.zeros_like(scale), where=extent & (scale > 0))
    return (centred * factor[:, None, None]).astype(np.float32)


def chamfer(
    a: np.ndarray, b: np.ndarray | None = None, mesh: Mesh | None = None, *, progress: Progress | None = None
) -> np.ndarray:
    """Chamfer distances of all pairs, as HyperDiffusion takes them.

    The mean over the points of one cloud of the squared distance to the nearest point of the other, plus the same in
    the other direction; no root, no half. Each of the two is accurate to a few float32 roundings of its own size.

    Args:
      a: `[n, m, 3]` floats.
      b: `[k, l, 3]` floats, or None for `a` itself, of which each pair is then computed once.
      mesh: pairs are spread over its devices, of which each holds all clouds; None is one device.
      progress: called with (pairs done, pairs in all).

    Returns:
      `[n, k]` float32; zero on the diagonal if `b` is None.

    Raises:
      UserError: if the clouds are not such arrays, or a coordinate is not finite.
    """
    mesh = data_mesh(mesh)
    first = _checked(a, "first clouds")
    second = first if b is None else _checked(b, "second clouds")
    distances = np.zeros((len(first), len(second)), np.float32)
    pairs = np.triu_indices(len(first), 1) if b is None else np.indices(distances.shape).reshape(2, -1)
    rows, columns = (x.astype(np.int32) for x in pairs)
    program, shape = _plan(first.shape[1], second.shape[1], mesh)
    clouds = [placed(mesh, x) for x in (first, second)]
    capacity = mesh.size * shape.groups * shape.pairs
    pending: list[tuple[slice, int, jax.Array]] = []

    def collect() -> None:
        part, used, found = pending.pop(0)
        found = np.asarray(found).reshape(mesh.size, shape.groups, shape.pairs)[:, :used].reshape(-1)
        distances[rows[part], columns[part]] = found[: part.stop - part.start]
        if progress is not None:
            progress(part.stop, len(rows))

    for part in row_blocks(len(rows), capacity):
        used = -(-(part.stop - part.start) // (mesh.size * shape.pairs))
        share = np.zeros((2, mesh.size, shape.groups, shape.pairs), np.int32)
        for side, index in enumerate((rows, columns)):
            share[side, :, :used] = parallel.pad_rows(index[part], mesh.size * used * shape.pairs).reshape(
                mesh.size, used, shape.pairs
            )
        share = share.reshape(2, -1, shape.pairs)
        pending.append((part, used, program(*clouds, placed(mesh, share, None, parallel.AXIS), np.int32(used))))
        if len(pending) > 1:  # one dispatch computes while the one before is copied out
            collect()
    while pending:
        collect()
    return distances + distances.T if b is None else distances


class Nearest(NamedTuple):
    """The nearest cloud of every cloud.

    Attributes:
      distances: `[n]` float32 Chamfer distances.
      indices: `[n]` int64 rows of the other set; the first where several are as near.
    """

    distances: np.ndarray
    indices: np.ndarray


def nearest_chamfer(
    a: np.ndarray, b: np.ndarray | None = None, mesh: Mesh | None = None, *, progress: Progress | None = None
) -> Nearest:
    """Finds the nearest cloud of `b` for every cloud of `a`, without keeping all distances of large sets.

    Args:
      a: `[n, m, 3]` floats.
      b: `[k, l, 3]` floats, or None for the other clouds of `a` (each but itself).
      mesh: as for `chamfer`.
      progress: called with (clouds done, n), or (pairs done, pairs in all) for a set with itself.

    Raises:
      UserError: as `chamfer`, or if `b` is None and there is no other cloud.
    """
    a = _checked(a, "first clouds")
    if b is None and len(a) < 2:
        raise UserError(
            "The nearest other cloud of a single cloud does not exist. Give at least two shapes, or a reference set."
        )
    if b is None and len(a) ** 2 <= _MATRIX_ENTRIES:
        distances = chamfer(a, None, mesh, progress=progress)
        np.fill_diagonal(distances, np.inf)
        return _smallest(distances)
    others = a if b is None else _checked(b, "second clouds")
    parts = []
    for rows in row_blocks(len(a), max(1, _MATRIX_ENTRIES // len(others))):
        distances = chamfer(a[rows], others, mesh)
        if b is None:
            distances[np.arange(len(distances)), np.arange(rows.start, rows.stop)] = np.inf
        parts.append(_smallest(distances))
        if progress is not None:
            progress(rows.stop, len(a))
    return Nearest(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _smallest(distances: np.ndarray) -> Nearest:
    indices = distances.argmin(axis=1)
    return Nearest(distances[np.arange(len(distances)), indices], indices)


def emd(
    a: np.ndarray,
    b: np.ndarray | None = None,
    *,
    points: int = 256,
    seed: int = 0,
    processes: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """Earth mover's distances of all pairs: the mean Euclidean distance (no square) under the best one-to-one match.

    The match is exact (SciPy's assignment). Its cost grows with the cube of the points, about 5 ms a pair for 256 and
    25 ms for 512 on one core, so clouds are thinned: the same rows, drawn without replacement, of every cloud. What
    remains are points of the surface as even as before; the distance of two thinned clouds exceeds that of the full
    ones on average, by the coarser sampling.

    Args:
      a: `[n, m, 3]` floats.
      b: `[k, m, 3]` floats, or None for `a` itself, of which each pair is then computed once.
      points: points kept of each cloud; all where it has no more.
      seed: for the rows kept.
      processes: worker processes that share the matches of a row.
      progress: called with (clouds done, n).

    Returns:
      `[n, k]` float64.

    Raises:
      UserError: if the clouds are not such arrays, differ in their number of points, or a coordinate is not finite.
    """
    first = _checked(a, "first clouds")
    second = first if b is None else _checked(b, "second clouds")
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"Clouds of {first.shape[1]} and of {second.shape[1]} points cannot be matched one to one. Sample the same "
            "number of points from both sets."
        )
    kept = np.random.default_rng(seed).permutation(first.shape[1])[:points]
    first, second = (x[:, kept].astype(np.float64) for x in (first, second))
    distances = np.zeros((len(first), len(second)))
    # Not forked: JAX has threads. The workers load SciPy alone.
    pool = multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else None
    try:
        for i, cloud in enumerate(first):
            others = range(i + 1 if b is None else 0, len(second))
            costs = [cdist(cloud, second[j]) for j in others]
            matches = map(linear_sum_assignment, costs) if pool is None else pool.map(linear_sum_assignment, costs)
            for j, cost, match in zip(others, costs, matches, strict=True):
                distances[i, j] = cost[match].mean()
            if progress is not None:
                progress(i + 1, len(first))
    finally:
        if pool is not None:
            pool.terminate()
    return distances + distances.T if b is None else distances


def set_metrics(
    sample_to_reference: np.ndarray, sample_to_sample: np.ndarray, reference_to_reference: np.ndarray
) -> dict[str, float]:
    """Compares a set of samples with a reference set by their distances, of any kind (Yang et al., PointFlow, 2019).

    Args:
      sample_to_reference: `[n, k]` distances.
      sample_to_sample: `[n, n]`; the diagonal is not read.
      reference_to_reference: `[k, k]` likewise.

    Returns:
      * mmd: mean over the reference of the distance to the nearest sample.
      * mmd_smp: mean over the samples of the distance to the nearest reference.
      * cov: fraction of the reference that is nearest to some sample.
      * one_nna: leave-one-out accuracy of the 1-nearest-neighbour classifier that tells samples from reference; 0.5 for
        samples of the same distribution, 1 for samples that are far or all alike, below 0.5 for copies.

    Raises:
      UserError: if the matrices do not fit each other or hold a number that is not finite.
    """
    parts = _per_cloud(sample_to_reference, sample_to_sample, reference_to_reference)
    return {name: float(values.mean()) for name, values in parts.items()}


def set_metric_intervals(
    sample_to_reference: np.ndarray,
    sample_to_sample: np.ndarray,
    reference_to_reference: np.ndarray,
    rng: np.random.Generator | int = 0,
) -> dict[str, statistics.Estimate]:
    """`set_metrics` with bootstrap intervals, over the clouds that each of them is a mean over.

    Only the mean is resampled, not the search for the nearest: a set drawn with replacement has fewer distinct clouds,
    which would shift every minimum upwards. The intervals are thus those of the clouds asked about, for the given
    others.

    Args:
      sample_to_reference: as for `set_metrics`.
      sample_to_sample: likewise.
      reference_to_reference: likewise.
      rng: generator or seed.

    Raises:
      UserError: as `set_metrics`.
    """
    rng = np.random.default_rng(rng)
    parts = _per_cloud(sample_to_reference, sample_to_sample, reference_to_reference)
    return {name: statistics.bootstrap_mean(values, rng=rng) for name, values in parts.items()}


def _per_cloud(cross: np.ndarray, samples: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """The values, one per cloud, whose means are the metrics."""
    cross, samples, reference = (np.asarray(x, np.float64) for x in (cross, samples, reference))
    n, k = cross.shape if cross.ndim == 2 else (0, 0)
    if not n * k or samples.shape != (n, n) or reference.shape != (k, k):
        raise UserError(
            f"Distances of shapes {cross.shape} (samples to reference), {samples.shape} (samples) and "
            f"{reference.shape} (reference) do not fit; they must be [n, k], [n, n] and [k, k], none of them empty. "
            "Check that both sets have shapes."
        )
    for name, matrix in (("samples to reference", cross), ("samples", samples), ("reference", reference)):
        if not np.isfinite(matrix).all():
            raise UserError(f"The distances of {name} are not all finite. Drop empty shapes from the sets first.")
    covered = np.zeros(k)
    covered[cross.argmin(axis=1)] = 1.0
    # Reference first, as the published code orders the two sets, which decides ties.
    both = np.block([[reference, cross.T], [cross, samples]])
    np.fill_diagonal(both, np.inf)
    is_sample = np.arange(k + n) >= k
    return {
        "mmd": cross.min(axis=0),
        "mmd_smp": cross.min(axis=1),
        "cov": covered,
        "one_nna": (is_sample[both.argmin(axis=0)] == is_sample).astype(np.float64),
    }


def _checked(clouds: np.ndarray, name: str) -> np.ndarray:
    """Returns clouds as a float32 array `[n, m, 3]`."""
    clouds = np.asarray(clouds, np.float32)
    if clouds.ndim != 3 or clouds.shape[2] != 3 or 0 in clouds.shape:
        raise UserError(
            f"The {name} have shape {clouds.shape}; they must be [shapes, points, 3] with at least one of each. Check "
            "that some mesh is not empty."
        )
    bad = ~np.isfinite(clouds).all(axis=(1, 2))
    if bad.any():
        raise UserError(
            f"{bad.sum()} of the {len(clouds)} {name} have coordinates that are not finite, the first in row "
            f"{bad.argmax()}. Drop these shapes first."
        )
    return clouds


class PairShape(NamedTuple):
    """How pairs are cut on one device.

    Attributes:
      points: points of the second cloud in a tile.
      pairs: pairs of a group, computed together.
      groups: groups of one dispatch.
    """

    points: int
    pairs: int
    groups: int


def pair_shape(backend: str, first: int, second: int) -> PairShape:
    """The shape for a backend and clouds of so many points; the one place of this choice.

    Measured on CPU: tiles of about 1 MiB, which stay in a core's cache (128 points by 2,048), and one pair at a time.
    On accelerators 64 pairs share a step; their tiles take 64 MiB where the compiler does not fuse them away.
    """
    tiles = -(-second * first // _TILE_ENTRIES)
    return PairShape(-(-second // min(tiles, second)), *((1, 512) if backend == "cpu" else (64, 64)))


@functools.lru_cache(maxsize=16)
def _plan(first: int, second: int, mesh: Mesh):
    """The compiled program for clouds of so many points, and the pair shape.

    The program takes both sets, indices `[2, groups, pairs]`, and how many groups of each device hold pairs.
    """
    shape = pair_shape(jax.default_backend(), first, second)

    def one(x, y):
        columns = x.T
        tiles = parallel.pad_rows(y, shape.points).reshape(-1, shape.points, 3)

        def tile(nearest, rows):
            squared = sum(jnp.square(rows[:, i, None] - columns[i][None, :]) for i in range(3))
            return jnp.minimum(nearest, jnp.min(squared, axis=0)), jnp.min(squared, axis=1)

        of_x, of_y = jax.lax.scan(tile, jnp.full(x.shape[0], jnp.inf), tiles)
        return jnp.mean(of_x) + jnp.mean(of_y.reshape(-1)[:second])

    def shard(a, b, index, used):
        def step(i, out):
            return out.at[i].set(jax.vmap(one)(a[index[0, i]], b[index[1, i]]))

        return jax.lax.fori_loop(0, used, step, jnp.zeros(index.shape[1:]))

    whole, split = PartitionSpec(), PartitionSpec(parallel.AXIS)
    specs = (whole, whole, PartitionSpec(None, parallel.AXIS), whole)
    return jax.jit(jax.shard_map(shard, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)), shape
