"""The setting of "Understanding Bias in Large-Scale Visual Datasets" (arXiv 2412.01876): YFCC100M, CC12M, DataComp-1B.

    python -m launch.describe --config=configs/paper/bias_ycd.py              # ConvNeXt-Tiny, 27,822,435 parameters
    python -m launch.describe --config=configs/paper/bias_ycd.py:femto        # also :nano, :resnet34
    python -m launch.classify --config=configs/paper/bias_ycd.py --workdir=runs/bias_ycd --data_dir=data

For accelerators: about 17 hours per training on one (estimated: operations at 40 TFLOP/s). The folders `yfcc`, `cc` and
`datacomp` below `--data_dir` hold at least 1,030,000 images each; at 256 pixels a million images take 197 GB of memory,
so lower `--config.bias.num_train` and `limit` on a smaller host. Published: 82.0 % on original images, see the page's
table for the others. Transformations that need large pre-trained models are not among these.
"""

from ml_collections import ConfigDict

VARIANTS = {
    "tiny": {"name": "convnext_tiny"},
    "femto": {"name": "convnext_tiny", "widths": (48, 96, 192, 384), "depths": (2, 2, 6, 2)},
    "nano": {"name": "convnext_tiny", "widths": (80, 160, 320, 640), "depths": (2, 2, 8, 2)},
    "resnet34": {"name": "resnet18", "depths": (3, 4, 6, 3)},
}
BUTTERWORTH = {"threshold": 30.0, "butterworth": True}  # of the comparison of networks


def get_config(variant: str = "tiny") -> ConfigDict:
    """The published recipe with one of its networks.

    Args:
      variant: a key of `VARIANTS`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    config = ConfigDict()
    config.seed = 0
    config.bias = {
        "sets": {
            "ycd": {
                "collections": {
                    name: {"kind": "folder", "path": name, "size": 256, "limit": 1_030_000, "skip_bad": True}
                    for name in ("yfcc", "cc", "datacomp")
                }
            }
        },
        "main": "ycd",
        "transformations": {
            "reference": {"kind": "identity"},
            "mean_rgb": {"kind": "mean_rgb"},
            "pixel_shuffle_random": {"kind": "pixel_shuffle"},
            "pixel_shuffle_fixed": {"kind": "pixel_shuffle", "fixed": True},
            **{f"patch_shuffle_{p}_random": {"kind": "patch_shuffle", "patch": p} for p in (2, 4, 8, 16)},
            **{f"patch_shuffle_{p}_fixed": {"kind": "patch_shuffle", "patch": p, "fixed": True} for p in (2, 4, 8, 16)},
            "lpf": {"kind": "low_pass"} if variant == "tiny" else {"kind": "low_pass", **BUTTERWORTH},
            "hpf": {"kind": "high_pass"} if variant == "tiny" else {"kind": "high_pass", **BUTTERWORTH},
            "canny": {"kind": "canny"},
            "hog": {"kind": "hog"},
            "sift": {"kind": "sift"},
        },
        "classifier": {"kind": "recipe", "net": VARIANTS[variant], "micro_batch": 128},
        "repeats": 3,
        "controls": 1,
        "num_train": 1_000_000,
        "num_validation": 10_000,
        "repeated": "remove",
    }
    return config
