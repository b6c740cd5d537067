"""Config files and flags: every mistake ends in a sentence that names the cause."""

import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from jaxweights.errors import UserError
from launch import config_file

FILES = {
    "syntax.py": ("def get_config(:\n", r"fails in line 1: SyntaxError"),
    "raises.py": ("def get_config():\n    raise ValueError('boom')\n", r"fails in line 2: ValueError: boom"),
    "imports.py": ("import nosuch\n", r"fails in line 1: ModuleNotFoundError"),
    "other.py": ("def get_config():\n    return 3\n", r"returns int, not a ConfigDict"),
    "none.py": ("x = 1\n", r"has no function get_config"),
    "text.txt": ("x = 1\n", r"is no Python file"),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_config_files_are_refused(tmp_path, name):
    text, message = FILES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        config_file.load(str(tmp_path / name))


def test_absent_config_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        config_file.load(str(tmp_path / "absent.py"))
    with pytest.raises(UserError, match="is a folder"):
        config_file.load(str(tmp_path))
    with pytest.raises(UserError, match="fails: .*Unknown variant 'wid'"):
        config_file.load("configs/paper/gpt_mnist.py:wid")


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--config.zoo.num_rnus=3", "zoo has no setting num_rnus; did you mean num_runs"),
        ("--config.zo.num_runs=3", "the config has no setting zo; did you mean zoo"),
        ("--config.seed.x=3", "seed is a value and has no settings"),
        ("--config.generators.mine=3", "a new entry is a dict"),
        ("--config.generators.mine={'kind'", "a new entry is a dict"),
    ],
)
def test_bad_overrides_are_refused(flag, message):
    with pytest.raises(UserError, match=message):
        config_file.prepare(["program", "--config=configs/digits.py", flag])


def test_a_generator_can_be_added_by_a_flag():
    flags = ["program", "--config", "configs/digits.py", "--seed=3", "--config.generators.mine={'kind': 'gaussian'}"]
    kept, added = config_file.prepare(flags)
    assert kept == flags[:4] and added == {"generators.mine": {"kind": "gaussian"}}
    config = ConfigDict({"generators": {}}).lock()
    config_file.add(config, added)
    assert config.generators.mine.kind == "gaussian"


@pytest.mark.parametrize(
    "flags, status, message",
    [
        (("--wrkdir=x",), 1, "Unknown command line flag 'wrkdir'. Did you mean workdir"),
        (("--config=configs/digits.py", "--config.zoo.num_runs=abc"), 1, "num_runs=abc: invalid literal"),
        (("--config=configs/digits.py", "digits"), 1, "unexpected arguments ['digits']"),
        (("--help",), 0, "--workdir"),
    ],
)
def test_mistakes_in_flags_end_in_one_paragraph(flags, status, message):
    done = subprocess.run([sys.executable, "-m", "launch.run", *flags], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == status and message in " ".join(said.split()) and "Traceback" not in said
