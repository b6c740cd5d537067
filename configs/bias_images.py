"""Which transformed images betray their source: three collections, cut from one at random and re-encoded differently.

    python -m launch.classify --config=configs/bias_images.py --workdir=runs/bias_images

What the images show is the same in all three; JPEG and resizing alone set them apart. A second set is cut by class, so
that what the images show alone sets them apart. A third is cut at random and left as it is: nothing sets its parts
apart, and everything has to stay at chance. An argument chooses the images: digits (the default, nothing to download),
or an image set of `--data_dir`, as in `configs/bias_images.py:cifar10`. Several names, as in
`configs/bias_images.py:digits,mnist,cifar10`, compare image sets with each other, in grey, shrunk to the side of the
digits and enlarged to one size. Some minutes on two cores.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

THIRDS = {"first": {}, "second": {}, "third": {}}


def get_config(images: str = "digits"):
    """The comparison of the thirds of an image set, or of several image sets.

    Args:
      images: name of an image set or an .npz file, see `data.load`; or several, separated by commas.
    """
    names = [name.strip() for name in images.split(",")]
    small = len(names) > 1 or names == ["digits"]
    side = 16 if small else 32
    config = ConfigDict()
    config.seed = 0
    config.bias = {
        **(sources(names, side) if len(names) > 1 else thirds(names[0], side)),
        "transformations": transformations(side),
        "classifier": {"kind": "cnn", "epochs": 20 if small else 8},
        "num_train": 0 if small else 800,
        "num_validation": 150 if small else 500,
    }
    return config


def thirds(dataset: str, side: int) -> dict[str, Any]:
    """Thirds of one image set: re-encoded, of other classes, and alike."""
    source = {"kind": "image_set", "dataset": dataset, "part": "all", "size": side}
    encodings = {"as_it_is": {}, "jpeg_50": {"quality": 50}, "resized": {"shrink": side * 5 // 8}}
    sets = {
        "encodings": {"of": source, "cut": "identical", "parts": encodings},
        "classes": {"of": source, "cut": "classes", "parts": THIRDS},
        "alike": {"of": source, "cut": "identical", "parts": THIRDS},
    }
    return {"sets": sets, "main": "encodings"}


def sources(names: list[str], side: int) -> dict[str, Any]:
    """Image sets beside each other; the small limit is the number of scikit-learn's digits."""
    form = {"kind": "image_set", "part": "all", "channels": 1, "limit": 1797, "shrink": side // 2, "size": side}
    collections = {pathlib.PurePath(name).stem: {**form, "dataset": name} for name in names}
    return {"sets": {"sources": {"collections": collections}}, "main": "sources"}


def transformations(side: int) -> dict:
    """The transformations by name, their sizes in proportion to the sides of the images."""
    found: dict[str, dict[str, Any]] = {"original": {"kind": "identity"}, "mean_rgb": {"kind": "mean_rgb"}}
    for fixed in (False, True):
        kind = "fixed" if fixed else "random"
        found[f"pixels_{kind}"] = {"kind": "pixel_shuffle", "fixed": fixed}
        found[f"patches_4_{kind}"] = {"kind": "patch_shuffle", "patch": 4, "fixed": fixed}
    found["patches_2_random"] = {"kind": "patch_shuffle", "patch": 2}
    found["patches_8_random"] = {"kind": "patch_shuffle", "patch": 8}
    for threshold in (side / 8, side * 40 / 224, side / 4):  # the second is the published share of the side
        found[f"low_pass_{threshold:.0f}"] = {"kind": "low_pass", "threshold": threshold}
        found[f"high_pass_{threshold:.0f}"] = {"kind": "high_pass", "threshold": threshold}
    found["canny"] = {"kind": "canny"}
    found["hog"] = {"kind": "hog", "side": 0, "cell": 4}
    found["superpixels"] = {"kind": "slic", "segments": side}
    return found
