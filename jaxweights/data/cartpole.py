"""The cart-pole as a data set: its examples are initial states, which every policy starts its episodes from.

Where policies start in training, all that have learned keep the pole upright, so that nothing would tell them apart: no
accuracy, and no errors that a copy could have in common with its original. The states here are up to ten times as far
from rest (1 m, 2.5 m/s, 1 rad, 2.5 rad/s); trained policies fail from 5 to 35 % of them, every one from others.
"""

from __future__ import annotations

import numpy as np

from jaxweights.data.dataset import Dataset
from jaxweights.environments import CartPole

_TRAIN, _TEST = 1024, 256
_SPREAD = 10.0  # times the range of initial states in training


def read(train_limit: int = 0, test_limit: int = 0) -> Dataset:
    """Initial states `[n, 4]` and `[m, 4]`, always the same draws.

    Policies make their own experience; the training states are there for measurements that ask for some. There is one
    "class", the action, and all labels are 0.

    Args:
      train_limit: keep the first so many training states, 0 for all.
      test_limit: likewise for the test states.
    """
    rng = np.random.default_rng(0)
    train, test = (np.float32(_SPREAD) * CartPole().initial(rng.random((n, 4), np.float32)) for n in (_TRAIN, _TEST))
    train, test = train[: train_limit or _TRAIN], test[: test_limit or _TEST]
    return Dataset(
        name="cartpole",
        train_images=train,
        train_labels=np.zeros(len(train), np.int32),
        test_images=test,
        test_labels=np.zeros(len(test), np.int32),
        num_classes=1,
        scale=np.ones(4, np.float32),
        shift=np.zeros(4, np.float32),
        source=f"{len(train)} and {len(test)} initial states of the cart-pole, drawn with seed 0",
    )
