"""What crosses from the ingress to a captioner: an order goes in, text as it grows and an outcome come out.

Knows neither HTTP nor Serve nor the engine, so that each side is tested with a fake of the other.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from raycap.schema import Caption

# Fewer than the engine reads: each decoder is one more to trust with hostile bytes.
FORMATS = ("JPEG", "PNG", "WEBP")


@dataclass(frozen=True)
class Order:
    """One image to caption."""

    image: bytes
    """Encoded, its header already checked."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of DecodingConfig that the request named; the checkpoint's own hold for the others."""
    model: str = ""
    """Name of a served model; "" is the default one."""
    wanted_until: float = math.inf
    """Unix time after which nobody waits for the answer any more."""


@dataclass(frozen=True)
class Outcome:
    """What became of an order: captions, or the reason there are none.

    The reason travels as a value, because an exception would arrive wrapped in Ray's own.
    """

    captions: list[Caption] = field(default_factory=list)
    """Best first."""
    tokens: int = 0
    """Tokens of all captions."""
    model: str = ""
    """Name under which the model is served."""
    version: str = ""
    """Of the checkpoint that captioned: the first digits of its manifest's digest."""
    timings: dict[str, float] = field(default_factory=dict)
    """Milliseconds: decode_ms (bytes to encoder input), queue_ms (waiting to join), model_ms (encoding, captioning)."""
    problem: str = ""
    """"" where there are captions; else bad_image, invalid_parameter, unknown_model, model_unavailable or timeout."""
    message: str = ""
    """The problem in one sentence."""
    retries: int = 0
    """How often the ingress handed the order to another captioner because one died; captioners leave it 0."""


@dataclass(frozen=True)
class ModelInfo:
    """A served model, as its captioner sees it."""

    model: str
    family: str
    version: str
    created: int
    """Unix time at which the checkpoint was written."""
    versions: dict[str, str]
    """Of raycap and the libraries that trained it."""


class CaptionerClient(Protocol):
    """A captioner, wherever it runs."""

    async def caption(self, order: Order) -> Outcome:
        """Captions of an image. Cancelling the call frees the order's place."""

    def stream(self, order: Order) -> AsyncIterator[str | Outcome]:
        """Pieces of the best caption as they become certain, then the outcome; joined, the pieces are its text."""

    async def describe(self, model: str = "") -> ModelInfo:
        """The model, once a captioner is ready with it.

        Raises:
            KeyError: no model is served under that name.
        """
