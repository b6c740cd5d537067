"""Config files and flags: every mistake ends in a sentence that names the cause."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from jaxweights import experiment, settings
from jaxweights.bias import annotations
from jaxweights.bias import settings as comparisons
from jaxweights.errors import UserError
from jaxweights.experiment.config import complete
from jaxweights.probing import settings as probing
from jaxweights.sweeps import plan
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
        ("--config.generators.mine", "generators has no setting mine; there are"),
        ("--config.generators.pdiff.etta=1", r"generators\.pdiff has no setting etta; did you mean eta\?"),
        ("--config.generators.pdiff.eta", "has no value; give it after an equals sign"),
        ("--config.studies.prompting.roundz=2", r"studies\.prompting has no setting roundz; did you mean rounds\?"),
        ("--config.zoo.ppo.clip=0.1", "zoo has no setting ppo"),
        ("--config.net.hidden[0]=8", r"an entry of a tuple; give the whole tuple, e\.g\. --config\.net\.hidden="),
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


def test_flags_set_what_a_config_leaves_at_its_default():
    given = {
        "generators.pdiff.eta": 0.5,
        "generators.mine": {"kind": "gpt"},
        "studies.prompting.rounds": 2,
        "zoo.learning_rate": {"kind": "uniform", "low": 0.1, "high": 0.2},
        "generators.pdiff.sampler": "ddim",
    }
    flags = [f"--config.{name}={value}" for name, value in given.items()]
    kept, added = config_file.prepare(["program", "--config=configs/digits.py", "--config.zoo.num_runs=300", *flags])
    assert added == given and kept[2:] == ["--config.zoo.num_runs=300"]
    config = config_file.load("configs/digits.py").lock()
    config_file.add(config, added)
    parsed = experiment.parse(config.to_dict())
    assert parsed.generators["pdiff"].eta == 0.5 and parsed.generators["pdiff"].sampler == "ddim"
    assert parsed.zoo.learning_rate.numbers == (0.1, 0.2) and parsed.studies["prompting"].rounds == 2


def test_overrides_without_a_config_ask_for_one():
    with pytest.raises(UserError, match="Give its config first, e.g. --config=configs/digits.py"):
        config_file.prepare(["program", "--config.zoo.num_runs=3"])


DIGITS = "--config=configs/digits.py"
PROGRAM = [
    ([], 1, "No workdir was named. Give the folder"),
    (["--workdir=w"], 1, "No experiment was named. Give a config"),
    ([DIGITS, "--workdir="], 1, "No workdir was named. Give the folder"),
    ([DIGITS, "--workdir= "], 1, "No workdir was named. Give the folder"),
    ([DIGITS, "--seed=-1", "--workdir=w"], 1, "seed is -1; set it between 0 and 4294967295"),
    ([DIGITS, "--seed=1.5"], 1, "flag --seed=1.5: give a whole number"),
    ([DIGITS, "digits"], 1, "unexpected arguments ['digits']"),
    ([DIGITS, "--quiet=maybe"], 1, "flag --quiet=maybe: give true or false"),
    ([DIGITS, "--host_devices=1000000"], 1, "not an integer in the range [0, 1024]"),
    ([DIGITS, "--config.zoo=3"], 1, "flag --config.zoo=3: give a dict, or set its entries one by one"),
    ([DIGITS, "--config.zoo.num_runs=1e3"], 1, "num_runs=1e3: give a whole number"),
    ([DIGITS, "--config.net.hidden=('a',)", "--workdir=w"], 1, "net.hidden[0] is 'a', of type str"),
    ([DIGITS, "--config.generators.average=3"], 1, "give a dict, or set its entries one by one"),
    ([DIGITS, "--config.generators.pdiff.eta=x", "--workdir=w"], 1, "generators.pdiff.eta is 'x', of type str"),
    (["--config"], 1, "Missing value for flag --config"),
    (["--config="], 1, "The config '' does not exist"),
    (["--flagfile=nosuch"], 1, "Unable to open flagfile"),
    (["--noconfig"], 1, "Unknown command line flag 'noconfig'"),
    (["--help"], 0, "A program first runs the stages before its own"),
]

MANY = """
import os, sys
sys.argv = ["launch/run.py"]
import configs.base, jaxweights.experiment
from launch import common, run

