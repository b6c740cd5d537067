"""G.pt on real MNIST: the first hundred steps of networks of the published architecture, a small transformer, prompts.

    python -m launch.run --config=configs/gpt_mnist.py --workdir=runs/gpt_mnist --data_dir=DIR

`DIR` holds MNIST as idx files or as prepared by tensorflow-datasets. Eleven minutes on two cores.

The published runs last 25 epochs at a learning rate of 0.1 (--config.zoo.steps=0 --config.zoo.epochs=25
--config.zoo.learning_rate=0.1 --config.zoo.schedule=cosine_per_epoch). By then their weight vectors have a cosine of
0.10 with those at the start, and a G.pt that two cores can train finds nothing to go by: 13 % accuracy after 600 steps.
On runs of one epoch (cosine 0.43) it had 43 % after 4,000 steps, with losses no lower than those of the starts. After
one hundred steps the cosine is 0.56. `configs/paper/gpt_mnist.py` has the published recipe, number of runs and
transformer.

`--config=configs/gpt_mnist.py:published` has the published transformer (378,283,008 parameters) on this zoo, for
accelerators.
"""

from ml_collections import ConfigDict

from configs import base, generators, mnist_mlp

VARIANTS = {"": ("gpt_small", 2000), "published": ("gpt", 4000)}


def get_config(variant: str = "") -> ConfigDict:
    """1,000 training and 128 held-out runs of the MLP 784-10-10 (7,960 parameters), 25 checkpoints each."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(v for v in VARIANTS if v)}.")
    config = mnist_mlp.get_config()
    config.num_samples = 128  # one from every held-out run's initialisation, as published
    config.zoo.num_runs = 1000
    config.zoo.num_heldout = 128
    config.zoo.steps = 100
    config.zoo.epochs = 0
    config.zoo.schedule = "cosine"
    config.zoo.learning_rate = 0.05
    config.zoo.random_snapshots = 23
    base.add_study(config, "prompting")
    config.generators = generators.gpt_baselines()
    preset, steps = VARIANTS[variant]
    config.generators.gpt = generators.preset(preset, steps=steps)
    config.generators.gpt_recursive = ConfigDict({"of": "gpt", "recursion": 4})
    return config
