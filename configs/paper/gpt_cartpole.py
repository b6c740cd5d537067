"""G.pt for cart-pole policies as published (Peebles et al., arXiv 2209.12892, released configuration).

    python -m launch.describe --config=configs/paper/gpt_cartpole.py

50,026 runs of 200 checkpoints, of which the last 2,050 are held out. The published runs act in PhysX and are measured
by the mean of the last 200 returns of training; what departs here is in `jaxweights/environments.py` and
`jaxweights/evaluation/episodes.py`. For accelerators: about two weeks
(estimated: operations at 40 TFLOP/s), and 55 GB of memory.
"""

from ml_collections import ConfigDict

from configs import generators, gpt_cartpole

# An epoch lists each of the 47,976 training runs 16 times, as 806,400 pairs that were aimed at allow for; it has 93
# full batches of 8,192. There are 2,000 epochs, and 10 of warm-up.
STEPS_PER_EPOCH = 47_976 * (806_400 // 47_976) // 8_192


def get_config() -> ConfigDict:
    """The published zoo and the published model."""
    config = gpt_cartpole.get_config()
    zoo = config.zoo
    zoo.num_runs = 47_976
    zoo.num_heldout = 2_050
    zoo.steps = 500
    zoo.batch_size = 512
    zoo.learning_rate = 3e-4
    zoo.random_snapshots = 198  # and the initialisation and the end: 200 per run
    config.generators = generators.baselines(0.05 / 2.06, 0.1 / 2.06)  # in normalised space 0.05 and 0.1
    config.generators.gpt = ConfigDict(
        {
            "kind": "gpt",
            "conditioning": "return",
            "prompt": 500.0,
            "scale": 2.06,
            "tokens": "tensor",
            "width": 1536,
            "blocks": 12,
            "heads": 12,
            "steps": 2_000 * STEPS_PER_EPOCH,
            "warmup_steps": 10 * STEPS_PER_EPOCH,
            "batch_size": 8_192,
            "learning_rate": 2e-4,
            "weight_decay": 0.1,
            "gradient_clip": 0.0,
            "ema_decay": 0.9999,
        }
    )
    return config
