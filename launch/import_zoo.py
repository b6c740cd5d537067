"""Imports networks that others trained, from the files as they are: published zoos, folders of state dicts.

    python -m launch.import_zoo --from=FOLDER_OR_FILE --workdir=runs/theirs

It says which layout it is, what there is and what it assumes, and reads the networks into `zoo` in the workdir, which
launch.audit, jw.audit and zoo.import_npz of an experiment take. Running the same command again resumes. See
docs/importing.md.
"""

from __future__ import annotations

import json
import pathlib

from absl import flags

from launch import common, stages

_FROM = flags.DEFINE_string(
    "from", None, "File or folder of the networks, see docs/importing.md for what is read.", allow_override=True
)
_LAYOUT = flags.DEFINE_string("layout", "", "Layout, where a source fits several; else it is recognised.")
_SPEC = flags.DEFINE_string(
    "spec",
    None,
    "JSON file of what state dicts do not hold: activation, normalisation of the inputs, and tensors in order.",
    allow_override=True,
)
_TEMPLATE = flags.DEFINE_string("spec_template", None, "Writes such a file of the source, to be completed, and ends.")
_NUM_HELDOUT = flags.DEFINE_integer(
    "num_heldout",
    None,
    "Runs to hold out, drawn by --seed, of a source without a split; a fifth of them by default.",
    lower_bound=0,
)
_STEPS = flags.DEFINE_string("steps", "all", "Checkpoints of every run: all, last, or from step A to B as A-B.")
_RUNS = flags.DEFINE_enum(
    "runs",
    "names",
    ["names", "files", "folders"],
    "Runs of a plain folder: by the names of its files, every file, or every folder.",
)
_ROWS_PER_RUN = flags.DEFINE_integer(
    "rows_per_run", 0, "Checkpoints of a run, of rows of an array whose runs are not stored.", lower_bound=0
)
_SPLITS = flags.DEFINE_string("splits", "", "File or folder that lists the splits, where it is not part of the source.")
_ORDER = flags.DEFINE_enum(
    "order",
    "state_dict",
    ["state_dict", "deepweightflow", "weightflow"],
    "Order of the numbers in rows of an array: tensor by tensor, or all weights before all biases.",
)

_SOURCE = "Give the folder or file of the networks, e.g. --from=zoos/theirs."


def main(argv) -> None:
    """Says what was found and imports it."""
    del argv
    from jaxweights.errors import UserError

    if not (_FROM.value or "").strip():
        raise UserError(f"No source was named. {_SOURCE}")
    ends_here = _TEMPLATE.value is not None or stages.is_dry_run()
    folder = None if ends_here else stages.workdir()
    common.setup_jax(alone=True)
    import_networks(pathlib.Path(_FROM.value or "").expanduser(), folder)


def import_networks(source: pathlib.Path, folder: str | None) -> None:
    """Imports a source into a workdir; without one, says what there is, or writes the template of a spec file."""
    from jaxweights import layouts, progress
    from jaxweights.layouts import importing, plans, specs

    progress.set_quiet(common.QUIET.value)
    layout = layouts.recognise(source, _LAYOUT.value)
    options = layouts.Options(_RUNS.value, _ROWS_PER_RUN.value, _SPLITS.value, _ORDER.value)
    if _TEMPLATE.value is not None:
        _write_template(_TEMPLATE.value, layout, source, options)
        return
    spec = None if _SPEC.value is None else specs.read(_SPEC.value)
    plan = plans.make(
        layout,
        source,
        options,
        spec=spec,
        steps=_STEPS.value,
        num_heldout=_NUM_HELDOUT.value,
        seed=flags.FLAGS.seed or 0,
    )
    print(common.aligned(plans.rows(plan)), flush=True)
    specs.check(plan.recipe)
    if folder is None:
        return
    store = importing.write(plan, folder, skip_bad=flags.FLAGS.skip_bad)
    print(_done(plan, store))


def _write_template(path: str, layout, source: pathlib.Path, options) -> None:
    from jaxweights import files
    from jaxweights.layouts import plans, specs

    found = layout.find(source, options)
    files.write_text(path, specs.template(plans.shapes(found, found.entries), found.recipe))
    print(f"{path}: complete activation and normalisation (null), then give it as --spec")


def _done(plan, store) -> str:
    """What was written, and what takes it."""
    lines = [f"{store.path}: {len(store):,} networks of {len(plan.split.runs):,} runs"]
    if plan.split.count("heldout"):
        lines.append(f"audit: --train={store.path} --heldout={store.path} of launch.audit")
    if plan.architecture.net:
        settings = {k: v for k, v in plan.architecture.net.items() if k not in ("input_shape", "outputs")}
        lines.append(f"experiment: --config.zoo.import_npz={store.path}, with net = {json.dumps(settings)}")
    return "\n".join(lines)


if __name__ == "__main__":
    common.run_main(main)
