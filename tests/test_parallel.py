"""Devices: all of them by default, advice to those who have one, and an error to those who configure too late."""

import subprocess
import sys

import jax
import pytest

from jaxweights import parallel
from jaxweights.errors import UserError


def test_no_mesh_means_all_devices():
    mesh = parallel.resolve()
    assert mesh.size == len(jax.devices()) and parallel.resolve() is mesh
    one = parallel.make_mesh(1)
    assert parallel.resolve(one) is one


def test_configuring_after_the_first_use_of_jax_is_refused():
    parallel.configure(host_devices=len(jax.devices()))
    with pytest.raises(UserError, match="JAX was used before .* JAX_NUM_CPU_DEVICES=3"):
        parallel.configure(host_devices=3)


@pytest.mark.parametrize("devices, cores, lines", [(1, 4, 1), (4, 4, 0), (1, 1, 0)])
def test_one_device_on_several_cores_is_said_once(devices, cores, lines):
    code = (
        f"from jaxweights import parallel\nparallel.num_cores = lambda: {cores}\nparallel.advise(); parallel.advise()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in run.stderr.splitlines() if "JAX_NUM_CPU_DEVICES=4" in line]
    assert len(said) == lines
