"""Settings of the generators; the learned ones at their published size."""

from ml_collections import ConfigDict


def baselines(sigma_low: float = 0.05, sigma_high: float = 0.1) -> ConfigDict:
    """Every baseline that a generator has to beat; noise amplitudes are absolute, as in the memorization paper."""
    return ConfigDict(
        {
            "noise_low": {"kind": "noise", "sigma": sigma_low},
            "noise_high": {"kind": "noise", "sigma": sigma_high},
            "average": {"kind": "average", "k": 16},
            "gaussian": {"kind": "gaussian"},
            "pca_gaussian": {"kind": "pca_gaussian"},
            "interpolation": {"kind": "interpolation"},
        }
    )


def gpt_baselines() -> ConfigDict:
    """`baselines` with the memorization paper's noise for G.pt, on any zoo (arXiv 2506.07998, released code).

    There the amplitudes are 0.05 and 0.1 in normalised space, where all weights together have standard deviation 0.538:
    9.3 % and 18.6 % of that of the weights (on the published MNIST zoo 0.012 and 0.024, as 4.185 normalises). Here the
    deviation is that of the rows that baselines learn from, there that of 25,000 random checkpoints.
    """
    config = baselines(0.05 / 0.538, 0.1 / 0.538)
    for name in ("noise_low", "noise_high"):
        config[name].update({"relative": True, "relative_to": "all"})
    return config


def gpt_small(steps: int, width: int = 384, blocks: int = 2) -> ConfigDict:
    """G.pt at a size that two cores train in minutes.

    Whole tensors are its tokens: in trials on digits of 800 steps and about the same time, few wide tokens gave 53 %
    accuracy (width 384), and one token for every hidden unit's weights 24 % (width 128). Scalars have few frequencies,
    and low ones, though that mattered little (43 % with frequencies up to 2^14, 45 % with up to 2^6).
    """
    return ConfigDict(
        {
            "kind": "gpt",
            "tokens": "tensor",
            "width": width,
            "blocks": blocks,
            "heads": 4,
            "num_frequencies": 32,
            "max_frequency_log2": 6.0,
            "num_timesteps": 100,
            "beta_start": 1e-3,  # a tenth of the steps, ten times the variances: the schedule has to end in noise
            "beta_end": 0.2,
            "steps": steps,
            "warmup_steps": 100,
            "batch_size": 64,
            "learning_rate": 2e-3,
            "ema_decay": 0.99,
        }
    )


