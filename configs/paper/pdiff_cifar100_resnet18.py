"""P-diff's main setting, which "Generative Modeling of Weights" (arXiv 2506.07998) examines; see `pdiff.py` beside it.

python -m launch.describe --config=configs/paper/pdiff_cifar100_resnet18.py

About a day on two cores (estimated: operations at 100 GFLOP/s), minutes on an accelerator.
"""

from ml_collections import ConfigDict

from configs.paper import pdiff


def get_config() -> ConfigDict:
    """300 consecutive checkpoints of the last two normalisation layers of a ResNet-18, 2,048 values each."""
    return pdiff.get_config("cifar100_resnet18")
