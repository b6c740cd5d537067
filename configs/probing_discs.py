"""From memorising to combining: one disc of 375 combinations of size, place and hue, of which N are trained on.

    python -m launch.probe --config=configs/probing_discs.py --workdir=runs/probing_discs

The reduced task of two cores (16 x 16 pixels): the published question of pies (Zhao et al. 2018, arXiv 1811.03259),
which configs/probing_pies.py asks at the same size. Lists of combinations are nested, so that along the curve N
alone changes. 5 minutes 20 s on two cores.
"""

from ml_collections import ConfigDict

SMALL = {"size": "fc_tiny", "latents": 16, "steps": 6000, "batch_size": 50, "learning_rate": 1e-3}


def get_config():
    """The memorisation curve of a fully connected VAE."""
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "discs"},
        "estimator": {"kind": "discs"},
        "models": {"vae": {"kind": "vae", **SMALL}},
        "probes": {"combinations": {"kind": "combinations", "numbers": (5, 10, 20, 40, 80, 160, 300)}},
        "num_train": 4000,
        "num_heldout": 2000,
        "num_samples": 4000,
        "seeds": 2,
    }
    return config
