"""Shapes as data: procedural, voxel grids, triangle meshes; point clouds as reference sets; images as fields.

Points lie in the cube [-0.5, 0.5]^3, shapes within +-0.475 of its centre on every axis.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib

import numpy as np

from jaxweights.data.dataset import Dataset, fingerprint
from jaxweights.data.inspection import Inspection
from jaxweights.data.shapes.clouds import read_clouds, unseen_clouds
from jaxweights.data.shapes.families import FAMILIES
from jaxweights.data.shapes.images import signals_of_images
from jaxweights.data.shapes.meshes import KINDS, Meshes
from jaxweights.data.shapes.procedural import Procedural
from jaxweights.data.shapes.sampling import Source, occupancy, probe_points, sample
from jaxweights.data.shapes.voxels import Voxels, read_grids
from jaxweights.data.sources import as_path
from jaxweights.errors import UserError

__all__ = ["FAMILIES", "check_there", "load", "read_clouds", "signals_of_images"]


def load(
    name: str = "planes",
    data_dir: str | os.PathLike | None = None,
    *,
    runs: int,
    unseen: int,
    samples: int = 16384,
    near: float = 0.01,
    surface: int = 2048,
    probes: int = 4096,
    moving: bool = False,
    clouds: str = "",
    seed: int = 0,
    skip_bad: bool = False,
) -> Dataset:
    """Loads shapes and samples their occupancy.

    Args:
      name: a procedural family (`planes`, `chairs`, `tables`); the path of an `.npz` or `.npy` file of voxel grids
        (`voxels.read_grids`), or its name in `data_dir` with or without the ending; the path of a folder of meshes
        (`meshes.Meshes`), or its name in `data_dir`.
      data_dir: data directory; None for the working directory.
      runs: number of shapes that networks are fitted to, one each.
      unseen: number of other shapes, with which all networks are compared.
      samples: number of points of each shape, half near its surface and half uniform (published code: 200,000).
      near: standard deviation of the distance of the former from the surface.
      surface: number of points on each shape's surface.
      probes: number of points at which networks are compared, the same for all (`sampling.probe_points`).
      moving: whether shapes move, so that points have a time as fourth coordinate (procedural families only).
      clouds: point clouds (`clouds.unseen_clouds`) that represent the unseen shapes where surfaces are compared: the
        path of a folder or an `.npz` or `.npy` file, or its name in `data_dir`; "" to sample the unseen shapes'
        surfaces. They are normalised to one scale and position, but their orientation must be that of the shapes.
      seed: random seed of procedural parameters, of the choice of shapes from files, and of all points. Shape i and its
        samples do not depend on the numbers of shapes.
      skip_bad: whether shapes and clouds that cannot be used are left out, see `Dataset.skipped`.

    Returns:
      A data set with `signals` `[runs]` and `unseen`; its images are the probe points `[probes, d]` float32, and its
      labels the shapes' occupancy there, `[probes, runs]` and `[probes, unseen]` uint8.

    Raises:
      UserError: unknown name, unsuitable files (all that are bad are listed), too few shapes, or settings out of range.
    """
    for setting, value, least in (
        ("runs", runs, 1),
        ("unseen", unseen, 1),
        ("samples", samples, 2),
        ("surface", surface, 0),
        ("probes", probes, 2),
    ):
        if value < least:
            raise UserError(f"shapes: {setting} is {value}; it must be at least {least}.")
    if not 0 <= near < 0.5:
        raise UserError(
            f"shapes: near is {near:g}, a standard deviation in the unit cube; give 0 to 0.5, such as 0.01."
        )
    shapes = _find(name, data_dir, runs, unseen, moving, seed, skip_bad)
    rows, others = shapes.split(runs, unseen)
    settings = {"samples": samples, "near": near, "surface": surface, "seed": seed}
    known, origin, skipped = None, "", shapes.skipped
    if clouds:
        place = _cloud_path(clouds, data_dir, moving)
        inspection = Inspection(place, "clouds", skip=skip_bad)
        known = unseen_clouds(place, unseen, [shapes.names[row] for row in rows], inspection)
        skipped += inspection.skipped
        origin = f", unseen surfaces from clouds {pathlib.Path(clouds).name}; blake2b {fingerprint(known)}"
    fitted, compared = sample(shapes, rows, **settings), sample(shapes, others, **settings)
    if known is not None:
        compared = dataclasses.replace(compared, surface=known)
    if skipped and skip_bad:
        origin += ", bad items left out"
    probed = probe_points(shapes, rows, probes, seed)
    return Dataset(
        name=pathlib.Path(name).stem,
        train_images=probed,
        train_labels=occupancy(shapes, rows, probed),
        test_images=probed,
        test_labels=occupancy(shapes, others, probed),
        num_classes=1,
        scale=np.ones(probed.shape[1], np.float32),
        shift=np.zeros(probed.shape[1], np.float32),
        source=(
            f"{shapes.source}; {runs} and {unseen} shapes with {samples} points (near {near:g}) and {surface} on the "
            f"surface, {probes} probe points, seed {seed}{origin}"
        ),
        signals=fitted,
        unseen=compared,
        skipped=skipped,
    )


def check_there(
    name: str, data_dir: str | os.PathLike | None = None, *, moving: bool = False, clouds: str = ""
) -> None:
    """Looks for the files of shapes without reading them; the arguments are those of `load`.

    Raises:
      UserError: no such file, or a folder without any.
    """
    path = _locate(name, data_dir, moving)
    if path is not None and path.is_dir():
        Meshes(path, seed=0)
    if clouds:
        place = _cloud_path(clouds, data_dir, moving)
        if not place.exists():
            raise UserError(f"There are no clouds {place}; correct data.signals.clouds or data_dir.")


def _find(name: str, data_dir, runs: int, unseen: int, moving: bool, seed: int, skip_bad: bool) -> Source:
    path = _locate(name, data_dir, moving)
    if path is None:
        return Procedural(name, runs, unseen, moving, seed)
    if path.is_dir():
        return Meshes(path, seed, skip_bad)
    return Voxels(read_grids(path), str(path), seed, skip_bad)


def _locate(name: str, data_dir, moving: bool) -> pathlib.Path | None:
    """The file of voxel grids or the folder of meshes; None for a procedural family."""
    if name in FAMILIES:
        return None
    if moving:
        raise UserError(
            f"shapes '{name}' cannot move; only the procedural {', '.join(FAMILIES)} can. Set moving to False."
        )
    folder = as_path(data_dir or ".", "data_dir")
    given = as_path(name, "config.data.name")
    for path in (given, folder / given, folder / f"{name}.npz", folder / f"{name}.npy"):
        if path.is_file() and path.suffix.lower() in KINDS:
            raise UserError(f"{path} is one mesh; give the folder of all meshes, {path.parent}.")
        if path.exists():
            return path
    near = difflib.get_close_matches(name.lower(), FAMILIES, 1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(
        f"there are no shapes '{name}'{meant}: this is not one of the procedural {', '.join(FAMILIES)}, and {folder} "
        f"{'has' if folder.is_dir() else 'does not exist, so there is'} no {given.stem}.npz or .npy of voxel grids and "
        f"no folder {name} of triangle meshes; correct name or data_dir."
    )


def _cloud_path(name: str, data_dir, moving: bool) -> pathlib.Path:
    """Path of the clouds."""
    if moving:
        raise UserError("shapes: clouds are of shapes at rest; set clouds to '' or moving to False.")
    folder, given = as_path(data_dir or ".", "data_dir"), as_path(name, "config.data.signals.clouds")
    places = (given, folder / given, folder / f"{name}.npz", folder / f"{name}.npy")
    return next((path for path in places if path.exists()), places[1])
