"""Folders of triangle meshes as a source of signals."""

from __future__ import annotations

import functools
import hashlib
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from jaxweights import extras
from jaxweights.data.shapes import triangles
from jaxweights.data.shapes.sampling import shuffled_split
from jaxweights.data.shapes.solids import REACH
from jaxweights.errors import UserError

if TYPE_CHECKING:
    import trimesh

KINDS = (".obj", ".off", ".ply", ".stl", ".glb")


class Meshes:
    """Shapes in a folder, one closed triangle mesh per file; files are read at first use.

    The bounding box is centred and its longest side scaled to 0.95 (+-0.475). HyperDiffusion's published code centres
    the mean of the vertices instead, which is off where vertices are denser on one side.

    Attributes:
      names: `[n]` file names in order, without suffix.
      ids: `[n]` positions in that order.
      moving: False.
      source: name of the folder and fingerprint of file names and contents.
    """

    moving = False

    def __init__(self, folder: pathlib.Path, seed: int):
        """Lists a folder.

        Args:
          folder: folder with files of the `KINDS`; optionally `train_split.lst` and `test_split.lst` (one file name per
            line), with them `val_split.lst`, whose shapes follow the training shapes, and `*problematic*.txt` (one name
            without suffix per line) with shapes to leave out.
          seed: random seed of the split and of surface points.

        Raises:
          UserError: no mesh, or two with the same name.
        """
        self._files = sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS)
        self.names = tuple(path.stem for path in self._files)
        if not self._files:
            raise UserError(f"{folder} has no mesh; put files ending in {', '.join(KINDS)} there.")
        twice = next((name for name, after in zip(self.names, self.names[1:], strict=False) if name == after), None)
        if twice:
            raise UserError(f"{folder} has two meshes called {twice}; remove or rename one.")
        self.ids = np.arange(len(self._files))
        self._folder, self._seed = folder, seed
        digest = hashlib.blake2b(digest_size=8)
        for path in self._files:
            digest.update(path.name.encode() + path.read_bytes())
        self.source = f"meshes {folder.name}; blake2b {digest.hexdigest()}"
        self._triangles = functools.cache(self._read)

    def split(self, runs: int, unseen: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the runs' shapes and of unseen shapes: the first ones of the folder's lists, else of one shuffle.

        Raises:
          UserError: too few meshes, or a list without the other.
        """
        train, test = (self._folder / f"{part}_split.lst" for part in ("train", "test"))
        if not train.is_file() and not test.is_file():
            return shuffled_split(len(self.ids), runs, unseen, self._seed, str(self._folder))
        if not (train.is_file() and test.is_file()):
            raise UserError(
                f"{self._folder} has only one of {train.name} and {test.name}; add the other, or remove it."
            )
        excluded = {name for path in self._folder.glob("*problematic*.txt") for name in path.read_text().split()}
        place = {path.name: row for row, path in enumerate(self._files)}

        def first(paths, wanted):
            rows = []
            for path in paths:
                names = [name for name in path.read_text().split() if name.removesuffix(".obj") not in excluded]
                rows += sorted(place[name] for name in names if name in place)
            if len(rows) < wanted:
                raise UserError(
                    f"{' and '.join(map(str, paths))} name {len(rows)} meshes of the folder that are not excluded, but "
                    f"{wanted} are needed; set fewer runs or unseen shapes, or add the files."
                )
            return np.array(rows[:wanted], int)

        validation = self._folder / "val_split.lst"
        return first([train, validation] if validation.is_file() else [train], runs), first([test], unseen)

    def surface(self, rows: np.ndarray, count: int, in_motion: bool) -> np.ndarray:
        """Points on the surfaces, uniform by area, `[n, count, 3]` float32."""
        del in_motion
        generators = (np.random.default_rng([self._seed, int(row)]) for row in rows)
        return np.stack(
            [triangles.points_on(self._triangles(row), count, rng) for row, rng in zip(rows, generators, strict=True)]
        )

    def inside(self, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Whether points `[n, S, 3]` float32, or `[1, S, 3]` common to all shapes, are inside: `[n, S]` bool."""
        points = np.broadcast_to(points, (len(rows), *points.shape[1:]))
        return np.stack([triangles.inside(self._triangles(row), own) for row, own in zip(rows, points, strict=True)])

    def _read(self, row: int) -> np.ndarray:
        """Triangles `[F, 3, 3]` float32, centred and scaled."""
        surface = read_mesh(self._files[row])
        low, high = surface.bounds
        return ((surface.triangles - (low + high) / 2) * (2 * REACH / (high - low).max())).astype(np.float32)


def read_mesh(path: pathlib.Path) -> trimesh.Trimesh:
    """Reads a triangle mesh and closes it: merges vertices, fills small holes, orients faces outward.

    Raises:
      UserError: the file cannot be read, or the mesh has no faces, no volume or open edges.
    """
    with extras.importing("shapes"):
        import networkx  # noqa: F401  (trimesh imports it only when it fills a hole)
        import trimesh
    try:
        surface = trimesh.load(path, force="mesh", process=True)
    except Exception as error:  # the readers of eight formats raise many types
        raise UserError(f"{path} cannot be read as a mesh ({error}); it is damaged or of another kind.") from error
    if not isinstance(surface, trimesh.Trimesh) or not len(surface.faces):
        raise UserError(f"{path} has no faces; remove it.")
    surface.merge_vertices(merge_tex=True, merge_norm=True)
    surface.update_faces(surface.nondegenerate_faces() & surface.unique_faces())
    if not surface.is_watertight:
        trimesh.repair.fill_holes(surface)
    trimesh.repair.fix_normals(surface, multibody=True)
    if not surface.is_watertight:
        edges = np.unique(surface.edges_sorted, axis=0, return_counts=True)[1]
        raise UserError(
            f"{path} is not closed: {np.count_nonzero(edges != 2)} of its {len(edges)} edges do not join two faces, so "
            "it has no inside. Make it watertight (for example with ManifoldPlus), or remove it."
        )
    if not surface.volume > 1e-6 * np.prod(surface.extents):
        raise UserError(f"{path} encloses no volume; remove it.")
    return surface
