"""Sentence encoders of sentence-transformers: their embeddings, and their training as source classifiers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxweights import extras
from jaxweights.bias.adapters import models
from jaxweights.bias.adapters.models import ModelSettings

_BETAS = (0.9, 0.95)
_EMBEDDED = 128  # sentences at a time

Classify = Callable[[Sequence[str]], np.ndarray]
"""Texts to their classes `[n]`."""


class Recipe(NamedTuple):
    """How an encoder with a linear layer is trained: AdamW without weight decay, linear warm-up, then a cosine.

    Attributes:
      epochs: passes over the texts.
      learning_rate: largest one.
      last_learning_rate: that of the last step.
      warmup: share of the steps in which the rate grows from 0.
      batch_size: texts per step; what an epoch leaves over is not seen in it.
    """

    epochs: int
    learning_rate: float
    last_learning_rate: float
    warmup: float
    batch_size: int

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, of 0 ... steps - 1."""
        rising = self.warmup * steps
        if step < rising:
            return self.learning_rate * step / rising
        share = (step - rising) / max(steps - rising, 1e-9)
        middle = (self.learning_rate - self.last_learning_rate) / 2
        return self.last_learning_rate + middle * (1 + math.cos(math.pi * share))


def load(settings: ModelSettings) -> Any:
    """A `SentenceTransformer` on the device that PyTorch finds.

    Raises:
      UserError: see `models.load`.
    """
    models.torch()
    build = extras.module(models.EXTRA, "sentence_transformers").SentenceTransformer
    return models.built(settings, "a sentence encoder", build, device=str(models.device()))


def embed(settings: ModelSettings, texts: Sequence[str]) -> np.ndarray:
    """Embeddings `[n, D]` float32 of texts.

    Raises:
      UserError: see `models.load`.
    """
    model = load(settings)
    return np.asarray(model.encode(list(texts), batch_size=_EMBEDDED, show_progress_bar=False), np.float32)


def train(
    settings: ModelSettings, texts: Sequence[str], labels: np.ndarray, num_classes: int, recipe: Recipe, seed: int
) -> Classify:
    """Trains a whole encoder with a linear layer behind its embedding, from its pre-trained weights.

    Args:
      settings: the encoder.
      texts: n sentences.
      labels: `[n]` in `0 ... num_classes - 1`.
      num_classes: K.
      recipe: see `Recipe`.
      seed: of the linear layer, of dropout and of the batches.

    Returns:
      The trained classifier.

    Raises:
      UserError: see `models.load`.
    """
    torch, rng, place = models.torch(), np.random.default_rng(seed), models.device()
    size = min(recipe.batch_size, len(texts))
    each, told = len(texts) // size, np.array(texts, object)  # steps of an epoch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = load(settings).train()
        layer = torch.nn.Linear(encoder.get_embedding_dimension(), num_classes).to(place)
        parameters = [*encoder.parameters(), *layer.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, betas=_BETAS, weight_decay=0.0)
        for epoch in range(recipe.epochs):
            order = rng.permutation(len(texts))
            for step, rows in enumerate(order[: each * size].reshape(each, size)):
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(epoch * each + step, recipe.epochs * each)
                logits = layer(_embedding(encoder, told[rows].tolist(), place))
                loss = torch.nn.functional.cross_entropy(logits, torch.as_tensor(labels[rows], device=place).long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    encoder.eval()

    def classify(asked: Sequence[str]) -> np.ndarray:
        found = []
        with torch.inference_mode():
            for start in range(0, len(asked), _EMBEDDED):
                logits = layer(_embedding(encoder, asked[start : start + _EMBEDDED], place))
                found.append(logits.argmax(dim=-1).cpu().numpy())
        return np.concatenate(found)

    return classify


def _embedding(encoder: Any, texts: Sequence[str], place: Any) -> Any:
    """What an encoder makes of texts `[n, D]`, with gradients."""
    given = encoder.preprocess(list(texts))
    given = {
        key: value.to(place) if isinstance(value, models.torch().Tensor) else value for key, value in given.items()
    }
    return encoder(given)["sentence_embedding"]
