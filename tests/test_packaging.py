"""The package: importable without its extras, errors that name the extra, one list of dependencies, notebooks."""

import pathlib
import subprocess
import sys
import tomllib

import pytest

from jaxweights import extras
from jaxweights.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_module_is_imported_without_the_extras():
    python(
        "import importlib, pkgutil, sys\n"
        "absent = 'tensorflow_datasets PIL skimage trimesh networkx transformers h5py lmdb pytest'\n"
        "for name in absent.split():\n"
        "    sys.modules[name] = None\n"
        # Matplotlib needs Pillow, and imports it only for what draws.
        "sys.modules.pop('PIL')\n"
        "import jaxweights\n"
        "for module in pkgutil.walk_packages(jaxweights.__path__, 'jaxweights.'):\n"
        "    importlib.import_module(module.name)\n"
    )


def test_a_missing_package_names_its_extra():
    with (
        pytest.raises(UserError, match=r'no_such_package is not installed; .*pip install "jaxweights\[shapes\]"'),
        extras.importing("shapes"),
    ):
        import no_such_package  # noqa: F401


def test_requirements_are_the_package_with_every_extra_but_the_largest():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (line,) = (ROOT / "requirements.txt").read_text().splitlines()
    path, names = line.removeprefix("-e ").rstrip("]").split("[")
    assert path == "." and set(names.split(",")) == set(project["optional-dependencies"]) - {"adapters"}


def test_a_notebook_without_widgets_gets_plain_lines_and_no_warning():
    out = python(
        "import sys, types\n"
        "kernel = types.SimpleNamespace(config={'IPKernelApp': 1})\n"
        "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: kernel, display=None)\n"
        "sys.modules['ipywidgets'] = None\n"
        "from jaxweights import progress\n"
        "with progress.Progress(2, 'work', 'steps') as bar:\n"
        "    bar.update(2)\n"
        "print(bar._bar)\n"
    )
    assert out.strip() == "None"