for i, arguments in enumerate(eval(sys.stdin.read())):
    child = os.fork()
    if not child:
        os.dup2(os.open(f"{i}.txt", os.O_CREAT | os.O_WRONLY), 1)
        os.dup2(1, 2)
        sys.argv[1:] = arguments
        try:
            common.run_main(run.main)
        except SystemExit as status:
            os._exit(status.code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_mistakes_in_flags_end_in_one_paragraph(tmp_path):
    """In one process, of which every case is a copy: starting takes longer than failing."""
    (tmp_path / "configs").symlink_to(pathlib.Path("configs").resolve())
    given = repr([arguments for arguments, _, _ in PROGRAM])
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path.cwd()), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", MANY]
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment
    )
    statuses = done.stdout.split()
    assert len(statuses) == len(PROGRAM), done.stderr
    for i, (arguments, status, message) in enumerate(PROGRAM):
        said = " ".join((tmp_path / f"{i}.txt").read_text().split())
        assert (int(statuses[i]), "Traceback" in said) == (status, False) and message in said, (arguments, said)
        assert "None" not in said, said
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "flags, status, message",
    [
        (("--wrkdir=x",), 1, "Unknown command line flag 'wrkdir'. Did you mean workdir"),
    ],
)
def test_a_program_ends_in_one_paragraph(flags, status, message):
    done = subprocess.run([sys.executable, "-m", "launch.run", *flags], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == status and message in " ".join(said.split()) and "Traceback" not in said


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_is_typed_documented_and_complete(path):
    assert re.search(r"(second|minute|hour|day|week)s?\b", ast.get_docstring(ast.parse(pathlib.Path(path).read_text())))
    config = config_file.load(path).to_dict()
    if annotations.is_one(config):  # no experiment
        found = [row for one in annotations.parse(config).values() for row in settings.rows(one)]
        assert not [row.path for row in found if not row.text]
        return
    if "bias" in config:
        assert not [row.path for row in settings.rows(comparisons.parse(config)) if not row.text]
        return
    if probing.is_one(config):
        options = probing.parse(config)
        assert not [row.path for row in settings.rows(options, "probing") if not row.text] and options.chosen_probes()
        return
    sweep = config.pop("sweep", None)  # no part of the experiment
    parsed = experiment.parse(config)
    whole = complete(config, parsed)
    assert sweep is None or plan.make({**config, "sweep": sweep}).num_runs
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
    for name, row in (("probing_dots", "probing.together = True\n"), ("bias_weights", "bias.repeats = 3\n")):
        assert row in describe.fields(config_file.load(f"configs/{name}.py").to_dict())


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
        ({"studies": {"shapes": {}}}, r"studies\.shapes, but the task is 'classification'\. Set task to 'field'"),
        (
            {"task": "field", "net": {"name": "field", "signal": "image"}, "studies": {"shapes": {}}},
            r"studies\.shapes, but net\.signal is 'image'\. Set net\.signal to 'occupancy'",
        ),
        (
            {"studies": {"prompting": {}}},
            r"no generator that it studies\. Add one of kind gpt to generators, or remove",
        ),
        (
            {"studies": {"autoencoder": {}}, "generators": {"a": {"kind": "gpt"}}},
            r"kind hyperrep or sane to generators",
        ),
        ({"task": "polcy"}, r"polcy"),
        ({"data": {"name": 3}}, r"data\.name is 3, of type int; give a text"),
    ],
)
def test_wrong_settings_at_any_depth_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        experiment.parse(change)


def test_a_reader_that_has_seen_enough_is_no_error():
    command = (
        f"{sys.executable} -m launch.describe --config=configs/digits.py --fields | head -1; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1
