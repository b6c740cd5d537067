"""Networks that work as well as new runs and are as far from the training runs: a flow over channels, on MNIST.

    python -m launch.run --config=configs/invent_cnn.py --workdir=runs/invent_cnn --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. A first trial, which falls far short of new runs;
what it gave is in docs/inventing.md. Some 2,700 seconds of processor time, about 25 minutes on two cores.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The CNN of 2,464 parameters with ReLU, 1,000 training and 200 held-out runs from starts of their own on 6,000
    images.

    These are fewer runs than a network has parameters, so that they are whitened by 256 components.
    """
    config = base.get_config()
    config.num_samples = 200
    config.data.name = "mnist"
    config.data.train_limit = 6_000
    config.data.test_limit = 4_000
    config.net = base.network("cnn", activation="relu", init="torch")
    config.zoo.num_runs = 1_000
    config.zoo.num_heldout = 200
    config.zoo.epochs = 3
    config.zoo.batch_size = 32
    config.zoo.learning_rate = 0.03
    config.zoo.start = "own"
    config.zoo.nesterov = True
    config.zoo.weight_decay = 5e-4
    flow = generators.preset("neuron_flow", behaviour=2.0, components=256, steps=2_000)
    # Further training costs 9 and 18 % of the 564 steps of a run.
    further = {"finetune_learning_rate": 0.03, "finetune_batch": 32, "finetune_weight_decay": 5e-4}
    ways = {
        "gaussian_start_50": {"source": "gaussian", "finetune_steps": 50, **further},
        "gaussian_start_100": {"source": "gaussian", "finetune_steps": 100, **further},
        "initialisation_100": {"source": "initialisation", "finetune_steps": 100, **further},
        "neuron_flow_7": {"sampling_steps": 7},
        "neuron_flow_7_50": {"sampling_steps": 7, "finetune_steps": 50, **further},
        "neuron_flow_7_100": {"sampling_steps": 7, "finetune_steps": 100, **further},
    }
    config.generators = generators.inventing(flow, ways)
    return config
