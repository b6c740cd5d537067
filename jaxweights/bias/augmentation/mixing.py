"""Mixup (Zhang et al., arXiv 1710.09412) and CutMix (Yun et al., arXiv 1905.04899), one of them drawn for every
image."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxweights.settings import Settings, setting

_LEAST = 1e-6  # of the parameters of a Beta distribution that is not drawn from


@dataclasses.dataclass(frozen=True)
class Mixing(Settings):
    """How images of a batch are mixed in pairs, element by element, as timm's `mode="elem"`.

    Attributes:
      mixup: alpha of mixup, whose share is drawn from Beta(alpha, alpha); 0 for none.
      cutmix: alpha of CutMix, likewise.
      probability: that an image is mixed at all.
      switch: probability of CutMix where there are both.
      group: consecutive images among which the first is mixed with the last, and so on; the batch of one device in the
        published code. It divides every device's share of a batch.
    """

    SECTION: ClassVar[str] = "bias.classifier.mixing"

    mixup: float = setting(0.8, at_least=0)
    cutmix: float = setting(1.0, at_least=0)
    probability: float = setting(1.0, at_least=0, at_most=1)
    switch: float = setting(0.5, at_least=0, at_most=1)
    group: int = setting(128, at_least=2)

    @property
    def active(self) -> bool:
        """Whether anything is mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)


def partners(x: jax.Array, group: int) -> jax.Array:
    """What every example `[B, ...]` is mixed with: its group of consecutive examples, in reverse."""
    return x.reshape((-1, group) + x.shape[1:])[:, ::-1].reshape(x.shape)


def mixed(images: jax.Array, targets: jax.Array, keys: jax.Array, mixing: Mixing) -> tuple[jax.Array, jax.Array]:
    """Mixed images and targets.

    Args:
      images: `[B, H, W, C]` float32.
      targets: `[B, K]` float32.
      keys: `[B]`.
      mixing: its settings.
    """
    if not mixing.active:
        return images, targets
    share, cut, box = jax.vmap(lambda key: _draw(key, images.shape[1:3], mixing))(keys)
    others, weight = partners(images, mixing.group), share[:, None, None, None]
    blended = weight * images + (1 - weight) * others
    inside = (cut[:, None, None] & box)[..., None]
    pasted = jnp.where(inside, others, images)
    found = jnp.where(cut[:, None, None, None], pasted, blended)
    kept = jnp.where(cut, 1 - jnp.mean(box.astype(jnp.float32), axis=(1, 2)), share)[:, None]
    return found, kept * targets + (1 - kept) * partners(targets, mixing.group)


def _draw(key: jax.Array, size: tuple[int, ...], mixing: Mixing) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The share that an image keeps, whether a box of it is cut out instead, and the box `[H, W]`."""
    ratio, choice, whether, place = jax.random.split(key, 4)
    both = mixing.mixup > 0 and mixing.cutmix > 0
    cut = jax.random.uniform(choice) < (mixing.switch if both else float(mixing.cutmix > 0))
    alpha = jnp.where(cut, max(mixing.cutmix, _LEAST), max(mixing.mixup, _LEAST))
    share = jax.random.beta(ratio, alpha, alpha)
    share = jnp.where(jax.random.uniform(whether) < mixing.probability, share, 1.0)
    sides = [jnp.floor(pixels * jnp.sqrt(1 - share)).astype(jnp.int32) for pixels in size]
    middle = jnp.floor(jax.random.uniform(place, (2,)) * jnp.array(size)).astype(jnp.int32)
    inside = []
    for axis, (pixels, side) in enumerate(zip(size, sides, strict=True)):
        low, high = middle[axis] - side // 2, middle[axis] + side // 2
        inside.append((jnp.arange(pixels) >= low) & (jnp.arange(pixels) < high))
    return share, cut, inside[0][:, None] & inside[1][None, :]


def smoothed(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Targets `[B, K]`: a share of each label `[B]` lies on all classes evenly."""
    return jax.nn.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes
