"""Sets of generators that several configs share; `jaxweights.generators.presets` has the learned ones' settings."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxweights import generators


def preset(name: str, **changes: Any) -> ConfigDict:
    """The settings of a preset, some of them changed."""
    return ConfigDict(generators.preset(name, **changes))


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
            "aligned_interpolation": {"kind": "aligned_interpolation"},
            "soup": {"kind": "soup", "k": 16},
        }
    )


def inventing(flow: ConfigDict, ways: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """A flow over neurons, and further ways to sample from it by name, beside three baselines of its kind."""
    chosen = baselines()
    config = ConfigDict({name: chosen[name] for name in ("gaussian", "aligned_interpolation", "soup")})
    config.neuron_flow = flow
    for name, changes in ways.items():
        config[name] = ConfigDict({"of": "neuron_flow", **changes})
    return config


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


def pdiff_baselines() -> ConfigDict:
    """`baselines` with the memorization paper's amplitudes for P-diff, its average as released, P-diff's own noise.

    P-diff's evaluator (arXiv 2402.13144) multiplies its amplitudes by the standard deviation of each tensor. Baselines
    that align are left out: checkpoints of one run have their units in one order, and parts of networks have none.
    """
    config = baselines(0.06, 0.12)
    del config.aligned_interpolation, config.soup
    config.average_faithful = {"kind": "average", "k": 16, "faithful": True}
    for permille in (1, 50, 150):
        config[f"noise_{permille}_permille"] = {"kind": "noise", "sigma": permille / 1000, "relative": True}
    return config


def closed_forms(components: int = 32) -> dict[str, dict]:
    """Densities and sparse codes of networks in one form, and the exact field of flow matching, a positive control."""
    return {
        "kde": {"kind": "kde", "components": components},
        "mixture": {"kind": "mixture", "components": components},
        "sparse_coding": {"kind": "sparse_coding"},
        "copier": {"kind": "copier", "order": "mean", "scale": "balanced"},
    }


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


def hyperrep(name: str, **changes: Any) -> ConfigDict:
    """Hyper-Representations by a preset, some of its settings changed, and every way of sampling from it."""
    return ConfigDict({"hyperrep": preset(name, **changes), **latent_samplers("hyperrep")})
