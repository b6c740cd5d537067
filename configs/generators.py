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
