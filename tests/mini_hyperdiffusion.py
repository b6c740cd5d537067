"""configs/hyperdiffusion_procedural.py in miniature: same code path, seconds instead of minutes."""

import mini

from configs import hyperdiffusion_procedural


def get_config():
    """12 training and 8 held-out fields of a small network, a tiny transformer that sees permuted copies, too."""
    config = hyperdiffusion_procedural.get_config()
    config.num_samples = 8
    config.data.signals.unseen = 6
    config.data.signals.samples = 1024
    config.data.signals.surface = 64
    config.data.signals.probes = 256
    config.net.hidden = (16, 16)
    config.net.octaves = 3
    zoo = config.zoo
    zoo.num_runs = 12
    zoo.num_heldout = 8
    zoo.epochs = 40
    zoo.batch_size = 64
    mini.shrink_audit(config.audit, barriers=0)
    shapes = config.studies.shapes
    shapes.networks = 6
    shapes.resolution = 24
    shapes.level = 0.0
    shapes.points = 64
    shapes.emd = 4
    for name in [n for n in config.generators if n not in ("hyperdiffusion", "noise_low")]:
        del config.generators[name]
    one = config.generators.hyperdiffusion
    one.width = 8
    one.blocks = 1
    one.heads = 2
    one.num_frequencies = 4
    one.num_timesteps = 10
    one.steps = 12
    one.batch_size = 2
    one.augment = 2
    return config
