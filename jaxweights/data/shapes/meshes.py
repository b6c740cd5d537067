"""Folders of triangle meshes as a source of signals."""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from jaxweights import extras
from jaxweights.data.inspection import Bad, Inspection
from jaxweights.data.shapes import triangles
from jaxweights.data.shapes.sampling import shuffled, shuffled_split
from jaxweights.data.shapes.solids import REACH
from jaxweights.errors import UserError

if TYPE_CHECKING:
    import trimesh

KINDS = (".obj", ".off", ".ply", ".stl", ".glb")
_LARGEST = 1e12  # width of a mesh whose volume is computed without overflow or loss
_NAN = re.compile(rb"(?<![\w.])[-+]?(nan|inf|infinity)(?![\w.])", re.IGNORECASE)


class Meshes:
    """Shapes in a folder, one closed triangle mesh per file; files are read at first use.

    The bounding box is centred and its longest side scaled to 0.95 (+-0.475). HyperDiffusion's published code centres
    the mean of the vertices instead, which is off where vertices are denser on one side.

    Attributes:
      names: `[n]` file names in order, without suffix.
      ids: `[n]` positions in that order.
      moving: False.
      source: name of the folder and fingerprint of file names and contents.
      skipped: bad meshes that the split left out, and listed ones that are not there, one sentence each.
    """

    moving = False

    def __init__(self, folder: pathlib.Path, seed: int, skip_bad: bool = False):
        """Lists a folder.

        Args:
          folder: folder with files of the `KINDS`, or with one folder of them; optionally `train_split.lst` and
            `test_split.lst` (one file name per line), with them `val_split.lst`, whose shapes follow the training
            shapes, and `*problematic*.txt` (one name without suffix per line) with shapes to leave out.
          seed: random seed of the split and of surface points.
          skip_bad: whether meshes that cannot be used are left out.

        Raises:
          UserError: no mesh, or two with the same name.
        """
        folder = _folder(folder)
        self._files = _meshes(folder)
        self.names = tuple(path.stem for path in self._files)
        twice = next((name for name, after in zip(self.names, self.names[1:], strict=False) if name == after), None)
        if twice:
            raise UserError(f"{folder} has two meshes called {twice}; remove or rename one.")
        self.ids = np.arange(len(self._files))
        self._folder, self._seed = folder, seed
        self._inspection = Inspection(folder, "meshes", skip=skip_bad)
        self._absent: list[str] = []
        digest = hashlib.blake2b(digest_size=8)
        for path in self._files:
            digest.update(path.name.encode() + _content(path))
        self.source = f"meshes {folder.name}; blake2b {digest.hexdigest()}"
        self._triangles = functools.cache(self._read)

    @property
    def skipped(self) -> tuple[str, ...]:
        """See the class."""
        return (*self._inspection.skipped, *self._absent)

    def split(self, runs: int, unseen: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the runs' shapes and of unseen shapes: the first ones of the folder's lists, else of one shuffle.

        Only these are read. If one of them is bad, all others are looked at before it is refused.

        Raises:
          UserError: too few meshes, bad ones, a list without the other, or a mesh in both.
        """
        lists = self._listed(runs, unseen)
        if lists is None:
            shuffled_split(len(self.ids), runs, unseen, self._seed, str(self._folder))
            order = shuffled(len(self.ids), self._seed).tolist()
        first, last = lists or (order, order[::-1])
        chosen = self._good(first, runs)
        taken = set(chosen)
        others = self._good([row for row in last if row not in taken], unseen)
        if self._inspection.bad:
            self._settle(len(chosen) - runs, len(others) - unseen)
        return np.array(chosen, int), np.array(others if lists else others[::-1], int)

    def _settle(self, *more: int) -> None:
        """Refuses bad meshes, after looking at all; or, where they are left out, too few good ones."""
        if not self._inspection.skip:
            self._good(self.ids.tolist(), len(self.ids))
        self._inspection.sort()
        self._inspection.settle(len(self.ids) - len(self._inspection.bad))
        if min(more) < 0:
            raise UserError(
                f"{self._folder}: without {len(self._inspection.bad)} meshes that cannot be used "
                f"({'; '.join(self._inspection.skipped)}), {-min(more)} are missing; set fewer runs or unseen shapes, "
                "or add meshes."
            )

    def _good(self, rows: Iterable[int], wanted: int) -> list[int]:
        """The first good ones of some rows."""
        good: list[int] = []
        for row in rows:
            if len(good) == wanted:
                break
            if self._inspection.look(self._files[row].name, self._triangles, row) is not None:
                good.append(row)
        return good

    def _listed(self, runs: int, unseen: int) -> tuple[list[int], list[int]] | None:
        """Rows that the folder's lists name for runs and as unseen, without excluded ones; None without lists."""
        train, validation, test = (self._folder / f"{part}_split.lst" for part in ("train", "val", "test"))
        if not train.is_file() and not test.is_file():
            return None
        if not (train.is_file() and test.is_file()):
            raise UserError(
                f"{self._folder} has only one of {train.name} and {test.name}; add the other, or remove it."
            )
        excluded = {name for path in self._folder.glob("*problematic*.txt") for name in _words(path)}
        place = {path.name: row for row, path in enumerate(self._files)}
        seen: dict[str, pathlib.Path] = {}

        def rows(*paths: pathlib.Path, wanted: int) -> list[int]:
            found = []
            for path in paths:
                names = [name for name in _words(path) if name.removesuffix(".obj") not in excluded]
                for name in names:
                    if name in seen:
                        raise UserError(
                            f"{path} names {name}, and {seen[name].name} does, too; remove one of the lines."
                        )
                    seen[name] = path
                self._absent += [f"{name} of {path.name} is not in the folder" for name in names if name not in place]
                found += sorted(place[name] for name in names if name in place)
            if len(found) < wanted:
                raise UserError(
                    f"{' and '.join(map(str, paths))} name {len(found)} meshes of the folder that are not excluded, "
                    f"but {wanted} are needed; set fewer runs or unseen shapes, or add the files."
                )
            return found

        fitted = (train, validation) if validation.is_file() else (train,)
        return rows(*fitted, wanted=runs), rows(test, wanted=unseen)

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
      Bad: the file cannot be read, or the mesh has no faces, no volume, open edges, or NaN coordinates.
    """
    with extras.importing("shapes"):
        import networkx  # noqa: F401  (trimesh imports it only when it fills a hole)
        import trimesh  # noqa: F401
    if not path.is_file():
        raise Bad(path, "is a folder" if path.is_dir() else "does not exist", "Remove it.")
    try:
        with np.errstate(all="ignore"):
            return _closed(path)
    except Bad:
        raise
    except Exception as error:  # the readers of eight formats raise many types
        reason = f"cannot be read as a mesh ({' '.join(str(error).split()) or type(error).__name__})"
        raise Bad(path, reason, "It is damaged or of another kind: remove it.") from error


def _closed(path: pathlib.Path) -> trimesh.Trimesh:
    """Reads and closes a mesh, see `read_mesh`."""
    import trimesh

    if _may_have_nan(path.read_bytes()):
        # Processing drops such vertices, and closes the hole.
        raw = trimesh.load(path, force="mesh", process=False)
        if isinstance(raw, trimesh.Trimesh) and not np.isfinite(raw.vertices).all():
            raise Bad(path, "has NaN or infinite coordinates", "Correct or remove it.")
    surface = trimesh.load(path, force="mesh", process=True)
    if not isinstance(surface, trimesh.Trimesh) or not len(surface.faces):
        raise Bad(path, "has no faces", "Remove it.")
    width = float(np.max(np.ptp(surface.vertices, axis=0)))
    if not 1 / _LARGEST < width < _LARGEST:
        raise Bad(path, "has coordinates too small or too large to be told apart", "Rescale it.")
    surface.merge_vertices(merge_tex=True, merge_norm=True)
    surface.update_faces(surface.nondegenerate_faces() & surface.unique_faces())
    if not surface.is_watertight:
        trimesh.repair.fill_holes(surface)
    trimesh.repair.fix_normals(surface, multibody=True)
    if not surface.is_watertight:
        edges = np.unique(surface.edges_sorted, axis=0, return_counts=True)[1]
        raise Bad(
            path,
            f"is not closed: {np.count_nonzero(edges != 2)} of its {len(edges)} edges do not join two faces",
            "So it has no inside. Make it watertight (for example with ManifoldPlus), or remove it.",
        )
    if not surface.volume > 1e-6 * np.prod(surface.extents):
        raise Bad(path, "encloses no volume", "Remove it.")
    return surface


def _content(path: pathlib.Path) -> bytes:
    """Bytes of a file; none where it cannot be read, which is said when the mesh is used."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _may_have_nan(content: bytes) -> bool:
    """Whether a mesh's file is binary, or has words that are read as NaN or infinity."""
    return b"\0" in content[:1024] or _NAN.search(content) is not None


def _meshes(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in KINDS)


def _folder(folder: pathlib.Path) -> pathlib.Path:
    """The folder that has the meshes: this one, or the only one in it that has some.

    Raises:
      UserError: no mesh, or several folders of them.
    """
    if _meshes(folder):
        return folder
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and _meshes(path)]
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(path.name for path in below[:5])
        raise UserError(f"{folder} has no mesh itself, but its folders {names} have; name one of them.")
    raise UserError(f"{folder} has no mesh; put files ending in {', '.join(KINDS)} there.")


def _words(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({error}); it has one name per line.") from error
