"""100,000 networks on scikit-learn's handwritten digits, audited against 10,000 held-out and 2,000 generated ones.

    python -m launch.run --config=configs/digits_100k.py --workdir=runs/digits_100k

Some half an hour on two cores, at most 3.7 GB of memory; times and bytes of every stage are in docs/scale.md.
"""

from ml_collections import ConfigDict

from configs import digits, generators


def get_config() -> ConfigDict:
    """The zoo of `configs/digits.py` after five epochs instead of forty: 100,000 training and 10,000 held-out runs."""
    config = digits.get_config()
    config.num_samples = 2_000
    config.zoo.num_runs = 100_000
    config.zoo.num_heldout = 10_000
    config.zoo.epochs = 5
    config.generators = ConfigDict({"gaussian": generators.baselines().gaussian})
    # The training networks take 484 MB, and they are read as they are needed.
    config.generators.pdiff = generators.preset("pdiff_small", data_memory=0.1)
    config.audit.training_queries = 2_000  # of the 100,000 that all others are compared with
    return config
