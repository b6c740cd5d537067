"""DeepWeightFlow's zoos and flows (arXiv 2601.05052, released code), one tag per network and size.

    python -m launch.describe --config=configs/paper/deepweightflow.py:mnist
    python -m launch.run --config=configs/paper/deepweightflow.py:mnist --workdir=runs/dwf_mnist --data_dir=DIR

A tag is a network and, for the MLPs, a size of the flow: mnist and fashion (width 512 on weights, the paper's main
rows), mnist_64 and fashion_64 (width 64), mnist_pca and fashion_pca (the released config: 99 principal components of
100 networks); resnet18 has components in both. Every tag has the flow as published, with and without alignment, and
with its defects corrected. The corrected one holds ten of 100 runs out to choose its parameters by.

As published: 100 runs of own initialisations, 100 samples, alignment to network 0 without scales. Different here: runs
keep their last epoch, where Fashion-MNIST's and ResNet-18's are chosen by the test images and stop early; gradients are
not clipped, products are float32; ResNet-18 begins with residual blocks that add nothing, and its batches of 512 are
normalised as wholes, not in four parts; running statistics do not enter the alignment. Held-out runs are ours.
Published accuracies in percent, of runs and of the flow: MNIST 96.3 and 96.2 (57.8 at width 64, 25.5 without
alignment); Fashion-MNIST 77.8 at width 64, 53.4 without alignment; ResNet-18 on CIFAR-10 94.5 and 93.6. For
accelerators, but for the MLPs' principal components, whose flow trains in some minutes on two cores
(computed from its steps).
"""

from typing import Any

from ml_collections import ConfigDict

from configs import base, generators

# By tag: settings of the flow. Two of its published ones depend on the network.
SIZES: dict[str, dict[str, Any]] = {
    "mnist": {"components": None},
    "mnist_64": {"components": None, "width": 64},
    "mnist_pca": {"components": 99},
    "fashion": {"components": None},
    "fashion_64": {"components": None, "width": 64},
    "fashion_pca": {"components": 99},
    "resnet18": {"components": 99, "width": 1024, "time_width": 128},
}


def get_config(tag: str = "mnist") -> ConfigDict:
    """The experiment of a tag: 100 training and 50 held-out runs, flows and baselines."""
    if tag not in SIZES:
        raise ValueError(f"Unknown tag {tag!r}; known: {', '.join(SIZES)}.")
    config = base.get_config()
    config.num_samples = 100
    config.zoo.num_runs = 100
    config.zoo.num_heldout = 50
    {"mnist": _mnist, "fashion": _fashion, "resnet18": _resnet}[tag.partition("_")[0]](config)
    size = SIZES[tag]
    config.generators = generators.baselines()
    config.generators.deepweightflow = generators.preset("deepweightflow", **size)
    config.generators.deepweightflow_unaligned = generators.preset("deepweightflow", **size, order="none")
    corrected = {key: value for key, value in size.items() if key != "components"}
    if tag == "resnet18":  # its weights are too many: the components of the 90 runs that are left
        corrected["components"] = 89
    config.generators.flow = generators.preset("flow", **corrected)
    config.generators.copier = {"kind": "copier"}
    return config


def _mnist(config: ConfigDict) -> None:
    """784-32-32-10, 26,506 parameters."""
    config.data.name = "mnist"
    config.data.mean, config.data.std = (0.0,), (1.0,)
    config.net = base.network("mlp", hidden=(32, 32), init="kaiming_uniform_no_bias")
    _adam(config.zoo, "adam", 5)


def _fashion(config: ConfigDict) -> None:
    """784-128-128-10, 118,282 parameters."""
    config.data.name = "fashion_mnist"
    config.data.mean, config.data.std = (0.0,), (1.0,)
    config.net = base.network("mlp", hidden=(128, 128), init="kaiming_uniform_no_bias")
    _adam(config.zoo, "adamw", 25)
    config.zoo.weight_decay = 0.01


def _adam(zoo: ConfigDict, optimizer: str, epochs: int) -> None:
    zoo.update(optimizer=optimizer, schedule="constant", learning_rate=1e-3, momentum=0.0, batch_size=64, epochs=epochs)


def _resnet(config: ConfigDict) -> None:
    """ResNet-18 for 32 pixels, 11,173,962 parameters and 9,600 running statistics."""
    config.data.name = "cifar10"
    config.data.mean, config.data.std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    config.net = base.network("resnet18", stem="cifar")
    config.zoo.update(epochs=100, batch_size=512, weight_decay=5e-4, schedule="cosine_per_epoch", augment="flip_crop")
