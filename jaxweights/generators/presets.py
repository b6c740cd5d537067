"""Named settings of generators: the published ones, and small ones that two cores train in seconds or minutes.

The main published setting of every method is the defaults of its class; presets say what is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Named settings.

    Attributes:
      kind: key of the generator's class in `GENERATORS`.
      settings: by field name; the others have the defaults of the class.
    """

    kind: str
    settings: Mapping[str, Any]


_LEARNED = ("pdiff", "hyperrep", "gpt", "hyperdiffusion", "flow", "neuron_flow", "rpg", "latent_flow", "sane")

# What P-diff's defaults correct, as it was released, and products of bfloat16 when sampling; see `PDiff`.
_PDIFF_PUBLISHED = {
    "decode": "instance",
    "encode": "batch",
    "standardise_latents": False,
    "scalars": "copy",
    "dtype": "bfloat16",
}

# For networks of a few thousand parameters, in seconds. The schedule has a fifth of the published steps, so its noise
# variances are five times as large: it has to end in noise. The published input noise of 0.001 serves networks that
# differ little; zoos of independent initialisations want about 1, which regularises the autoencoder (digits, in trials
# with longer schedules than these: 65 % instead of 58 % accuracy).
_PDIFF_SMALL = {
    "autoencoder_channels": (8, 8),
    "latent_dim": 64,
    "denoiser_channels": (16, 32),
    "num_timesteps": 200,
    "beta_start": 5e-4,
    "beta_end": 0.1,
    "input_noise": 0.001,
    "autoencoder_steps": 600,
    "diffusion_steps": 500,
    "batch_size": 64,
    "autoencoder_learning_rate": 3e-3,
    "diffusion_learning_rate": 3e-3,
}

# In minutes. Every view has a fresh permutation of its own: with a short list of them, or none, the autoencoder
# reconstructs networks that it has seen a little better and others much worse (digits: R^2 0.87 and 0.63 without
# permutations, 0.80 and 0.80 with fresh ones, both after 1,500 steps, at learning rates of 1e-3 and 2e-3).
_HYPERREP_SMALL = {
    "width": 64,
    "feed_forward": 128,
    "blocks": 2,
    "heads": 4,
    "dropout": 0.0,
    "identical_blocks": False,
    "projection_layers": 2,
    "projection_hidden": 64,
    "projection_features": 32,
    "permutations": "fresh",
    "erase": "none",
    "steps": 1500,
    "batch_size": 64,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "scheduler": "cosine",
}

# In minutes. Whole tensors are tokens: in trials on digits of 800 steps and about the same time, few wide tokens gave
# 53 % accuracy (width 384), and one token for every hidden unit's weights 24 % (width 128). Scalars have few
# frequencies, and low ones, though that mattered little (43 % with frequencies up to 2^14, 45 % with up to 2^6).
_GPT_SMALL = {
    "tokens": "tensor",
    "width": 384,
    "blocks": 2,
    "heads": 4,
    "num_frequencies": 32,
    "max_frequency_log2": 6.0,
    "num_timesteps": 100,
    "beta_start": 1e-3,  # a tenth of the steps, ten times the variances: the schedule has to end in noise
    "beta_end": 0.2,
    "steps": 1600,
    "warmup_steps": 100,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "ema_decay": 0.99,
}

# In minutes. Every parameter is normalised by itself: in a trial on 300 synthetic vectors of 1,985 values around a
# shared mean (300 steps, width 128), samples then lay 6.5 from the mean, where the training vectors lie 7.2; as they
# are, 0.6.
_HYPERDIFFUSION_SMALL = {
    "normalise": "per_parameter",
    "width": 128,
    "blocks": 2,
    "heads": 4,
    "num_frequencies": 32,
    "max_frequency_log2": 6.0,
    "num_timesteps": 100,
    "beta_start": 5e-4,  # a fifth of the published steps, five times the variances
    "beta_end": 0.1,
    "steps": 450,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "decay_factor": 0.5,
    "decay_every": 90,  # a fifth of the steps
    "ema_decay": 0.99,
}

