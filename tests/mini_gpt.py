"""configs/gpt_digits.py in miniature: same code path, seconds instead of minutes."""

import mini

from configs import generators, gpt_digits


def get_config():
    """16 training and 8 held-out runs of four checkpoints each, a tiny transformer, one round and two."""
    config = gpt_digits.get_config()
    config.num_samples = 16
    config.data.train_limit = 400
    config.data.test_limit = 120
    config.net.hidden = (5,)
    zoo = config.zoo
    zoo.num_runs = 16
    zoo.num_heldout = 8
    zoo.epochs = 6
    zoo.random_snapshots = 2
    zoo.lanes = 4
    mini.shrink_audit(config.audit, barriers=0)
    prompting = config.studies.prompting
    prompting.networks = 4
    prompting.prompts = 3
    prompting.rounds = 2
    prompting.walks = 2
    prompting.walk_points = 3
    one = config.generators.gpt
    one.width = 8
    one.blocks = 1
    one.heads = 2
    one.num_frequencies = 4
    one.num_timesteps = 10
    one.steps = 20
    one.warmup_steps = 4
    one.batch_size = 16
    one.ema_decay = 0.9
    config.generators.gpt_recursive.recursion = 2
    for name in set(generators.baselines()) - {"noise_low"}:
        del config.generators[name]
    return config
