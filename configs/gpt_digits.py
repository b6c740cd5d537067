"""G.pt on scikit-learn's handwritten digits: a small transformer on trajectories, prompted with held-out random starts.

    python -m launch.run --config=configs/gpt_digits.py --workdir=runs/gpt_digits

Minutes on two cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The digits MLP 64-16-10, 500 training and 64 held-out runs of 25 checkpoints each at iterations of their own."""
    config = base.get_config()
    config.num_samples = 128
    config.zoo.num_runs = 500
    config.zoo.num_heldout = 64
    config.zoo.nesterov = True
    config.zoo.schedule = "cosine_per_epoch"
    config.zoo.weight_decay = 5e-4
    config.zoo.epochs = 25
    config.zoo.random_snapshots = 23
    config.generators = generators.baselines()
    config.generators.gpt = generators.gpt_small()
    return config
