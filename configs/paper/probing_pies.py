"""Pies as in "Bias and Generalization in Deep Generative Models" (Zhao et al. 2018, arXiv 1811.03259): size, place,
share of red, and their combinations.

    python -m launch.describe --config=configs/paper/probing_pies.py           # also :small, :large, :fc
    python -m launch.probe --config=configs/paper/probing_pies.py --workdir=runs/probing_pies_paper

64 x 64 pixels, 200,000 images per training set (9.8 GB), 200,000 steps of 100 images; sizes of networks as in
probing_dots.py. Single values go with 30 combinations of the other features. Published: memorised up to some 30 of
2,025 combinations, and almost all combinations generated from some hundreds on. For accelerators, in days.
"""

from ml_collections import ConfigDict

from configs.paper.probing_dots import VAE, VARIANTS, WGAN

NUMBERS = (10, 15, 20, 30, 50, 60, 75, 100, 150, 200, 300, 400)


def get_config(variant: str = "conv") -> ConfigDict:
    """The published study of pies with one size of all networks.

    Args:
      variant: one of `VARIANTS`.
    """
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    config = ConfigDict()
    config.seed = 0
    single = {"kind": "impulse", "combinations": 30}
    pairs = tuple((0.3, other) for other in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    config.probing = {
        "data": {"kind": "pies", "faithful": True},
        "estimator": {"kind": "pies"},
        "models": {"vae": {"size": variant, **VAE}, "wgan": {"size": variant, **WGAN}},
        "probes": {
            "size": {"feature": "size", **single},
            "place": {"feature": "x", "values": (-0.1, -0.05, 0.0, 0.05, 0.1), **single},
            "red": {"feature": "red", "values": (0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), **single},
            "additivity": {"kind": "additivity", "feature": "red", "mixtures": pairs, "combinations": 30},
            "prototype": {"kind": "prototype", "feature": "red", "mixtures": pairs, "combinations": 30},
            "combinations": {"kind": "combinations", "numbers": NUMBERS},
        },
        "num_train": 200_000,
        "num_heldout": 20_480,
        "num_samples": 20_480,
        "seeds": 1,
        "together": False,
    }
    return config
