"""What goes over HTTP: the settings a request may carry, with their caps, and the shape of every answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raycap.config import Frozen


class CaptionParameters(Frozen):
    """Generation settings of one request; those not given are the checkpoint's own.

    The caps bound the work that one request can ask for. What the settings mean is in DecodingConfig, which
    they are merged into and validated by again.
    """

    beams: int = Field(default=3, ge=1, le=10)
    n: int = Field(default=1, ge=1, le=10)
    max_tokens: int = Field(default=30, ge=1, le=100)
    min_tokens: int = Field(default=1, ge=0, le=100)
    length_penalty: float = Field(default=1.0, ge=-5, le=5)
    sample: bool = False
    temperature: float = Field(default=1.0, ge=0.05, le=5)
    top_k: int = Field(default=0, ge=0, le=1000)
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=5)
    no_repeat_ngram: int = Field(default=0, ge=0, le=10)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)

    def given(self) -> dict[str, Any]:
        """Only the settings that the request named."""
        return self.model_dump(exclude_unset=True)


class Alternative(Frozen):
    """One of several captions of an image."""

    caption: str
    score: float


class Timings(Frozen):
    """Where a request's time went, in milliseconds."""

    decode_ms: float
    """Image bytes to encoder input."""
    wait_ms: float
    """Waiting for the batch to fill and for the one before it."""
    model_ms: float
    """The whole batch through encoder and language model."""
    total_ms: float
    """From the last byte of the request to the answer."""


class CaptionResponse(Frozen):
    """The answer to POST /v1/caption."""

    caption: str
    score: float
    alternatives: list[Alternative]
    """All `n` captions, best first; the first is `caption`."""
    model: str
    """The family of the model."""
    version: str
    """Identifies the checkpoint: the first digits of its manifest's digest."""
    request_id: str
    timings: Timings


class ErrorDetail(Frozen):
    """What went wrong, for a program (code) and for a person (message)."""

    code: str
    message: str
    request_id: str


class ErrorResponse(Frozen):
    """The one shape of every error."""

    error: ErrorDetail
