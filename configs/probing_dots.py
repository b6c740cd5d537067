"""How many dots does a model draw that has seen k of them? One count, two counts, and what lies between.

    python -m launch.probe --config=configs/probing_dots.py --workdir=runs/probing_dots

The published question (Zhao et al. 2018, arXiv 1811.03259) at 32 instead of 64 pixels, with small models and thousands
instead of 200,000 steps; the page says what that leaves to see. Some minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config():
    """Responses to one count, additivity of two, and the count between them."""
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "dots", "side": 32, "most": 8, "noise": 0.0},
        "estimator": {"kind": "dots"},
        "models": {
            "vae": {"kind": "vae", "latents": 32, "steps": 1500, "batch_size": 64, "learning_rate": 1e-3, "beta": 0.5},
        },
        "probes": {
            "counts": {"kind": "impulse", "values": (1, 2, 3, 4, 5)},
            "additivity": {"kind": "additivity", "mixtures": ((1, 5), (2, 4))},
            "prototype": {"kind": "prototype", "mixtures": ((2, 4),)},
        },
        "num_train": 4000,
        "num_heldout": 1000,
        "num_samples": 1000,
        "seeds": 1,
    }
    return config
