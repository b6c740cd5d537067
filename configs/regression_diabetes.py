"""Regression: networks that predict the progression of diabetes, P-diff on their weights, every baseline and control.

    python -m launch.run --config=configs/regression_diabetes.py --workdir=runs/regression_diabetes

Under a minute on two cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """An MLP 10-16-1 (193 parameters), 256 training and 64 held-out runs, 128 generated networks."""
    config = base.get_config("regression")
    config.num_samples = 128
    config.net = base.network("mlp", hidden=(16,), activation="tanh")
    zoo = config.zoo
    zoo.num_runs = 256
    zoo.num_heldout = 64
    zoo.epochs = 40
    zoo.batch_size = 16
    zoo.start = "shared"  # as in configs/digits.py
    zoo.learning_rate = 0.07
    zoo.weight_decay = 1e-4
    config.generators = generators.baselines(0.02, 0.04)
    config.generators.pdiff = generators.preset("pdiff_small", autoencoder_steps=300, diffusion_steps=300)
    return config
