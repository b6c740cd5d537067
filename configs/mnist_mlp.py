"""G.pt's MNIST zoo: MLP 784-10-10 (7,960 parameters), SGD 0.1 with Nesterov momentum, 25 epochs, cosine per epoch.

    python -m launch.run --config=configs/mnist_mlp.py --workdir=runs/mnist_mlp --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. The published zoo has 10,228 training and 500
held-out runs (--config.zoo.num_runs=10228 --config.zoo.num_heldout=500) and a mean accuracy of 94.4 %; this one is a
tenth of it. About a quarter of an hour on two cores (estimated from the rates in `benchmarks/README.md`).
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The recipe as published; P-diff at a size that two cores can train."""
    config = base.get_config()
    config.data.name = "mnist"
    config.net.hidden = (10,)
    config.zoo.num_runs = 1024
    config.zoo.num_heldout = 128
    config.zoo.epochs = 25
    config.zoo.batch_size = 128
    config.zoo.nesterov = True
    config.zoo.schedule = "cosine_per_epoch"
    config.zoo.weight_decay = 5e-4
    # G.pt's noise baselines: 0.05 and 0.1 in its normalised space, whose unit is 1 / 4.185.
    config.generators = generators.baselines(0.05 / 4.185, 0.1 / 4.185)
    config.generators.pdiff = generators.preset("pdiff_small", input_noise=1.0)
    return config
