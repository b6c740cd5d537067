"""The family of aeroplanes. Lengths are in fuselage lengths."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxweights.data.shapes.parts import Parameters, Parts, frame, point, trapezoid
from jaxweights.data.shapes.solids import Hinge, Solid

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


def plane(p: Parameters) -> Solid:
    """Fuselage of three cones, swept and tapered wings, tail planes and fin, engines, winglets, canopy."""
    parts = Parts()
    _fuselage(parts, p)
    root, outward = _wings(parts, p)
    _tail(parts, p)
    _engines(parts, p, root, outward)
    return parts.solid(p["blend"], Hinge(root, point(1, 0, 0), jnp.deg2rad(p["swing"])))


def _fuselage(parts: Parts, p: Parameters) -> None:
    """Adds three cones from nose to tail, and the canopy."""
    radius = p["fuselage_radius"]
    nose, tail = -p["nose_length"], -(1 - p["tail_length"])
    nose_ball, tail_ball = p["nose_radius"] * radius, p["tail_radius"] * radius
    tail_end = point(-1 + tail_ball, 0, p["tail_rise"] * radius)
    parts.cone(point(-nose_ball, 0, -0.2 * radius), point(nose - radius * 0.5, 0, 0), nose_ball, radius)
    parts.cone(point(nose - radius * 0.5, 0, 0), point(tail, 0, 0), radius, radius)
    parts.cone(point(tail, 0, 0), tail_end, radius, tail_ball)
    parts.cone(
        point(nose - 0.02, 0, p["canopy_height"] * radius),
        point(nose - 0.16, 0, p["canopy_height"] * radius * 0.6),
        radius * 0.55,
        radius * 0.4,
        present=p["canopy_kind"] < 0.4,
    )


def _wings(parts: Parts, p: Parameters) -> tuple[jax.Array, jax.Array]:
    """Adds wing and winglet; returns the root of the wing and its outward direction."""
    radius, half_span = p["fuselage_radius"], p["wing_span"] / 2
    dihedral, sweep = jnp.deg2rad(p["wing_dihedral"]), jnp.tan(jnp.deg2rad(p["wing_sweep"]))
    root, chord = point(-p["wing_position"], 0, p["wing_height"] * radius), p["wing_chord"]
    tip_chord, half_wing = chord * p["wing_taper"], p["wing_thickness"] / 2
    outward = point(0, jnp.cos(dihedral), jnp.sin(dihedral))
    rim = p["wing_tip"] * jnp.minimum(0.3 * tip_chord, 0.05)
    parts.plate(
        root,
        frame(outward),
        trapezoid(chord, tip_chord, half_span, sweep, rim),
        half_wing,
        rim=rim,
        moves=True,
    )
    tip = root + outward * (half_span - half_wing) + point(-sweep * half_span, 0, 0)
    winglet = p["winglet_height"]
    parts.plate(
        tip,
        frame(point(0, 0.35, 0.94)),
        trapezoid(tip_chord * 0.9, tip_chord * 0.5, winglet, 0.7, 0.01),
        0.011,
        rim=0.01,
        present=p["winglet_kind"] < 0.3,
        moves=True,
    )
    return root, outward


def _tail(parts: Parts, p: Parameters) -> None:
    """Adds fin and tail plane."""
    radius, half_wing = p["fuselage_radius"], p["wing_thickness"] / 2
    tail_z = p["tail_rise"] * radius
    fin, fin_sweep = p["fin_height"] + radius, jnp.tan(jnp.deg2rad(p["fin_sweep"]))
    fin_root = point(-1 + p["fin_chord"] + 0.02, 0, tail_z)
    parts.plate(
        fin_root,
        frame(point(0, 0, 1)),
        trapezoid(p["fin_chord"], p["fin_chord"] * p["fin_taper"], fin, fin_sweep, 0.01),
        half_wing * 0.9,
        rim=0.01,
    )
    tee = p["tail_kind"] < 0.25
    chord = p["tail_chord"]
    high = fin_root + point(-fin_sweep * fin, 0, fin - half_wing)
    low = point(-1 + chord + 0.02, 0, tail_z)
    parts.plate(
        jnp.where(tee, high, low),
        frame(point(0, 1, 0)),
        trapezoid(chord, chord * p["tail_taper"], p["tail_span"] / 2, jnp.tan(jnp.deg2rad(p["tail_sweep"])), 0.012),
        half_wing * 0.85,
        rim=0.012,
    )


def _engines(parts: Parts, p: Parameters, root, outward) -> None:
    """Adds engines below the wing, or beside the tail."""
    radius, half_span, half_wing = p["fuselage_radius"], p["wing_span"] / 2, p["wing_thickness"] / 2
    sweep, tail = jnp.tan(jnp.deg2rad(p["wing_sweep"])), -(1 - p["tail_length"])
    kind, thick, long = p["engine_kind"], p["engine_radius"], p["engine_length"]
    at_tail = kind >= 0.8
    for i, share in enumerate((0.0, 0.3)):
        span = half_span * (p["engine_span"] + share)
        below = root + outward * span + point(0.35 * long - sweep * span, 0, -(half_wing + 0.8 * thick))
        beside = point(tail + 0.02, radius + 0.7 * thick, 0.5 * radius)
        front = jnp.where(at_tail, beside, below)
        parts.cone(
            front,
            front - point(long, 0, 0),
            thick,
            0.75 * thick,
            present=(kind >= 0.3) if i == 0 else (kind >= 0.6) & ~at_tail,
            moves=~at_tail,
        )
