"""SANE's zoos and autoencoders (arXiv 2406.09997, released code), one tag per network.

    python -m launch.describe --config=configs/paper/sane.py:cnn          # 202,539,421 parameters
    python -m launch.describe --config=configs/paper/sane.py:resnet18     # 865,050,012
    python -m launch.run --config=configs/paper/sane.py:cnn --workdir=runs/sane_cnn --data_dir=DIR

cnn is the CNN of 10,853 parameters on CIFAR-10 (released: ten runs as a sample; here the 1,000 of the zoo, split 70 to
30), resnet18 on CIFAR-100 (200 runs, of which 140 are learned from, the last epoch). Every tag has the generator as
released and with its defects corrected, each with subsampling (50 networks for ten) and cnn with bootstrapping.

Different here: windows are cut anew at every access, where the released code stores three per network of the CNN and
50 of 2,048 tokens of ResNet-18; products are bfloat16, not float16; choices and running statistics are by training
images, as in the released code where its file of images has no validation part. Published accuracy of networks that are
not trained further: 68.6 % of ResNet-18 on CIFAR-10, as DeepWeightFlow quotes it. For accelerators: on two cores the
autoencoder of the CNN trains for ten days, that of ResNet-18 for 100 (estimated: operations at 100 GFLOP/s).
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config(tag: str = "cnn") -> ConfigDict:
    """The experiment of a tag."""
    if tag not in ("cnn", "resnet18"):
        raise ValueError(f"Unknown tag {tag!r}; known: cnn, resnet18.")
    config = base.get_config()
    size = _cnn(config) if tag == "cnn" else _resnet(config)
    config.generators = generators.baselines()
    config.generators.sane = generators.preset("sane", dtype="bfloat16", **size)
    config.generators.sane_published = generators.preset(
        "sane_published", dtype="bfloat16", **{**size, "token_size": size.get("token_size", 0)}
    )
    for name in ("sane", "sane_published"):
        config.generators[f"{name}_sub"] = ConfigDict({"of": name, "candidates": 5})
        if tag == "cnn":
            config.generators[f"{name}_boot"] = ConfigDict({"of": name, "candidates": 5, "rounds": 5})
    return config


def _cnn(config: ConfigDict) -> dict:
    """CNN of 10,853 parameters: 93 tokens of 289 numbers."""
    config.data.name = "cifar10"
    config.net = base.network(
        "cnn",
        channels=(16, 32, 15),
        windows=(3, 3, 3),
        pools=(True, True, True),
        activation="gelu",
        init="kaiming_uniform",
    )
    zoo = config.zoo
    zoo.num_runs, zoo.num_heldout = 700, 300
    zoo.use = "all"
    zoo.epochs = 50
    zoo.snapshot_epochs = (21, 22, 23, 24, 25)
    zoo.update(optimizer="adam", schedule="constant", learning_rate=1e-4, momentum=0.0, weight_decay=0.01)
    zoo.batch_size = 10
    config.num_samples = 100
    return {"max_positions": (100, 10, 40)}


def _resnet(config: ConfigDict) -> dict:
    """ResNet-18 for 32 pixels and 100 classes: 53,704 tokens of 288 numbers."""
    config.data.name = "cifar100"
    config.net = base.network("resnet18", stem="cifar")
    config.zoo.num_runs, config.zoo.num_heldout = 140, 60
    config.zoo.update(epochs=60, batch_size=128, learning_rate=0.1, weight_decay=5e-4)
    config.num_samples = 10
    return {
        "token_size": 288,
        "width": 2048,
        "heads": 16,
        "max_positions": (55_000, 100, 550),
        "window": 256,
        "steps": 50 * 218,  # 140 networks of 50 windows each, in full batches of 32
        "halo_window": 128,
        "halo": 64,
    }
