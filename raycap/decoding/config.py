"""Settings of decoding, the same for every family."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

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
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    """Scores are divided by length to this power; above 0 favours longer captions."""
    sample: bool = False
    """Draw tokens at random instead of searching."""
    temperature: float = Field(default=1.0, ge=0.01, le=100)
    """Sampling: logits are divided by this."""
    top_k: int = Field(default=0, ge=0)
    """Sampling: draw from the k most likely tokens; 0 draws from all."""
    top_p: float = Field(default=1.0, ge=1e-6, le=1)
    """Sampling: draw from the fewest tokens whose probability reaches this."""
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Above 1 makes tokens of the caption so far less likely; the start token too, GPT-2's end token."""
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
                f"n={self.n} captions need beams={self.n} or sample=true; got beams={self.beams}"
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

    @property
    def penalises(self) -> bool:
        """Whether earlier tokens change the scores of later ones."""
        return self.repetition_penalty != 1.0 or self.no_repeat_ngram > 0
