"""Networks that work as well as new runs and are as far from the training runs: a flow over neurons, on digits.

    python -m launch.run --config=configs/invent_digits.py --workdir=runs/invent_digits

What was tried, and what it gave, is in docs/inventing.md. 2,600 seconds of processor time, some 25 minutes on two
cores: 20,000 runs, 16,000 steps, and the audit.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The digits MLP 64-16-10 (1,210 parameters), 20,000 training and 2,000 held-out runs from starts of their own."""
    config = base.get_config()
    config.num_samples = 1_000
    config.zoo.num_runs = 20_000
    config.zoo.num_heldout = 2_000
    config.zoo.epochs = 40
    config.zoo.start = "own"
    config.zoo.nesterov = True
    config.zoo.weight_decay = 5e-4
    flow = generators.preset("neuron_flow", behaviour=2.0, steps=16_000)
    # Further training costs 2 to 34 % of the 880 steps of a run; 7 steps of Heun a quarter of 31.
    decay = {"finetune_weight_decay": 5e-4}  # as in the zoo
    ways = {
        "gaussian_start_50": {"source": "gaussian", "finetune_steps": 50},
        "gaussian_start_200": {"source": "gaussian", "finetune_steps": 200},
        "initialisation_50": {"source": "initialisation", "finetune_steps": 50},
        "initialisation_200": {"source": "initialisation", "finetune_steps": 200},
        "neuron_flow_20": {"finetune_steps": 20},
        "neuron_flow_50": {"finetune_steps": 50},
        "neuron_flow_7": {"sampling_steps": 7},
        "neuron_flow_7_50": {"sampling_steps": 7, "finetune_steps": 50},
        "neuron_flow_7_100": {"sampling_steps": 7, "finetune_steps": 100},
        "neuron_flow_7_100_hot": {"sampling_steps": 7, "temperature": 1.04, "finetune_steps": 100, **decay},
        "neuron_flow_7_150_hot": {
            "sampling_steps": 7,
            "temperature": 1.05,  # with which samples scatter nearly as training runs do
            "finetune_steps": 150,
            "finetune_learning_rate": 0.07,
            **decay,
        },
        "neuron_flow_7_200_decay": {"sampling_steps": 7, "finetune_steps": 200, **decay},
        "neuron_flow_300_decay": {"finetune_steps": 300, **decay},
        "neuron_flow_best_of_4": {"candidates": 4},
    }
    config.generators = generators.inventing(flow, ways)
    config.audit.training_queries = 2_000
    return config
