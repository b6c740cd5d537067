"""G.pt's CIFAR-10 zoo: a ConvNet of 5,370 parameters, SGD 0.1 with Nesterov momentum, 50 epochs; and a small G.pt.

    python -m launch.run --config=configs/gpt_cifar10.py --workdir=runs/gpt_cifar10 --data_dir=DIR

`DIR` holds CIFAR-10 (launch.prepare_data --dataset=cifar10). The recipe of every run is the published one; there are
56,840 of them in the published zoo, which `configs/paper/gpt_cifar10.py` has, and 200 here. That is
3.9 million steps, of which two cores did 22 per second, so about two days: work for an accelerator. Only 8 runs of
three epochs on 10,000 images were trained so far (31 to 34 %).
"""

from ml_collections import ConfigDict

from configs import base, generators

_SCALE = 255.0  # of the published means and deviations


def get_config() -> ConfigDict:
    """160 training and 40 held-out runs, 25 checkpoints each."""
    config = base.get_config()
    config.num_samples = 128
    config.data.name = "cifar10"
    config.data.mean = (125.3 / _SCALE, 123.0 / _SCALE, 113.9 / _SCALE)
    config.data.std = (63.0 / _SCALE, 62.1 / _SCALE, 66.7 / _SCALE)
    config.net = base.network("convnet", channels=(16, 32), activation="relu", init="torch")
    zoo = config.zoo
    zoo.num_runs = 160
    zoo.num_heldout = 40
    zoo.epochs = 50
    zoo.batch_size = 128
    zoo.augment = "flip_crop"
    zoo.nesterov = True
    zoo.schedule = "cosine_per_epoch"
    zoo.weight_decay = 5e-4
    zoo.random_snapshots = 23
    zoo.largest_weight = 10.0
    base.add_study(config, "prompting")
    config.generators = generators.gpt_baselines()
    config.generators.gpt = generators.preset("gpt_small", steps=3000)
    config.generators.gpt.prompt = 1.2
    return config
