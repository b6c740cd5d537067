"""Files of weights that other programs wrote, read without these programs. Nothing that a file names is ever run."""

from jaxweights.formats.contents import Bag, Content
from jaxweights.formats.reading import read
from jaxweights.formats.state_dicts import Notes, flat, state_dict, unwrapped

__all__ = ["Bag", "Content", "Notes", "flat", "read", "state_dict", "unwrapped"]
