"""HyperDiffusion on the chairs of ModelNet10, and on permuted copies of their networks.

    python -m launch.run --config=configs/hyperdiffusion_chairs.py --workdir=runs/hyperdiffusion_chairs --data_dir=DIR

DIR holds `modelnet10_chair_voxels32.npz` (839 voxel grids of 32^3 points; `data.shapes.voxels` says in which layouts).
Thirty-seven minutes on two cores with AVX-512 and AMX, other work beside.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """320 training and 48 held-out networks of 36,737 parameters, each fitted to a chair of its own."""
    config = base.get_config("field")
    config.num_samples = 128
    config.data.name = "modelnet10_chair_voxels32"
    config.data.signals.unseen = 128
    config.net = base.network("field", activation="relu", hidden=(128, 128, 128))
    zoo = config.zoo
    zoo.num_runs = 320
    zoo.num_heldout = 48
    zoo.start = "first_weights"
    zoo.dtype = "bfloat16"
    zoo.epochs = 40
    zoo.batch_size = 512
    zoo.optimizer = "adam"
    zoo.schedule = "plateau"
    zoo.learning_rate = 1e-2
    zoo.momentum = 0.0
    config.generators = generators.baselines(0.02, 0.04)
    config.generators.hyperdiffusion = generators.preset("hyperdiffusion_small", steps=800, decay_every=160)
    for copies in (2, 4, 8):
        permuted = generators.preset("hyperdiffusion_small", steps=800, decay_every=160)
        permuted.augment = copies
        config.generators[f"hyperdiffusion_x{copies}"] = permuted
    shapes = base.add_study(config, "shapes")
    shapes.networks = 32
    shapes.points = 1024
    shapes.emd = 16
    return config