def hyperdiffusion(networks: int = 2749) -> ConfigDict:
    """HyperDiffusion at its published size and schedule (aeroplanes; 1,407,225,600 parameters).

    Args:
      networks: that it is trained on; the published schedule counts their epochs.
    """
    epoch = -(-networks // 32)
    return ConfigDict(
        {
            "kind": "hyperdiffusion",
            "width": 2880,
            "blocks": 12,
            "heads": 16,
            "num_frequencies": 128,
            "max_frequency_log2": 20.0,
            "num_timesteps": 500,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "steps": 6000 * epoch,
            "batch_size": 32,
            "learning_rate": 2e-4,
            "decay_factor": 0.9,
            "decay_every": 200 * epoch,
            "weight_decay": 0.01,
            "shard_parameters": True,
        }
    )


def hyperdiffusion_small(steps: int, width: int = 128, blocks: int = 2) -> ConfigDict:
    """HyperDiffusion at a size that two cores train in minutes.

    Every parameter is normalised by itself: in a trial on 300 synthetic vectors of 1,985 values around a shared mean
    (300 steps, width 128), samples then lay 6.5 from the mean, where the training vectors lie 7.2; as they are, 0.6.
    """
    return ConfigDict(
        {
            "kind": "hyperdiffusion",
            "normalise": "per_parameter",
            "width": width,
            "blocks": blocks,
            "heads": 4,
            "num_frequencies": 32,
            "max_frequency_log2": 6.0,
            "num_timesteps": 100,
            "beta_start": 5e-4,  # a fifth of the published steps, five times the variances
            "beta_end": 0.1,
            "steps": steps,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "decay_factor": 0.5,
            "decay_every": max(1, steps // 5),
            "ema_decay": 0.99,
        }
    )


def pdiff() -> ConfigDict:
    """P-diff at its published size and schedule (2,048 generated values: autoencoder 2,199,201, denoiser 2,462,977
    parameters)."""
    return ConfigDict(
        {
            "kind": "pdiff",
            "autoencoder_channels": (64, 128, 256, 256, 32),
            "latent_dim": 128,
            "kernel_size": 7,
            "denoiser_channels": (64, 128, 256, 512),
            "num_timesteps": 1000,
            "input_noise": 0.001,
            "latent_noise": 0.1,
            "autoencoder_steps": 500,
            "diffusion_steps": 1000,
            "batch_size": 50,
            "autoencoder_learning_rate": 2e-5,
            "diffusion_learning_rate": 1e-4,
        }
    )


def pdiff_published(autoencoder_steps: int = 500, diffusion_steps: int = 1000) -> ConfigDict:
    """`pdiff` as released: what it mends left as it is, and products of bfloat16 when sampling; see `PDiff`."""
    config = pdiff()
    config.autoencoder_steps = autoencoder_steps
    config.diffusion_steps = diffusion_steps
    config.update(decode="instance", encode="batch", standardise_latents=False, scalars="copy", dtype="bfloat16")
    config.update(kl_weight=0.0, weight_decay=0.0)
    return config


def pdiff_baselines() -> ConfigDict:
    """`baselines` with the memorization paper's amplitudes for P-diff, its average as released, P-diff's own noise.

    P-diff's evaluator (arXiv 2402.13144) multiplies its amplitudes by the standard deviation of each tensor.
    """
    config = baselines(0.06, 0.12)
    config.average_faithful = {"kind": "average", "k": 16, "faithful": True}
    for permille in (1, 50, 150):
        config[f"noise_{permille}_permille"] = {"kind": "noise", "sigma": permille / 1000, "relative": True}
    return config


def pdiff_small(input_noise: float = 0.001) -> ConfigDict:
    """P-diff at a size that two cores train in seconds, for networks of a few thousand parameters.

    The schedule has a fifth of the published steps, so its noise variances are five times as large: it has to end in
    noise.

    Args:
      input_noise: of the autoencoder. The published 0.001 serves networks that differ little; zoos of independent
        initialisations want about 1, which regularises the autoencoder (digits, in trials with longer schedules than
        these: 65 % instead of 58 % accuracy).
    """
    config = pdiff()
    config.autoencoder_channels = (8, 8)
    config.latent_dim = 64
    config.denoiser_channels = (16, 32)
    config.num_timesteps = 200
    config.beta_start = 5e-4
    config.beta_end = 0.1
    config.input_noise = input_noise
    config.autoencoder_steps = 600
    config.diffusion_steps = 500
    config.batch_size = 64
    config.autoencoder_learning_rate = 3e-3
    config.diffusion_learning_rate = 3e-3
    return config


def pdiff_subset() -> ConfigDict:
    """P-diff at a size that two cores train in seconds, for consecutive checkpoints of a few small layers."""
    config = pdiff_small()
    config.batch_size = 50
    return config


def hyperrep(name: str = "hyperrep") -> ConfigDict:
    """Hyper-Representations at the size of arXiv 2506.07998, and every way of sampling from it.

    For the CNN of 2,464 parameters the autoencoder has 223,316,838.

    The published numbers are in a file of their own that no source quotes; these sizes reproduce the published
    parameter counts of the default and of all four variants, the optimisation is that of the same authors' public
    configuration for this CNN (arXiv 2110.15288).

    Args:
      name: of the generator; the samplers are called `<name>_faithful` and so on.
    """
    return ConfigDict(
        {
            name: {
                "kind": "hyperrep",
                "encoding": "neuron",
                "width": 1200,
                "feed_forward": 1200,
                "blocks": 12,
                "heads": 12,
                "latent_dim": 128,
                "dropout": 0.1,
                "identical_blocks": True,  # as in the published code; the default is False
                "projection_layers": 4,
                "projection_hidden": 400,
                "projection_features": 50,
                "gamma": 0.1,
                "temperature": 0.1,
                "normalize_loss": True,
                "permutations": "table",
                "permutations_number": 25_000,
                "erase": "block",
                "steps": 2500,  # 500 epochs of 2,896 checkpoints
                "batch_size": 500,
                "optimizer": "adam",
                "learning_rate": 1e-4,
                "weight_decay": 1e-9,
                "scheduler": "plateau",
                "scheduler_every": 5,
                "scheduler_factor": 0.3,
            },
            **latent_samplers(name),
        }
    )


def latent_samplers(name: str) -> dict[str, dict]:
    """Ways of sampling from the autoencoder `name`, whose own is S_KDE30 with independent dimensions.

    `faithful` is S_KDE30 as published, where every dimension starts from the same seed: each sample is one training
    latent with a small shift.
    """
    kinds = {
        "faithful": {"sampler": "kde", "mode": "faithful"},
        "gaussian": {"sampler": "gaussian"},
        "joint_kde": {"sampler": "joint_kde", "bandwidth": 0.0},
        "uniform": {"sampler": "uniform"},
        "reconstruction": {"sampler": "reconstruct", "mode": "random", "top": 1.0},
    }
    return {f"{name}_{kind}": {"of": name, **settings} for kind, settings in kinds.items()}


def hyperrep_small(name: str = "hyperrep", steps: int = 1500) -> ConfigDict:
    """Hyper-Representations at a size that two cores train in minutes.

    Every view has a fresh permutation of its own: with a short list of them, or none, the autoencoder reconstructs
    networks that it has seen a little better and others much worse (digits: R^2 0.87 and 0.63 without permutations,
    0.80 and 0.80 with fresh ones, both after 1,500 steps, at learning rates of 1e-3 and 2e-3).
    """
    config = hyperrep(name)
    config[name].update(
        {
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
            "steps": steps,
            "batch_size": 64,
            "optimizer": "adamw",
            "learning_rate": 2e-3,
            "scheduler": "cosine",
        }
    )
    return config
