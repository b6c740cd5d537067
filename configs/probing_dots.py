"""How many dots does a model draw that has seen k of them? One count, two counts, and what lies between.

    python -m launch.probe --config=configs/probing_dots.py --workdir=runs/probing_dots

The published question (Zhao et al. 2018, arXiv 1811.03259) at 32 instead of 64 pixels, with discs of twice the radius
and a thousand instead of 200,000 steps of a small VAE. The weight of its prior is small: at 0.5, and
with discs of the published radius, all samples are white after 1,500 steps. Some minutes on two cores.
"""

from ml_collections import ConfigDict


def get_config():
    """Responses to one count, additivity of two, and the count between them."""
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "dots", "side": 32, "most": 6, "radii": (0.15,), "noise": 0.0},
        "estimator": {"kind": "dots"},
        "models": {
            "vae": {"kind": "vae", "latents": 32, "steps": 1000, "batch_size": 32, "learning_rate": 1e-3, "beta": 0.02},
        },
        "probes": {
            "counts": {"kind": "impulse", "values": (2, 3, 4, 5)},
            "additivity": {"kind": "additivity", "mixtures": ((2, 5), (2, 4))},
            "prototype": {"kind": "prototype", "mixtures": ((2, 4),)},
        },
        "num_train": 4000,
        "num_heldout": 1000,
        "num_samples": 1000,
        "seeds": 1,
    }
    return config
