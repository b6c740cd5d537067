"""Suite `partial`: accuracy of checkpoints that differ in the last two normalisations of a ResNet, in model-images per
second, against full forward passes of the same checkpoints.

The column of plain JAX is our own evaluation of the whole networks, the torch loop one full forward pass per model.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxweights import nets, parallel, tasks
from jaxweights.evaluation import evaluate
from launch.benchmarks import measure
from launch.benchmarks.measure import Case, Work

MODELS, IMAGES, SIDE, CLASSES = 300, 256, 32, 100
NETWORKS = (
    ("ResNet-18", {"name": "resnet18"}, "layer4/1/bn*"),
    (
        "small ResNet",
        {"name": "resnet18", "widths": (16, 32, 64), "depths": (2,) * 3, "stem": "cifar"},
        "layer3/1/bn*",
    ),
)


def cases() -> list[Case]:
    """300 checkpoints each; operations as counted by XLA."""
    found = []
    for name, config, pattern in NETWORKS:
        flop, whole_flop = _flop(config, pattern)
        found.append(
            Case(
                f"{name}, {SIDE} px, {MODELS} checkpoints x {IMAGES} images, FLOP of whole passes / of ours: "
                f"{whole_flop / flop:.0f}",
                "model-images/s",
                flop,
                {
                    "ours": functools.partial(_ours, config, pattern),
                    "plain_jax": functools.partial(_whole, config, pattern),
                    "torch_loop": functools.partial(_torch_loop, config),
                },
            )
        )
    return found


@functools.lru_cache(maxsize=len(NETWORKS))
def _build(name: str, settings: tuple, pattern: str) -> nets.PartialNet:
    whole = tasks.build({"name": name, **dict(settings)}, (SIDE, SIDE, 3), CLASSES)
    return nets.partial(whole, jax.jit(whole.init)(jax.random.key(0)), (pattern,))


def _net(config, pattern: str) -> nets.PartialNet:
    settings = dict(config)
    return _build(settings.pop("name"), tuple(settings.items()), pattern)


def _data():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(IMAGES, SIDE, SIDE, 3)).astype(np.float32)
    return images, rng.integers(0, CLASSES, IMAGES).astype(np.int32)


def _checkpoints(net: nets.PartialNet) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 0.01, (MODELS, net.spec.num_params)).astype(np.float32)
    return net.start[None] + noise


def _flop(config, pattern: str) -> tuple[float, float]:
    """Operations per model-image: of a pass shared by all checkpoints and the rest for each, and of whole passes."""
    net = _net(config, pattern)
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)

    def count(function, *args):
        shapes = jax.eval_shape(lambda *x: x, *args)
        # XLA counts the operations of a program that is not compiled on CPU alone.
        with jax.default_device(jax.devices("cpu")[0]):
            counted = jax.jit(function).lower(*shapes).cost_analysis()
        if counted is None:
            raise RuntimeError("XLA does not count operations here.")
        return counted["flops"]

    shared = count(lambda frozen, x: net.bind(frozen).prepare(x), net.frozen, image)
    prepared = jax.eval_shape(net.prepare, image)
    own = count(lambda frozen, v, x: net.bind(frozen).apply(v, x), net.frozen, net.start, prepared)
    return own + shared / MODELS, count(net.whole.apply, net.base, image)


def _ours(config, pattern: str) -> Work:
    net, mesh = _net(config, pattern), parallel.make_mesh()
    (images, labels), weights = _data(), _checkpoints(net)

    def run(times):
        for _ in range(times):
            evaluate(net, weights, images, labels, mesh)

    return Work(run, lambda times: times * MODELS * IMAGES)


class _Inserted:
    """Checkpoints as whole networks, assembled on access: all together are gigabytes."""

    def __init__(self, net: nets.PartialNet, rows: np.ndarray):
        self._net, self._rows = net, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows) -> np.ndarray:
        return np.asarray(self._net.insert(jnp.asarray(self._rows[rows])))


def _whole(config, pattern: str) -> Work:
    """As many checkpoints as fit into the time; the rate does not depend on their number."""
    net, mesh = _net(config, pattern), parallel.make_mesh()
    (images, labels), weights = _data(), _checkpoints(net)

    def run(times):
        rows = np.resize(weights, (times * mesh.size, weights.shape[1]))
        evaluate(net.whole, _Inserted(net, rows), images, labels, mesh)

    return Work(run, lambda times: times * mesh.size * IMAGES)


def _torch_loop(config) -> Work | None:
    """One model at a time, in batches of 128."""
    torch = measure.torch()
    if torch is None:
        return None
    model = _torch_resnet(torch, config.get("widths", (64, 128, 256, 512)), config.get("stem", "imagenet")).eval()
    images, labels = (torch.as_tensor(a) for a in _data())
    images, labels = images.permute(0, 3, 1, 2).contiguous(), labels.long()

    def run(times):
        with torch.no_grad():
            for _ in range(times):
                for x, y in zip(images.split(128), labels.split(128), strict=True):
                    logits = model(x)
                    torch.nn.functional.cross_entropy(logits, y)
                    (logits.argmax(dim=1) == y).sum()

    return Work(run, lambda times: times * IMAGES)


def _torch_resnet(torch, widths, stem: str):
    """A plain ResNet with two basic blocks per stage."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, inputs, width, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn1, self.bn2, self.downsample = nn.BatchNorm2d(width), nn.BatchNorm2d(width), nn.Identity()
            if stride > 1 or inputs != width:
                projection = nn.Conv2d(inputs, width, 1, stride, bias=False)
                self.downsample = nn.Sequential(projection, nn.BatchNorm2d(width))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.downsample(x))

    first = (7, 2, 3) if stem == "imagenet" else (3, 1, 1)
    layers = [nn.Conv2d(3, widths[0], *first, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    layers += [nn.MaxPool2d(3, 2, 1)] if stem == "imagenet" else []
    inputs = widths[0]
    for i, width in enumerate(widths):
        layers += [Block(inputs, width, 2 if i else 1), Block(width, width, 1)]
        inputs = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))