# In minutes; the default sizes are those of docs/inventing.md.
_NEURON_FLOW_SMALL = {"width": 64, "blocks": 2, "behaviour": 2.0, "steps": 1000, "sampling_steps": 15}

# What the defaults of `Flow` correct, as released; the paper's networks have 99 components of 100 networks.
_DEEPWEIGHTFLOW = {
    "source": "table",
    "source_std": 0.01,
    "select": "luckiest",
    "components": 0,
    "statistics": "test",
}

# As released, on spheres; its text has straight paths and scale-normalised networks as well.
_WEIGHTFLOW = {
    "scale": "unit",
    "geometry": "spheres",
    "source": "table",
    "source_std": 0.1,
    "sigma": 1e-5,
    "time_beta": (1.0, 2.0),
    "network": "graph",
    "graph_times": "published",
    "sphere_loss": "published",
    "dropout": 0.0,
    "steps": 100_000,
    "learning_rate": 1e-3,
    "final_learning_rate": 1e-3,
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "select": "last",
    "solver": "euler",
}

# In minutes, and for as many networks as small zoos have.
_FLOW_SMALL = {
    "order": "mean",
    "scale": "balanced",
    "dropout": 0.0,
    "steps": 6000,
    "batch_size": 64,
    "learning_rate": 1e-3,
    "solver": "heun",
    "sampling_steps": 50,
}

# What RPG's defaults correct, as it was released.
_RPG_PUBLISHED = {"permutation_states": "checkpoints", "scalars": "copy"}

# For networks of a few thousand parameters, in minutes. Prototypes are as wide as tokens, as published.
_RPG_SMALL = {
    "token_size": 64,
    "width": 64,
    "state": 16,
    "head_size": 32,
    "channels": (8, 16),
    "num_timesteps": 200,
    "beta_start": 5e-4,  # a fifth of the published steps, five times the variances
    "beta_end": 0.1,
    "tokens": 0,
    "steps": 2500,
    "batch_size": 16,
    "learning_rate": 4e-3,
}

# In a minute or two, and for as many networks as small zoos have.
_LATENT_FLOW_SMALL = {"latent_dim": 32, "autoencoder_steps": 2000, "steps": 6000, "learning_rate": 1e-3}

# What the defaults of `Sane` correct, as released.
_SANE_PUBLISHED = {
    "token_size": 0,
    "standardise": "published",
    "views": "canonical",
    "draw": "batch",
    "target": "noised",
    "padding": "counts",
    "mode": "faithful",
    "keep": "first",
    "halo_lengths": "published",
}

# In minutes.
_SANE_SMALL = {
    "order": "mean",
    "scale": "balanced",
    "width": 64,
    "blocks": 2,
    "heads": 4,
    "latent_dim": 32,
    "steps": 800,
    "batch_size": 64,
    "learning_rate": 3e-3,
}

PRESETS: dict[str, Preset] = {
    **{kind: Preset(kind, {}) for kind in _LEARNED},
    "pdiff_published": Preset("pdiff", _PDIFF_PUBLISHED),
    "pdiff_small": Preset("pdiff", _PDIFF_SMALL),
    "hyperrep_small": Preset("hyperrep", _HYPERREP_SMALL),
    "gpt_small": Preset("gpt", _GPT_SMALL),
    "neuron_flow_small": Preset("neuron_flow", _NEURON_FLOW_SMALL),
    "deepweightflow": Preset("flow", _DEEPWEIGHTFLOW),
    "weightflow": Preset("flow", _WEIGHTFLOW),
    "flow_small": Preset("flow", _FLOW_SMALL),
    "rpg_published": Preset("rpg", _RPG_PUBLISHED),
    "rpg_small": Preset("rpg", _RPG_SMALL),
    "latent_flow_small": Preset("latent_flow", _LATENT_FLOW_SMALL),
    "sane_published": Preset("sane", _SANE_PUBLISHED),
    "sane_small": Preset("sane", _SANE_SMALL),
    "hyperdiffusion_small": Preset("hyperdiffusion", _HYPERDIFFUSION_SMALL),
}
"""Presets by name; the name of a method alone is its main published setting."""
