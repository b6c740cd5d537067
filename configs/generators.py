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
