"""P-diff's published settings (arXiv 2402.13144, released code), one per tag, under the audit of arXiv 2506.07998.

    python -m launch.describe --config=configs/paper/pdiff.py:cifar100_resnet18
    python -m launch.run --config=configs/paper/pdiff.py:cifar10_convnet --workdir=runs/convnet --data_dir=DIR

A tag is a data set and a network (`MAIN`: the last two normalisation layers of a network of timm; `FULL`: a small
network as a whole) or an ablation of cifar100_resnet18 (`ABLATIONS`). The networks of `MAIN` continue from timm's
weights, which have to be there as arrays by name: `NETWORK.npz` in the current directory, or wherever
`--config.zoo.base.import_npz` says.

    import numpy, timm
    tensors = timm.create_model("resnet18", pretrained=True).state_dict()
    numpy.savez("resnet18.npz", **{name: tensor.numpy() for name, tensor in tensors.items()})

As published: the base's epoch is chosen by the test images; batch normalisation is in training mode for the first two
steps or, without tests in between, always, and its moved statistics are not saved; the generator works as released
(statistics of single samples in the decoder, a moving encoder, latents of any scale). Different here: a last batch that
is not full is left out; flowers, pets, food and ImageNet are cut to 256 pixels before training crops are drawn;
stl10_convnexttiny keeps the last step of its diffusion, not the 1,000th of 1,200; numberckpt_400 and layers_cv0000 are
in training mode for two steps instead of one; bfloat16 only where P-diff samples. Held-out runs are ours.
Published, for cifar100_resnet18: accuracies 76.5 to 77.3 % of training and 76.9 to 77.65 % of generated networks. For
accelerators.

cifar100_resnet18 and cifar10_convnet take about a day each on two cores (estimated: operations at 100 GFLOP/s).
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import base, generators


class Data(NamedTuple):
    """A data set: its name here, its number of training images, whether these have sizes of their own."""

    name: str
    size: int
    varied: bool = False


DATA = {
    "cifar100": Data("cifar100", 50_000),
    "cifar10": Data("cifar10", 50_000),
    "stl10": Data("stl10", 5000),
    "flowers": Data("oxford_flowers102", 1020, varied=True),
    "food101": Data("food101", 75_750, varied=True),
    "in1k": Data("imagenet2012", 1_281_167, varied=True),
    "pets": Data("oxford_iiit_pet", 3680, varied=True),
    "mnist": Data("mnist", 60_000),
    "svhn": Data("svhn_cropped", 73_257),
}

NETWORKS = {
    "resnet18": ("resnet18", ("layer4/1/bn1/*", "layer4/1/bn2/*")),
    "resnet50": ("resnet50", ("layer4/2/bn2/*", "layer4/2/bn3/*")),
    "vittiny": ("vit_tiny", ("blocks/11/norm2/*", "norm/*")),
    "vitbase": ("vit_base", ("blocks/11/norm2/*", "norm/*")),
    "convnexttiny": ("convnext_tiny", ("stages/3/blocks/2/norm/*", "head/norm/*")),
    "convnextbase": ("convnext_base", ("stages/3/blocks/2/norm/*", "head/norm/*")),
    "mlp": ("pdiff_mlp", ()),
    "convnet": ("pdiff_convnet", ()),
    "resnet": ("pdiff_resnet", ()),
    "vit": ("pdiff_vit", ()),
    "convnext": ("pdiff_convnext", ()),
    "cnnmedium": ("cnn_medium", ()),
}


class Setting(NamedTuple):
    """What distinguishes the tags of `MAIN` and `FULL`.

    Attributes:
      epochs: epochs of the base, 0 for timm's weights as they are.
      base_rate: its learning rate.
      batch_size: batch size of the run whose steps are kept.
      learning_rate: learning rate of that run.
      weight_decay: weight decay of that run.
      skipped: steps at the beginning of every epoch that are not kept.
      autoencoder_steps: steps of the generator's first stage.
      diffusion_steps: steps of its second stage.
    """

    epochs: int
    base_rate: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    skipped: int
    autoencoder_steps: int
    diffusion_steps: int


# The base's weight decay is its learning rate.
MAIN = {
    "cifar100_convnextbase": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 200, 800),
    "cifar100_convnexttiny": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 200, 800),
    "cifar100_resnet18": Setting(10, 5e-4, 128, 0.03, 5e-4, 1, 500, 1000),
    "cifar100_resnet50": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 500, 2000),
    "cifar100_vitbase": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 300, 400),
    "cifar100_vittiny": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 100, 400),
    "cifar10_convnextbase": Setting(10, 1e-4, 128, 0.05, 5e-4, 0, 100, 400),
    "cifar10_convnexttiny": Setting(10, 1e-4, 128, 0.05, 5e-4, 0, 200, 800),
    "cifar10_resnet18": Setting(10, 5e-4, 128, 0.05, 5e-4, 0, 500, 2000),
    "cifar10_resnet50": Setting(10, 1e-4, 128, 0.05, 5e-4, 0, 200, 800),
    "cifar10_vitbase": Setting(10, 1e-4, 128, 0.05, 5e-4, 0, 300, 400),
    "cifar10_vittiny": Setting(10, 1e-4, 128, 0.15, 5e-3, 0, 100, 400),
    "flowers_convnextbase": Setting(12, 1e-4, 128, 0.1, 5e-4, 1, 600, 2400),
    "flowers_convnexttiny": Setting(12, 1e-4, 128, 0.05, 5e-4, 1, 500, 2000),
    "flowers_resnet18": Setting(15, 5e-3, 128, 0.03, 5e-4, 0, 800, 1600),
    "flowers_resnet50": Setting(15, 5e-3, 64, 0.03, 5e-4, 0, 800, 1200),
    "flowers_vitbase": Setting(12, 1e-4, 64, 0.05, 5e-4, 1, 800, 1200),
    "flowers_vittiny": Setting(12, 1e-4, 64, 0.05, 5e-4, 0, 800, 1200),
    "food101_convnextbase": Setting(10, 1e-4, 128, 0.03, 5e-4, 1, 200, 800),
    "food101_convnexttiny": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 200, 800),
    "food101_resnet18": Setting(10, 5e-4, 64, 0.05, 5e-4, 1, 500, 2000),
    "food101_resnet50": Setting(10, 1e-4, 64, 0.03, 5e-4, 1, 500, 2000),
    "food101_vitbase": Setting(10, 1e-4, 128, 0.03, 5e-4, 1, 300, 800),
    "food101_vittiny": Setting(10, 1e-4, 128, 0.03, 5e-4, 1, 200, 600),
    "in1k_convnextbase": Setting(0, 0.0, 128, 0.05, 5e-4, 0, 500, 2000),
    "in1k_convnexttiny": Setting(0, 0.0, 128, 0.05, 5e-4, 0, 500, 2000),
    "in1k_resnet18": Setting(0, 0.0, 128, 0.03, 5e-3, 0, 1000, 4000),
    "in1k_resnet50": Setting(0, 0.0, 128, 0.005, 5e-3, 0, 1000, 4000),
    "in1k_vitbase": Setting(0, 0.0, 128, 0.05, 5e-4, 0, 500, 2000),
    "in1k_vittiny": Setting(0, 0.0, 128, 0.05, 5e-4, 0, 500, 1000),
    "pets_convnextbase": Setting(10, 1e-4, 64, 0.05, 5e-4, 1, 500, 2000),
    "pets_convnexttiny": Setting(10, 1e-4, 64, 0.05, 5e-4, 1, 500, 2000),
    "pets_resnet18": Setting(10, 5e-4, 64, 0.05, 5e-4, 1, 500, 2000),
    "pets_resnet50": Setting(30, 1e-4, 64, 0.05, 5e-4, 1, 500, 2000),
    "pets_vitbase": Setting(10, 1e-4, 64, 0.1, 5e-4, 1, 500, 2000),
    "pets_vittiny": Setting(10, 1e-4, 64, 0.03, 5e-4, 1, 400, 800),
    "stl10_convnextbase": Setting(10, 1e-4, 128, 0.05, 5e-4, 1, 500, 2000),
    "stl10_convnexttiny": Setting(10, 1e-4, 128, 0.03, 5e-4, 1, 800, 1200),
    "stl10_resnet18": Setting(10, 5e-4, 64, 0.05, 5e-4, 2, 500, 2000),
    "stl10_resnet50": Setting(10, 1e-4, 64, 0.03, 5e-4, 2, 500, 2000),
    "stl10_vitbase": Setting(10, 1e-4, 64, 0.05, 5e-4, 1, 500, 2000),
    "stl10_vittiny": Setting(10, 1e-4, 64, 0.05, 5e-4, 1, 500, 2000),
}

FULL = {
    "cifar10_mlp": Setting(50, 5e-3, 128, 0.003, 5e-4, 1, 2500, 10_000),
    "cifar10_convnet": Setting(50, 5e-3, 128, 0.001, 5e-4, 1, 2000, 8000),
    "cifar10_resnet": Setting(50, 5e-3, 128, 0.001, 5e-4, 0, 1500, 6000),
    "cifar10_vit": Setting(50, 5e-3, 128, 0.001, 5e-4, 1, 2000, 8000),
    "cifar10_convnext": Setting(50, 5e-3, 128, 0.0005, 5e-4, 1, 2000, 8000),
    "stl10_mlp": Setting(50, 5e-3, 128, 0.003, 5e-4, 1, 2500, 10_000),
    "stl10_convnet": Setting(50, 5e-3, 64, 0.0001, 5e-4, 1, 2000, 10_000),
    "stl10_resnet": Setting(50, 5e-3, 128, 0.002, 5e-4, 1, 500, 2000),
    "stl10_vit": Setting(50, 5e-3, 128, 0.0002, 5e-4, 1, 500, 2000),
    "stl10_convnext": Setting(50, 5e-3, 128, 0.0001, 5e-4, 1, 500, 2000),
    "mnist_cnnmedium": Setting(25, 3e-3, 128, 0.01, 5e-3, 0, 2000, 8000),
    "svhn_cnnmedium": Setting(25, 3e-3, 128, 0.01, 5e-3, 0, 2000, 8000),
}
FINAL_RATES = {"mnist_cnnmedium": 0.007, "svhn_cnnmedium": 0.009}  # at the end of one epoch; others stay constant
# The only tags of networks with batch normalisation that are tested after every step. (in1k_resnet50 means to be after
# every 1,000th, which never is one that is saved.)
TESTED = ("cifar100_resnet18",)

# Changes of cifar100_resnet18: of the zoo, of the generator.
_BATCH, _LONG = {"statistics": "batch"}, {"autoencoder_steps": 3000, "diffusion_steps": 6000}
ABLATIONS = {
    **{f"numberckpt_{n:03}": ({"steps": n + 1, "snapshot_range": (2, n + 1)}, {}) for n in (1, 10, 50, 200, 300)},
    "numberckpt_400": ({"steps": 400, "snapshot_range": (1, 400)}, {}),
    "noise_0000a00": ({}, {"input_noise": 0.0, "latent_noise": 0.0}),
    "noise_0001a00": ({}, {"latent_noise": 0.0}),
    "noise_0000a01": ({}, {"input_noise": 0.0}),
    "noise_x001": ({}, {"input_noise": 1e-5, "latent_noise": 1e-3}),
    "noise_x01": ({}, {"input_noise": 1e-4, "latent_noise": 1e-2}),
    "noise_x10": ({}, {"input_noise": 1e-2, "latent_noise": 1.0}),
    "noise_x100": ({}, {"input_noise": 0.1, "latent_noise": 10.0}),
    **{f"diffusionstep_{n:04}": ({}, {"num_timesteps": n}) for n in (10, 100, 2000)},
    "layers_bn1013": (
        {"subset": tuple(f"layer3/{i}/bn{j}/*" for i in (0, 1) for j in (1, 2)), "snapshot_range": (1, 301), **_BATCH},
        {},
    ),
    "layers_bn1415": (
        {"subset": ("layer4/0/bn1/*", "layer4/0/bn2/*"), "steps": 201, "snapshot_range": (1, 201), **_BATCH},
        {},
    ),
    "layers_cv0000": (
        {"subset": ("conv1/weight",), "learning_rate": 3e-4, "snapshot_range": (1, 301)},
        {"autoencoder_steps": 4000, "diffusion_steps": 16_000, "latent_dim": 1024},
    ),
    "layers_fc0000": (
        {"subset": ("fc/*",), "learning_rate": 3e-4, "snapshot_range": (1, 301), **_BATCH},
        {"autoencoder_steps": 2000, "diffusion_steps": 8000, "latent_dim": 512},
    ),
    "save_epoch1": ({"base": {"epochs": 1}, **_BATCH}, {}),
    "save_epoch3": ({"base": {"epochs": 3}, **_BATCH}, {}),
    "save_lr00003": ({"learning_rate": 3e-4, **_BATCH}, {}),
    "save_lr03000": ({"learning_rate": 0.3, **_BATCH}, {}),
    "adam_optimizer": ({"base": {"optimizer": "adam"}, "optimizer": "adam", "learning_rate": 0.003}, _LONG),
    "sgd_optimizer": (
        {
            "base": {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "epochs": 50},
            "optimizer": "sgd",
            "momentum": 0.9,
        },
        _LONG,
    ),
    # A variational autoencoder alone; the published one leaves out the noise on its input, too.
    "vae_sample": (
        {},
        {
            "autoencoder_steps": 2000,
            "autoencoder_learning_rate": 2e-4,
            "diffusion_steps": 0,
            "input_noise": 0.0,
            "latent_noise": None,
            "kl_weight": 1.0,
            "decode": "running",
            "encode": "running",
        },
    ),
}


def get_config(tag: str = "cifar100_resnet18") -> ConfigDict:
    """The experiment of a tag: the base, its consecutive checkpoints, P-diff and the baselines of both papers."""
    known = MAIN | FULL | ABLATIONS
    if tag not in known:
        raise ValueError(f"Unknown tag {tag!r}; known: {', '.join(known)}.")
    if tag not in ABLATIONS:
        return _population(tag)
    config = _population("cifar100_resnet18")
    zoo, generator = ABLATIONS[tag]
    config.zoo.update(zoo)
    config.generators.pdiff.update(generator)
    kept = config.zoo.snapshot_range[1] - config.zoo.snapshot_range[0] + 1
    for name in ("average", "average_faithful"):
        config.generators[name].k = min(kept, config.generators[name].k)
    if kept == 1:  # nothing varies
        for name in ("gaussian", "pca_gaussian", "interpolation"):
            del config.generators[name]
    return config


def _population(tag: str) -> ConfigDict:
    setting = (MAIN | FULL)[tag]
    data, network = (table[part] for table, part in zip((DATA, NETWORKS), tag.split("_"), strict=True))
    config = base.get_config()
    config.num_samples = 200
    config.audit.hull_neighbours = 0
    config.data.name = data.name
    config.net = base.network(network[0])
    zoo = config.zoo
    zoo.num_runs = 1
    zoo.num_heldout = 16
    zoo.use = "all"
    zoo.heldout_snapshots = "one"
    zoo.start = "base"
    zoo.subset = network[1]
    zoo.statistics = "published" if tag in TESTED else "batch"
    zoo.augment = zoo.base.augment = "resized_crop"
    zoo.base.update(epochs=setting.epochs, learning_rate=setting.base_rate, weight_decay=setting.base_rate)
    zoo.base.select = "best_test"
    zoo.batch_size = setting.batch_size
    zoo.optimizer = "adamw"
    zoo.momentum = 0.0
    zoo.schedule = "constant"
    zoo.learning_rate = setting.learning_rate
    zoo.weight_decay = setting.weight_decay
    config.generators = generators.pdiff_baselines()
    steps = {"autoencoder_steps": setting.autoencoder_steps, "diffusion_steps": setting.diffusion_steps}
    config.generators.pdiff = generators.preset("pdiff_published", **steps)
    if tag in MAIN:
        config.net.update(resize=256, crop=224)
        zoo.base.import_npz = f"{network[0]}.npz"
    else:
        _small(config, tag)
    if data.varied:
        config.data.resize = 256
    if tag in ("in1k_vitbase", "in1k_vittiny", "mnist_cnnmedium"):  # others have the constants of their data set
        colours = 1 if tag.startswith("mnist") else 3
        config.data.mean, config.data.std = (0.5,) * colours, (0.5,) * colours
    _keep(zoo, _kept(tag, setting, data))
    return config


def _small(config: ConfigDict, tag: str) -> None:
    """A network that is generated as a whole: smaller images, no pretraining, larger latents."""
    medium = config.net.name == "cnn_medium"
    size = 32 if medium else 64
    config.net.update(resize=size, crop=size)
    config.zoo.base.weight_decay = 5e-3 if medium else 5e-4
    config.generators.pdiff.update(latent_dim=256 if medium else 768, weight_decay=1e-5)
    if tag in FINAL_RATES:
        config.zoo.schedule = "cosine"
        config.zoo.final_learning_rate = FINAL_RATES[tag]


def _kept(tag: str, setting: Setting, data: Data) -> list[int]:
    """The steps whose weights are kept, ascending; 1 is the first update."""
    epoch = data.size // setting.batch_size
    if tag.startswith("in1k"):  # every 33rd; resnet50 only after a whole epoch
        return [epoch * (tag == "in1k_resnet50") + 33 * i for i in range(1, 301)]
    count = 321 if tag in FINAL_RATES else 301 if tag.startswith("cifar10_") and tag in MAIN else 300
    # Fewer than half of an epoch's steps are skipped, so twice the number is enough to choose from.
    steps = [step for step in range(1, 2 * count) if (step - 1) % epoch >= setting.skipped]
    return steps[:count]


def _keep(zoo: ConfigDict, steps: list[int]) -> None:
    consecutive = steps[-1] - steps[0] + 1 == len(steps)
    if consecutive:
        zoo.snapshot_range = (steps[0], steps[-1])
    else:
        zoo.snapshots = tuple(steps)
    if zoo.schedule == "constant":
        zoo.steps = steps[-1]
    else:
        zoo.epochs = 1
