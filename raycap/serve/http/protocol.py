"""What goes over HTTP: the settings a request may carry, with their caps, and the shape of every answer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raycap.config import Frozen


class CaptionParameters(Frozen):
    """Generation settings of one request; those not given are the checkpoint's own.

    The caps bound the work that one request can ask for. What the settings mean together is in DecodingConfig,
    where the captioner merges them with the checkpoint's own and validates the result.
    """

    beams: int = Field(default=3, ge=1, le=10)
    """Beams of beam search; 1 is greedy. Sampling does not use it."""
    n: int = Field(default=1, ge=1, le=10)
    """Captions to return, best first; at most `beams` unless sampling."""
    max_tokens: int = Field(default=30, ge=1, le=100)
    """Most tokens a caption may take."""
    min_tokens: int = Field(default=1, ge=0, le=100)
    """Fewest tokens of a caption."""
    length_penalty: float = Field(default=1.0, ge=-5, le=5)
    """Above 0 favours longer captions in beam search."""
    sample: bool = Field(default=False)
    """Draw tokens at random instead of searching."""
    temperature: float = Field(default=1.0, ge=0.05, le=5)
    """Sampling: below 1 is safer, above 1 is bolder."""
    top_k: int = Field(default=0, ge=0, le=1000)
    """Sampling: draw from the k most likely tokens; 0 draws from all."""
    top_p: float = Field(default=1.0, ge=1e-6, le=1)
    """Sampling: draw from the fewest tokens whose probability reaches this."""
    repetition_penalty: float = Field(default=1.0, ge=0.5, le=5)
    """Above 1 makes tokens that are already in the caption less likely."""
    no_repeat_ngram: int = Field(default=0, ge=0, le=10)
    """No run of this many tokens comes twice; 0 allows all."""
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Sampling: the same seed draws the same captions."""

    def given(self) -> dict[str, Any]:
        """Only the settings that the request named."""
        named = self.model_dump(exclude_unset=True)
        return {name: value for name, value in named.items() if name in CaptionParameters.model_fields}


class ManyQuery(CaptionParameters):
    """What a request to /v1/captions may name beside its images."""

    model: str = Field(default="", max_length=200)
    """Name of a served model, as GET /v1/models lists them; none is the default one."""

    def named(self) -> dict[str, Any]:
        """Everything that the request named."""
        return self.model_dump(exclude_unset=True)


class CaptionQuery(ManyQuery):
    """What a request to /v1/caption may name beside its image."""

    stream: bool = False
    """Answer with server-sent events: `token` for each piece of the best caption, then `caption` with everything."""


class Alternative(Frozen):
    """One of several captions of an image."""

    caption: str
    score: float
    """Sum of the tokens' log-probabilities over length**length_penalty."""


class Timings(Frozen):
    """Where a request's time went, in milliseconds."""

    decode_ms: float = 0
    """Image bytes to encoder input."""
    queue_ms: float = 0
    """Waiting to join the images in progress."""
    model_ms: float = 0
    """Encoding the image and writing its captions."""
    total_ms: float
    """From the last byte of the request to the answer."""


class CaptionResponse(Frozen):
    """An image's captions."""

    caption: str
    """The best one."""
    score: float
    alternatives: list[Alternative]
    """All `n` captions, best first; the first is `caption`."""
    model: str
    """Name of the model that answered."""
    version: str
    """Identifies its checkpoint: the first digits of its manifest's digest."""
    request_id: str
    timings: Timings
    retries: int
    """How often the image was handed to another captioner because one died."""


class ErrorDetail(Frozen):
    """What went wrong, for a program (code) and for a person (message)."""

    code: str
    message: str
    request_id: str


class ErrorResponse(Frozen):
    """The one shape of every error."""

    error: ErrorDetail


class CaptionLine(CaptionResponse):
    """A line of the answer to /v1/captions: an image's captions."""

    index: int
    """Place of the image in the request, from 0."""
    id: str
    """The image's id, or its file's name; "" where the request gave none."""


class ErrorLine(ErrorResponse):
    """A line of the answer to /v1/captions: why an image has no captions."""

    index: int
    id: str


class HuggingFaceCaption(Frozen):
    """A caption as Hugging Face's image-to-text task has it."""

    generated_text: str


class Status(Frozen):
    """The answer of a health check."""

    status: str


class ModelVersion(Frozen):
    """A served model."""

    model: str
    family: str
    version: str
    created: int
    """Unix time at which the checkpoint was written."""
    versions: dict[str, str]
    """Of raycap and the libraries that trained it."""


class VersionResponse(Frozen):
    """What runs here."""

    raycap: str
    model: ModelVersion
    """The default one."""
