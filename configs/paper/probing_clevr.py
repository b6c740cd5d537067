"""Scenes of solids in the setting of "Bias and Generalization in Deep Generative Models" (Zhao et al. 2018, arXiv
1811.03259), who rendered CLEVR with Blender: numbers of objects, or pairs of shapes and colours with exceptions.

    python -m launch.describe --config=configs/paper/probing_clevr.py          # numbers; also :pairs
    python -m launch.probe --config=configs/paper/probing_clevr.py --workdir=runs/probing_clevr_paper

Numbers: 128 x 128 pixels, a DCGAN-like network (19,103,235 parameters make images) with gradient penalty 12. Pairs: 32
x 32 pixels, the same with penalty 10, and PixelCNN++ (160 filters, 5 layers a stage, 10 mixtures); of 3 x 3 colours
and 3 x 3 shapes, cone beside cylinder occurs with two pairs of colours alone, in 74 combinations of 400 images each.
1,000 epochs of batches of 64, the learning rate halved every 100. The 50 updates of the critic that were made now and
then are 5 as always. For accelerators, in days.
"""

from ml_collections import ConfigDict

VARIANTS = ("numbers", "pairs")
IMAGES = 74 * 400
WGAN = {
    "kind": "wgan",
    "size": "clevr",
    "latents": 100,
    "uniform_latents": True,
    "steps": 1000 * IMAGES // 64,
    "batch_size": 64,
    "critic_steps": 5,
    "learning_rate": 2e-4,
    "halving": 0.1,
    "beta_1": 0.5,
    "beta_2": 0.999,
    "published_penalty": True,
    "sampled_statistics": True,
}
NUMBERS = {
    "data": {"kind": "scenes", "side": 128},
    "models": {"wgan": {**WGAN, "penalty": 12.0}},
    "probes": {
        "impulse": {"kind": "impulse", "feature": "count", "values": (1, 2, 3, 4, 5)},
        "additivity": {"kind": "additivity", "feature": "count", "mixtures": ((1, 5),)},
        "prototype": {"kind": "prototype", "feature": "count", "mixtures": ((2, 4),)},
    },
}
PAIRS = {
    "data": {
        "kind": "scene_pairs",
        "side": 32,
        "colors": ("red", "blue", "green"),
        "shapes": ("sphere", "cylinder", "cone"),
    },
    "models": {"wgan": {**WGAN, "penalty": 10.0}, "pixelcnn": {"kind": "pixelcnn"}},
    "probes": {
        "exceptions": {"kind": "exceptions", "rare": (2, 1), "kept": ((0, 1), (1, 2))},  # cone left, cylinder right
    },
}


def get_config(variant: str = "numbers") -> ConfigDict:
    """The published study of scenes.

    Args:
      variant: one of `VARIANTS`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        **(NUMBERS if variant == "numbers" else PAIRS),
        "estimator": {"kind": "scene_net"},
        "num_train": IMAGES,
        "num_heldout": 960,
        "num_samples": 960,
        "seeds": 1,
        "together": False,
    }
    return config
