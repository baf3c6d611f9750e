"""What the ingress does with a request, free of Serve: read it, call the captioner, shape the answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from starlette.requests import Request

from raycap.checkpoint import Manifest
from raycap.config import ConfigError
from raycap.decoding import DecodingConfig
from raycap.engine import merge_decoding
from raycap.serve.captioner import Outcome
from raycap.serve.config import ServeConfig
from raycap.serve.errors import ApiError, request_id
from raycap.serve.protocol import Alternative, CaptionParameters, CaptionResponse, Timings
from raycap.serve.reading import read_request

PING_TIMEOUT_S = 5.0


class CaptionerClient(Protocol):
    """A captioner, wherever it runs."""

    async def caption(self, image: bytes, decoding: dict[str, Any]) -> Outcome:
        """Captions of an image."""

    async def ping(self) -> None:
        """Returns when a captioner is ready."""


class CaptionService:
    """Answers POST /v1/caption by calling a captioner, wherever that runs."""

    def __init__(self, captioner: CaptionerClient, *, manifest: Manifest, config: ServeConfig) -> None:
        self.captioner = captioner
        self.manifest = manifest
        self.config = config

    async def answer(self, request: Request) -> CaptionResponse:
        """Caption the request's image.

        Raises:
            ApiError: the request is at fault (4xx), or the captioner was too slow (504).
        """
        image, parameters = await read_request(request, max_body_bytes=self.config.max_body_bytes)
        decoding = self.decoding(parameters)
        begin = time.perf_counter()
        try:
            async with asyncio.timeout(self.config.timeout_s):
                outcome = await self.captioner.caption(image, decoding.model_dump())
        except TimeoutError:
            message = f"no caption within {self.config.timeout_s:g} s; try again, or ask for fewer beams"
            raise ApiError(504, "timeout", message, retry_after_s=1) from None
        if outcome.bad_image:
            raise ApiError(400, "bad_image", outcome.bad_image)
        if outcome.bad_settings:
            raise ApiError(422, "invalid_parameter", outcome.bad_settings)
        total_ms = 1e3 * (time.perf_counter() - begin)
        return self.response(outcome, total_ms=total_ms, request_id=request_id(request))

    async def health(self) -> dict[str, str]:
        """Which model answers.

        Raises:
            ApiError: 503, no captioner is ready.
        """
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                await self.captioner.ping()
        except TimeoutError:
            raise ApiError(503, "not_ready", "no captioner is ready yet", retry_after_s=5) from None
        return {"status": "ok", "model": self.manifest.family, "version": self.version}

    @property
    def version(self) -> str:
        """Identifies the checkpoint."""
        return self.manifest.digest[:12]

    def decoding(self, parameters: CaptionParameters) -> DecodingConfig:
        """The checkpoint's decoding settings with the request's in their place.

        Raises:
            ApiError: 422, settings that contradict each other.
        """
        try:
            return merge_decoding(self.manifest.decoding, parameters.given())
        except ConfigError as error:
            raise ApiError(422, "invalid_parameter", str(error)) from None

    def response(self, outcome: Outcome, *, total_ms: float, request_id: str) -> CaptionResponse:
        """An outcome in the shape that goes over HTTP."""
        found = [Alternative(caption=caption.text, score=caption.score) for caption in outcome.captions]
        timings = {name: round(value, 2) for name, value in outcome.timings.items()}
        return CaptionResponse(
            caption=found[0].caption,
            score=found[0].score,
            alternatives=found,
            model=self.manifest.family,
            version=self.version,
            request_id=request_id,
            timings=Timings(**timings, total_ms=round(total_ms, 2)),
        )
