"""Suite `bias`: transformations of images of 224 x 224 pixels, bytes in and out; see `classifiers` for training.

In the column of plain JAX is the published way: one image after the other, by NumPy, OpenCV or scikit-image, as one
worker of a data loader does it. Ours take a batch, on devices or in one thread per core.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxweights.bias import transformations
from jaxweights.bias.resizing import resized
from jaxweights.bias.transformations.shuffles import fixed_permutation
from launch.benchmarks import classifiers
from launch.benchmarks.measure import Case, Work

SIDE, BATCH = 224, 64
_SLOW = 8  # images of a batch where one takes a tenth of a second or more

OneImage = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def cases() -> list[Case]:
    """Every transformation that needs no training, and the training of classifiers."""
    listed: list[tuple[str, dict[str, Any], OneImage, int]] = [
        ("mean RGB", {"kind": "mean_rgb"}, _mean_rgb, BATCH),
        ("pixel shuffle, random", {"kind": "pixel_shuffle"}, functools.partial(_shuffled, 1), BATCH),
        *(
            (
                f"patch shuffle {p}, random",
                {"kind": "patch_shuffle", "patch": p},
                functools.partial(_shuffled, p),
                BATCH,
            )
            for p in (2, 4, 8, 16)
        ),
        ("patch shuffle 16, fixed", {"kind": "patch_shuffle", "fixed": True}, functools.partial(_fixed, 16), BATCH),
        ("low-pass, ideal 40", {"kind": "low_pass"}, functools.partial(_filtered, _ideal()), BATCH),
        (
            "high-pass, Butterworth 30",
            {"kind": "high_pass", "butterworth": True, "threshold": 30},
            functools.partial(_filtered, _butterworth()),
            BATCH,
        ),
        ("Canny", {"kind": "canny"}, _canny, BATCH),
        ("HOG", {"kind": "hog", "side": 0}, functools.partial(_hog, 0), _SLOW),
        ("HOG, resized to 500", {"kind": "hog"}, functools.partial(_hog, 500), _SLOW),
        ("SIFT, resized to 500", {"kind": "sift"}, _sift, _SLOW),
        ("SLIC", {"kind": "slic"}, _slic, _SLOW),
    ]
    transforming = [
        Case(
            f"{name}, {SIDE} px",
            "images/s",
            None,
            {"ours": functools.partial(_ours, settings, count), "plain_jax": functools.partial(_published, one, count)},
        )
        for name, settings, one, count in listed
    ]
    return transforming + classifiers.cases()


@functools.cache
def _images(count: int) -> np.ndarray:
    """Photograph-like images `[count, SIDE, SIDE, 3]` uint8: noise with most of its power at low frequencies."""
    rng = np.random.default_rng(0)
    down, across = np.fft.fftfreq(SIDE) * SIDE, np.fft.rfftfreq(SIDE) * SIDE
    fall = 1 / (1 + np.hypot(down[:, None], across))[..., None]
    spectra = np.fft.rfft2(rng.normal(size=(count, SIDE, SIDE, 3)), axes=(1, 2)) * fall
    waves = np.fft.irfft2(spectra, (SIDE, SIDE), axes=(1, 2))
    return np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)


def _ours(settings: dict[str, Any], count: int) -> Work:
    transformation, images = transformations.make(settings), _images(count)

    def run(times: int) -> None:
        for time in range(times):
            transformations.transform(transformation, images, jax.random.key(time))

    return Work(run, lambda times: times * count)


def _published(one: OneImage, count: int) -> Work:
    images, rng = _images(count), np.random.default_rng(0)

    def run(times: int) -> None:
        for _ in range(times):
            np.stack([one(image, rng) for image in images])

    return Work(run, lambda times: times * count)


def _mean_rgb(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    return np.broadcast_to(image.mean(axis=(0, 1)).astype(np.uint8), image.shape)


def _shuffled(patch: int, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _in_order(image, patch, rng.permutation((SIDE // patch) ** 2))


def _fixed(patch: int, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    return _in_order(image, patch, fixed_permutation((SIDE // patch) ** 2, 0))


def _in_order(image: np.ndarray, patch: int, order: np.ndarray) -> np.ndarray:
    each = SIDE // patch
    cut = image.reshape(each, patch, each, patch, 3).transpose(0, 2, 1, 3, 4).reshape(each * each, patch, patch, 3)
    moved = cut[order].reshape(each, each, patch, patch, 3).transpose(0, 2, 1, 3, 4)
    return moved.reshape(image.shape)


def _distances() -> np.ndarray:
    places = np.arange(SIDE) - SIDE // 2
    return np.maximum(np.hypot(places[:, None], places), 1e-5)


def _ideal() -> np.ndarray:
    return _distances() <= 40


def _butterworth() -> np.ndarray:
    return 1 / (1 + (30 / _distances()) ** 4)


def _filtered(mask: np.ndarray, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    grey = (image / np.float32(255)) @ np.array([0.299, 0.587, 0.114], np.float32)
    shifted = np.fft.fftshift(np.fft.fft2(grey)) * mask
    found = np.real(np.fft.ifft2(np.fft.ifftshift(shifted)))
    found = (found - found.min()) / (found.max() - found.min() + 1e-5)
    return np.repeat(found[..., None], 3, axis=-1)


def _canny(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    import cv2

    return np.repeat(cv2.Canny(cv2.GaussianBlur(image, (3, 3), 0), 85, 255)[..., None], 3, axis=-1)


def _hog(side: int, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    import cv2
    from skimage.feature import hog

    grey = cv2.cvtColor(resized(image, side), cv2.COLOR_RGB2GRAY)
    picture = hog(grey, visualize=True, transform_sqrt=True)[1]
    return np.repeat((255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)[..., None], 3, axis=-1)


def _sift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    made = transformations.make({"kind": "sift"})
    assert isinstance(made, transformations.Library)
    return made.one(image, 0)


def _slic(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    del rng
    made = transformations.make({"kind": "slic"})
    assert isinstance(made, transformations.Library)
    return made.one(image, 0)
