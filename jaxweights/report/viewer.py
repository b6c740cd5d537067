"""Interactive triangle meshes: HTML with its own small script, which needs no network and no GPU."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

import numpy as np

from jaxweights.report import rendering

_BYTES = 100_000  # size of all meshes of one view; a third more as text
_BYTES_PER_FACE = 9  # three corners of 2 bytes, and half a vertex of 6
_MOST_FACES = 3000  # per mesh, so that rotation stays smooth
_SCALE = 40_000  # factor from coordinates within 0.8 of the origin to 16-bit integers
_SIDE = 300  # pixels of a canvas

_SCRIPT = """
(function (meshes, azimuth, elevation) {
  var box = document.currentScript.parentNode, views = [], waiting = false;
  function decode(mesh) {
    var bytes = Uint8Array.from(atob(mesh[1]), function (c) { return c.charCodeAt(0); });
    return [new Int16Array(bytes.buffer, 0, 3 * mesh[0]), new Uint16Array(bytes.buffer, 6 * mesh[0])];
  }
  function draw(view) {
    var points = view.mesh[0], faces = view.mesh[1], side = view.canvas.width, c = view.context;
    var a = azimuth * Math.PI / 180, e = elevation * Math.PI / 180;
    var ca = Math.cos(a), sa = Math.sin(a), ce = Math.cos(e), se = Math.sin(e);
    var scale = side / (2 * FRAME * SCALE), seen = new Float32Array(points.length), i;
    for (i = 0; i < points.length; i += 3) {
      var x = points[i], y = points[i + 1], z = points[i + 2], out = ca * x + sa * y;
      seen[i] = scale * (ca * y - sa * x) + side / 2;
      seen[i + 1] = side / 2 - scale * (ce * z - se * out);
      seen[i + 2] = scale * (ce * out + se * z);
    }
    var order = view.order, depth = view.depth;
    for (i = 0; i < order.length; i++) {
      order[i] = i;
      depth[i] = seen[3 * faces[3 * i] + 2] + seen[3 * faces[3 * i + 1] + 2] + seen[3 * faces[3 * i + 2] + 2];
    }
    order.sort(function (i, j) { return depth[i] - depth[j]; });
    c.clearRect(0, 0, side, side);
    for (var k = 0; k < order.length; k++) {
      var f = 3 * order[k], p = 3 * faces[f], q = 3 * faces[f + 1], r = 3 * faces[f + 2];
      var ux = seen[q] - seen[p], uy = seen[p + 1] - seen[q + 1], uz = seen[q + 2] - seen[p + 2];
      var vx = seen[r] - seen[p], vy = seen[p + 1] - seen[r + 1], vz = seen[r + 2] - seen[p + 2];
      var nx = uy * vz - uz * vy, ny = uz * vx - ux * vz, nz = ux * vy - uy * vx;
      var size = Math.sqrt(nx * nx + ny * ny + nz * nz) * (nz < 0 ? -1 : 1);
      if (!size) continue;
      var light = AMBIENT;
      LIGHTS.forEach(function (l) { light += l[0] * Math.max(0, (nx * l[1] + ny * l[2] + nz * l[3]) / size); });
      light = Math.min(1, light);
      c.fillStyle = c.strokeStyle = "rgb(" + COLOUR.map(function (v) { return Math.round(v * light); }).join() + ")";
      c.beginPath();
      c.moveTo(seen[p], seen[p + 1]);
      c.lineTo(seen[q], seen[q + 1]);
      c.lineTo(seen[r], seen[r + 1]);
      c.closePath();
      c.fill();
      c.stroke();
    }
  }
  function turn(right, up) {
    azimuth -= right;
    elevation = Math.max(-89, Math.min(89, elevation + up));
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(function () { waiting = false; views.forEach(draw); });
  }
  meshes = meshes.map(decode);
  Array.prototype.forEach.call(box.querySelectorAll("canvas"), function (canvas) {
    var mesh = meshes[+canvas.dataset.mesh], count = mesh[1].length / 3, last = null;
    views.push({canvas: canvas, context: canvas.getContext("2d"), mesh: mesh, order: new Uint16Array(count),
      depth: new Float32Array(count)});
    canvas.addEventListener("pointerdown", function (event) {
      last = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", function (event) {
      if (!last) return;
      turn(0.6 * (event.clientX - last[0]), 0.6 * (event.clientY - last[1]));
      last = [event.clientX, event.clientY];
    });
    ["pointerup", "pointercancel"].forEach(function (name) {
      canvas.addEventListener(name, function () { last = null; });
    });
    canvas.addEventListener("keydown", function (event) {
      var step = {ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10]}[event.key];
      if (step) { turn(step[0], step[1]); event.preventDefault(); }
    });
  });
  box.hidden = false;
  turn(0, 0);
})
"""


def table(
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Sequence[tuple[np.ndarray, np.ndarray] | None]],
    azimuth: float,
    elevation: float,
    up: int,
) -> str:
    """Triangle meshes in a table; dragging one rotates all. Without JavaScript a line says that it is needed.

    Meshes that are the same object are stored once.

    Args:
      columns: heads of columns.
      rows: heads of rows.
      cells: vertices `[V, 3]` and faces `[F, 3]` of every cell, row by row; None for none.
      azimuth, elevation: initial angles in degrees, see `rendering.view`.
      up: axis of the shapes that points up.
    """
    meshes = {id(mesh): mesh for row in cells for mesh in row if mesh is not None}
    most = min(_MOST_FACES, _BYTES // (_BYTES_PER_FACE * max(len(meshes), 1)))
    places = {key: i for i, key in enumerate(meshes)}
    packed = json.dumps([_pack(*mesh, most, up) for mesh in meshes.values()], separators=(",", ":"))
    head = "".join(f"<th>{html.escape(x)}</th>" for x in ("", *columns))
    body = "".join(
        f"<tr><th>{html.escape(name)}</th>" + "".join(_cell(mesh, places, name) for mesh in row) + "</tr>"
        for name, row in zip(rows, cells, strict=True)
    )
    return (
        "<noscript><p>Turning shapes needs JavaScript; the figure shows them from one side.</p></noscript>"
        f'<div class="scroll" hidden><table class="plain"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"<script>{_script()}({packed},{azimuth:g},{elevation:g});</script></div>"
    )


def _cell(mesh: tuple[np.ndarray, np.ndarray] | None, places: dict[int, int], name: str) -> str:
    if mesh is None:
        return '<td class="none">no surface</td>'
    return (
        f'<td><canvas class="paper" data-mesh="{places[id(mesh)]}" width="{_SIDE}" height="{_SIDE}" tabindex="0" '
        f'role="img" aria-label="{html.escape(name)}, drag to turn" '
        'style="width:100%;max-width:15rem;cursor:grab;touch-action:pan-y"></canvas></td>'
    )


def _pack(vertices: np.ndarray, faces: np.ndarray, most: int, up: int) -> tuple[int, str]:
    """Number of vertices, and int16 vertices (third axis up) followed by uint16 faces, little-endian in base64."""
    vertices, faces = rendering.simplify(vertices, faces, most)
    turned = np.roll(vertices, 2 - up, axis=1)
    points = np.clip(np.round(_SCALE * turned), -32767, 32767).astype("<i2")
    return len(points), base64.b64encode(points.tobytes() + faces.astype("<u2").tobytes()).decode("ascii")


def _script() -> str:
    """The script, with lights and frame of the static pictures."""
    lights = [[strength, *(np.asarray(x) / np.linalg.norm(x)).round(4).tolist()] for strength, x in rendering.LIGHTS]
    colour = [int(rendering.COLOUR[i : i + 2], 16) for i in (1, 3, 5)]
    numbers = {"FRAME": rendering.FRAME, "SCALE": _SCALE, "AMBIENT": rendering.AMBIENT}
    text = _SCRIPT.strip()
    for name, value in {**numbers, "LIGHTS": lights, "COLOUR": colour}.items():
        text = text.replace(name, json.dumps(value))
    return text
