"""Point clouds from files as reference sets. They have no interior, so no network is fitted to them."""

from __future__ import annotations

import pathlib
import zipfile
import zlib
from collections.abc import Collection, Sequence

import numpy as np

from jaxweights.errors import UserError


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
        return _stacked(_files(path))
    if not path.is_file():
        raise UserError(f"{path} does not exist; give an .npy or .npz file or a folder of .npy files.")
    clouds = _load(path)
    _check(clouds, path)
    return np.ascontiguousarray(clouds[..., :3], np.float32)


def unseen_clouds(path, count: int, fitted: Collection[str]) -> np.ndarray:
    """Reads clouds of shapes that no network is fitted to.

    Args:
      path: file or folder, see `read_clouds`. If the folder has a `test_split.lst` (one file name per line, with or
        without its last suffix), only the clouds it lists are read; clouds with the name of a fitted shape never are.
      count: number of clouds; the first ones are returned.
      fitted: names of the fitted shapes, without suffix.

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
    files, listed = _files(path), path / "test_split.lst"
    if listed.is_file():
        names = {name.removesuffix(".npy") for name in listed.read_text().split()}
        files = [file for file in files if file.stem in names]
    # `<shape>.npy`, or `<shape>.obj.npy` as published.
    files = [file for file in files if not {file.stem, pathlib.Path(file.stem).stem} & set(fitted)]
    _enough(len(files), count, path)
    return _stacked(files[:count])


def _enough(there: int, count: int, path: pathlib.Path) -> None:
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


def _stacked(files: Sequence[pathlib.Path]) -> np.ndarray:
    """Clouds `[n, m, 3]` float32, one per file."""
    clouds = [_load(file) for file in files]
    for file, cloud in zip(files, clouds, strict=True):
        if cloud.ndim != 2 or cloud.shape != (len(clouds[0]), *cloud.shape[1:]):
            raise UserError(
                f"{file} has shape {cloud.shape}, but {files[0].name} {clouds[0].shape}; all clouds of a folder "
                "must be [points, 3] with the same number of points."
            )
        _check(cloud[None], file)
    return np.stack([cloud[:, :3] for cloud in clouds]).astype(np.float32)


def _load(path: pathlib.Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[key] for key in loaded.files]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); it is damaged or of another kind.") from error
    if len(arrays) != 1:
        raise UserError(f"{path} holds {len(arrays)} arrays; it must hold one, [n, points, 3].")
    return arrays[0]


def _check(clouds: np.ndarray, path: pathlib.Path) -> None:
    if clouds.ndim != 3 or clouds.shape[2] < 3 or 0 in clouds.shape or not np.issubdtype(clouds.dtype, np.floating):
        raise UserError(f"{path}: the clouds are {clouds.dtype} {clouds.shape}; they must be floats [n, points, 3].")
    if not np.isfinite(clouds[..., :3]).all():
        raise UserError(f"{path} has NaN or infinite coordinates; remove or correct it.")
