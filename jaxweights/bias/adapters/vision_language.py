"""Models that see an image and write text, such as LLaVA-1.5: captions, and answers to yes/no questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from jaxweights.bias import questions
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.base import SIDE
from jaxweights.bias.adapters.folder import JSON, Failure, Input, Running, Step
from jaxweights.bias.adapters.models import ModelSettings
from jaxweights.bias.adapters.table import TableTask
from jaxweights.errors import UserError
from jaxweights.settings import setting

PROMPTS = {
    "sentence": "Describe this image in one sentence.",
    "paragraph": "Describe this image in one paragraph, in as much detail as you can see.",
}
"""What a captioner is asked; the published wording is not known."""
_TURN = "USER: <image>\n{} ASSISTANT:"  # of LLaVA-1.5, whose first exports have no chat template
_ANSWER = 8  # tokens of yes or no

Say = Callable[[Sequence[np.ndarray], Sequence[str]], list[str]]
"""Images `[H, W, 3]` uint8 and a prompt for each to what the model says."""


@dataclasses.dataclass(frozen=True)
class CaptionSettings(TableTask):
    """Captions by an image-text-to-text model of transformers, decoded greedily.

    Attributes:
      length: "sentence" or "paragraph", what it is asked for.
      max_new_tokens: longest caption in tokens; longer ones are cut off.
    """

    SECTION: ClassVar[str] = "caption"

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch_size: int = setting(4, at_least=1)
    length: Literal["sentence", "paragraph"] = "sentence"
    max_new_tokens: int = setting(100, at_least=1)

    def step(self) -> Step:
        """What makes `{"caption", "digest"}` of every image; by the digest a comparison knows an image, see
        `adapters.TextToImage`."""

        def begin() -> Running:
            say, weights = speaker(self, self.max_new_tokens)

            def run(batch: Sequence[Input]) -> list[dict[str, str] | Failure]:
                texts = say([given.image for given in batch], [PROMPTS[self.length]] * len(batch))
                return [_caption(text, given) for text, given in zip(texts, batch, strict=True)]

            return Running(run, weights=weights)

        facts = {**self.facts, "prompt": PROMPTS[self.length]}
        return Step("captions", facts, begin, self.batch_size, SIDE, JSON)


@dataclasses.dataclass(frozen=True)
class CheckSettings(TableTask):
    """The five yes/no questions, each put to an image-text-to-text model by itself.

    Attributes:
      batch_size: questions that the model gets at a time; images are asked all of theirs together.
    """

    SECTION: ClassVar[str] = "check"

    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    batch_size: int = setting(5, at_least=len(questions.QUESTIONS))

    def step(self) -> Step:
        """What makes `{"answers": {question: text}}` of every image."""

        def begin() -> Running:
            say, weights = speaker(self, _ANSWER)
            return Running(lambda images: _answers(say, images), _pixels, weights=weights)

        facts = {**self.facts, "questions": questions.QUESTIONS, "form": questions.FORM}
        return Step("answers", facts, begin, self.batch_size // len(questions.QUESTIONS), SIDE, JSON)


def speaker(settings: ModelSettings, max_new_tokens: int) -> tuple[Say, str]:
    """A model that answers prompts about images greedily, and what tells its weights from others.

    Raises:
      UserError: see `models.load`.
    """
    loaded = models.load(settings, "transformers", "AutoModelForImageTextToText")
    processor = models.from_pretrained(settings, "transformers", "AutoProcessor")
    processor.image_processor = models.processor(settings)
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    torch = models.torch()

    def say(images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[str]:
        texts = [turn(processor, prompt) for prompt in prompts]
        given = processor(images=list(images), text=texts, padding=True, return_tensors="pt")
        given = given.to(loaded.device, loaded.dtype)  # whole numbers keep their type
        with torch.inference_mode():
            made = loaded.model.generate(
                **given, do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, pad_token_id=_padding(processor)
            )
        said = processor.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        return [" ".join(text.split()) for text in said]

    return say, loaded.weights


def turn(processor: Any, prompt: str) -> str:
    """What the model reads, in the form that it was trained on."""
    if not processor.chat_template:
        return _TURN.format(prompt)
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def _padding(processor: Any) -> int:
    found = processor.tokenizer.pad_token_id
    if found is None:
        raise UserError("The model's tokenizer has neither a padding nor an end token. Choose another model.")
    return found


def _pixels(given: Input) -> np.ndarray:
    return given.image


def _caption(text: str, given: Input) -> dict[str, str] | Failure:
    return {"caption": text, "digest": given.digest} if text else Failure("got an empty caption")


def _answers(say: Say, images: Sequence[np.ndarray]) -> list[dict[str, dict[str, str]]]:
    """All answers about every image."""
    names = list(questions.QUESTIONS)
    prompts = [f"{text} {questions.FORM}" for text in questions.QUESTIONS.values()]
    said = say([image for image in images for _ in names], prompts * len(images))
    rows = [said[start : start + len(names)] for start in range(0, len(said), len(names))]
    return [{"answers": dict(zip(names, row, strict=True))} for row in rows]
