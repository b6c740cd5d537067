"""100,000 networks on scikit-learn's handwritten digits, audited against 10,000 held-out and 2,000 generated ones.

    python -m launch.run --config=configs/digits_100k.py --workdir=runs/digits_100k

Times, memory and bytes on two cores: docs/scale.md.
"""

from ml_collections import ConfigDict

from configs import digits, generators

_BASELINES = ("noise_low", "average", "gaussian")


def get_config() -> ConfigDict:
    """The zoo of `configs/digits.py` after five epochs instead of forty: 100,000 training and 10,000 held-out runs."""
    config = digits.get_config()
    config.num_samples = 2_000
    config.zoo.num_runs = 100_000
    config.zoo.num_heldout = 10_000
    config.zoo.epochs = 5
    known = generators.baselines(0.02, 0.04)
    config.generators = ConfigDict({name: known[name] for name in _BASELINES})
    config.generators.pdiff = generators.preset("pdiff_small")
    return config
