"""RPG's published settings (arXiv 2501.11587, released code), one per tag, with one permutation state beside them.

    python -m launch.describe --config=configs/paper/rpg.py:cifar10_cnnsmall
    python -m launch.run --config=configs/paper/rpg.py:cifar10_cnnsmall --workdir=runs/rpg_cnnsmall --data_dir=DIR

A tag is a data set and a network: cifar10_cnnsmall (2,864 parameters, 18 tokens of 256), cifar10_cnnmedium (10,853, 48
tokens), cifar10_resnet18, imagenet_resnet18, imagenet_vittiny and imagenet_vitbase. All but the first two continue from
timm's weights, which have to be there as arrays by name: `resnet18.npz`, `vit_tiny.npz`, `vit_base.npz` in the current
directory, or wherever `--config.zoo.base.import_npz` says; see `pdiff.py` beside it.

As published: the training networks are checkpoints of one run, every so many steps of its last epoch (50; 51 or 52 of
ImageNet); the generator `rpg_published` has one permutation state per checkpoint, and DDIM of imagenet_vitbase leaves
out the last timesteps. Different here: images are mirrored and cut where AutoAugment or RandAugment change them; the
run that is kept begins with an optimizer of its own; products are float32 (published: bfloat16 in training networks,
and in the generator between steps 5,000 and 45,000). The tables of the paper are not in the released code. Held-out
runs are ours. For accelerators, but for the small CNNs.

cifar10_cnnsmall takes about six hours on two cores (estimated: operations at 100 GFLOP/s), most of it RPG's 30,000
steps, twice.
"""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import base, generators

_COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_SMALL = {"token_size": 256, "width": 256, "state": 32, "tokens": 0, "steps": 30_000, "learning_rate": 1e-4}
_WIDE = {
    "token_size": 16_384,
    "width": 12_288,
    "channels": (64, 96),
    "tokens": 512,
    "steps": 120_000,
    "batch_size": 2,
    "learning_rate": 1e-5,
    "sampler": "ddim_published",
    "sampling_steps": 60,
}


class Setting(NamedTuple):
    """What distinguishes the tags.

    Attributes:
      network: name of the network here.
      images: training images.
      side: height and width of the images that it sees.
      colours: mean and standard deviation of the colours.
      base: settings of the run before, none for timm's weights as they are.
      batch_size: batch size of the run whose steps are kept.
      run: its optimizer, learning rate and weight decay.
      generator: what is different from RPG's defaults.
    """

    network: str
    images: int
    side: int
    colours: tuple[tuple[float, ...], tuple[float, ...]]
    base: dict[str, Any]
    batch_size: int
    run: tuple[str, float, float]
    generator: dict[str, Any]


def _sgd(weight_decay: float) -> dict[str, Any]:
    return {"epochs": 50, "batch_size": 500, "optimizer": "sgd", "learning_rate": 0.01, "weight_decay": weight_decay}


_RESNET = {"epochs": 50, "batch_size": 500, "optimizer": "adamw", "learning_rate": 3e-3, "weight_decay": 0.1}
_CIFAR, _IMAGENET = 50_000, 1_281_167

SETTINGS = {
    "cifar10_cnnsmall": Setting("cnn", _CIFAR, 28, _COLOURS, _sgd(1e-3), 500, ("sgd", 1e-5, 1e-3), _SMALL),
    "cifar10_cnnmedium": Setting(
        "cnn_medium", _CIFAR, 32, _COLOURS, _sgd(0.00666), 500, ("sgd", 1e-5, 0.00666), _SMALL
    ),
    "cifar10_resnet18": Setting(
        "resnet18", _CIFAR, 64, _COLOURS, _RESNET, 500, ("adamw", 1e-5, 0.1), {"learning_rate": 4e-5}
    ),
    "imagenet_resnet18": Setting("resnet18", _IMAGENET, 224, _COLOURS, {}, 500, ("adamw", 1e-5, 0.1), {}),
    "imagenet_vittiny": Setting(
        "vit_tiny", _IMAGENET, 224, _HALVES, {}, 50, ("adamw", 1e-5, 0.1), {"batch_size": 4, "steps": 50_000}
    ),
    "imagenet_vitbase": Setting("vit_base", _IMAGENET, 224, _HALVES, {}, 100, ("adamw", 3e-6, 0.1), _WIDE),
}
CHECKPOINTS = 50


def get_config(tag: str = "cifar10_cnnsmall") -> ConfigDict:
    """The experiment of a tag: checkpoints of one run, RPG with one permutation state and as published, baselines."""
    if tag not in SETTINGS:
        raise ValueError(f"Unknown tag {tag!r}; known: {', '.join(SETTINGS)}.")
    setting = SETTINGS[tag]
    config = base.get_config()
    config.num_samples = 200
    config.audit.hull_neighbours = 0
    config.data.name = "cifar10" if tag.startswith("cifar10") else "imagenet2012"
    config.data.mean, config.data.std = setting.colours
    if config.data.name == "imagenet2012":  # whose images have sizes of their own
        config.data.resize = setting.side
    config.net = base.network(setting.network, resize=setting.side, crop=setting.side)
    zoo = config.zoo
    zoo.num_runs = 1
    zoo.num_heldout = 16
    zoo.use = "all"
    zoo.heldout_snapshots = "one"
    zoo.start = "base"
    zoo.augment = zoo.base.augment = "flip_crop"
    zoo.base.update(setting.base)
    if not setting.network.startswith("cnn"):
        zoo.base.import_npz = f"{setting.network}.npz"
    zoo.batch_size = setting.batch_size
    zoo.optimizer, zoo.learning_rate, zoo.weight_decay = setting.run
    zoo.schedule = "constant"
    zoo.epochs = 1
    steps = setting.images // setting.batch_size
    zoo.snapshots = tuple(range(1, steps + 1, steps // CHECKPOINTS))
    config.generators = generators.pdiff_baselines()
    config.generators.rpg = generators.preset("rpg", **setting.generator)
    config.generators.rpg_published = generators.preset("rpg_published", **setting.generator)
    return config
