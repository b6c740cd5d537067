"""Audits generated networks: distances, similarities, tests, verdicts. Of an experiment:

python -m launch.audit --config=configs/digits.py --workdir=runs/digits

Or of networks from files, by their weights alone or with predictions that any framework made:

python -m launch.audit --train=train.npz --heldout=heldout.npz --generated=mine=mine.npz,theirs=theirs.npz \
    --spec=spec.json --predictions=predictions.npz --out=audits/mine
"""

from __future__ import annotations

import pathlib
import re

from absl import flags

from launch import common, stages

_NETWORKS = (
    "a file of weights [N, P] or of state dicts (.npz, PyTorch, safetensors, HDF5, msgpack), or the folder of "
    "a stored population"
)
_TRAIN = flags.DEFINE_string("train", None, f"Training networks: {_NETWORKS}.")
_HELDOUT = flags.DEFINE_string("heldout", None, "Networks of the same training that the generator has not seen.")
_GENERATED = flags.DEFINE_string("generated", None, "Generated networks, or several by name: NAME=FILE,NAME=FILE.")
_SPEC = flags.DEFINE_string("spec", None, "JSON file of WeightSpec.to_json: what the vectors mean, their symmetries.")
_PREDICTIONS = flags.DEFINE_string(
    "predictions",
    None,
    "File of predictions on a test set, an array per series: train, heldout, the names of --generated (generated for a "
    "series without one), and labels.",
)
_OUT = flags.DEFINE_string("out", None, "Folder of report.html, metrics.json, tables and references; none by default.")
_TASK = flags.DEFINE_string("task", "classification", "What the predictions are of: classification or regression.")
_BASELINES = flags.DEFINE_string("baselines", "all", "Baselines beside the generated networks: all, none, or names.")
_GIVEAWAY = flags.DEFINE_string(
    "giveaway",
    "none",
    "What is kept of networks before a classifier tells generated from held-out ones: none to leave it out, all, or "
    "names. Of an experiment: --config.studies.giveaway.repeats=3.",
)
_SETTINGS = flags.DEFINE_string("settings", "", "Settings of the audit of files, e.g. bootstrap=200,barriers=0.")

_NAME = re.compile(r"[^=,/\\]+=.+")
_OF_FILES = ("train", "heldout", "generated", "spec", "predictions", "out", "task", "baselines", "giveaway", "settings")
_OF_EXPERIMENTS = ("config", "workdir", "data_dir", "skip_bad", "dry_run")
_NEEDED = ("train", "heldout", "generated")


def main(argv) -> None:
    """Audits and prints the table."""
    del argv
    from jaxweights import report

    if any(flags.FLAGS[name].present for name in _OF_FILES):
        of_files()
    else:
        print(report.summary(stages.experiment().audit()))


def of_files() -> None:
    """Audits networks from files, prints the table and writes what was asked for."""
    from jaxweights import processes, progress
    from jaxweights.errors import UserError

    mixed = [name for name in _OF_EXPERIMENTS if flags.FLAGS[name].present]
    if mixed:
        raise UserError(f"--{mixed[0]} is of an experiment, --train and the like of files. Give one or the other.")
    missing = [f"--{name}" for name in _NEEDED if not flags.FLAGS[name].value]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing. An audit of files needs --train, --heldout and --generated, {_NETWORKS}."
        )
    out = folder(_OUT.value) if _OUT.value is not None else None
    common.setup_jax(None if out is None else out / "logs")
    progress.set_quiet(common.QUIET.value)
    import jaxweights as jw

    names, kept = _BASELINES.value, _GIVEAWAY.value
    result = jw.audit(
        _TRAIN.value,
        _HELDOUT.value,
        series(_GENERATED.value or ""),
        spec=_SPEC.value,
        predictions=_PREDICTIONS.value,
        task=_TASK.value,
        baselines=names == "all" if names in ("all", "none") else listed(names),
        giveaway=kept == "all" if kept in ("all", "none") else {"transformations": listed(kept)},
        seed=flags.FLAGS.seed or 0,
        **common.changes("--settings", _SETTINGS.value),
    )
    print(result)
    if out is not None and processes.is_first():
        print(f"report: {result.write(out)}")


def listed(text: str) -> tuple[str, ...]:
    """The value of a flag that takes names."""
    return tuple(filter(None, text.split(",")))


def series(text: str) -> str | dict[str, str]:
    """The value of `--generated`: a path, or paths by name.

    Raises:
      UserError: a name that stands twice.
    """
    from jaxweights.errors import UserError

    parts = text.split(",")
    if pathlib.Path(text).exists() or not all(_NAME.fullmatch(part) for part in parts):
        return text
    found = dict(part.split("=", 1) for part in parts)
    if len(found) < len(parts):
        raise UserError(f"--generated={text} gives a name twice; every series needs its own.")
    return found


def folder(path: str) -> pathlib.Path:
    """The folder to write to, which is made.

    Raises:
      UserError: it cannot be written, or belongs to an experiment.
    """
    from jaxweights import files
    from jaxweights.errors import UserError

    if not path.strip():
        raise UserError("--out is empty; give the folder to write to, e.g. --out=audits/mine.")
    place = pathlib.Path(path).expanduser()
    if (place / "config.json").exists():
        raise UserError(f"--out={path} is the workdir of an experiment. Choose another folder.")
    return files.make_dir(place)


if __name__ == "__main__":
    common.run_main(main)
