"""Suite `hyperrep`: training, decoding and sampling the autoencoder of Hyper-Representations on the CNN's weights.

The PyTorch competitor has the structure of the published code: tokens are embedded and written back one after the
other, both views pass one after the other, and S_KDE30 fits scikit-learn's density estimate to every latent dimension.
It leaves out the augmentation, which the published code does in loader processes; ours includes it.
"""

from __future__ import annotations

import functools
import math

import jax
import numpy as np

from jaxweights import generators, parallel
from jaxweights.generators.hyperrep import HyperRep
from jaxweights.population import Population
from launch.benchmarks import measure, networks
from launch.benchmarks.measure import Case, Work

ROWS, SAMPLES, BATCH = 512, 200, 64
SIZES = {
    "width 32": {"width": 32, "feed_forward": 32, "blocks": 2, "heads": 4, "latent_dim": 64},
    "width 64": {"width": 64, "feed_forward": 128, "blocks": 2, "heads": 4, "latent_dim": 128},
    "width 256": {"width": 256, "feed_forward": 256, "blocks": 4, "heads": 8, "latent_dim": 128},
}
_HEAD = {"projection_layers": 2, "projection_hidden": 64, "projection_features": 32}
_TEMPERATURE, _GAMMA = 0.1, 0.1


def cases() -> list[Case]:
    """Training steps, decoded networks and sampled networks per second."""
    net = networks.CNN.net
    kinds = (
        (f"training, batch {BATCH}", "steps/s", _train, _torch_train),
        (f"decoding {SAMPLES} networks", "networks/s", _decode, _torch_decode),
        (f"S_KDE30, {SAMPLES} networks", "networks/s", _sample, _torch_sample),
    )
    return [
        Case(
            f"{kind} ({size}, {net.spec.num_params} weights)",
            unit,
            None,
            {"ours": functools.partial(ours, settings), "torch_loop": functools.partial(torch_loop, settings)},
        )
        for kind, unit, ours, torch_loop in kinds
        for size, settings in SIZES.items()
    ]


def _training() -> Population:
    rng = np.random.default_rng(0)
    spec = networks.CNN.net.spec
    weights = rng.normal(size=(ROWS, spec.num_params)).astype(np.float32)
    return Population.create(weights, spec, accuracy=rng.uniform(size=ROWS), step=1)


def _generator(settings) -> HyperRep:
    config = {"kind": "hyperrep", "gamma": _GAMMA, "temperature": _TEMPERATURE, "normalize_loss": True, **_HEAD}
    config |= {"dropout": 0.0, "erase": "none", "permutations_number": 1000}
    config |= {"optimizer": "adamw", "learning_rate": 3e-4, "weight_decay": 3e-5, "scheduler": None}
    generator = generators.build("hyperrep", {**config, **settings, "batch_size": BATCH, "mode": "faithful"})
    assert isinstance(generator, HyperRep)
    return generator


def _train(settings) -> Work:
    return measure.training(_generator(settings), _training(), float)


def _state(generator):
    """State of an untrained generator; the cost is that of a trained one."""
    data, constants = generator.prepare(_training())
    (stage,) = generator.stages()
    params, model_state = jax.jit(stage.init)(jax.random.key(0), {"constants": constants})
    state = {"constants": constants, stage.name: {"params": params, "model_state": model_state}}
    return {**state, **generator.finish(state, data)}


def _decode(settings) -> Work:
    generator = _generator(settings)
    mesh = parallel.make_mesh()
    state = jax.device_put(_state(generator), parallel.replicated(mesh))
    latents = jax.random.normal(jax.random.key(1), (SAMPLES, generator.latent_dim))
    program = parallel.map_rows(generator.decode, mesh)

    def run(times):
        for _ in range(times):
            jax.block_until_ready(program(state, latents))

    return Work(run, lambda times: times * SAMPLES)


def _sample(settings) -> Work:
    generator = _generator(settings)
    mesh = parallel.make_mesh()
    host = _state(generator)
    state = jax.device_put(host, parallel.replicated(mesh))
    keys = jax.random.split(jax.random.key(1), SAMPLES)
    program, training = parallel.map_rows(generator.sample, mesh), _training()

    def run(times):
        for _ in range(times):
            jax.block_until_ready(program(state, generator.inputs(host, keys, training)))

    return Work(run, lambda times: times * SAMPLES)


