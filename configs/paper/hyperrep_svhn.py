"""The setting of "Generative Modeling of Weights" (arXiv 2506.07998) for Hyper-Representations, and its variants.

    python -m launch.describe --config=configs/paper/hyperrep_svhn.py          # 223 M parameters
    python -m launch.describe --config=configs/paper/hyperrep_svhn.py:wide     # 359 M; also :deep, :narrow, :shallow

Published: mean accuracy 65.2 % of the training series (reconstructions) and 57.5 % of generated networks, mean minimum
distance 50.0 and 8.11. For accelerators: an autoencoder of this size trains for days on a laptop.
"""

from ml_collections import ConfigDict

from configs import generators, hyperrep_svhn

VARIANTS = {
    "": {},
    "wide": {"width": 1600, "heads": 16},  # "+dim & head", 359 M
    "deep": {"blocks": 20},  # "+layer", 362 M
    "narrow": {"width": 800, "heads": 8},  # "-dim & head", 118 M
    "shallow": {"blocks": 8},  # "-layer", 154 M
}


def get_config(variant: str = "") -> ConfigDict:
    """The published size, or one of the variants."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(v for v in VARIANTS if v)}.")
    config = hyperrep_svhn.get_config()
    # All blocks of a stack start alike in the published code.
    config.generators = generators.hyperrep("hyperrep", identical_blocks=True, **VARIANTS[variant])
    config.generators.update(
        {
            "hyperrep_all_faithful": {"of": "hyperrep", "sampler": "kde", "top": 1.0, "mode": "faithful"},  # S_KDE
            "hyperrep_direct": {"of": "hyperrep", "sampler": "direct"},  # B_F
            **generators.baselines(0.02, 0.04),
        }
    )
    return config
