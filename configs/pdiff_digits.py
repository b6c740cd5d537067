"""P-diff as published, in miniature: consecutive checkpoints of two normalisation layers of a ResNet for digits.

    python -m launch.run --config=configs/pdiff_digits.py --workdir=runs/pdiff_digits

A minute and a half on two cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """300 consecutive checkpoints of 128 values; 16 held-out runs from the same base."""
    config = base.get_config()
    config.num_samples = 200
    config.net = base.network("resnet18", stem="cifar", widths=(16, 32), depths=(1, 1))
    continue_from_base(config, layers=("layer2/0/bn1/*", "layer2/0/bn2/*"))
    config.zoo.base.epochs = 15
    config.zoo.base.learning_rate = 5e-3
    config.zoo.batch_size = 64
    config.generators = generators.pdiff_baselines()
    config.generators.pdiff = generators.preset("pdiff_small", batch_size=50)
    config.generators.pdiff_instance = ConfigDict({"of": "pdiff", "decode": "instance"})  # as published
    config.audit.probe.size = 4096  # on the 360 test images networks err too seldom, and on the same ones
    return config


def continue_from_base(config: ConfigDict, layers: tuple[str, ...]) -> None:
    """P-diff's population: every step from the second to the 301st of one run from the base."""
    zoo = config.zoo
    zoo.num_runs = 1
    zoo.num_heldout = 16
    zoo.use = "all"
    zoo.start = "base"
    zoo.subset = layers
    zoo.statistics = "frozen"
    zoo.steps = 301
    zoo.snapshot_range = (2, 301)
    zoo.heldout_snapshots = "one"
    zoo.optimizer = "adamw"
    zoo.schedule = "constant"
    zoo.learning_rate = 0.03
    zoo.momentum = 0.0
    zoo.weight_decay = 5e-4
    config.audit.hull_neighbours = 0
