"""Which words and which named things betray their source: sentences of three pages of this project's documentation.

    python -m launch.classify --config=configs/bias_captions.py --workdir=runs/bias_captions

Each page is a collection, each sentence a caption, and the words that sentences mention stand in for detected objects:
real text that is there without download. Some seconds. With a server of a language model,
`--config.language.endpoint.url=http://localhost:8000/v1 --config.language.endpoint.model=NAME` asks it as well; with
a sentence encoder, `--config.language.encoder.model=NAME` classifies the captions by it.
"""

import pathlib

from ml_collections import ConfigDict

from jaxweights import settings
from jaxweights.bias.language.encoder import EncoderSettings

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
PAGES = ("audit", "bias", "scale")


def get_config():
    """Objects and captions of the pages."""
    config = ConfigDict()
    config.seed = 0
    config.language = {
        "collections": {page: str(DOCS / f"{page}.md") for page in PAGES},
        "num_train": 0,
        "num_validation": 20,
        "encoder": settings.config_dict(EncoderSettings()),  # none
        "prompts": {"queries": 5, "demonstrations": 20, "summaries": 2},
        "endpoint": {"url": "", "model": ""},
    }
    config.objects = {"least": 8, "num_validation": 20}
    return config
