"""Point clouds from files as reference sets. They have no interior, so no network is fitted to them."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Collection, Sequence

import numpy as np

from jaxweights.data.inspection import Bad, Inspection
from jaxweights.data.numpy_files import read_arrays
from jaxweights.errors import UserError

_LARGEST = 1e15  # coordinate whose square fits in float32


def read_clouds(path) -> np.ndarray:
    """Reads point clouds.

    Args:
      path: an `.npy` file, an `.npz` file with one array, or a folder of `.npy` files, one cloud each, taken in the
        order of their names (as HyperDiffusion's `<category>_2048_pc`). Clouds have 3 columns or more; only x, y, z are
        read.

    Returns:
      `[n, m, 3]` float32.

    Raises:
      UserError: no such file, a damaged file, no points or different numbers of points, NaN.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        files = _files(path)
        return _stacked(files, files, len(files), Inspection(path, "clouds"))
    return _points(_load(path), 3, path)


def unseen_clouds(path, count: int, fitted: Collection[str], inspection: Inspection | None = None) -> np.ndarray:
    """Reads clouds of shapes that no network is fitted to.

    Args:
      path: file or folder, see `read_clouds`. If the folder has a `test_split.lst` (one file name per line, with or
        without its last suffix), only the clouds it lists are read; clouds with the name of a fitted shape never are.
      count: number of clouds; the first ones are returned.
      fitted: names of the fitted shapes, without suffix.
      inspection: says whether bad clouds of a folder are left out, and takes them.

    Returns:
      `[count, m, 3]` float32.

    Raises:
      UserError: too few clouds, and everything that `read_clouds` raises.
    """
    path = pathlib.Path(path).expanduser()
    if not path.is_dir():
        clouds = read_clouds(path)
        _enough(len(clouds), count, path)
        return clouds[:count]
    everything, listed = _files(path), path / "test_split.lst"
    files = everything
    if listed.is_file():
        try:
            names = {name.removesuffix(".npy") for name in listed.read_text().split()}
        except UnicodeDecodeError as error:
            raise UserError(f"{listed} cannot be read as text ({error}); it has one name per line.") from error
        files = [file for file in files if file.stem in names]
    # `<shape>.npy`, or `<shape>.obj.npy` as published.
    files = [file for file in files if not {file.stem, pathlib.Path(file.stem).stem} & set(fitted)]
    _enough(len(files), count, path)
    return _stacked(files, everything, count, inspection or Inspection(path, "clouds"))


def _enough(there: int, count: int, path: object) -> None:
    if there < count:
        raise UserError(
            f"{path} has {there} clouds of unseen shapes, but {count} are needed; set data.signals.unseen to at "
            f"most {there}, or add clouds."
        )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(folder.glob("*.npy"))
    if not files:
        raise UserError(f"{folder} has no .npy files; give a folder with one point cloud per .npy file.")
    return files


def _stacked(
    files: Sequence[pathlib.Path], everything: Sequence[pathlib.Path], count: int, inspection: Inspection
) -> np.ndarray:
    """The first good clouds, `[count, m, 3]` float32; `everything` is looked at before bad ones are refused."""
    clouds: dict[pathlib.Path, np.ndarray] = {}

    def look(file: pathlib.Path) -> None:
        cloud = inspection.look(file.name, lambda: _points(_load(file), 2, file))
        if cloud is not None:
            clouds[file] = cloud

    remaining = list(files)
    while len(clouds) < count and remaining:
        for file in remaining[: count - len(clouds)]:
            look(file)
        remaining = [file for file in remaining if file not in clouds and file.name not in inspection.bad]
        usual = collections.Counter(map(len, clouds.values())).most_common(1)
        for file in [file for file, cloud in clouds.items() if len(cloud) != usual[0][0]]:
            inspection.bad[file.name] = f"has {len(clouds.pop(file))} points, but most clouds have {usual[0][0]}"
    if inspection.bad and not inspection.skip:
        for file in everything:
            if file not in clouds and file.name not in inspection.bad:
                look(file)
    inspection.sort()
    inspection.settle(len(clouds))
    _enough(len(clouds), count, inspection.where)
    return np.stack([clouds[file] for file in files if file in clouds])


def _load(path: pathlib.Path) -> np.ndarray:
    arrays = read_arrays(path, "clouds=...")
    if len(arrays) != 1:
        raise Bad(path, f"holds {len(arrays)} arrays; it must hold one, [n, points, 3]", "Write that one alone.")
    return next(iter(arrays.values()))


def _points(clouds: np.ndarray, rank: int, path: pathlib.Path) -> np.ndarray:
    """Coordinates x, y, z of one cloud or several, float32."""
    shape = "[n, points, 3]" if rank == 3 else "[points, 3]"
    if clouds.ndim != rank or clouds.shape[-1] < 3 or 0 in clouds.shape or not np.issubdtype(clouds.dtype, np.floating):
        reason = f"has {clouds.dtype} {clouds.shape} where clouds are floats {shape}"
        raise Bad(path, reason, "Convert it, e.g. by array.astype(numpy.float32).")
    points = clouds[..., :3]
    if not np.isfinite(points).all():
        raise Bad(path, "has NaN or infinite coordinates", "Correct or remove it.")
    if np.abs(points).max() > _LARGEST:
        raise Bad(path, f"has coordinates up to {np.abs(points).max():g}", "Rescale it.")
    if not np.ptp(points, axis=-2).max(axis=-1).all():
        raise Bad(path, "has a cloud whose points are all equal", "Correct or remove it.")
    return np.ascontiguousarray(points, np.float32)
