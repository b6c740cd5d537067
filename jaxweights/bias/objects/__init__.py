"""Which named objects images show, by collection (Zeng, Yin and Liu, arXiv 2412.01876, section on objects)."""

from jaxweights.bias.objects.analysis import analyse as analyse
from jaxweights.bias.objects.analysis import correlation as correlation
from jaxweights.bias.objects.analysis import majority as majority
from jaxweights.bias.objects.analysis import shares as shares
from jaxweights.bias.objects.analysis import unique_counts as unique_counts
from jaxweights.bias.objects.presence import Presence as Presence
from jaxweights.bias.objects.presence import from_captions as from_captions
from jaxweights.bias.objects.presence import from_names as from_names
from jaxweights.bias.objects.presence import read as read
from jaxweights.bias.objects.presence import read_reference as read_reference
