"""Transformations of images that need large pre-trained models: `transformers` and `diffusers`, an extra.

To add one: a frozen dataclass that derives from `Adapter`, in a file of its own, and one line in
`transformations.TRANSFORMATIONS`. What turns images into words or numbers uses `folder.convert` and `models` as well.
"""

# First: its registry has the adapters in it, which derive from its classes.
from jaxweights.bias import transformations as transformations
from jaxweights.bias.adapters.base import Adapter as Adapter
from jaxweights.bias.adapters.base import convert_folder as convert_folder
from jaxweights.bias.adapters.depth import Depth as Depth
from jaxweights.bias.adapters.detection import Detection as Detection
from jaxweights.bias.adapters.dit import DiT as DiT
from jaxweights.bias.adapters.folder import Converted as Converted
from jaxweights.bias.adapters.folder import complaint as complaint
from jaxweights.bias.adapters.sam import SAM as SAM
from jaxweights.bias.adapters.sd_vae import SDVAE as SDVAE
from jaxweights.bias.adapters.segmentation import Segmentation as Segmentation
from jaxweights.bias.adapters.text_to_image import TextToImage as TextToImage
