"""Families of procedural shapes: parameters, their distribution, and the solids they define.

A family is a table `name: (low, high)` of parameters, drawn uniformly and independently, and a function that turns them
into parts. Lengths are in fuselage lengths for aeroplanes and in heights of about one chair or table; `solids.fit`
brings every shape to the same size. x points forward, y to the left (shapes are mirrored in y = 0), z up. Parameters
named `..._kind` are drawn from 0 to 1 and compared with the shares in the table's comments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxweights.data.shapes.solids import Cones, Hinge, Plates, Solid

Parameters = Mapping[str, jax.Array]

# Shapes that are drawn at once.
_DRAWS = 64

PLANE = {
    "fuselage_radius": (0.045, 0.085),
    "nose_length": (0.08, 0.25),
    "nose_radius": (0.2, 0.8),  # of the fuselage's radius
    "tail_length": (0.25, 0.45),
    "tail_radius": (0.2, 0.5),  # of the fuselage's radius
    "tail_rise": (0.0, 0.6),  # of the fuselage's radius
    "wing_position": (0.3, 0.48),  # of the root's leading edge behind the nose
    "wing_height": (-0.7, 0.7),  # of the fuselage's radius
    "wing_span": (0.6, 1.3),  # both wings
    "wing_chord": (0.14, 0.32),  # at the root
    "wing_taper": (0.2, 0.9),  # tip chord / root chord
    "wing_sweep": (-2.0, 42.0),  # degrees, of the leading edge
    "wing_dihedral": (-3.0, 9.0),  # degrees
    "wing_thickness": (0.026, 0.042),
    "wing_tip": (0.2, 1.0),  # how round the tips are
    "winglet_kind": (0.0, 1.0),  # below 0.3: winglets
    "winglet_height": (0.05, 0.11),
    "tail_kind": (0.0, 1.0),  # below 0.25: T-tail
    "tail_span": (0.28, 0.46),  # both tail planes
    "tail_chord": (0.09, 0.15),
    "tail_taper": (0.4, 0.9),
    "tail_sweep": (0.0, 38.0),  # degrees
    "fin_height": (0.12, 0.22),
    "fin_chord": (0.11, 0.2),
    "fin_taper": (0.3, 0.8),
    "fin_sweep": (5.0, 50.0),  # degrees
    "engine_kind": (0.0, 1.0),  # below 0.3: none; 0.6: one under each wing; 0.8: two; 1: one at each side of the tail
    "engine_radius": (0.028, 0.045),
    "engine_length": (0.1, 0.18),
    "engine_span": (0.28, 0.42),  # of the half span
    "canopy_kind": (0.0, 1.0),  # below 0.4: a canopy on the fuselage
    "canopy_height": (0.4, 0.8),  # of the fuselage's radius
    "blend": (0.01, 0.03),
    "swing": (15.0, 30.0),  # degrees; of moving shapes: the wings flap
}

_LEGS = {
    "legs_kind": (0.0, 1.0),  # below 0.55: four legs; 0.75: four on runners; 0.9: pedestal on a disc; 1: on a star
    "leg_radius": (0.018, 0.035),
    "leg_taper": (0.6, 1.0),  # radius at the floor / at the top
    "leg_splay": (0.0, 0.1),  # by how much the feet stand out
    "leg_inset": (0.0, 0.06),
    "stretcher_kind": (0.0, 1.0),  # below 0.4: bars join the legs (four legs only)
    "stretcher_height": (0.25, 0.6),  # of the legs
    "pedestal_radius": (0.025, 0.05),
    "pedestal_foot": (0.55, 0.9),  # radius of disc or star / half the top's smaller side
}

CHAIR = {
    "seat_height": (0.36, 0.5),
    "seat_width": (0.4, 0.6),
    "seat_depth": (0.38, 0.55),
    "seat_thickness": (0.04, 0.12),
    "seat_taper": (0.75, 1.0),  # width at the back / at the front
    "seat_round": (0.05, 0.9),  # radius of the corners / half the smaller side
    **_LEGS,
    "back_kind": (0.0, 1.0),  # below 0.45: one plate; 0.65: upright spindles; 0.93: level slats; 1: none (a stool)
    "back_height": (0.38, 0.68),
    "back_lean": (0.0, 22.0),  # degrees
    "back_thickness": (0.03, 0.06),
    "back_width": (0.8, 1.0),  # of the seat's width at the back
    "back_round": (0.05, 0.6),
    "rail_height": (0.15, 0.3),  # of the back, the plate on top of spindles or slats
    "slat_count": (1.0, 4.0),  # rounded down: 1 to 3 slats, or 3, 4 or 5 spindles
    "arm_kind": (0.0, 1.0),  # below 0.4: arm rests
    "arm_height": (0.16, 0.27),
    "arm_length": (0.6, 0.95),  # of the seat's depth
    "arm_radius": (0.018, 0.032),
    "blend": (0.006, 0.02),
    "swing": (10.0, 25.0),  # degrees; of moving shapes: the back and the arm rests tilt
}

TABLE = {
    "top_height": (0.35, 0.75),
    "top_width": (0.5, 1.1),
    "top_depth": (0.45, 0.8),
    "top_thickness": (0.035, 0.07),
    "top_round": (0.02, 1.0),
    **_LEGS,
    "shelf_kind": (0.0, 1.0),  # below 0.3: a shelf between four legs
    "shelf_height": (0.2, 0.6),  # of the legs
    "blend": (0.006, 0.02),
    "swing": (5.0, 15.0),  # degrees; of moving shapes: the top tilts
}


def plane(p: Parameters) -> Solid:
    """Fuselage of three cones, swept and tapered wings, tail planes and fin, engines, winglets, canopy."""
    radius, half_span = p["fuselage_radius"], p["wing_span"] / 2
    nose, tail = -p["nose_length"], -(1 - p["tail_length"])
    nose_ball, tail_ball = p["nose_radius"] * radius, p["tail_radius"] * radius
    tail_z = p["tail_rise"] * radius
    tail_end = _point(-1 + tail_ball, 0, tail_z)
    parts = _Parts()
    parts.cone(_point(-nose_ball, 0, -0.2 * radius), _point(nose - radius * 0.5, 0, 0), nose_ball, radius)
    parts.cone(_point(nose - radius * 0.5, 0, 0), _point(tail, 0, 0), radius, radius)
    parts.cone(_point(tail, 0, 0), tail_end, radius, tail_ball)
    parts.cone(
        _point(nose - 0.02, 0, p["canopy_height"] * radius),
        _point(nose - 0.16, 0, p["canopy_height"] * radius * 0.6),
        radius * 0.55,
        radius * 0.4,
        present=p["canopy_kind"] < 0.4,
    )

    dihedral, sweep = jnp.deg2rad(p["wing_dihedral"]), jnp.tan(jnp.deg2rad(p["wing_sweep"]))
    root, chord = _point(-p["wing_position"], 0, p["wing_height"] * radius), p["wing_chord"]
    tip_chord, half_wing = chord * p["wing_taper"], p["wing_thickness"] / 2
    outward = _point(0, jnp.cos(dihedral), jnp.sin(dihedral))
    rim = p["wing_tip"] * jnp.minimum(0.3 * tip_chord, 0.05)
    parts.plate(
        root,
        _frame(outward),
        _trapezoid(chord, tip_chord, half_span, sweep, rim),
        half_wing,
        rim=rim,
        moves=True,
    )
    tip = root + outward * (half_span - half_wing) + _point(-sweep * half_span, 0, 0)
    winglet = p["winglet_height"]
    parts.plate(
        tip,
        _frame(_point(0, 0.35, 0.94)),
        _trapezoid(tip_chord * 0.9, tip_chord * 0.5, winglet, 0.7, 0.01),
        0.011,
        rim=0.01,
        present=p["winglet_kind"] < 0.3,
        moves=True,
    )

    fin, fin_sweep = p["fin_height"] + radius, jnp.tan(jnp.deg2rad(p["fin_sweep"]))
    fin_root = _point(-1 + p["fin_chord"] + 0.02, 0, tail_z)
    parts.plate(
        fin_root,
        _frame(_point(0, 0, 1)),
        _trapezoid(p["fin_chord"], p["fin_chord"] * p["fin_taper"], fin, fin_sweep, 0.01),
        half_wing * 0.9,
        rim=0.01,
    )
    tee = p["tail_kind"] < 0.25
    chord = p["tail_chord"]
    high = fin_root + _point(-fin_sweep * fin, 0, fin - half_wing)
    low = _point(-1 + chord + 0.02, 0, tail_z)
    parts.plate(
        jnp.where(tee, high, low),
        _frame(_point(0, 1, 0)),
        _trapezoid(chord, chord * p["tail_taper"], p["tail_span"] / 2, jnp.tan(jnp.deg2rad(p["tail_sweep"])), 0.012),
        half_wing * 0.85,
        rim=0.012,
    )

    kind, thick, long = p["engine_kind"], p["engine_radius"], p["engine_length"]
    at_tail = kind >= 0.8
    for i, share in enumerate((0.0, 0.3)):
        span = half_span * (p["engine_span"] + share)
        below = root + outward * span + _point(0.35 * long - sweep * span, 0, -(half_wing + 0.8 * thick))
        beside = _point(tail + 0.02, radius + 0.7 * thick, 0.5 * radius)
        front = jnp.where(at_tail, beside, below)
        parts.cone(
            front,
            front - _point(long, 0, 0),
            thick,
            0.75 * thick,
            present=(kind >= 0.3) if i == 0 else (kind >= 0.6) & ~at_tail,
            moves=~at_tail,
        )
    return parts.solid(p["blend"], Hinge(root, _point(1, 0, 0), jnp.deg2rad(p["swing"])))


def chair(p: Parameters) -> Solid:
    """Seat, legs or pedestal, back of a plate, spindles or slats, arm rests."""
    depth, thickness = p["seat_depth"], p["seat_thickness"]
    front, rear, top = p["seat_width"] / 2, p["seat_width"] * p["seat_taper"] / 2, p["seat_height"]
    parts = _Parts()
    rim = p["seat_round"] * jnp.minimum(depth / 2, rear)
    corners = _corners((depth / 2, -front), (depth / 2, front), (-depth / 2, rear), (-depth / 2, -rear))
    # Towards the centre by the rim, on each axis.
    corners = corners - rim * jnp.sign(corners)
    parts.plate(_point(0, 0, top - thickness / 2), jnp.eye(3), corners, thickness / 2, rim=rim, round_off=0.5)
    _legs(parts, p, front, rear, depth, top - thickness)

    lean = jnp.deg2rad(p["back_lean"])
    up = _point(-jnp.sin(lean), 0, jnp.cos(lean))
    height, half_back, kind = p["back_height"], p["back_thickness"] / 2, p["back_kind"]
    hinge = _point(half_back - depth / 2, 0, top - thickness / 2)
    frame = _frame(up, across=_point(0, 1, 0))
    solid, spindles, slats = kind < 0.45, (kind >= 0.45) & (kind < 0.65), (kind >= 0.65) & (kind < 0.93)
    width = rear * p["back_width"]
    rail = jnp.where(solid, height, height * p["rail_height"])
    rim = p["back_round"] * jnp.minimum(rail / 2, width)
    parts.plate(
        hinge + up * (height + thickness / 2 - rail / 2),
        frame,
        _rectangle(width - rim, rail / 2 - rim),
        half_back,
        rim=rim,
        present=kind < 0.93,
        moves=True,
    )
    count = jnp.floor(p["slat_count"])
    for i in range(3):
        middle = hinge + up * (thickness / 2 + (height - rail) * (i + 0.5) / count)
        parts.plate(
            middle,
            frame,
            _rectangle(width, jnp.minimum(0.3 * (height - rail) / count, 0.04)),
            half_back * 0.8,
            present=slats & (i < count),
            moves=True,
        )
    bar = jnp.maximum(half_back * 0.9, 0.016)
    post = _point(0, width - bar, 0)
    to_rail = up * (height + thickness / 2 - rail / 2)
    parts.cone(hinge + post, hinge + post + to_rail, bar, bar, present=spindles | slats, moves=True)
    for i in range(2):
        # Between the posts: 1 spindle in the middle and a pair, or 2 pairs; each is mirrored.
        place = jnp.where(count == 2, (2 * i + 1) / 4, i / 2) if i else jnp.where(count == 2, 0.25, 0.0)
        aside = _point(0, place * (width - bar), 0)
        shown = spindles & ((i == 0) | (count > 1))
        parts.cone(hinge + aside, hinge + aside + to_rail, 0.85 * bar, 0.85 * bar, present=shown, moves=True)

    arms, thick = (p["arm_kind"] < 0.4) & (kind < 0.93), p["arm_radius"]
    side = _point(0, jnp.maximum(rear * p["back_width"], front * 0.92) - thick, 0)
    lift = p["arm_height"]
    behind = hinge + side + up * lift
    ahead = _point(depth * (p["arm_length"] - 0.5), 0, top + lift) + side
    parts.cone(behind, ahead, thick, thick, present=arms, moves=True)
    parts.cone(ahead, ahead - _point(0.02, 0, lift + thickness / 2), thick, thick, present=arms, moves=True)
    return parts.solid(p["blend"], Hinge(hinge, _point(0, 1, 0), jnp.deg2rad(p["swing"])))


def table(p: Parameters) -> Solid:
    """Top, legs or pedestal, shelf."""
    width, depth, top, thickness = p["top_width"] / 2, p["top_depth"], p["top_height"], p["top_thickness"]
    rim = p["top_round"] * jnp.minimum(depth / 2, width) * 0.98
    parts = _Parts()
    parts.plate(
        _point(0, 0, top - thickness / 2),
        jnp.eye(3),
        _rectangle(depth / 2 - rim, width - rim),
        thickness / 2,
        rim=rim,
        round_off=0.5,
        moves=True,
    )
    # Legs stand inside the arcs of the corners.
    inward = 1 - 0.29 * rim / jnp.minimum(depth / 2, width)
    under = top - thickness
    _legs(parts, p, width * inward, width * inward, depth * inward, under)
    parts.plate(
        _point(0, 0, under * p["shelf_height"]),
        jnp.eye(3),
        _rectangle(depth * inward / 2 - 0.03, width * inward - 0.03),
        0.014,
        present=(p["shelf_kind"] < 0.3) & (p["legs_kind"] < 0.55),
    )
    return parts.solid(p["blend"], Hinge(_point(0, 0, under), _point(0, 1, 0), jnp.deg2rad(p["swing"])))


FAMILIES: dict[str, tuple[dict[str, tuple[float, float]], Callable[[Parameters], Solid]]] = {
    "planes": (PLANE, plane),
    "chairs": (CHAIR, chair),
    "tables": (TABLE, table),
}


def draw(family: str, seed: int, indices) -> np.ndarray:
    """Uniform draws from [0, 1) that determine the parameters of shapes; shape i has its own key, fold_in(seed, i).

    Args:
      family: a key of `FAMILIES`.
      seed: random seed of the shapes.
      indices: `[n]` int, numbers of the shapes.

    Returns:
      `[n, number of parameters]` float32, in the order of the family's table.
    """
    indices, size = np.asarray(indices, np.int32), len(FAMILIES[family][0])
    # In blocks of one size, so that one program serves any number of shapes.
    blocks = np.resize(indices, (-(-len(indices) // _DRAWS), _DRAWS))
    return np.concatenate([_draw(seed, block, size) for block in blocks])[: len(indices)]


@functools.partial(jax.jit, static_argnums=2)
def _draw(seed: jax.Array, indices: jax.Array, size: int) -> jax.Array:
    key = jax.random.key(seed)
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), (size,)))(indices)


def parameters(family: str, draws) -> dict[str, jax.Array]:
    """Parameters by name, `[...]` float32, from draws `[..., number of parameters]`."""
    ranges = FAMILIES[family][0]
    return {name: low + (high - low) * draws[..., i] for i, (name, (low, high)) in enumerate(ranges.items())}


def _legs(parts: _Parts, p: Parameters, front, rear, depth, top) -> None:
    """Adds legs or a pedestal below a seat or table top of half widths `front` and `rear` with underside at `top`."""
    kind, radius, splay = p["legs_kind"], p["leg_radius"], p["leg_splay"]
    foot, inset = radius * p["leg_taper"], radius + p["leg_inset"]
    four, runners = kind < 0.75, (kind >= 0.55) & (kind < 0.75)
    feet, middles = [], []
    for way, side in ((1, front), (-1, rear)):
        upper = _point(way * (depth / 2 - inset), side - inset, top)
        lower = _point(way * (depth / 2 - inset + splay), side - inset + splay, foot)
        parts.cone(upper, lower, radius, foot, present=four)
        feet.append(lower)
        middles.append(upper + (lower - upper) * (1 - p["stretcher_height"]))
    parts.cone(feet[0], feet[1], foot, foot, present=runners)
    joined = (p["stretcher_kind"] < 0.4) & (kind < 0.55)
    thin = 0.75 * radius
    parts.cone(middles[0], middles[1], thin, thin, present=joined)
    middle = (middles[0] + middles[1]) / 2
    parts.cone(middle * _point(1, 0, 1), middle, thin, thin, present=joined)

    reach = p["pedestal_foot"] * jnp.minimum(depth / 2, rear)
    stem, half_disc = p["pedestal_radius"], 0.016
    parts.cone(_point(0, 0, top), _point(0, 0, 0.05), stem, stem, present=~four)
    disc, star = ~four & (kind < 0.9), kind >= 0.9
    point = jnp.zeros((4, 2))
    parts.plate(_point(0, 0, half_disc), jnp.eye(3), point, half_disc, rim=reach, present=disc)
    for angle in (0.0, 0.4 * jnp.pi, 0.8 * jnp.pi):
        end = _point(1.15 * reach * jnp.cos(angle), 1.15 * reach * jnp.sin(angle), 0.02)
        parts.cone(_point(0, 0, 0.06), end, 0.6 * stem + 0.008, 0.02, present=star)


class _Parts:
    """Collects parts and stacks them into a solid."""

    def __init__(self):
        self._cones: list[Cones] = []
        self._plates: list[Plates] = []

    def cone(self, start, end, start_radius, end_radius, present: ArrayLike = True, moves: ArrayLike = False) -> None:
        shown, moved = jnp.asarray(present), jnp.asarray(moves)
        self._cones.append(Cones(start, end, start_radius, end_radius, shown, moved))

    def plate(
        self,
        centre,
        axes,
        corners,
        half_thickness,
        rim: ArrayLike = 0.0,
        round_off: float = 1.0,
        present: ArrayLike = True,
        moves: ArrayLike = False,
    ) -> None:
        """Adds a plate; `round_off` is the radius of its edges over half its thickness, at most the rim if any."""
        rounding = round_off * half_thickness * jnp.ones(())
        grown, shown, moved = jnp.asarray(rim), jnp.asarray(present), jnp.asarray(moves)
        self._plates.append(Plates(centre, axes, corners, grown, half_thickness, rounding, shown, moved))

    def solid(self, blend, hinge: Hinge) -> Solid:
        cones, plates = (jax.tree.map(lambda *x: jnp.stack(x), *parts) for parts in (self._cones, self._plates))
        return Solid(cones, plates, blend, hinge)


def _point(x, y, z) -> jax.Array:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in (x, y, z)])


def _corners(*corners) -> jax.Array:
    return jnp.stack([jnp.stack([jnp.asarray(value, jnp.float32) for value in corner]) for corner in corners])


def _rectangle(half_u, half_v) -> jax.Array:
    return _corners((half_u, -half_v), (half_u, half_v), (-half_u, half_v), (-half_u, -half_v))


def _trapezoid(root, tip, span, sweep, rim) -> jax.Array:
    """A wing in its plane: u forward from the root's leading edge, v outward; less the rim at the free sides."""
    return _corners(
        (-root + rim, 0),
        (-rim, 0),
        (-sweep * span - rim, span - rim),
        (-sweep * span - tip + rim, span - rim),
    )


def _frame(second, across=None) -> jax.Array:
    """Axes of a plate whose second direction is `second` and whose first is forward, or `across`."""
    second = second / jnp.sqrt(jnp.sum(second**2))
    first = _point(1, 0, 0) if across is None else across
    return jnp.stack([first, second, jnp.cross(first, second)])
