"""What generators of weights make of designed networks: copies, averages of modes, or new combinations?

    python -m launch.probe --config=configs/probing_weights.py --workdir=runs/probing_weights

Networks with exactly so many active units, a prescribed norm, sparsity and share of negative weights are drawn without
training, and features of samples are exact. `configs/probing_weights.py:unaligned` plants the active units at random
places, as in zoos whose hidden units have no common order.

`configs/probing_weights.py:trained` trains thousands of classifiers on digits, of which each is taught some of the ten
classes, for some epochs, and scaled to a norm: do samples recognise as many classes, and are they as far trained? Every
network has an initialisation of its own; with `:trained_aligned` all begin with the same weights. 5 min 45 s on two
cores; trained networks some 12 minutes, 1,190 s of processor time.
"""

from ml_collections import ConfigDict

from jaxweights.generators import preset

# Planted networks have no accuracy to choose latents by, so all are used.
_HYPERREP = {"steps": 500, "width": 32, "feed_forward": 64, "top": 1.0}
_MODELS = {
    "pdiff": preset("pdiff_small"),
    "hyperrep": preset("hyperrep_small", **_HYPERREP),
    "copy": {"kind": "copy"},
    "noise": {"kind": "noise", "sigma": 0.1, "relative": True},
    "gaussian": {"kind": "gaussian"},
    "pca_gaussian": {"kind": "pca_gaussian"},
    "interpolation": {"kind": "interpolation"},
}


def get_config(choice: str = "aligned"):
    """Generators of weights on designed networks.

    Args:
      choice: "aligned" or "unaligned" planted networks, or "trained" or "trained_aligned" ones.
    """
    config = ConfigDict()
    config.seed = 0
    config.probing = _trained(choice == "trained_aligned") if choice.startswith("trained") else _planted(choice)
    return config


def _planted(choice: str):
    return {
        "data": {"kind": "planted", "aligned": choice == "aligned"},
        "models": _MODELS,
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


def _trained(aligned: bool):
    mixtures = {"feature": "classes", "mixtures": ((2, 10),)}
    return {
        "data": {"kind": "trained", "aligned": aligned},
        "models": {
            **_MODELS,
            "hyperrep": preset("hyperrep_small", **_HYPERREP | {"steps": 200, "batch_size": 32}),
            # Improves the weights that its training runs began with.
            "gpt": preset("gpt_small", width=192, steps=600),
            "aligned_interpolation": {"kind": "aligned_interpolation"},
        },
        "probes": {
            "classes": {"kind": "impulse", "feature": "classes", "values": (2, 6, 10)},
            "epoch": {"kind": "impulse", "feature": "epoch", "values": (2, 32)},
            "norm": {"kind": "impulse", "feature": "norm", "values": (6, 10)},
            "additivity": {"kind": "additivity", **mixtures},
            "prototype": {"kind": "prototype", **mixtures},
            "norms": {"kind": "prototype", "feature": "norm", "mixtures": ((6, 10),)},
            "combinations": {"kind": "combinations", "numbers": (5, 20, 50)},
        },
        "num_train": 400,
        "num_heldout": 300,
        "num_samples": 1000,
        "seeds": 1,
    }
