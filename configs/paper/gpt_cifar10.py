"""G.pt for CIFAR-10 networks as published (Peebles et al., arXiv 2209.12892, released configurations).

    python -m launch.describe --config=configs/paper/gpt_cifar10.py          # asked for a test loss; also :loss
    python -m launch.describe --config=configs/paper/gpt_cifar10.py:error    # asked for a test error

56,840 runs of 200 checkpoints, of which the last 2,050 are held out. For accelerators: about three weeks
(estimated: operations at 40 TFLOP/s), and 250 GB of memory.
"""

from ml_collections import ConfigDict

from configs import generators, gpt_cifar10

# An epoch lists each of the 54,790 training runs once, as 100,800 pairs that were aimed at allow for; it has 99 full
# batches of 550. There are 15,000 epochs, and 5 of warm-up.
STEPS_PER_EPOCH = 54_790 * (100_800 // 54_790) // 550
VARIANTS = {
    "loss": {"conditioning": "loss", "prompt": 1.2},
    "error": {"conditioning": "error", "prompt": 35.0},
}


def get_config(variant: str = "loss") -> ConfigDict:
    """The published model for one of the two metrics."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(VARIANTS)}.")
    config = gpt_cifar10.get_config()
    config.zoo.num_runs = 54_790
    config.zoo.num_heldout = 2_050
    config.zoo.random_snapshots = 198  # and the initialisation and the end: 200 per run
    config.generators = generators.baselines(0.05 / 1.646, 0.1 / 1.646)  # in normalised space 0.05 and 0.1
    config.generators.gpt = ConfigDict(
        {
            "kind": "gpt",
            "scale": 1.646,
            "chunk": 576,
            "width": 2048,
            "blocks": 12,
            "heads": 16,
            "steps": 15_000 * STEPS_PER_EPOCH,
            "warmup_steps": 5 * STEPS_PER_EPOCH,
            "batch_size": 550,
            "learning_rate": 4e-4,
            "weight_decay": 0.1,
            "gradient_clip": 0.1,
            "ema_decay": 0.9999,
            **VARIANTS[variant],
        }
    )
    return config
