"""What the settings of all task networks have in common, and the entries of their registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from flax import linen as nn

from jaxweights.errors import UserError
from jaxweights.settings import Settings, setting
from jaxweights.spec import WeightSpec

S = TypeVar("S", bound="NetSettings")


@dataclasses.dataclass(frozen=True)
class NetSettings(Settings):
    """Settings of a task network.

    Attributes:
      name: name of the network.
    """

    SECTION: ClassVar[str] = "net"

    name: str = ""


@dataclasses.dataclass(frozen=True)
class ImageSettings(NetSettings):
    """Settings of a network of images.

    Attributes:
      resize: pixels of the shorter side to which images are resized on device; 0 for none.
      crop: side of the square that is cut out of the middle of resized images; 0 for `resize`.
    """

    resize: int = setting(0, at_least=0, at_most=4096)
    crop: int = setting(0, at_least=0, at_most=4096)


@dataclasses.dataclass(frozen=True)
class Network(Generic[S]):
    """An entry of the registry of networks.

    Attributes:
      settings: the class of its settings.
      build: makes the module and the spec of its weights from the settings, the shape of one input (of the resized
        image where there is resizing) and the number of outputs.
      tiny: settings under which the network runs in a moment, for tests.
      tiny_input: shape of an input that such a network takes.
    """

    settings: type[S]
    build: Callable[[S, tuple[int, ...], int], tuple[nn.Module, WeightSpec]]
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny_input: tuple[int, ...] = (8, 8, 1)

    def __call__(self, settings: Any, input_shape: tuple[int, ...], num_outputs: int) -> tuple[nn.Module, WeightSpec]:
        """Builds the network."""
        return self.build(settings, input_shape, num_outputs)


def image_shape(input_shape: Sequence[int], name: str) -> tuple[int, int, int]:
    """`(H, W, C)`.

    Raises:
      UserError: inputs that are no images.
    """
    if len(input_shape) != 3:
        raise UserError(
            f"The {name} network classifies images, but the data have inputs of shape {tuple(input_shape)}. Choose "
            "data that are images, or another net.name."
        )
    height, width, channels = input_shape
    return height, width, channels
