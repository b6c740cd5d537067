"""G.pt on policies for the cart-pole: a zoo trained by PPO, asked for the best return.

    python -m launch.run --config=configs/gpt_cartpole.py --workdir=runs/gpt_cartpole

Five minutes on two cores, nothing to download. The published runs have 512 environments, 500 updates and a learning
rate of 3e-4 (`configs/paper/gpt_cartpole.py`); with 32 environments and 200 updates at 1e-3 policies learn to keep the
pole upright for all of the 500 steps as well, after 80 to 160 updates. This G.pt, however, is too small and has seen
too few runs for networks that work: its samples drop the pole (mean return 3, trained policies 418).
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """128 training and 32 held-out runs of an actor 4-32-32-1 (1,250 parameters), 25 checkpoints each."""
    config = base.get_config("policy")
    config.num_samples = 128
    config.net = base.network("actor", hidden=(32, 32))
    zoo = config.zoo
    zoo.num_runs = 128
    zoo.num_heldout = 32
    zoo.steps = 200
    zoo.epochs = 0
    zoo.batch_size = 32
    zoo.schedule = "cosine"
    zoo.learning_rate = 1e-3
    zoo.momentum = 0.0
    zoo.random_snapshots = 23
    zoo.largest_weight = 10.0
    base.add_study(config, "prompting")
    config.generators = generators.gpt_baselines()
    config.generators.gpt = generators.preset("gpt_small", steps=1500, width=256)
    config.generators.gpt.conditioning = "return"
    config.generators.gpt.prompt = 450.0  # about the best return of the zoo
    return config
