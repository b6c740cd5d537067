"""Dots as in "Bias and Generalization in Deep Generative Models" (Zhao et al. 2018, arXiv 1811.03259): how many come
out.

    python -m launch.describe --config=configs/paper/probing_dots.py           # also :small, :large, :fc
    python -m launch.probe --config=configs/paper/probing_dots.py --workdir=runs/probing_dots_paper

64 x 64 pixels, 65,536 images per number of dots, 200,000 steps of 100 images. Parameters of the part that makes
images: "conv" 5,889,539, "small" 3,253,619, "large" 23,290,883, "fc" 15,855,616. For accelerators, in days:
21 training sets for each of three models, one after the other; a training set takes 3.2 GB. Published on the slides:
numbers spread like a log-normal around the trained one, as widely in proportion for all; of {2, 4} the most frequent
is 3.
"""

from ml_collections import ConfigDict

VARIANTS = ("conv", "small", "large", "fc")
SETTINGS = {"latents": 100, "steps": 200_000, "batch_size": 100, "learning_rate": 1e-4, "sampled_statistics": True}
VAE = {"kind": "vae", "published_annealing": True, "published_sigma": True, **SETTINGS}
ADVERSARIAL = {"same_batch": True, "critic_steps": 2, **SETTINGS}
WGAN = {"kind": "wgan", "published_penalty": True, **ADVERSARIAL}
DCGAN = {"kind": "dcgan", **ADVERSARIAL}
MIXTURES = ((3, 10), (4, 9), (5, 8), (6, 7), (3, 6, 9), (4, 6, 8), (3, 6, 9, 10), (3, 4, 5, 6, 7, 8))


def get_config(variant: str = "conv") -> ConfigDict:
    """The published study of dots with one size of all networks.

    Args:
      variant: one of `VARIANTS`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "dots", "faithful": True},
        "estimator": {"kind": "dots"},
        "models": {name: {"size": variant, **one} for name, one in (("vae", VAE), ("wgan", WGAN), ("dcgan", DCGAN))},
        "probes": {
            "impulse": {"kind": "impulse", "feature": "count"},
            "additivity": {"kind": "additivity", "feature": "count", "mixtures": MIXTURES},
            "prototype": {"kind": "prototype", "feature": "count", "mixtures": ((2, 4),)},
        },
        "num_train": 65_536,
        "num_heldout": 20_480,
        "num_samples": 20_480,
        "seeds": 1,
        "together": False,
    }
    return config