def _torch_train(settings) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    model, head = _torch_autoencoder(torch, settings), _torch_head(torch, settings)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    spans = _layers()
    x = torch.as_tensor(_training().weights)
    scale = torch.ones(x.shape[1])
    others = ~torch.eye(2 * BATCH, dtype=torch.bool)

    def step(i):
        rows = torch.randperm(ROWS)[:BATCH]
        views = x[rows], x[rows]
        optimizer.zero_grad()
        latents = [model.encode(v) for v in views]
        outputs = torch.cat([model.decode(z) for z in latents]) / scale
        target = torch.cat(views) / scale
        size = target.shape[0] * target.shape[1]
        loss = sum(torch.square(outputs[:, a:b] - target[:, a:b]).sum() / size for a, b, _, _ in spans)
        embedded = torch.nn.functional.normalize(torch.cat([head(z) for z in latents]), dim=1)
        similarity = (embedded @ embedded.T / _TEMPERATURE)[others].reshape(2 * BATCH, -1)
        partner = torch.cat([torch.arange(BATCH) + BATCH - 1, torch.arange(BATCH)])
        contrast = torch.nn.functional.cross_entropy(similarity, partner)
        (_GAMMA * contrast + (1 - _GAMMA) * loss).backward()
        optimizer.step()

    def run(times):
        for i in range(times):
            step(i)

    return Work(run, float)


def _torch_decode(settings) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    model = _torch_autoencoder(torch, settings).eval()
    z = torch.randn(SAMPLES, settings["latent_dim"])

    def run(times):
        with torch.no_grad():
            for _ in range(times):
                model.decode(z)

    return Work(run, lambda times: times * SAMPLES)


def _torch_sample(settings) -> Work | None:
    torch = measure.torch()
    if torch is None:
        return None
    from sklearn.neighbors import KernelDensity

    model = _torch_autoencoder(torch, settings).eval()
    best = np.random.default_rng(0).normal(size=(int(0.3 * ROWS), settings["latent_dim"])).astype(np.float32)

    def run(times):
        with torch.no_grad():
            for _ in range(times):
                columns = []
                for column in best.T:
                    density = KernelDensity(kernel="gaussian", bandwidth=0.002).fit(column[:, None])
                    columns.append(density.sample(SAMPLES, random_state=42))
                model.decode(torch.as_tensor(np.concatenate(columns, axis=1)).float())

    return Work(run, lambda times: times * SAMPLES)


def _layers() -> list[tuple[int, int, int, int]]:
    """First and last entry, units and incoming weights of every layer of the CNN."""
    spans = networks.CNN.net.spec.spans()
    pairs = zip(spans[::2], spans[1::2], strict=True)
    return [(w.start, b.stop, bias.size, weight.size // bias.size) for (weight, w), (bias, b) in pairs]


def _torch_head(torch, settings):
    nn = torch.nn
    widths = [settings["latent_dim"]] + [_HEAD["projection_hidden"]] * _HEAD["projection_layers"]
    layers = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
    features = _HEAD["projection_features"]
    return nn.Sequential(*layers, nn.Linear(widths[-1], features), nn.BatchNorm1d(features))


def _torch_autoencoder(torch, settings):
    """The autoencoder with the published structure."""
    nn = torch.nn
    width, heads = settings["width"], settings["heads"]
    tokens = []  # layer and entries of every token
    for number, (first, last, units, fan) in enumerate(_layers()):
        for unit in range(units):
            start = first + unit * fan
            tokens.append((number, [*range(start, start + fan), last - units + unit]))
    sizes = [fan + 1 for _, _, _, fan in _layers()]

    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

        def forward(self, x):
            centred = x - x.mean(dim=-1, keepdim=True)
            return self.scale * centred / (x.std(dim=-1, keepdim=True) + 1e-6) + self.shift

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList([Norm(), Norm()])
            self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
            wide = settings["feed_forward"]
            self.feed_forward = nn.Sequential(nn.Linear(width, wide), nn.ReLU(), nn.Linear(wide, width))

        def forward(self, x):
            h = self.norms[0](x)
            q, k, v = (f(h).view(len(x), -1, heads, width // heads).transpose(1, 2) for f in (self.q, self.k, self.v))
            weights = torch.softmax(q @ k.transpose(-2, -1) / math.sqrt(width // heads), dim=-1)
            x = x + self.out((weights @ v).transpose(1, 2).reshape(len(x), -1, width))
            return x + self.feed_forward(self.norms[1](x))

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            flat, latent = len(tokens) * width, settings["latent_dim"]
            self.embed = nn.ModuleList([nn.Linear(size, width) for size in sizes])
            self.unembed = nn.ModuleList([nn.Linear(width, size) for size in sizes])
            self.positions = nn.ParameterList([torch.randn(len(tokens), width) for _ in range(2)])
            self.stacks = nn.ModuleList(
                [nn.Sequential(*(Block() for _ in range(settings["blocks"]))) for _ in range(2)]
            )
            self.compress, self.expand = nn.Linear(flat, latent), nn.Linear(latent, flat)

        def encode(self, x):
            embedded = torch.stack([self.embed[layer](x[:, entries]) for layer, entries in tokens], dim=1)
            return self.compress(self.stacks[0](embedded + self.positions[0]).flatten(1))

        def decode(self, z):
            x = self.stacks[1](self.expand(z).view(len(z), len(tokens), width) + self.positions[1])
            out = torch.zeros(len(z), tokens[-1][1][-1] + 1)
            for place, (layer, entries) in enumerate(tokens):
                out[:, entries] = self.unembed[layer](x[:, place])
            return out

    return Autoencoder()
