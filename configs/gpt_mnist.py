"""G.pt on real MNIST: the published recipe of the zoo, a small transformer, prompts and recursion.

    python -m launch.run --config=configs/gpt_mnist.py --workdir=runs/gpt_mnist --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. `configs/paper/gpt_mnist.py` has the published
number of runs and size of the transformer.
"""

from ml_collections import ConfigDict

from configs import generators, mnist_mlp


def get_config() -> ConfigDict:
    """1,000 training and 128 held-out runs of the MLP 784-10-10 (7,960 parameters), 25 checkpoints each."""
    config = mnist_mlp.get_config()
    config.num_samples = 128  # one from every held-out run's initialisation, as published
    config.zoo.num_runs = 1000
    config.zoo.num_heldout = 128
    config.zoo.random_snapshots = 23
    config.generators = generators.gpt_baselines()
    config.generators.gpt = generators.gpt_small(steps=6000)
    config.generators.gpt_recursive = ConfigDict({"of": "gpt", "recursion": 4})
    return config
