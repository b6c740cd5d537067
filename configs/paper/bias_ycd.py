"""The setting of "Understanding Bias in Large-Scale Visual Datasets" (arXiv 2412.01876): YFCC100M, CC12M, DataComp-1B.

    python -m launch.describe --config=configs/paper/bias_ycd.py              # ConvNeXt-Tiny, 27,822,435 parameters
    python -m launch.describe --config=configs/paper/bias_ycd.py:femto        # also :nano, :resnet34
    python -m launch.describe --config=configs/paper/bias_ycd.py:captions     # sentences about the images
    python -m launch.classify --config=configs/paper/bias_ycd.py:tiny,own --workdir=runs/bias_ycd --data_dir=data

For accelerators: about 17 hours per training on one (estimated: operations at 40 TFLOP/s). The folders `yfcc`, `cc` and
`datacomp` below `--data_dir` hold at least 1,030,000 images each; at 256 pixels a million images take 197 GB of memory,
so lower `--config.bias.num_train` and `limit` on a smaller host. Published: 82.0 % on original images, see the page's
table for the others. What the published code does by mistake is off, see docs/bias.md.

`tiny` has all transformations; `tiny,own` those that need no large pre-trained model. The others need
`pip install "jaxweights[adapters]"` and weights, of which these are the published ones or stand in for them
(docs/bias_adapters.md):

    sam              Segment Anything ViT-L, the published weights
    depth            Depth-Anything-V2 ViT-L, the published weights
    text_to_image    SDXL-Turbo, the published weights, on the table `captions.jsonl`
    segmentation     Mask2Former with Swin-L stands in for ViT-Adapter-L with BEiTv2, which is in no library
    object_detection Deformable DETR on LVIS stands in for ViTDet-H, which is in no library of the extra
    vae              an autoencoder with a factor of 8 stands in for that of 4, whose weights are in no library's form
    unconditional    DiT-B/2, one for each collection: none was released, give your own as `./dit/NAME`

`captions` classifies what LLaVA-1.5-7B says of the images in a sentence: tables `captions/NAME.jsonl` of
`launch.annotate --task=caption`, by Sentence-T5-base, trained whole.
"""

from typing import Any

from ml_collections import ConfigDict

VARIANTS = {
    "tiny": {"name": "convnext_tiny"},
    "femto": {"name": "convnext_tiny", "widths": (48, 96, 192, 384), "depths": (2, 2, 6, 2)},
    "nano": {"name": "convnext_tiny", "widths": (80, 160, 320, 640), "depths": (2, 2, 8, 2)},
    "resnet34": {"name": "resnet18", "depths": (3, 4, 6, 3)},
}
COLLECTIONS = ("yfcc", "cc", "datacomp")
OWN, CAPTIONS = "own", "captions"
BUTTERWORTH = {"threshold": 30.0, "butterworth": True}  # of the comparison of networks


def get_config(chosen: str = "tiny") -> ConfigDict:
    """The published recipe with one of its networks.

    Args:
      chosen: a key of `VARIANTS`, and ",own" to leave out what needs a large pre-trained model; or "captions".
    """
    variant, _, rest = chosen.partition(",")
    if variant not in (*VARIANTS, CAPTIONS) or rest not in ("", OWN) or (rest and variant == CAPTIONS):
        known = ", ".join((*VARIANTS, f"one of these with ,{OWN}", CAPTIONS))
        raise ValueError(f"Unknown variant {chosen!r}; known: {known}.")
    config = ConfigDict()
    config.seed = 0
    if variant == CAPTIONS:
        config.language = captions()
        return config
    config.bias = {
        "sets": {
            "ycd": {
                "collections": {
                    name: {"kind": "folder", "path": name, "size": 256, "limit": 1_030_000, "skip_bad": True}
                    for name in COLLECTIONS
                }
            }
        },
        "main": "ycd",
        "transformations": {**own(variant), **({} if rest else pretrained())},
        "classifier": {"kind": "recipe", "net": VARIANTS[variant], "micro_batch": 128},
        "repeats": 3,
        "controls": 1,
        "num_train": 1_000_000,
        "num_validation": 10_000,
        "repeated": "remove",
    }
    return config


def own(variant: str) -> dict[str, Any]:
    """Transformations that need no large pre-trained model."""
    smooth = {} if variant == "tiny" else BUTTERWORTH
    return {
        "reference": {"kind": "identity"},
        "mean_rgb": {"kind": "mean_rgb"},
        "pixel_shuffle_random": {"kind": "pixel_shuffle"},
        "pixel_shuffle_fixed": {"kind": "pixel_shuffle", "fixed": True},
        **{f"patch_shuffle_{p}_random": {"kind": "patch_shuffle", "patch": p} for p in (2, 4, 8, 16)},
        **{f"patch_shuffle_{p}_fixed": {"kind": "patch_shuffle", "patch": p, "fixed": True} for p in (2, 4, 8, 16)},
        "lpf": {"kind": "low_pass", **smooth},
        "hpf": {"kind": "high_pass", **smooth},
        "canny": {"kind": "canny"},
        "hog": {"kind": "hog"},
        "sift": {"kind": "sift"},
    }


def pretrained() -> dict[str, Any]:
    """Transformations by large pre-trained models, and the published pairs of transformations."""
    turbo = {"dtype": "float16", "variant": "fp16", "captions": "captions.jsonl"}
    return {
        "sam": {"kind": "sam"},
        "segmentation": {"kind": "segmentation"},
        "depth": {"kind": "depth"},
        "object_detection": {"kind": "detection"},
        "vae": {"kind": "sd_vae"},
        "text_to_image": {"kind": "text_to_image", **turbo},
        "unconditional": {"kind": "dit", "models": {name: f"./dit/{name}" for name in COLLECTIONS}},
        "pixels_and_detection": {"kind": "concatenation", "parts": ["pixel_shuffle", "detection"]},
        "pixels_and_sam": {"kind": "concatenation", "parts": ["pixel_shuffle", "sam"]},
        "detection_and_sam": {"kind": "concatenation", "parts": ["detection", "sam"]},
    }


def captions() -> dict[str, Any]:
    """The published classifier of captions, and prompts of 120 captions of each collection."""
    return {
        "collections": {name: f"captions/{name}.jsonl" for name in COLLECTIONS},
        "repeats": 3,
        "controls": 1,
        "num_train": 1_000_000,
        "num_validation": 10_000,
        "encoder": {
            "model": "sentence-transformers/sentence-t5-base",
            "tuned": True,
            "frozen": False,
        },
        "prompts": {"queries": 100, "demonstrations": 120, "summaries": 10},
    }
