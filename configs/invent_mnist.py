"""Networks that work as well as new runs and are as far from the training runs: a flow over neurons, on MNIST.

    python -m launch.run --config=configs/invent_mnist.py --workdir=runs/invent_mnist --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. A first trial, which falls far short of new runs;
what it gave is in docs/inventing.md. 16 minutes on two cores.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The MNIST MLP 784-10-10 (7,960 parameters), 4,000 training and 500 held-out runs from starts of their own.

    These are half as many runs as a network has parameters, so that they are whitened by 512 components.
    """
    config = base.get_config()
    config.num_samples = 500
    config.data.name = "mnist"
    config.net.hidden = (10,)
    config.zoo.num_runs = 4_000
    config.zoo.num_heldout = 500
    config.zoo.epochs = 5
    config.zoo.batch_size = 128
    config.zoo.start = "own"
    config.zoo.nesterov = True
    config.zoo.batch_order = "shared"  # twice as fast; runs differ by their starts
    config.zoo.weight_decay = 5e-4
    flow = generators.preset("neuron_flow", behaviour=2.0, components=512, steps=2_000)
    # Further training costs 2 and 9 % of the 2,340 steps of a run.
    ways = {
        "gaussian_start_200": {"source": "gaussian", "finetune_steps": 200},
        "initialisation_200": {"source": "initialisation", "finetune_steps": 200},
        "neuron_flow_7": {"sampling_steps": 7},
        "neuron_flow_7_50": {"sampling_steps": 7, "finetune_steps": 50},
        "neuron_flow_7_200": {"sampling_steps": 7, "finetune_steps": 200},
    }
    config.generators = generators.inventing(flow, ways)
    config.audit.training_queries = 2_000
    return config
