"""The SVHN zoo of Hyper-Representations: a CNN of 2,464 parameters, five checkpoints of each run, a small autoencoder.

    python -m launch.run --config=configs/hyperrep_svhn.py --workdir=runs/hyperrep_svhn --data_dir=DIR

`DIR` holds SVHN (launch.prepare_data --dataset=svhn). Recipe of the public zoo generator: grey images, centre crop of
28, (x - 0.5) / 0.5, tanh, weights from U(0, 1) and biases of 0.01, Adam at 3e-3, batches of 10, seeds only. Of the 50
epochs the checkpoints after epochs 21 to 25 are used, so a run ends there. The published zoo has 1,000 runs and a mean
accuracy of 65.2 % (of reconstructions), of which 2,896 checkpoints were for training; that is work for an accelerator.
`configs/paper/hyperrep_svhn.py` has the published autoencoder. About five hours on two cores, nearly all of it the zoo
(estimated: its operations at the rate of the CNN in `benchmarks/README.md`).
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """700 training and 300 held-out runs, as the published ratio of 70 to 30; 200 samples of every kind."""
    config = base.get_config()
    config.num_samples = 200
    config.data.name = "svhn"
    config.data.grey = True
    config.data.crop = 28
    config.data.train_limit = 60_000  # the other 13,257 were for validation
    config.net = base.network("cnn", activation="tanh", init="uniform")
    zoo = config.zoo
    zoo.num_runs = 700
    zoo.num_heldout = 300
    zoo.use = "all"
    zoo.epochs = 50
    zoo.snapshot_epochs = (21, 22, 23, 24, 25)
    zoo.batch_size = 10
    zoo.optimizer = "adam"
    zoo.schedule = "constant"
    zoo.learning_rate = 3e-3
    zoo.momentum = 0.0
    base.add_study(config, "autoencoder")
    config.generators = generators.hyperrep("hyperrep_small")
    config.generators.update(generators.baselines(0.02, 0.04))
    return config
