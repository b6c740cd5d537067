"""The demo: 640 networks on scikit-learn's handwritten digits, P-diff on their weights, every baseline and control.

    make demo        or        python -m launch.run --config=configs/digits.py --workdir=runs/digits

About 70 seconds on two cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The digits MLP 64-16-10 (1,210 parameters), 512 training and 128 held-out runs, 256 generated networks."""
    config = base.get_config()
    config.zoo.num_runs = 512
    config.zoo.num_heldout = 128
    config.zoo.epochs = 40
    # One initialisation for all runs, as P-diff's checkpoints have: they then differ by their batch orders alone, and
    # lie in one basin where networks can be averaged. With zoo.start=own, averages and P-diff's samples do not work at
    # all.
    config.zoo.start = "shared"
    config.zoo.nesterov = True
    config.zoo.weight_decay = 5e-4
    config.generators = generators.baselines(0.02, 0.04)  # runs differ by 0.05 per parameter
    config.generators.pdiff = generators.preset("pdiff_small")
    config.audit.probe.size = 4096  # on the 360 test images networks err too seldom, and on the same ones
    return config
