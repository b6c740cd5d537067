"""The setting of "Generative Modeling of Weights" (arXiv 2506.07998) for G.pt on MNIST networks, and its variants.

    python -m launch.describe --config=configs/paper/gpt_mnist.py          # 378,283,008 parameters
    python -m launch.describe --config=configs/paper/gpt_mnist.py:wide     # 579 M; also :deep, :narrow, :shallow

Published: mean accuracy 94.4 % of training and 94.0 % of generated networks, mean minimum aligned distance 3.64 and
2.25. For accelerators: about three days (estimated: operations at 40 TFLOP/s), and 75 GB of memory.
"""

from ml_collections import ConfigDict

from configs import base, generators, mnist_mlp

VARIANTS = {
    "": {},
    "wide": {"width": 1920, "heads": 20},  # 579.0 M
    "deep": {"blocks": 20},  # 604.9 M
    "narrow": {"width": 1152, "heads": 12},  # 220.0 M
    "shallow": {"blocks": 6},  # 208.3 M
}


def get_config(variant: str = "") -> ConfigDict:
    """The published size, or one of the variants."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(v for v in VARIANTS if v)}.")
    config = mnist_mlp.get_config()
    config.num_samples = 128
    config.zoo.num_runs = 10_228
    config.zoo.num_heldout = 500
    config.zoo.random_snapshots = 198  # and the initialisation and the end: 200 per run
    base.add_study(config, "prompting")
    config.generators = generators.baselines(0.05 / 4.185, 0.1 / 4.185)
    config.generators.gpt = generators.preset("gpt", scale=4.185, **VARIANTS[variant])
    return config
