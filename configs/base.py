"""Every field of an experiment with its default. A config file starts from here and says what is different."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """The digits network under the defaults, without any generator."""
    config = ConfigDict()
    config.seed = 0  # of everything: zoo, generators, samples, statistics
    config.num_samples = 256  # networks drawn from every generator

    config.data = ConfigDict()
    # digits, cartpole, mnist, fashion_mnist, svhn, cifar10, cifar100, stl10, oxford_flowers102, oxford_iiit_pet,
    # food101, imagenet2012, or a name found in --data_dir
    config.data.name = "digits"
    config.data.mean = ()  # of pixels from 0 to 1, one per colour, with std; () for the published ones
    config.data.std = ()
    config.data.grey = False  # colour images to grey
    config.data.resize = 0  # on loading: shorter side to this, and the square in the middle; 0 for images as they are
    config.data.crop = 0  # side of the centre crop, 0 for none
    config.data.train_limit = 0  # first so many training images, 0 for all
    config.data.test_limit = 0
    # Of neural fields; of images only the number of unseen ones counts.
    config.data.signals = ConfigDict(
        {
            "unseen": 64,  # shapes or images that no network is fitted to
            "samples": 16384,  # points per shape where its occupancy is known, half of them near the surface
            "near": 0.01,  # standard deviation of their distance from it
            "surface": 2048,  # points on each surface
            "probes": 4096,  # points at which networks are compared
            "moving": False,  # procedural shapes that move: four coordinates
            "clouds": "",  # point clouds in data_dir that stand for the unseen shapes' surfaces, "" to sample these
        }
    )

    config.net = ConfigDict()
    config.net.name = "mlp"  # mlp, cnn, convnet, actor or field; the other fields are the settings of that network
    # Of any network of images, too: resize and crop. Its first operation brings their shorter side to `resize` pixels
    # and cuts out `crop` x `crop`.
    config.net.hidden = (16,)
    config.net.activation = "relu"  # relu, leaky_relu, tanh, sigmoid, silu, gelu, selu
    config.net.init = "torch"  # torch, uniform, normal, xavier_*, kaiming_*

    zoo = config.zoo = ConfigDict()
    zoo.import_npz = ""  # audit somebody's zoo instead of training one: an .npz with `weights` and, if wanted, records
    zoo.num_runs = 512  # training split
    zoo.num_heldout = 128  # runs that no generator sees
    zoo.use = "last"  # checkpoints that generators learn from: last (of each run) or all
    zoo.steps = 0  # optimizer steps per run, or 0 for
    zoo.epochs = 40  # so many epochs
    zoo.batch_size = 64  # examples per step; of policies, environments that act at the same time; of fields, points
    zoo.augment = "none"  # of training images: none, flip_crop, resized_crop
    zoo.batch_order = "own"  # own: every run shuffles for itself; shared: all runs see the same batches (faster)
    # own: every run has its own initialisation; shared: one for all; first_weights: of fields, run 0's last weights;
    # base: the weights of the base network
    zoo.start = "own"
    # A network that is trained (epochs) or read (import_npz) before all runs, which continue from it: P-diff's recipe.
    zoo.base = ConfigDict(
        {
            "import_npz": "",  # `weights` in flat order, or the tensors of a published state dict by name
            "epochs": 0,  # 0 for none, or for an imported one as it is
            "batch_size": 128,
            "optimizer": "adamw",
            "nesterov": False,
            "schedule": "cosine_per_epoch",
            "learning_rate": 5e-4,
            "momentum": 0.9,
            "weight_decay": 5e-4,
            "augment": "none",
            "select": "last",  # epoch whose weights are kept: last, or best_test (published; looks at the test set)
        }
    )
    zoo.subset = ()  # patterns of the leaves that runs train and keep, e.g. ("layer4/1/bn*",); () for all
    # Of batch normalisation while runs train; batch: by the batch's; frozen: by the running ones, which stay;
    # published: by the batch's for two steps, then by the running ones, where those steps have moved them
    zoo.statistics = "batch"
    zoo.snapshots = (-1,)  # steps whose weights are kept, ascending; 0 is the initialisation, -1 the end
    zoo.snapshot_epochs = ()  # or, instead of steps, the epochs after which weights are kept
    zoo.snapshot_range = ()  # or first and last of consecutive steps
    zoo.heldout_snapshots = "all"  # of held-out runs: all of these, the last, or one that each run draws
    zoo.random_snapshots = 0  # or the initialisation, so many random steps that every run draws for itself, and the end
    zoo.optimizer = "sgd"  # sgd, adam, adamw
    zoo.nesterov = False
    zoo.schedule = "cosine"  # constant, cosine, cosine_per_epoch, plateau (of fields)
    # The next four are numbers, or distributions that every run draws from by its own key, e.g.
    # ConfigDict({"kind": "log_uniform", "low": 1e-3, "high": 1e-1}); kinds: uniform, log_uniform, choice (with values).
    zoo.learning_rate = 0.1
    zoo.final_learning_rate = 0.0  # at the end of cosine schedules
    zoo.momentum = 0.9
    zoo.weight_decay = 0.0
    zoo.init_scale = 1.0
    zoo.largest_weight = 0.0  # runs with a larger one at any snapshot are left out as diverged, 0 for no limit
    # How policies learn in their environment; zoo.steps are its updates.
    zoo.ppo = ConfigDict(
        {
            "horizon": 16,  # steps of every environment per update
            "epochs": 8,  # passes over them
            "minibatches": 2,
            "clip": 0.2,
            "discount": 0.99,
            "trace": 0.95,  # lambda of the advantage estimate
            "value_weight": 2.0,
            "gradient_clip": 2.0,
        }
    )
    # How the learning rate of fields falls under the schedule of that name, by the mean loss of epochs.
    zoo.plateau = ConfigDict(
        {
            "factor": 0.8,
            "patience": 10,  # epochs without a better one before it falls
            "min_rate": 1e-5,
            "stop_patience": 50,  # epochs without a better one before a run ends, 0 for never
        }
    )
    zoo.dtype = "float32"  # of the products while fields are fitted: float32, bfloat16
    zoo.chunk_size = 0  # runs per chunk of the store, 0 to choose by memory
    zoo.lanes = 0  # models per vmap, 0 to choose by network and backend

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
