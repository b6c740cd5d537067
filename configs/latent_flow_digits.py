"""Networks that are asked for by their accuracy: a flow in the latents of an autoencoder of weights, on digits.

    python -m launch.run --config=configs/latent_flow_digits.py --workdir=runs/latent_flow_digits

All checkpoints of runs from their first steps on are learned from. The accuracies of the series show how far samples
follow what they are asked for; what they were is in docs/latent-flow.md. Eight minutes on two busy cores, of which the
audit takes a fifth.
"""

from ml_collections import ConfigDict

from configs import base, generators


def get_config() -> ConfigDict:
    """The digits MLP 64-16-10 (1,210 parameters), 600 training and 150 held-out runs of eight checkpoints."""
    config = base.get_config()
    config.zoo.num_runs = 600
    config.zoo.num_heldout = 150
    config.zoo.start = "own"
    config.zoo.nesterov = True
    config.zoo.weight_decay = 5e-4
    config.zoo.snapshots = (5, 10, 20, 40, 80, 160, 320, -1)
    config.zoo.use = "all"
    chosen = generators.baselines()
    config.generators = ConfigDict({name: chosen[name] for name in ("gaussian", "aligned_interpolation", "soup")})
    config.generators.latent_flow = generators.preset("latent_flow_small", latent_dim=64, behaviour=2.0)
    for accuracy in (0.5, 0.7, 0.9, 0.97):
        for guidance in (1.0, 2.0):
            name = f"latent_flow_{round(100 * accuracy)}_guided_{round(guidance)}"
            config.generators[name] = ConfigDict({"of": "latent_flow", "asked": (accuracy,), "guidance": guidance})
    return config
