"""Flow matching on principal components of MNIST networks of own initialisations, and as published.

    python -m launch.run --config=configs/flow_mnist.py --workdir=runs/flow_mnist --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. What it gave is in docs/flow-matching.md.
Two minutes on two cores.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The MLP 784-10-10 (7,960 parameters), 128 training and 64 held-out runs of five epochs."""
    config = base.get_config()
    config.num_samples = 128
    config.data.name = "mnist"
    config.net.hidden = (10,)
    config.zoo.num_runs = 128
    config.zoo.num_heldout = 64
    config.zoo.epochs = 5
    config.zoo.batch_size = 128
    config.zoo.nesterov = True
    config.zoo.batch_order = "shared"  # twice as fast; runs differ by their starts
    config.zoo.weight_decay = 5e-4
    config.generators = generators.baselines(0.02, 0.04)
    config.generators.flow_32 = generators.preset("flow_small", components=32, steps=3_000)
    config.generators.deepweightflow = generators.preset("deepweightflow", steps=6_000)
    config.generators.update(generators.closed_forms())
    return config
