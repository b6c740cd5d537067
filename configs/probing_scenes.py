"""How many solids does a model show that has seen k of them, and does a rare pair of shapes get other colours?

    python -m launch.probe --config=configs/probing_scenes.py --workdir=runs/probing_scenes
    python -m launch.probe --config=configs/probing_scenes.py:pairs --workdir=runs/probing_pairs

The published questions of CLEVR (Zhao et al. 2018, arXiv 1811.03259) at 32 pixels, rendered here, of a variational
autoencoder and of flow matching, whose samples are the cleaner ones. An argument chooses: "numbers" of objects (the
default), or "pairs" of shapes and colours, where cone and cylinder are trained on in two of nine pairs of colours alone
(74 of 81 combinations). 6 min 45 s on two cores, pairs some 4 minutes.
"""

from ml_collections import ConfigDict

FLOW = {"kind": "flow", "width": 16, "steps": 3000, "batch_size": 16, "sampling_steps": 12}
VAE = {
    **{"kind": "vae", "size": "fc_tiny", "latents": 32, "steps": 2000, "batch_size": 32},
    **{"learning_rate": 1e-3, "beta": 0.1},
}
NUMBERS = {
    "counts": {"kind": "impulse", "values": (1, 2, 3)},
    "prototype": {"kind": "prototype", "mixtures": ((1, 3),)},
}
PAIRS = {"exceptions": {"kind": "exceptions", "rare": (2, 1), "kept": ((0, 1), (1, 2))}}


def get_config(what: str = "numbers"):
    """Numbers of objects, or pairs of shapes.

    Args:
      what: "numbers" or "pairs".
    """
    config = ConfigDict()
    config.seed = 0
    data = {
        # Published: objects of rubber and of one size.
        "numbers": {"kind": "scenes", "largest": 4, "size": (1.2, 1.2), "materials": ("rubber",)},
        "pairs": {
            "kind": "scene_pairs",
            "colors": ("red", "blue", "green"),
            "shapes": ("sphere", "cylinder", "cone"),
        },
    }
    config.probing = {
        "data": data[what],
        "estimator": {"kind": "scene_net"},
        "models": {"flow": FLOW, "vae": VAE},
        "probes": {"numbers": NUMBERS, "pairs": PAIRS}[what],
        "num_train": 4000,
        "num_heldout": 1000,
        "num_samples": 1000,
        "seeds": 1,
    }
    return config
