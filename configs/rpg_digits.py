"""RPG on digits: with one permutation state, and with one per training checkpoint as published.

    python -m launch.run --config=configs/rpg_digits.py:shared --workdir=runs/rpg_digits_shared

The training networks are 32 runs from one initialisation (shared) or from their own (own), or 50 checkpoints of one run
after its base network (steps, RPG's own setting).

Three and a half minutes of processor time each (shared was run whole, steps with another base), nothing to download.
What came out is in docs/rpg.md.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config(tag: str = "shared") -> ConfigDict:
    """The digits MLP 64-16-10 (1,210 parameters, 21 tokens of 64), 32 held-out runs."""
    if tag not in ("shared", "own", "steps"):
        raise ValueError(f"Unknown tag {tag!r}; known: shared, own, steps.")
    config = base.get_config()
    config.num_samples = 64
    config.generators = generators.baselines(0.02, 0.04)
    config.generators.average.k = 8
    config.generators.soup.k = 8
    config.zoo.num_heldout = 32
    if tag == "steps":
        _steps(config)
    else:
        config.zoo.num_runs = 32
        config.zoo.epochs = 20
        config.zoo.start = tag
    config.generators.rpg = generators.preset("rpg_small")
    config.generators.rpg_checkpoints = generators.preset("rpg_small", permutation_states="checkpoints")
    return config


def _steps(config: ConfigDict) -> None:
    """50 checkpoints of one run from a base network that is not trained to its end.

    After 40 epochs, at a tenth of the rate, the checkpoints of digits are 0.005 apart and held-out runs 0.02 from them:
    there the noise of the control that an audit has to flag (0.5) leads farther away than a run.
    """
    zoo = config.zoo
    zoo.num_runs = 1
    zoo.use = "all"
    zoo.heldout_snapshots = "one"
    zoo.start = "base"
    zoo.base.epochs = 5
    zoo.base.optimizer = "sgd"
    zoo.base.learning_rate = 0.1
    zoo.schedule = "constant"
    zoo.learning_rate = 0.1
    zoo.steps = 451
    zoo.snapshots = tuple(range(10, 452, 9))
    config.audit.hull_neighbours = 0
    del config.generators.aligned_interpolation, config.generators.soup
