"""What the ingress does with a request, free of Serve: read it, call the captioner, shape the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request

from raycap.checkpoint import Manifest
from raycap.config import describe_validation_error
from raycap.decoding import DecodingConfig
from raycap.serve.captioner import Outcome
from raycap.serve.config import ServeConfig
from raycap.serve.errors import ApiError, request_id
from raycap.serve.protocol import Alternative, CaptionParameters, CaptionResponse, Timings
from raycap.serve.reading import read_request

CallCaptioner = Callable[[bytes, dict[str, Any]], Awaitable[Outcome]]


class CaptionService:
    """Answers POST /v1/caption by calling a captioner, wherever that runs."""

    def __init__(self, call: CallCaptioner, *, manifest: Manifest, config: ServeConfig) -> None:
        self.call = call
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
                outcome = await self.call(image, decoding.model_dump())
        except TimeoutError:
            message = f"no caption within {self.config.timeout_s:g} s; try again, or ask for fewer beams"
            raise ApiError(504, "timeout", message, retry_after_s=1) from None
        if outcome.bad_image:
            raise ApiError(400, "bad_image", outcome.bad_image)
        total_ms = 1e3 * (time.perf_counter() - begin)
        return self.response(outcome, total_ms=total_ms, request_id=request_id(request))

    def decoding(self, parameters: CaptionParameters) -> DecodingConfig:
        """The checkpoint's decoding settings with the request's in their place.

        Raises:
            ApiError: 422, settings that contradict each other.
        """
        try:
            return DecodingConfig.model_validate(
                {**self.manifest.decoding.model_dump(), **parameters.given()}
            )
        except ValidationError as error:
            raise ApiError(422, "invalid_parameter", describe_validation_error(error)) from None

    def response(self, outcome: Outcome, *, total_ms: float, request_id: str) -> CaptionResponse:
        """An outcome in the shape that goes over HTTP."""
        found = [Alternative(caption=caption.text, score=caption.score) for caption in outcome.captions]
        timings = {name: round(value, 2) for name, value in outcome.timings.items()}
        return CaptionResponse(
            caption=found[0].caption,
            score=found[0].score,
            alternatives=found,
            model=self.manifest.family,
            version=self.manifest.digest[:12],
            request_id=request_id,
            timings=Timings(**timings, total_ms=round(total_ms, 2)),
        )
