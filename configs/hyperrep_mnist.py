"""Hyper-Representations on real MNIST: the CNN zoo of the SVHN recipe's sibling, a small autoencoder, every sampler.

    python -m launch.run --config=configs/hyperrep_mnist.py --workdir=runs/hyperrep_mnist --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. A quarter of an hour on two cores with AVX-512.
The published sibling trains on 50,000 images at a learning rate of 3e-4 (--config.data.train_limit=50000
--config.zoo.learning_rate=3e-4); here the runs see 4,000 images, so that 25 epochs fit into the time, and take SVHN's
rate, without which runs of 5,000 images were at 30 % after 15,000 steps.

The autoencoder sees no permutations here, and so learns the networks that it is trained on rather than networks at
large: with a fresh permutation of every view (--config.generators.hyperrep.permutations=fresh) held-out networks are
reconstructed as well as training networks, but after 1,500 steps with an accuracy of 32 % instead of 74 % (of 75 %, on
runs that saw 5,000 images). Digits (configs/hyperrep_digits.py) are small enough for fresh permutations.
"""

from ml_collections import ConfigDict

from configs import hyperrep_svhn


def get_config() -> ConfigDict:
    """200 training and 40 held-out runs, five checkpoints each; 4,000 of the test images."""
    config = hyperrep_svhn.get_config()
    config.data.name = "mnist"
    config.data.grey = False
    config.data.crop = 0
    config.data.train_limit = 4_000
    config.data.test_limit = 4_000
    config.zoo.num_runs = 200
    config.zoo.num_heldout = 40
    one = config.generators.hyperrep
    one.latent_dim = 700  # as the public configuration for this network (arXiv 2110.15288)
    one.permutations = "none"
    one.erase = "block"  # so that the two views differ
    one.target = "clean"
    return config
