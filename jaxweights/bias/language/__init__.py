"""What captions of images say, by collection (Zeng, Yin and Liu, arXiv 2412.01876, section on language)."""

from jaxweights.bias.language.captions import Captions as Captions
from jaxweights.bias.language.captions import from_texts as from_texts
from jaxweights.bias.language.captions import read as read
from jaxweights.bias.language.endpoint import ChatEndpoint as ChatEndpoint
from jaxweights.bias.language.prompts import PromptSettings as PromptSettings
from jaxweights.bias.language.prompts import condensing as condensing
from jaxweights.bias.language.prompts import in_context as in_context
from jaxweights.bias.language.prompts import summaries as summaries
from jaxweights.bias.language.queries import Model as Model
from jaxweights.bias.language.queries import ask as ask
from jaxweights.bias.language.queries import score as score
from jaxweights.bias.language.words import analyse as analyse
from jaxweights.bias.language.words import classify as classify
from jaxweights.bias.language.words import distinctive as distinctive
from jaxweights.bias.language.words import phrases as phrases
from jaxweights.bias.language.words import topics as topics
