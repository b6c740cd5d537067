"""SANE on digits networks of own initialisations: densities of latents as published and as meant, and choices.

    python -m launch.run --config=configs/sane_digits.py --workdir=runs/sane_digits

Eight minutes on two busy cores, nothing to download.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The digits MLP 64-16-10 (1,210 parameters), 768 training and 256 held-out runs."""
    config = base.get_config()
    config.zoo.num_runs = 768
    config.zoo.num_heldout = 256
    config.zoo.nesterov = True
    config.zoo.weight_decay = 5e-4
    chosen = generators.baselines()
    config.generators = ConfigDict({name: chosen[name] for name in ("pca_gaussian", "aligned_interpolation", "soup")})
    config.generators.sane = generators.preset("sane_small")
    for name, changes in {
        "sane_faithful": {"mode": "faithful"},
        "sane_joint": {"density": "joint"},
        "sane_individual": {"density": "individual"},
        "sane_reconstruction": {"density": "joint", "bandwidth": 0.0},
        "sane_sub": {"density": "joint", "candidates": 5},
        "sane_boot": {"density": "joint", "candidates": 5, "rounds": 4},
    }.items():
        config.generators[name] = ConfigDict({"of": "sane", **changes})
    config.audit.probe.size = 4096  # on the 360 test images networks err too seldom, and on the same ones
    return config
