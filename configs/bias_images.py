"""Which transformed images betray their source: three collections, cut from one at random and re-encoded differently.

    python -m launch.classify --config=configs/bias_images.py --workdir=runs/bias_images

What the images show is the same in all three; JPEG and resizing alone set them apart. A second set is cut by class, so
that what the images show alone sets them apart. An argument chooses the images: digits (the default, nothing to
download), or an image set of `--data_dir`, as in `configs/bias_images.py:cifar10`. Some minutes on two cores.
"""

from typing import Any

from ml_collections import ConfigDict


def get_config(images: str = "digits"):
    """The comparison of re-encoded thirds, and that of thirds of other classes.

    Args:
      images: name of an image set, see `data.load`.
    """
    small = images == "digits"
    side = 16 if small else 32
    source: dict[str, Any] = {"kind": "image_set", "dataset": images, "part": "all", "size": side}
    config = ConfigDict()
    config.seed = 0
    config.bias = {
        "sets": {
            "encodings": {
                "of": source,
                "cut": "identical",
                "parts": {"as_it_is": {}, "jpeg_50": {"quality": 50}, "resized": {"shrink": side * 5 // 8}},
            },
            "classes": {"of": source, "cut": "classes", "parts": {"first": {}, "second": {}, "third": {}}},
        },
        "main": "encodings",
        "transformations": transformations(side),
        "classifier": {"kind": "cnn", "epochs": 20 if small else 8},
        "num_train": 0 if small else 1500,
        "num_validation": 150 if small else 500,
    }
    return config


def transformations(side: int) -> dict:
    """The transformations by name, their sizes in proportion to the sides of the images."""
    found: dict[str, dict[str, Any]] = {"original": {"kind": "identity"}, "mean_rgb": {"kind": "mean_rgb"}}
    for fixed in (False, True):
        kind = "fixed" if fixed else "random"
        found[f"pixels_{kind}"] = {"kind": "pixel_shuffle", "fixed": fixed}
        found[f"patches_4_{kind}"] = {"kind": "patch_shuffle", "patch": 4, "fixed": fixed}
    found["patches_2_random"] = {"kind": "patch_shuffle", "patch": 2}
    found["patches_8_random"] = {"kind": "patch_shuffle", "patch": 8}
    for threshold in (side // 8, side // 4):
        found[f"low_pass_{threshold}"] = {"kind": "low_pass", "threshold": float(threshold)}
        found[f"high_pass_{threshold}"] = {"kind": "high_pass", "threshold": float(threshold)}
    found["canny"] = {"kind": "canny"}
    found["hog"] = {"kind": "hog", "side": 0, "cell": 4}
    found["superpixels"] = {"kind": "slic", "segments": side}
    return found
