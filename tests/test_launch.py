"""Config files and flags: every mistake ends in a sentence that names the cause."""

import pathlib
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from jaxweights import experiment, settings
from jaxweights.errors import UserError
from jaxweights.experiment.config import complete
from launch import config_file, describe

CONFIGS = [
    str(path)
    for path in sorted(pathlib.Path("configs").rglob("*.py"))
    if path.stem not in ("__init__", "base", "generators")
]

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


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_is_typed_documented_and_complete(path):
    config = config_file.load(path).to_dict()
    parsed = experiment.parse(config)
    whole = complete(config, parsed)
    assert experiment.parse(whole) == parsed and complete(whole, experiment.parse(whole)) == whole
    assert not [row.path for row in settings.rows(parsed) if not row.text]
    assert (parsed.task == "policy") == ("ppo" in whole["zoo"]) and (parsed.task == "field") == (
        "plateau" in whole["zoo"]
    )
    assert list(experiment.stages(whole))[-1] == "report"


def test_fields_show_value_default_and_meaning():
    text = describe.fields(config_file.load("configs/digits.py").to_dict())
    assert "zoo.start = 'shared'  (default 'own')\n    initial weights of the runs." in text
    assert "generators.pdiff.latent_dim = 64  (default 128)" in text


@pytest.mark.parametrize(
    "change, message",
    [
        ({"zoo": {"num_rnus": 3}}, r"no setting zoo\.num_rnus; did you mean num_runs"),
        ({"zo": {}}, r"no setting zo; did you mean zoo"),
        ({"zoo": {"ppo": {}}}, r"no setting zoo\.ppo"),
        ({"zoo": 3}, r"zoo is 3; it is a section"),
        ({"audit": {"bootstrap": 0}}, r"audit\.bootstrap is 0; set it between 1 and 1000000"),
        ({"net": {"name": "mlp", "hidden": (0,)}}, r"net\.hidden is \(0,\); set it to at least 1"),
        ({"net": {"name": "actor"}}, r"does not take the network 'actor'"),
        ({"seed": -1}, r"seed is -1; set it between 0"),
        ({"seed": 2**70}, r"seed is 1180591620717411303424; set it between 0"),
        ({"generators": {"a": 3}}, r"generators\.a is 3"),
        ({"generators": {"a": {"kind": "averag"}}}, r"did you mean average"),
        ({"generators": {"a": {"kind": "average", "k": 0}}}, r"generators\.a\.k is 0; set it to at least 1"),
        ({"studies": {"shape": {}}}, r"did you mean shapes"),
        ({"task": "polcy"}, r"polcy"),
        ({"data": {"name": 3}}, r"data\.name is 3, of type int; give a text"),
    ],
)
def test_wrong_settings_at_any_depth_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        experiment.parse(change)
