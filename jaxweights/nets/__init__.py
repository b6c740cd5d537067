"""Task networks: the small classifiers, policies and neural fields whose weights everything here is about.

To add a network, write one file and one line of `NETWORKS`. The file holds

* a frozen dataclass of settings, derived from `ImageSettings` or `NetSettings`, with `name: Literal["mine"] = "mine"`
  and a line of documentation per field;
* a Linen module whose layers have explicit names (see `jaxweights.nn`), a `PreparedModule` where a part of it depends
  on the images alone;
* a function `build(settings, input_shape, num_outputs)` that returns the module and the `WeightSpec` of its leaves,
  collected in flat order by `nn.leaves.Leaves`.

`wrap` makes a task network of any Flax module without any of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxweights.errors import UserError
from jaxweights.nets import actor, cnn, convnet, convnext, field, mlp, pdiff, resize, resnet, vit
from jaxweights.nets.base import PreparedModule, TaskNet
from jaxweights.nets.custom import Wrapped, wrap
from jaxweights.nets.partial import PartialNet, Prepared, load_partial, partial
from jaxweights.nets.settings import ImageSettings, NetSettings, Network
from jaxweights.settings import Check, make

__all__ = [
    "NETWORKS",
    "ImageSettings",
    "NetSettings",
    "Network",
    "PartialNet",
    "Prepared",
    "PreparedModule",
    "TaskNet",
    "Wrapped",
    "build",
    "cross_entropy",
    "load_partial",
    "partial",
    "settings_class",
    "wrap",
]


# Small enough for tests, whatever the size of the defaults.
_RESNET = {"widths": (4, 6), "depths": (1, 1), "stem": "cifar"}
_VIT = {"width": 8, "depth": 1, "heads": 2, "patch": 4}
_CONVNEXT = {"widths": (4, 6), "depths": (1, 1)}

NETWORKS: dict[str, Network[Any]] = {
    "mlp": Network(mlp.MLPSettings, mlp.build),
    "cnn": Network(cnn.CNNSettings, cnn.build, {"windows": (3, 3, 2), "hidden": 6}, (16, 16, 1)),
    "convnet": Network(convnet.ConvNetSettings, convnet.build, {"channels": (4, 6)}),
    "actor": Network(actor.ActorSettings, actor.build, tiny_input=(4,)),
    "field": Network(field.FieldSettings, field.build, {"hidden": (8, 8)}, (3,)),
    "pdiff_mlp": Network(pdiff.MLPSettings, pdiff.mlp),
    "pdiff_convnet": Network(pdiff.ConvNetSettings, pdiff.convnet, {"channels": (4, 4, 4)}, (32, 32, 1)),
    "pdiff_resnet": Network(pdiff.ResNetSettings, pdiff.resnet, {"channels": 4, "blocks": 1}, (32, 32, 1)),
    "pdiff_vit": Network(vit.SimpleViTSettings, vit.build_simple, {"depth": 1, "width": 16, "hidden": 8}, (16, 16, 1)),
    "pdiff_convnext": Network(convnext.SmallSettings, convnext.build, _CONVNEXT, (16, 16, 1)),
    "cnn_medium": Network(pdiff.CNNMediumSettings, pdiff.cnn_medium, {"channels": (4, 6, 4)}, (32, 32, 1)),
    "resnet18": Network(resnet.ResNet18Settings, resnet.build, _RESNET),
    "resnet50": Network(resnet.ResNet50Settings, resnet.build, _RESNET),
    "vit_tiny": Network(vit.ViTTinySettings, vit.build, _VIT),
    "vit_base": Network(vit.ViTBaseSettings, vit.build, _VIT),
    "convnext_tiny": Network(convnext.TinySettings, convnext.build, _CONVNEXT, (16, 16, 1)),
    "convnext_base": Network(convnext.BaseSettings, convnext.build, _CONVNEXT, (16, 16, 1)),
}


def settings_class(name: str) -> type[NetSettings]:
    """The class of the settings of a network.

    Raises:
      UserError: an unknown name; the message lists the known ones.
    """
    problem = Check(one_of=sorted(NETWORKS)).problem(name) if name else "give the name of a network"
    if problem:
        raise UserError(f"net.name is {name!r}; {problem}.")
    return NETWORKS[name].settings


def build(
    config: Mapping[str, Any] | NetSettings, input_shape: Sequence[int], num_classes: int, task: Any = None
) -> TaskNet:
    """Builds the network that a config names.

    Args:
      config: the settings of a network, or a mapping with its `name` and any of them.
      input_shape: `(H, W, C)` of images, `(4,)` of a cart-pole, or `(d,)` of signals.
      num_classes: number of classes, of actions, or of a signal's values.
      task: what the network is for; `tasks.build` gives it.

    Raises:
      UserError: unknown network or setting, a value that a setting cannot have, or impossible sizes.
    """
    if isinstance(config, NetSettings):
        settings = config
    else:
        values = dict(config)
        settings = make(settings_class(values.get("name", "")), values, section="net")
    shape, fitted = tuple(input_shape), None
    image = shape
    if isinstance(settings, ImageSettings):
        fitted = resize.checked(settings.resize, settings.crop, shape)
        image = shape if fitted is None else (fitted.crop, fitted.crop, shape[2])
    module, spec = NETWORKS[settings.name](settings, image, num_classes)
    return TaskNet(settings.name, module, spec, shape, num_classes, resize=fitted, task=task)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy in nats, `[..., K]` logits and `[...]` integer labels to `[...]`.

    The label's logit is picked by a one-hot product: the gradient of an indexed pick is a scatter, which XLA runs
    serially on CPU.
    """
    picked = jnp.sum(logits * jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - picked
