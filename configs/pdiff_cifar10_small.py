"""P-diff on a small ResNet with batch normalisation, on CIFAR-10 images: the published recipe at a size for two cores.

    python -m launch.run --config=configs/pdiff_cifar10_small.py --workdir=runs/pdiff_cifar10 --data_dir=DIR

`DIR` holds CIFAR-10, or a subset of it as `.npz` (`--config.data.name` is then its name); the first 10,000 training and
2,000 test images are used. About twelve minutes on two cores with AVX-512, half of them the base (69 %).
"""

from ml_collections import ConfigDict

from configs import base, generators, pdiff_digits


def get_config() -> ConfigDict:
    """300 consecutive checkpoints of the last two normalisation layers, 256 values; 16 held-out runs."""
    config = base.get_config()
    config.num_samples = 200
    config.data.name = "cifar10"
    config.data.train_limit = 10_000
    config.data.test_limit = 2_000
    config.net = base.network("resnet18", stem="cifar", widths=(16, 32, 64), depths=(2, 2, 2))
    pdiff_digits.continue_from_base(config, layers=("layer3/1/bn1/*", "layer3/1/bn2/*"))
    config.zoo.base.epochs = 15
    config.zoo.base.learning_rate = 5e-3
    config.zoo.base.augment = "flip_crop"
    config.zoo.batch_size = 128
    config.report.boundary_resolution = 150
    config.generators = generators.pdiff_baselines()
    config.generators.pdiff = generators.preset("pdiff_small", batch_size=50)
    config.generators.pdiff_instance = ConfigDict({"of": "pdiff", "decode": "instance"})  # as published
    return config
