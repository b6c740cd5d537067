"""The families of chairs and tables. Lengths are in heights of about one chair or table."""

from __future__ import annotations

import jax.numpy as jnp

from jaxweights.data.shapes.parts import Parameters, Parts, corners, frame, point, rectangle
from jaxweights.data.shapes.solids import Hinge, Solid

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


def chair(p: Parameters) -> Solid:
    """Seat, legs or pedestal, back of a plate, spindles or slats, arm rests."""
    depth, thickness = p["seat_depth"], p["seat_thickness"]
    front, rear, top = p["seat_width"] / 2, p["seat_width"] * p["seat_taper"] / 2, p["seat_height"]
    parts = Parts()
    rim = p["seat_round"] * jnp.minimum(depth / 2, rear)
    seat = corners((depth / 2, -front), (depth / 2, front), (-depth / 2, rear), (-depth / 2, -rear))
    # Towards the centre by the rim, on each axis.
    seat = seat - rim * jnp.sign(seat)
    parts.plate(point(0, 0, top - thickness / 2), jnp.eye(3), seat, thickness / 2, rim=rim, round_off=0.5)
    _legs(parts, p, front, rear, depth, top - thickness)

    lean = jnp.deg2rad(p["back_lean"])
    up = point(-jnp.sin(lean), 0, jnp.cos(lean))
    hinge = point(p["back_thickness"] / 2 - depth / 2, 0, top - thickness / 2)
    _back(parts, p, rear, hinge, up)

    arms, thick = (p["arm_kind"] < 0.4) & (p["back_kind"] < 0.93), p["arm_radius"]
    side = point(0, jnp.maximum(rear * p["back_width"], front * 0.92) - thick, 0)
    lift = p["arm_height"]
    behind = hinge + side + up * lift
    ahead = point(depth * (p["arm_length"] - 0.5), 0, top + lift) + side
    parts.cone(behind, ahead, thick, thick, present=arms, moves=True)
    parts.cone(ahead, ahead - point(0.02, 0, lift + thickness / 2), thick, thick, present=arms, moves=True)
    return parts.solid(p["blend"], Hinge(hinge, point(0, 1, 0), jnp.deg2rad(p["swing"])))


def _back(parts: Parts, p: Parameters, rear, hinge, up) -> None:
    """Adds a back that stands at `hinge` in direction `up` on a seat of half width `rear` there."""
    height, half_back, kind = p["back_height"], p["back_thickness"] / 2, p["back_kind"]
    thickness = p["seat_thickness"]
    axes = frame(up, across=point(0, 1, 0))
    solid, spindles, slats = kind < 0.45, (kind >= 0.45) & (kind < 0.65), (kind >= 0.65) & (kind < 0.93)
    width = rear * p["back_width"]
    rail = jnp.where(solid, height, height * p["rail_height"])
    rim = p["back_round"] * jnp.minimum(rail / 2, width)
    parts.plate(
        hinge + up * (height + thickness / 2 - rail / 2),
        axes,
        rectangle(width - rim, rail / 2 - rim),
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
            axes,
            rectangle(width, jnp.minimum(0.3 * (height - rail) / count, 0.04)),
            half_back * 0.8,
            present=slats & (i < count),
            moves=True,
        )
    bar = jnp.maximum(half_back * 0.9, 0.016)
    post = point(0, width - bar, 0)
    to_rail = up * (height + thickness / 2 - rail / 2)
    parts.cone(hinge + post, hinge + post + to_rail, bar, bar, present=spindles | slats, moves=True)
    for i in range(2):
        # Between the posts: 1 spindle in the middle and a pair, or 2 pairs; each is mirrored.
        place = jnp.where(count == 2, (2 * i + 1) / 4, i / 2) if i else jnp.where(count == 2, 0.25, 0.0)
        aside = point(0, place * (width - bar), 0)
        shown = spindles & ((i == 0) | (count > 1))
        parts.cone(hinge + aside, hinge + aside + to_rail, 0.85 * bar, 0.85 * bar, present=shown, moves=True)


def table(p: Parameters) -> Solid:
    """Top, legs or pedestal, shelf."""
    width, depth, top, thickness = p["top_width"] / 2, p["top_depth"], p["top_height"], p["top_thickness"]
    rim = p["top_round"] * jnp.minimum(depth / 2, width) * 0.98
    parts = Parts()
    parts.plate(
        point(0, 0, top - thickness / 2),
        jnp.eye(3),
        rectangle(depth / 2 - rim, width - rim),
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
        point(0, 0, under * p["shelf_height"]),
        jnp.eye(3),
        rectangle(depth * inward / 2 - 0.03, width * inward - 0.03),
        0.014,
        present=(p["shelf_kind"] < 0.3) & (p["legs_kind"] < 0.55),
    )
    return parts.solid(p["blend"], Hinge(point(0, 0, under), point(0, 1, 0), jnp.deg2rad(p["swing"])))


def _legs(parts: Parts, p: Parameters, front, rear, depth, top) -> None:
    """Adds legs or a pedestal below a seat or table top of half widths `front` and `rear` with underside at `top`."""
    kind, radius, splay = p["legs_kind"], p["leg_radius"], p["leg_splay"]
    foot, inset = radius * p["leg_taper"], radius + p["leg_inset"]
    four, runners = kind < 0.75, (kind >= 0.55) & (kind < 0.75)
    feet, middles = [], []
    for way, side in ((1, front), (-1, rear)):
        upper = point(way * (depth / 2 - inset), side - inset, top)
        lower = point(way * (depth / 2 - inset + splay), side - inset + splay, foot)
        parts.cone(upper, lower, radius, foot, present=four)
        feet.append(lower)
        middles.append(upper + (lower - upper) * (1 - p["stretcher_height"]))
    parts.cone(feet[0], feet[1], foot, foot, present=runners)
    joined = (p["stretcher_kind"] < 0.4) & (kind < 0.55)
    thin = 0.75 * radius
    parts.cone(middles[0], middles[1], thin, thin, present=joined)
    middle = (middles[0] + middles[1]) / 2
    parts.cone(middle * point(1, 0, 1), middle, thin, thin, present=joined)

    reach = p["pedestal_foot"] * jnp.minimum(depth / 2, rear)
    stem, half_disc = p["pedestal_radius"], 0.016
    parts.cone(point(0, 0, top), point(0, 0, 0.05), stem, stem, present=~four)
    disc, star = ~four & (kind < 0.9), kind >= 0.9
    centre = jnp.zeros((4, 2))
    parts.plate(point(0, 0, half_disc), jnp.eye(3), centre, half_disc, rim=reach, present=disc)
    for angle in (0.0, 0.4 * jnp.pi, 0.8 * jnp.pi):
        end = point(1.15 * reach * jnp.cos(angle), 1.15 * reach * jnp.sin(angle), 0.02)
        parts.cone(point(0, 0, 0.06), end, 0.6 * stem + 0.008, 0.02, present=star)
