"""Which three digits are these?"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxweights import nets, parallel, programs, tasks, zoo
from jaxweights.data import standardise
from jaxweights.errors import UserError
from jaxweights.probing.data import DesignedData, Triples
from jaxweights.probing.data.triples import CLASSES, DIGITS, of_set
from jaxweights.probing.estimators.base import Estimator
from jaxweights.probing.estimators.batches import Progress, over
from jaxweights.settings import setting
from jaxweights.store import PopulationStore
from jaxweights.tasks.classification import ClassifierZoo


@dataclasses.dataclass(frozen=True)
class TriplesEstimator(Estimator):
    """Reads digits by small networks, which are trained in bulk on the single images of the training part; the class
    is that of their mean probability.

    Attributes:
      networks: number of networks.
      net: `name` and settings of the network, see `nets.NETWORKS`.
      epochs: passes over the training images.
      learning_rate: of SGD with momentum, at its highest.
    """

    KIND: ClassVar[str] = "triples"

    networks: int = setting(4, at_least=1, at_most=64)
    net: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "convnet", "channels": (32, 64)})
    epochs: int = setting(40, at_least=1)
    learning_rate: float = setting(0.1, above=0)

    def __hash__(self) -> int:
        return hash(repr(self))

    def check(self, data: DesignedData) -> None:
        """See `Estimator.check`."""
        if not isinstance(data, Triples):
            raise UserError(f"The estimator {self.KIND} reads three digits; the images are {data.KIND}.")

    def fit(
        self, data: DesignedData, key: jax.Array, mesh: Mesh | None = None, folder: pathlib.Path | None = None
    ) -> np.ndarray:
        """See `Estimator.fit`.

        Returns:
          Weights `[networks, P]` float32.
        """
        self.check(data)
        assert isinstance(data, Triples)
        dataset = of_set(data)
        settings = ClassifierZoo(epochs=self.epochs, learning_rate=zoo.Distribution.constant(self.learning_rate))
        recipe = zoo.Recipe.from_settings(settings, dataset.num_examples)
        seed = int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))
        train = functools.partial(
            zoo.train_zoo,
            *(_network(self, data), recipe, dataset, parallel.resolve(mesh)),
            seed=seed,
            num_runs=self.networks,
            num_heldout=0,
        )
        found = train() if folder is None else train(path=folder / "digits")
        return np.asarray((found.read() if isinstance(found, PopulationStore) else found).weights)

    def measure(
        self, state: Any, data: DesignedData, images: np.ndarray, progress: Progress = lambda done, total: None
    ) -> np.ndarray:
        """See `Estimator.measure`; an image always has three digits."""
        self.check(data)
        assert isinstance(data, Triples)
        return over(_reader(self, data), images, progress, state)


@programs.shared
def _reader(estimator: TriplesEstimator, data: Triples) -> Callable[[Any, jax.Array], jax.Array]:
    """From weights `[networks, P]` and images `[n, H, 3 * W, 1]` to digits `[n, 3]`."""
    net, dataset = _network(estimator, data), of_set(data)

    def read(weights: jax.Array, images: jax.Array) -> jax.Array:
        count, height, width, channels = images.shape
        cut = images.reshape(count, height, DIGITS, width // DIGITS, channels).transpose(0, 2, 1, 3, 4)
        inputs = standardise(255 * cut.reshape(-1, *net.input_shape), dataset.scale, dataset.shift)

        def shares(row: jax.Array) -> jax.Array:
            logits: Any = net.module.apply({"params": net.spec.unflatten(row)}, inputs)
            return jax.nn.softmax(logits)

        mean = jnp.mean(jax.lax.map(shares, weights), axis=0)
        return jnp.argmax(mean, axis=-1).reshape(count, DIGITS).astype(jnp.float32)

    return read


@programs.shared
def _network(estimator: TriplesEstimator, data: Triples) -> nets.TaskNet:
    height, width, channels = data.shape
    return tasks.build(estimator.net, (height, width // DIGITS, channels), CLASSES, "classification")
