"""Hyper-Representations on scikit-learn's handwritten digits: every part of the study in miniature.

    python -m launch.run --config=configs/hyperrep_digits.py --workdir=runs/hyperrep_digits

Under four minutes on two cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """An MLP 64-16-10 with tanh (1,210 parameters), 200 training and 50 held-out runs of five checkpoints each."""
    config = base.get_config()
    config.num_samples = 200
    config.net.activation = "tanh"
    zoo = config.zoo
    zoo.num_runs = 200
    zoo.num_heldout = 50
    zoo.use = "all"
    zoo.epochs = 50
    zoo.snapshot_epochs = (21, 22, 23, 24, 25)
    zoo.batch_size = 32
    zoo.optimizer = "adam"
    zoo.schedule = "constant"
    zoo.learning_rate = 3e-3
    zoo.momentum = 0.0
    base.add_study(config, "autoencoder")
    config.generators = generators.hyperrep("hyperrep_small")
    config.generators.update(generators.baselines(0.02, 0.04))
    config.audit.probe.size = 4096  # on the 360 test images networks err too seldom, and on the same ones
    return config
