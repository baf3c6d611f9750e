"""Greedy, beam search and sampling over one next-token callable, batched over images.

Knows nothing of any model: a family hands over a Stepper, which keeps whatever state its steps need. Beam search
selects exactly the tokens that transformers' `generate()` selects (see `decode`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raycap.config import Frozen


class DecodingConfig(Frozen):
    """How captions are chosen from next-token probabilities."""

    beams: int = Field(default=3, ge=1, le=64)
    """Beams of beam search; 1 is greedy. Sampling does not use it."""
    n: int = Field(default=1, ge=1, le=64)
    """Captions to return for an image, best first; at most `beams` unless sampling."""
    max_tokens: int = Field(default=30, ge=1)
    """Most tokens a caption may take, its end token counted."""
    min_tokens: int = Field(default=1, ge=0)
    """Tokens before the end token may follow."""
    length_penalty: float = 1.0
    """Scores are divided by length to this power; above 0 favours longer captions."""
    sample: bool = False
    """Draw tokens at random instead of searching."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling: logits are divided by this."""
    top_k: int = Field(default=0, ge=0)
    """Sampling: draw from the k most likely tokens; 0 draws from all."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sampling: draw from the fewest tokens whose probability reaches this."""
    repetition_penalty: float = Field(default=1.0, gt=0)
    """Above 1 makes tokens already in the caption (and the start token) less likely."""
    no_repeat_ngram: int = Field(default=0, ge=0)
    """No run of this many tokens comes twice in a caption; 0 allows all."""
    seed: int = Field(default=0, ge=0)
    """Sampling: every image draws from its own stream that starts from this seed."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse settings that contradict each other or would have no effect."""
        if self.min_tokens >= self.max_tokens and self.min_tokens > 1:
            raise ValueError(f"min_tokens={self.min_tokens} must be below max_tokens={self.max_tokens}")
        if not self.sample and self.n > self.beams:
            raise ValueError(
                f"n={self.n} captions need beams={self.n} at least (got {self.beams}), or sample=true"
            )
        if not self.sample:
            defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
            idle = [
                f"{name}={getattr(self, name)}"
                for name, value in defaults.items()
                if getattr(self, name) != value
            ]
            if idle:
                raise ValueError(f"{', '.join(idle)} has no effect without sample=true")
        return self


@dataclass(frozen=True)
class Hypothesis:
    """Token ids of a caption, without start and end token, and its score (see `decode`)."""

    token_ids: list[int]
    score: float


class Stepper(Protocol):
    """One next-token callable over the state of a batch of images."""

    device: torch.device

    def step(self, tokens: Tensor, parents: Tensor | None) -> Tensor:
        """Logits of the token after `tokens`.

        `tokens` (batch, beams) int64 are the newest tokens; at the first call beams is 1 (the start token), and
        `parents` is None. Later `parents` (batch, beams) int64 names for each beam the beam of the call before
        that it continues; None there means that every beam continues itself.

        Returns:
            (batch, beams, vocab) float32; the caller may overwrite it.
        """

    def keep(self, images: Tensor) -> None:
        """Drop from the state all but these images (int64 indices into the current batch, ascending)."""
