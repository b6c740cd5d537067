"""Every field of an experiment with its default. A config file starts from here and says what is different."""

from ml_collections import ConfigDict

from jaxweights import settings, studies, tasks


def get_config(task: str = tasks.DEFAULT) -> ConfigDict:
    """The defaults of a task, without any generator; by default the digits network.

    Args:
      task: what the networks are for: classification, field or policy. The sections `data` and `zoo` are its own;
        `python -m launch.describe --config=... --fields` says what their fields mean.
    """
    chosen = tasks.get(task)
    config = ConfigDict()
    config.seed = 0  # random seed of the zoo, the generators, the samples and the statistics
    config.num_samples = 256  # networks drawn from every generator
    config.task = task
    config.data = settings.config_dict(chosen.data_settings())
    # The name of a network, and that network's settings; of any network of images, also resize and crop: its first
    # operation brings their shorter side to `resize` pixels and cuts out `crop` x `crop`.
    config.net = ConfigDict({"name": chosen.default_network})
    if chosen.default_network == "mlp":
        config.net.hidden = (16,)
        config.net.activation = "relu"  # relu, leaky_relu, tanh, sigmoid, silu, gelu, selu
        config.net.init = "torch"  # torch, uniform, normal, xavier_*, kaiming_*
    config.zoo = settings.config_dict(chosen.zoo_settings())
    config.generators = ConfigDict()  # name -> kind and settings; see configs/generators.py

    config.audit = ConfigDict()
    config.audit.bootstrap = 1000  # resamples of every interval
    config.audit.hull_neighbours = 32  # training networks that an interpolation may combine, 0 for all (up to 512)
    config.audit.hull_aligned_neighbours = 8  # likewise, after alignment

    config.report = ConfigDict()
    config.report.boundary_resolution = 300  # grid points per side of decision regions

    config.studies = ConfigDict()  # of a config's generators and task; see `add_study`
    return config


def add_study(config: ConfigDict, name: str) -> ConfigDict:
    """Puts the settings of a study into a config, with their defaults, and returns them."""
    config.studies[name] = settings.config_dict(studies.STUDIES[name].settings())
    return config.studies[name]
