"""The embedded data set: scikit-learn's handwritten digits, 1,797 real images of 8 by 8 pixels."""

from __future__ import annotations

import numpy as np

from jaxweights.data.raw import Raw


def read() -> Raw:
    """Returns the digits, split once and for all into 1,437 training and 360 test images.

    The split draws no random number: with the images listed class by class, in their original order within a class,
    every fifth one (positions 0, 5, 10, ...) is a test image. So each class gives a fifth of its images, up to one
    image. Both parts keep the original order, in which the classes alternate, so any prefix is nearly balanced.
    """
    from sklearn import datasets
    from sklearn.utils import Bunch

    digits = datasets.load_digits()
    assert isinstance(digits, Bunch)
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.int32)
    is_test = np.zeros(len(labels), bool)
    is_test[np.argsort(labels, kind="stable")[::5]] = True
    return Raw(
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
        files="scikit-learn digits, every fifth of a class for test",
        where="digits",
    )
