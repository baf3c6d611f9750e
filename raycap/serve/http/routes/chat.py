"""OpenAI's protocol: chat completions with an image, and the list of models. openai_protocol.py translates."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from raycap.serve.contract import Outcome
from raycap.serve.http import documentation
from raycap.serve.http.bodies import read_body, read_json
from raycap.serve.http.deadline import unless_hung_up
from raycap.serve.http.errors import ApiError, late_error, request_id
from raycap.serve.http.openai_protocol import (
    ChatError,
    ChatRequest,
    chunk,
    closing_chunks,
    completion,
    model_entry,
    model_list,
    read_chat,
)
from raycap.serve.http.pictures import Picture
from raycap.serve.http.protocol import ErrorResponse
from raycap.serve.http.service import CaptionService, Parts
from raycap.serve.http.streams import EVENTS, PieceByPiece, event

UNPROCESSABLE = {"invalid_parameter", "unsupported_parameter"}


@dataclass(frozen=True)
class Completion:
    """One chat completion under way."""

    asked: ChatRequest
    model: str
    request_id: str
    created: int

    @property
    def named(self) -> dict[str, Any]:
        """What all its chunks repeat."""
        return {"request_id": self.request_id, "created": self.created}

    @property
    def max_tokens(self) -> int:
        """As the request named it; 0 where it did not."""
        return int(self.asked.settings.get("max_tokens", 0))

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The answer in one piece."""
        return completion(outcome, **self.named, max_tokens=self.max_tokens)

    def piece(self, text: str, *, first: bool) -> dict[str, Any]:
        """A piece of the answer."""
        return chunk(text, **self.named, model=self.model, first=first)

    def end(self, outcome: Outcome) -> list[dict[str, Any]]:
        """What follows the pieces."""
        usage = self.asked.include_usage
        return closing_chunks(outcome, **self.named, include_usage=usage, max_tokens=self.max_tokens)


def router(service: CaptionService) -> APIRouter:
    """The routes of OpenAI's protocol."""
    routes = APIRouter(tags=["openai"])

    @routes.post(
        "/v1/chat/completions",
        response_class=JSONResponse,
        responses=documentation.COMPLETION_ANSWERS,
        openapi_extra=documentation.CHAT_BODY,
    )
    async def chat(request: Request) -> Any:
        """Caption the image in the last user message (a data URL). Text beside it is accepted and not followed."""
        deadline = service.deadline()
        body = await read_body(request, limit=service.config.max_body_bytes, deadline=deadline)
        asked = _read(body)
        model = service.model(asked.model)
        answer = Completion(
            asked, model or service.config.model_name, request_id(request.scope), int(time.time())
        )
        picture = Picture(asked.image, url=asked.url)
        given: dict[str, Any] = {"settings": asked.settings, "model": model, "deadline": deadline}
        if asked.stream:
            parts = await unless_hung_up(request.receive, service.open_stream(picture, **given))
            events = _events(request, parts, answer)
            return PieceByPiece(events, media_type=EVENTS, deadline=deadline, source=parts)
        outcome = await unless_hung_up(request.receive, service.caption(picture, **given))
        return JSONResponse(answer.whole(outcome))

    @routes.get(
        "/v1/models",
        response_class=JSONResponse,
        responses=documentation.NOT_READY,
    )
    async def models() -> Any:
        """The served models, the default one first."""
        return JSONResponse(model_list(await service.describe_all()))

    @routes.get(
        "/v1/models/{model}",
        response_class=JSONResponse,
        responses={**documentation.NO_MODEL, **documentation.NOT_READY},
    )
    async def model(model: str) -> Any:
        """One served model."""
        return JSONResponse(model_entry(await service.describe(model)))

    return routes


def _read(body: bytes) -> ChatRequest:
    try:
        return read_chat(read_json(body))
    except ChatError as error:
        raise ApiError(422 if error.code in UNPROCESSABLE else 400, error.code, str(error)) from None
    except RecursionError:  # deep nesting that JSON still took, where a message repeats it
        raise ApiError(400, "bad_json", "the body is nested too deeply") from None


async def _events(request: Request, parts: Parts, answer: Completion) -> AsyncGenerator[bytes, None]:
    """A stream as OpenAI's server-sent events."""
    first = True
    try:
        async for part in parts:
            if isinstance(part, str):
                yield event(answer.piece(part, first=first))
                first = False
                continue
            if first:
                yield event(answer.piece("", first=True))
            for closing in answer.end(part):
                yield event(closing)
            yield event("[DONE]")
    except Exception as error:
        detail = late_error(request.scope, error)
        yield event(ErrorResponse(error=detail).model_dump())
