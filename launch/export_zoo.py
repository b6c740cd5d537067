"""Writes networks for other programs: state dicts of PyTorch, safetensors, npz, HDF5, or folders as ModelZoos has them.

    python -m launch.export_zoo --from=runs/digits --to=exports/digits --format=state_dicts
    python -m launch.export_zoo --from=runs/digits --to=exports/pdiff --format=safetensors --what=generated:pdiff

The folder also has a data card (README.md, card.json), the records of all networks (records.csv), what their vectors
mean (spec.json), and checksums (SHA256SUMS). It appears once it is whole; the same command again checks it.
"""

from __future__ import annotations

import json
import pathlib

from absl import flags

from launch import common

_FROM = flags.DEFINE_string(
    "from",
    None,
    "Workdir of an experiment, folder of a stored population, or a file of weights [N, P] or of state dicts.",
)
_TO = flags.DEFINE_string("to", None, "The new folder.")
_FORMAT = flags.DEFINE_string(
    "format", "safetensors", "state_dicts, safetensors, safetensors_each, npz, npz_each, hdf5 or model_zoos."
)
_WHAT = flags.DEFINE_string(
    "what", "all", "all, train or heldout; of a workdir also generated:NAME, the samples of a generator."
)
_SELECT = flags.DEFINE_string(
    "select", "", "Which of them, e.g. checkpoints=last,min_accuracy=0.9,max_runs=100; all by default."
)
_SPEC = flags.DEFINE_string(
    "spec", None, "JSON file of WeightSpec.to_json: what the vectors of a file mean. Stores know it."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "For model_zoos: folder of the images that the networks classify, where these are not embedded. With them the "
    "folder has dataset.pt and the accuracy on training images.",
    allow_override=True,
)
_NAME = flags.DEFINE_string("name", "", "Title of the data card.")


def main(argv) -> None:
    """Exports and prints where the networks are."""
    del argv
    from jaxweights import progress
    from jaxweights.errors import UserError

    source, to = (flag.value or "" for flag in (_FROM, _TO))
    if not source.strip() or not to.strip():
        raise UserError("An export needs --from=WORKDIR_OR_STORE_OR_FILE and --to=FOLDER.")
    common.setup_jax(alone=True)
    progress.set_quiet(common.QUIET.value)
    import jaxweights as jw

    select = common.changes("--select", _SELECT.value)
    options = {"what": _WHAT.value, "select": select, "spec": _SPEC.value, "data_dir": _DATA_DIR.value}
    folder = jw.export(source, to, _FORMAT.value, name=_NAME.value, **options)
    card = json.loads((pathlib.Path(folder) / "card.json").read_text())
    size = card["checksums"]["bytes"] / 1e6
    print(f"{folder}: {card['networks']:,} networks of {card['runs']:,} runs, {size:,.1f} MB, checksums in SHA256SUMS")


if __name__ == "__main__":
    common.run_main(main)
