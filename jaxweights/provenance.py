"""Provenance of numbers: package versions, git revision, devices; and differences between two configs."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from jaxweights import files
from jaxweights.errors import UserError

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "scikit-learn", "matplotlib")


def versions() -> dict[str, str]:
    """Versions of everything that can change a number, and the device it was computed on."""
    import jaxweights

    found = {"jaxweights": jaxweights.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    found["git"] = git_revision()
    found["device"] = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    return found


def git_revision() -> str:
    """Commit of the checkout that runs, with "+" for uncommitted changes; "none" for an installed package."""
    folder = pathlib.Path(__file__).resolve().parent
    if not (
        folder.parent / ".git"
    ).exists():  # git would find the repository of a project that has an environment in it
        return "none"
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return run.stdout.strip() or "none"


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to JSON values."""
    flat = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.loads(json.dumps(value))
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per key whose value differs, e.g. `zoo.num_runs: 512 -> 640`."""
    a, b = flat_config(old), flat_config(new)
    lines = []
    for key in sorted(a.keys() | b.keys()):
        if a.get(key, "absent") != b.get(key, "absent"):
            lines.append(f"{key}: {a.get(key, 'absent')!r} -> {b.get(key, 'absent')!r}")
    return lines


def refuse_another(path: pathlib.Path, facts: Mapping[str, Any], what: str) -> None:
    """Raises `UserError` where the facts that a folder was bound to are others.

    Args:
      path: JSON file in the folder.
      facts: what it has to hold.
      what: what the folder is of, e.g. "sweep".
    """
    folder = path.parent
    kept = files.read_json(path, f"config of a {what}", f"Remove the folder {folder} and run again.")
    changed = differences(kept, json.loads(json.dumps(facts)))
    if changed:
        raise UserError(
            f"The workdir {folder} holds another {what}; it differs in {'; '.join(changed)}. Choose another --workdir, "
            "or the former values."
        )
