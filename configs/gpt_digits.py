"""G.pt on scikit-learn's handwritten digits: a zoo of trajectories, a small transformer, prompts and recursion.

    python -m launch.run --config=configs/gpt_digits.py --workdir=runs/gpt_digits

Four minutes on two cores with AVX-512, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """4,000 training and 128 held-out runs of an MLP 64-10-10 (760 parameters), 25 checkpoints each."""
    config = base.get_config()
    config.num_samples = 128  # one from every held-out run's initialisation
    config.net.hidden = (10,)
    zoo = config.zoo
    zoo.num_runs = 4000
    zoo.num_heldout = 128
    zoo.epochs = 8
    zoo.nesterov = True
    zoo.learning_rate = 0.05
    zoo.weight_decay = 5e-4
    zoo.random_snapshots = 23
    base.add_study(config, "prompting")
    config.generators = generators.gpt_baselines()
    config.generators.gpt = generators.preset("gpt_small", steps=1600)
    config.generators.gpt_recursive = ConfigDict({"of": "gpt", "recursion": 4})
    config.audit.probe.size = 4096  # on the 360 test images networks err too seldom, and on the same ones
    return config
