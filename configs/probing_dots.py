"""How many dots does a model draw that has seen k of them? One count, two counts, and what lies between.

    python -m launch.probe --config=configs/probing_dots.py --workdir=runs/probing_dots

The published question (Zhao et al. 2018, arXiv 1811.03259) at 24 instead of 64 pixels, with discs of twice the radius:
of a variational autoencoder, a kind of model that was published, and of flow matching, whose samples are the cleaner
ones. The weight of the autoencoder's prior is small: at 1, samples are one blur. 4 minutes 54 s on two cores.
"""

from ml_collections import ConfigDict

FLOW = {"kind": "flow", "width": 16, "steps": 3000, "batch_size": 16, "sampling_steps": 12}
VAE = {
    **{"kind": "vae", "size": "fc_tiny", "latents": 32, "steps": 2000, "batch_size": 32},
    **{"learning_rate": 1e-3, "beta": 0.1},
}


def get_config():
    """Responses to one count, additivity of two, and the count between them."""
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "dots", "side": 24, "most": 6, "radii": (0.15,), "noise": 0.0},
        "estimator": {"kind": "dots"},
        "models": {"flow": FLOW, "vae": VAE},
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
