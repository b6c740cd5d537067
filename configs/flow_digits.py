"""Flow matching on digits networks of own initialisations: flat, scale-normalised, on spheres, as published.

    python -m launch.run --config=configs/flow_digits.py --workdir=runs/flow_digits

Eight minutes on two cores, nothing to download.
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
    config.generators = generators.baselines(0.02, 0.04)
    config.generators.update(flows())
    config.audit.probe.size = 4096  # on the 360 test images networks err too seldom, and on the same ones
    return config


def flows() -> ConfigDict:
    """Flows on weights and on principal components, of scale-normalised networks, on spheres, and as published."""
    return ConfigDict(
        {
            "flow": generators.preset("flow_small"),
            "flow_32": generators.preset("flow_small", components=32),
            "flow_128": generators.preset("flow_small", components=128),
            "flow_unit": generators.preset("flow_small", scale="unit"),
            "flow_spheres": generators.preset("flow_small", scale="unit", geometry="spheres", solver="euler"),
            "deepweightflow": generators.preset("deepweightflow", steps=15_000),
            **generators.closed_forms(),
        }
    )
