"""Writes what a pre-trained model says of every image below a folder, or shows of it.

    python -m launch.annotate --task=caption --model=llava-hf/llava-1.5-7b-hf --images=photos --out=runs/photos
    python -m launch.annotate --task=label --model=facebook/convnext-tiny-224 --images=photos --out=runs/p --dry_run

Tables: `caption`, `check` (five yes/no questions), `detect`, `segment` and `label` (names of what is there) and `embed`
(for ranking descriptions); `OUT/<task>.jsonl` is what sections of a config of `launch.classify` read. Pictures: any
transformation by a pre-trained model, such as `depth`, in `OUT/<task>/`. The same command again goes on with the images
that have no output; other settings in the same folder are refused. Models are those of transformers and diffusers,
`pip install "jaxweights[adapters]"`.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from launch import common

_TASK = flags.DEFINE_string(
    "task", None, "caption, check, detect, embed, label, segment, or a transformation by a model, e.g. depth."
)
_MODEL = flags.DEFINE_string(
    "model", None, "Folder of the model, or its name on the Hugging Face hub, whose local cache is looked into."
)
_IMAGES = flags.DEFINE_string("images", None, "Folder of images; those in folders below it as well.")
_OUT = flags.DEFINE_string("out", None, "Folder to write to, outside of --images; may hold several tasks.")
_SETTINGS = flags.DEFINE_string(
    "settings", "", "Further settings of the task, e.g. length=paragraph,batch_size=8; --dry_run prints all of them."
)
_DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "Print the task's settings and how many images are done; then end, and write nothing."
)


def main(argv) -> None:
    """Annotates the images and prints where it is."""
    del argv
    from jaxweights import progress
    from jaxweights.bias.adapters import annotation, folder
    from jaxweights.errors import UserError

    needed = {"task": _TASK, "images": _IMAGES, "out": _OUT}
    missing = [f"--{name}" for name, flag in needed.items() if not (flag.value or "").strip()]
    if missing:
        raise UserError(f"{' and '.join(missing)} missing. Say what is done, to which images, and where it goes.")
    values = common.changes("--settings", _SETTINGS.value)
    task = annotation.make(_TASK.value or "", values | ({"model": _MODEL.value} if _MODEL.value else {}))
    images, out = (pathlib.Path(flag.value or "").expanduser() for flag in (_IMAGES, _OUT))
    if _DRY_RUN.value:
        print(_dry_run(task, images, out))
        return
    progress.set_quiet(common.QUIET.value)
    made = annotation.annotate(task, images, out)
    print(f"{made.place}: {len(made.converted.outputs)} images")
    if made.converted.failed:
        print(folder.complaint(made.converted), f"{folder.FAILED} lists them.", file=sys.stderr)


def _dry_run(task, images: pathlib.Path, out: pathlib.Path) -> str:
    """Settings in force, and what is done."""
    from jaxweights import settings
    from jaxweights.bias.adapters import annotation

    total, done = annotation.outputs(task, images, out)
    rows = [(row.path, str(row.value)) for row in settings.rows(task, task.section)]
    return common.aligned([*rows, ("images", f"{total:,}"), ("done", f"{done:,}")])


if __name__ == "__main__":
    common.run_main(main)
