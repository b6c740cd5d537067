"""configs/hyperrep_digits.py in miniature: same code path, seconds instead of minutes."""

import mini

from configs import hyperrep_digits


def get_config():
    """24 training and 10 held-out runs of two checkpoints, a tiny autoencoder, three samplers."""
    config = hyperrep_digits.get_config()
    config.num_samples = 16
    config.data.train_limit = 400
    config.data.test_limit = 120
    config.net.hidden = (5,)
    config.zoo.num_runs = 24
    config.zoo.num_heldout = 10
    config.zoo.epochs = 6
    config.zoo.snapshot_epochs = (4, 5)
    config.zoo.lanes = 4
    mini.shrink_audit(config.audit, barriers=0)
    config.studies.autoencoder.symmetry_networks = 8
    config.studies.autoencoder.probe_images = 100
    one = config.generators.hyperrep
    one.width = 8
    one.feed_forward = 8
    one.blocks = 1
    one.heads = 2
    one.latent_dim = 4
    one.projection_hidden = 6
    one.projection_features = 4
    one.batch_size = 16
    one.steps = 30
    kept = ("hyperrep", "hyperrep_faithful", "hyperrep_gaussian", "hyperrep_reconstruction", "noise_low")
    for name in [n for n in config.generators if n not in kept]:
        del config.generators[name]
    return config
