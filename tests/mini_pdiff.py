"""configs/pdiff_digits.py in miniature: same code path, seconds instead of minutes."""

import mini

from configs import pdiff_digits


def get_config():
    """20 consecutive checkpoints of 32 values, 8 held-out runs, a tiny P-diff."""
    config = pdiff_digits.get_config()
    config.num_samples = 16
    config.data.train_limit = 400
    config.data.test_limit = 120
    config.net.widths = (4, 8)
    zoo = config.zoo
    zoo.num_heldout = 8
    zoo.steps = 21
    zoo.snapshot_range = (2, 21)
    zoo.batch_size = 32
    zoo.base.epochs = 6
    zoo.base.batch_size = 32
    mini.shrink_audit(config.audit, barriers=0)
    config.report.boundary_resolution = 20
    mini.shrink(config.generators.pdiff)
    for name in [n for n in config.generators if n not in ("pdiff", "average", "average_faithful")]:
        del config.generators[name]
    return config
