"""Pies of a size, a place and a red share: what one share gives, what two give, and which combinations come out.

    python -m launch.probe --config=configs/probing_pies.py --workdir=runs/probing_pies

The published data set (Zhao et al. 2018, arXiv 1811.03259) at 16 instead of 64 pixels and a small fully connected VAE.
Published: 30 combinations for every red share; here as well. Some 6 minutes on two cores, 637 s of processor time.
"""

from ml_collections import ConfigDict

MODEL = {"kind": "vae", "size": "fc_tiny", "latents": 16, "steps": 2500, "batch_size": 64, "learning_rate": 1e-3}


def get_config():
    """Responses to one red share, additivity of far and near ones, and combinations."""
    config = ConfigDict()
    config.seed = 0
    red = {"feature": "red", "combinations": 30}
    config.probing = {
        "data": {"kind": "pies", "side": 16},
        "estimator": {"kind": "pies"},
        "models": {"vae": MODEL},
        "probes": {
            "red": {"kind": "impulse", "values": (0.1, 0.3, 0.5, 0.9), **red},
            "additivity": {"kind": "additivity", "mixtures": ((0.3, 0.9), (0.3, 0.5)), **red},
            "prototype": {"kind": "prototype", "mixtures": ((0.3, 0.5),), **red},
            "combinations": {"kind": "combinations", "numbers": (10, 100, 400), "faithful": True},
        },
        "num_train": 4000,
        "num_heldout": 1000,
        "num_samples": 2000,
        "seeds": 3,
    }
    return config
