"""weightflow's zoo and its flow on spheres (Erdogan 2025, arXiv 2504.03710, released code).

    python -m launch.describe --config=configs/paper/weightflow.py
    python -m launch.run --config=configs/paper/weightflow.py --workdir=runs/weightflow --data_dir=DIR

MLP 784-10-10 on MNIST (7,960 parameters), weights N(0, 0.1^2), SGD at 0.1 without momentum, every tenth step at the end
of runs: 7,500 networks. How many runs they come from is not published; 100 here, with 50 held-out ones. Hidden units
have the order of the first network by matching, not by gradient descent, and predictions of velocities are tangent.
`flow` is the same flow with its loss and its times corrected, `flow_straight` of scale-normalised networks along
straight lines. The graph transformer has 646,416 edges for every network, and training takes 1.8e17 operations: an hour
for each flow at 50 TFLOP/s, computed, not run.
"""

from ml_collections import ConfigDict

from configs import base, generators

_CORRECTED = {"sphere_loss": "squared", "graph_times": "all", "source": "fresh"}


def get_config() -> ConfigDict:
    """The experiment: 100 training and 50 held-out runs of 75 checkpoints each."""
    config = base.get_config()
    config.num_samples = 100
    config.data.name = "mnist"
    config.net = base.network("mlp", hidden=(10,), init="normal")
    config.zoo.update(
        num_runs=100,
        num_heldout=50,
        use="all",
        init_scale=0.1,
        learning_rate=0.1,
        schedule="constant",
        momentum=0.0,
        batch_size=4,
        epochs=10,
        snapshots=tuple(range(-741, 0, 10)),
    )
    config.generators = generators.baselines()
    config.generators.weightflow = generators.preset("weightflow")
    config.generators.flow = generators.preset("weightflow", **_CORRECTED)
    straight = {"geometry": "euclidean", "sphere_loss": "squared"}
    config.generators.flow_straight = generators.preset("weightflow", **straight)
    return config
