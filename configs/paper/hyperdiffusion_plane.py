"""HyperDiffusion on aeroplanes as in "Generative Modeling of Weights" (arXiv 2506.07998), and its variants.

    python -m launch.describe --config=configs/paper/hyperdiffusion_plane.py          # 1,407,225,600 parameters
    python -m launch.describe --config=configs/paper/hyperdiffusion_plane.py:wide     # also :deep, :narrow, :shallow

2,749 occupancy networks of ShapeNet's aeroplanes, 606 shapes to compare with; --data_dir has the folder 02691156 with
the watertight meshes, the published lists of training, validation and test shapes, and the list of problematic ones,
and 02691156_2048_pc with the published point clouds, of which those of the test shapes are compared with.
Held out, which the paper has nothing of, are networks of the 202 validation shapes. Published: mean minimum distance to
the training networks 7.03 of generated and 109.5 of training networks, MMD 0.036 and 0.026. For accelerators: about
half a day (estimated: operations at 40 TFLOP/s), and 25 GB of memory.
"""

from ml_collections import ConfigDict

from configs import base, generators

VARIANTS = {
    "": {},
    "wide": {"width": 3600, "heads": 20},  # 2,132,280,000 parameters
    "deep": {"blocks": 18},  # 2,004,647,040
    "narrow": {"width": 2160, "heads": 12},  # 831,470,400
    "shallow": {"blocks": 8},  # 1,008,944,640
}


def get_config(variant: str = "") -> ConfigDict:
    """The published size, or one of the variants."""
    if variant not in VARIANTS:
        raise ValueError(f"Unknown variant {variant!r}; known: {', '.join(v for v in VARIANTS if v)}.")
    config = base.get_config("field")
    config.num_samples = 666  # 1.1 times the shapes to compare with
    config.data.name = "02691156"
    config.data.signals.unseen = 606
    config.data.signals.samples = 200_000
    config.data.signals.clouds = "02691156_2048_pc"
    config.net = base.network("field", hidden=(128, 128, 128), octaves=4)
    zoo = config.zoo
    zoo.num_runs = 2749
    zoo.num_heldout = 202
    zoo.start = "first_weights"
    zoo.epochs = 5000
    zoo.batch_size = 2048
    zoo.optimizer = "adam"
    zoo.schedule = "plateau"
    zoo.learning_rate = 1e-2
    zoo.momentum = 0.0
    base.add_study(config, "shapes").update(networks=606, resolution=356, up="y")
    config.generators = generators.baselines(0.02, 0.04)
    config.generators.hyperdiffusion = generators.preset("hyperdiffusion", parameter_shards=0, **VARIANTS[variant])
    return config
