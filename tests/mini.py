"""The demo in miniature: same code path, seconds instead of minutes."""

import copy

from configs import digits


def get_config():
    """32 training and 12 held-out runs of a small network, a small P-diff."""
    config = digits.get_config()
    config.num_samples = 16
    config.data.train_limit = 400
    config.data.test_limit = 120
    config.net.hidden = (5,)
    config.zoo.num_runs = 32
    config.zoo.num_heldout = 12
    config.zoo.epochs = 8
    config.zoo.lanes = 4
    shrink_audit(config.audit)
    shrink(config.generators.pdiff)
    for name in ("soup", "noise_high", "aligned_interpolation"):  # more programs to compile
        del config.generators[name]
    return config


def shrink(pdiff) -> None:
    """Makes a P-diff tiny."""
    pdiff.autoencoder_channels = (4, 4)
    pdiff.denoiser_channels = (4, 8)
    pdiff.latent_dim = 8
    pdiff.num_timesteps = 20
    pdiff.batch_size = 16
    pdiff.autoencoder_steps = 20
    pdiff.diffusion_steps = 20


def shrink_audit(audit, barriers=4) -> None:
    """Makes an audit's intervals rough, its probe set small, and barriers few."""
    audit.bootstrap = 100
    audit.barriers = barriers
    audit.battery.permutations, audit.battery.bootstrap, audit.battery.halves = 9, 9, 2
    audit.probe.size = min(audit.probe.size, 240)


def changed(config, changes):
    """A config as a dict with some settings changed, by dotted name."""
    config = copy.deepcopy(config)
    for path, value in changes.items():
        *sections, last = path.split(".")
        node = config
        for section in sections:
            node = node[section]
        node[last] = value
    return config
