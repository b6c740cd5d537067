"""The cart-pole as a data set: its examples are initial states of evaluation episodes.

From the initial states used in training, every trained policy keeps the pole upright: accuracies would all be equal,
and there would be no errors that a copy could share with its original. The states here are up to ten times as far from
rest (1 m, 2.5 m/s, 1 rad, 2.5 rad/s); trained policies fail from 5 to 35 % of them, each policy from different ones.
"""

from __future__ import annotations

import numpy as np

from jaxweights.data.dataset import Dataset
from jaxweights.environments import CartPole
from jaxweights.errors import UserError

_TRAIN, _TEST = 1024, 256
_SPREAD = 10.0  # range of these states over that of initial states in training


def read(train_limit: int = 0, test_limit: int = 0) -> Dataset:
    """Initial states `[n, 4]` and `[m, 4]`, drawn with a fixed seed.

    Policies collect their own experience; the training states serve measurements that need training inputs. There is
    one "class", the action, and all labels are 0.

    Args:
      train_limit: number of training states to keep (the first ones), 0 for all.
      test_limit: number of test states to keep, 0 for all.

    Raises:
      UserError: a limit that is negative or larger than the set.
    """
    for part, limit, there in (("train", train_limit, _TRAIN), ("test", test_limit, _TEST)):
        if not 0 <= limit <= there:
            raise UserError(
                f"data.{part}_limit is {limit}, but there are {there} states; give a limit from 1 to {there}, or 0 for "
                "all."
            )
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
