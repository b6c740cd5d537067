"""Three real digits side by side, 1,000 combinations, of which N are trained on: remembered or combined?

    python -m launch.probe --config=configs/probing_triples.py --workdir=runs/probing_triples

The published question of three digits (Zhao et al. 2018, arXiv 1811.03259: 10 combinations are remembered, from some 80
on almost all are made), with the embedded digits of 8 x 8 pixels, a fully connected VAE and flow matching. The
digits of a training set are drawn anew from those of their class. 530 seconds of processor time, some 6 minutes on two
cores.
"""

from ml_collections import ConfigDict

VAE = {
    **{"kind": "vae", "size": "fc_tiny", "latents": 32, "steps": 6000, "batch_size": 50},
    **{"learning_rate": 1e-3, "beta": 0.1},
}
FLOW = {"kind": "flow", "network": "mlp", "width": 512, "blocks": 3, "steps": 3000, "batch_size": 64}


def get_config():
    """The memorisation curve of two models."""
    config = ConfigDict()
    config.seed = 0
    config.probing = {
        "data": {"kind": "triples"},
        "estimator": {"kind": "triples", "networks": 3, "epochs": 15},
        "models": {"flow": FLOW, "vae": VAE},
        "probes": {"combinations": {"kind": "combinations", "numbers": (10, 40, 80, 200, 500)}},
        "num_train": 4000,
        "num_heldout": 2000,
        "num_samples": 4000,
        "seeds": 1,
    }
    return config
