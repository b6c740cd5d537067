"""Three small networks and random data for them, in JAX and in PyTorch."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from jaxweights import nets, settings, tasks
from jaxweights.tasks.classification import ClassifierZoo
from jaxweights.zoo import Recipe

BATCH = 64


@dataclasses.dataclass(frozen=True)
class Network:
    """A task network and the size of its training set.

    Attributes:
      config: settings of the network, see `nets.build`.
      shape: `(H, W, C)` of an image.
      num_examples: number of training images.
    """

    config: tuple[tuple[str, object], ...]
    shape: tuple[int, int, int]
    num_examples: int

    @functools.cached_property
    def net(self) -> nets.TaskNet:
        """The JAX network."""
        return tasks.build(dict(self.config), self.shape, 10)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """`[num_examples, H, W, C]` random bytes."""
        return np.random.default_rng(0).integers(0, 256, (self.num_examples,) + self.shape, np.uint8)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """`[num_examples]` random classes."""
        return np.random.default_rng(1).integers(0, 10, self.num_examples).astype(np.int32)

    def standardised(self) -> np.ndarray:
        """The images as float32 with about zero mean and unit variance."""
        return (self.images.astype(np.float32) - 128) / 74

    def recipe(self, order: str) -> Recipe:
        """SGD 0.01 with Nesterov momentum and weight decay, cosine, batches of 64."""
        config = {
            "steps": 1_000_000,
            "batch_size": BATCH,
            "optimizer": "sgd",
            "nesterov": True,
            "schedule": "cosine",
            "batch_order": order,
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 5e-4,
        }
        return Recipe.from_settings(settings.make(ClassifierZoo, config), self.num_examples)

    def forward_flop(self) -> list[float]:
        """Multiply-adds times two per image, layer by layer, of the textbook network."""
        flop, (height, width, _) = [], self.shape
        pools = dict(zip(("conv1", "conv2", "conv3"), (True, True, False), strict=True))
        for leaf in self.net.spec.leaves:
            name, kind = leaf.name.split("/")
            if kind == "bias":
                continue
            positions = 1
            if name in pools:
                height, width = height - leaf.shape[0] + 1, width - leaf.shape[1] + 1
                positions = height * width
                if pools[name]:
                    height, width = height // 2, width // 2
            flop.append(2.0 * math.prod(leaf.shape) * positions)
        return flop

    def training_flop(self) -> float:
        """Per model-step: forward, gradient of the weights, and of the inputs of all layers but the first."""
        layers = self.forward_flop()
        return BATCH * (3 * sum(layers) - layers[0])

    def torch_module(self, torch):
        """The same network in plain PyTorch."""
        nn = torch.nn
        settings = dict(self.config)
        if settings["name"] == "mlp":
            hidden = self.net.spec.leaves[0].shape[0]
            return nn.Sequential(
                nn.Flatten(), nn.Linear(math.prod(self.shape), hidden), nn.ReLU(), nn.Linear(hidden, 10)
            )
        layers = [nn.Conv2d(1, 8, 5), nn.MaxPool2d(2), nn.Tanh(), nn.Conv2d(8, 6, 5), nn.MaxPool2d(2), nn.Tanh()]
        layers += [nn.Conv2d(6, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(36, 20), nn.Tanh(), nn.Linear(20, 10)]
        return nn.Sequential(*layers)

    def torch_data(self, torch):
        """Images `[n, C, H, W]` float32 and labels `[n]` int64."""
        images = torch.as_tensor(self.standardised()).permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(self.labels.astype(np.int64))


DIGITS = Network((("name", "mlp"), ("hidden", (16,))), (8, 8, 1), 1437)
MNIST = Network((("name", "mlp"), ("hidden", (10,))), (28, 28, 1), 60000)
CNN = Network((("name", "cnn"), ("init", "xavier_uniform")), (28, 28, 1), 60000)
