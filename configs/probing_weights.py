"""What generators of weights make of planted networks: copies, averages of modes, or new combinations?

    python -m launch.probe --config=configs/probing_weights.py --workdir=runs/probing_weights

Networks with exactly so many active units, a prescribed norm, sparsity and share of negative weights are drawn without
training, and features of samples are exact. `configs/probing_weights.py:unaligned` plants the active units at random
places, as in zoos whose hidden units have no common order. Some minutes on two cores.
"""

from ml_collections import ConfigDict

from jaxweights.generators import preset

# Planted networks have no accuracy to choose latents by, so all are used.
_HYPERREP = {"steps": 500, "width": 32, "feed_forward": 64, "top": 1.0}


def get_config(order: str = "aligned"):
    """Generators of weights on planted networks.

    Args:
      order: "aligned" or "unaligned".
    """
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "planted", "aligned": order == "aligned"},
        "models": {
            "pdiff": preset("pdiff_small"),
            "hyperrep": preset("hyperrep_small", **_HYPERREP),
            "copy": {"kind": "copy"},
            "noise": {"kind": "noise", "sigma": 0.1, "relative": True},
            "gaussian": {"kind": "gaussian"},
            "pca_gaussian": {"kind": "pca_gaussian"},
            "interpolation": {"kind": "interpolation"},
        },
        "probes": {
            "units": {"kind": "impulse", "feature": "units", "values": (2, 4, 6, 8)},
            "additivity": {"kind": "additivity", "feature": "norm", "mixtures": ((1, 5), (2, 4))},
            "prototype": {"kind": "prototype", "feature": "norm", "mixtures": ((1, 5), (2, 4))},
            "combinations": {"kind": "combinations", "numbers": (5, 20, 80, 320)},
        },
        "num_train": 600,
        "num_heldout": 600,
        "num_samples": 2000,
        "seeds": 1,
    }
    return config
