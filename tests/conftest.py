"""Test session: eight emulated devices, strict rank promotion, warnings as errors, one compilation cache per checkout,
programs compiled with most optimisations off (`JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` for all of them)."""

import gc
import importlib.metadata
import os
import pathlib

# Nearly all that the suite does is compile. A variable, for the programs that tests start, too.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and importlib.metadata.version("jaxlib").startswith("0.10."):
    # XLA's older way of compiling loops takes half the time, and so small programs are not worth splitting. Versions
    # that do not know a flag end the process.
    cheap = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {cheap}".strip()

import jax
import pytest

from jaxweights import memory, parallel
from jaxweights.report import style

ROOT = pathlib.Path(__file__).resolve().parent.parent
parallel.configure(host_devices=8, cache_dir=str(ROOT / ".cache" / "jax"))
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_traceback_in_locations_limit", 0)  # where an operation was traced, which nobody reads here
gc.set_threshold(100_000, 20, 100)  # traced programs are many small objects, which are looked through less often

style.DPI = 40  # of figures: pixels take time, and what tests look at does not depend on them

_WORKER_BYTES = 6 << 30  # of a process, with what tests compiled before

LONGEST = (
    "experiment",
    "docs",
    "hyperrep_experiment",
    "pdiff_experiment",
    "gpt_experiment",
    "hyperdiffusion_experiment",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config) -> int:
    """Half as many processes again as cores, where memory is enough, since some wait for programs that they started."""
    del config
    cores = parallel.num_cores()
    more = cores + cores // 2
    return more if memory.host() >= more * _WORKER_BYTES else cores


def pytest_collection_modifyitems(items) -> None:
    """Files that take longest come first, so that no process works alone at the end."""
    rank = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session", autouse=True)
def full_precision() -> None:
    """Products of float32 on accelerators, whose default of TF32 or bfloat16 has three digits."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "float32")


@pytest.fixture(scope="session")
def bitwise() -> None:
    """A skip on accelerators, whose libraries choose kernels, and so the order of sums, by the number of rows."""
    if jax.default_backend() != "cpu":
        pytest.skip("equality bit for bit is promised on CPU only")


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real files for development, or a skip where a checkout has none."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no ../shared/data beside this checkout (real files for development)")
    return path


@pytest.fixture(scope="session", params=[1, 8], ids=["one_device", "eight_devices"])
def mesh(request):
    """A mesh of one and of eight devices, where there are eight."""
    if len(jax.devices()) < request.param:
        pytest.skip("needs eight devices, which are emulated on CPU only")
    return parallel.make_mesh(request.param)


@pytest.fixture(scope="session")
def eight_devices() -> None:
    """A skip where there are fewer devices, as on an accelerator, which has those that it has."""
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices, which are emulated on CPU only")
