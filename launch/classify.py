"""Tries which transformed data betrays its source: trains classifiers that tell collections apart.

    python -m launch.classify --config=configs/bias_images.py --workdir=runs/bias_images
    python -m launch.classify --config=configs/bias_images.py --workdir=runs/bias_images --dry_run

The same command again resumes at the first transformation that is not done. A config with sections `objects`,
`language` or `questions` instead of `bias` is of what images show by name, of captions and of answers.
"""

import pathlib

from launch import common, stages


def main(argv) -> None:
    """Runs the comparison and prints the accuracies and the path of the page."""
    del argv
    config = _skipping(stages.config())
    workdir = stages.workdir() if stages.has_workdir() or not stages.is_dry_run() else None
    if workdir is None or stages.is_dry_run():
        common.setup_jax(alone=common.assumed_processes() is not None)
        print(_dry_run(config, workdir))
        return
    common.setup_jax(pathlib.Path(workdir) / "logs")
    from jaxweights import progress
    from jaxweights.bias import annotation_page, annotations, study, table

    progress.set_quiet(common.QUIET.value)
    if annotations.is_one(config):
        print(annotation_page.text(annotations.run(config, workdir)))
    else:
        print(table.text(study.run(config, workdir, stages.data_dir())))
    print(f"page: {workdir}/report.html, numbers: metrics.json")


def _skipping(config: dict) -> dict:
    """The config with what `--skip_bad` asks for: in experiments a setting of the data, here of every collection."""
    if config.get("bias", {}).get("kind") != "weights" and config.pop("data", {}).get("skip_bad"):
        for one in config.get("bias", {}).get("sets", {}).values():
            for source in [*one.get("collections", {}).values(), *([one["of"]] if one.get("of") else [])]:
                source["skip_bad"] = True
    return config


def _dry_run(config: dict, workdir: str | None) -> str:
    """What a config is, and how much of it is done in a workdir."""
    from jaxweights.bias import annotations, cells, describe

    if annotations.is_one(config):
        return common.aligned(annotations.rows(config))
    facts = describe.describe(config)
    made = [(of, name) for of in facts["sets"] for name in facts["transformations"]]
    there = [] if workdir is None else [c for c in made if cells.path(pathlib.Path(workdir), cells.Cell(*c)).exists()]
    done = f"{len(there)} of {len(made)} transformations of sets"
    return common.aligned([*describe.rows(facts), ("done in the workdir", done)])


if __name__ == "__main__":
    common.run_main(main)
