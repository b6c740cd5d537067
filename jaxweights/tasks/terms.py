"""The words of a task: nouns and short phrases that verdicts, tables, figures and captions are filled with."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Terms:
    """Words of a task; the defaults are those of classification.

    Attributes:
      quality: one word for the measure of quality, in headings and narrow columns.
      measure: its name within a sentence.
      column: its name with the unit, as the head of a column or the label of an axis.
      axis: the same, in full.
      tested: plural of what the networks of a zoo are measured by.
      good: adjective of networks of high quality.
      as_good: what novel networks of high quality are, after "as far away as newly trained ones are, and".
      explanation: meaning of quality and loss.
      overlap: name of the similarity of two networks' error masks.
      overlap_meaning: the share that it is.
      likeness: what it is the similarity of.
      alike: what two networks have in common where it is 1.
      act_like: what networks do whose overlap with training networks is large, before "training networks".
      repeats: the same, of all networks of a generator, after "Its".
      unlike: what held-out networks do less, after "more so than".
      example: what qualities are shares of.
      inputs: plural of what a network sees.
      trained: participle for how the networks of a zoo came about.
    """

    quality: str = "accuracy"
    measure: str = "accuracy"
    column: str = "accuracy (%)"
    axis: str = "test accuracy (%)"
    tested: str = "test accuracies"
    good: str = "accurate"
    as_good: str = "about as accurate"
    explanation: str = "Share of test images that are classified correctly, and mean cross-entropy in nats."
    overlap: str = "error IoU"
    overlap_meaning: str = "of the test examples that two networks get wrong, the share that both get wrong"
    likeness: str = "similarity of mistakes"
    alike: str = "the same mistakes"
    act_like: str = "make the errors of"
    repeats: str = "networks make the same errors as"
    unlike: str = "newly trained ones do"
    example: str = "test example"
    inputs: str = "images"
    trained: str = "trained"
