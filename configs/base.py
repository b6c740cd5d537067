"""Every field of an experiment with its default. A config file starts from here and says what is different."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jaxweights import settings, tasks


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

    config.studies = ConfigDict()
    # Of generators that encode networks and decode latents.
    config.studies.symmetry_networks = 128  # whose transformed copies are reconstructed
    config.studies.rescaling_log_std = 0.5  # of the scales of ReLU networks' hidden units
    config.studies.probe_images = 5000  # training images that the generalization gap is measured on
    config.studies.published_top = 0.3  # share of the best networks that the published noise baseline starts from
    config.studies.published_noise = (0.02, 0.04)  # its amplitudes, in weight units
    # Of generators that improve networks up to a metric that they are asked for.
    config.studies.prompted_networks = 16  # starts from held-out runs, and as many from training runs
    config.studies.prompts = 20  # metrics asked for per start, from the best one to its own
    config.studies.best_prompt = placeholder(float)  # the best one; unset: the best of the training networks
    config.studies.rounds = 5  # of recursive prompting
    config.studies.walks = 4  # paths through the noise that networks are made from
    config.studies.walk_points = 9  # networks per path
    # Of neural fields of shapes.
    config.studies.shape_networks = 64  # of every series that are meshed
    config.studies.shape_resolution = 96  # grid points per axis
    config.studies.shape_level = 1.386  # logit of the surface: an occupancy of 0.8, as published
    config.studies.shape_points = 2048  # on every surface
    config.studies.shape_emd = 32  # shapes of every series that enter the earth mover's distance, 0 for none
    config.studies.shape_up = "z"  # axis that points up on pictures: x, y or z
    return config
