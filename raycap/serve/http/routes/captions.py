"""raycap's own protocol: POST /v1/caption for one image, POST /v1/captions for many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from raycap.serve.contract import Outcome
from raycap.serve.http import documentation
from raycap.serve.http.bodies import read_body
from raycap.serve.http.deadline import unless_hung_up
from raycap.serve.http.errors import late_error, request_id
from raycap.serve.http.pictures import Picture, read_many, read_one
from raycap.serve.http.protocol import (
    Alternative,
    CaptionLine,
    CaptionQuery,
    CaptionResponse,
    ErrorLine,
    ErrorResponse,
    ManyQuery,
    Timings,
)
from raycap.serve.http.service import CaptionService, Parts
from raycap.serve.http.streams import EVENTS, LINES, PieceByPiece, event, line

UNLISTED = Query(include_in_schema=False)  # documentation.py lists the parameters, without defaults
AT_ONCE = 8  # images of one request with the captioners: the others' requests find places too
Answer = Callable[[Picture], Awaitable[CaptionResponse]]


def router(service: CaptionService) -> APIRouter:
    """The routes of raycap's own protocol."""
    routes = APIRouter(tags=["captions"])

    @routes.post(
        "/v1/caption",
        response_model=CaptionResponse,
        responses=documentation.CAPTION_ANSWERS,
        openapi_extra=documentation.CAPTION_INPUT,
    )
    async def caption(request: Request, query: Annotated[CaptionQuery, UNLISTED]) -> Any:
        """Caption an image: the bare bytes, multipart field `image`, or JSON.

        Generation parameters come with the query string, the form or the JSON; what is not named is the
        checkpoint's own.
        """
        deadline = service.deadline()
        body = await read_body(request, limit=service.config.max_body_bytes, deadline=deadline)
        begin = time.perf_counter()
        picture, query = await read_one(request, body, query)
        asked: dict[str, Any] = {"settings": query.given(), "model": query.model, "deadline": deadline}
        if query.stream:
            parts = await unless_hung_up(request.receive, service.open_stream(picture, **asked))
            events = _events(request, parts, begin=begin)
            return PieceByPiece(events, media_type=EVENTS, deadline=deadline, source=parts)
        outcome = await unless_hung_up(request.receive, service.caption(picture, **asked))
        return shape(outcome, begin=begin, request_id=request_id(request.scope))

    @routes.post(
        "/v1/captions",
        response_class=Response,
        responses=documentation.CAPTIONS_ANSWERS,
        openapi_extra=documentation.CAPTIONS_INPUT,
    )
    async def captions(request: Request, query: Annotated[ManyQuery, UNLISTED]) -> Response:
        """Caption many images: several multipart files, or JSON. Each line of the answer comes when it is ready.

        A line has the image's `index`, its `id` (or file name) and either what /v1/caption answers or `error`.
        """
        deadline = service.deadline()
        config = service.config
        body = await read_body(request, limit=config.max_body_bytes, deadline=deadline)
        begin = time.perf_counter()
        pictures, query = await read_many(request, body, query, max_images=config.max_images)
        service.model(query.model)
        asked: dict[str, Any] = {"settings": query.given(), "model": query.model, "deadline": deadline}

        async def answer(picture: Picture) -> CaptionResponse:
            outcome = await service.caption(picture, **asked)
            return shape(outcome, begin=begin, request_id=request_id(request.scope))

        lines = _lines(request, pictures, answer)
        return PieceByPiece(lines, media_type=LINES, deadline=deadline)

    return routes


def shape(outcome: Outcome, *, begin: float, request_id: str) -> CaptionResponse:
    """An outcome as it goes over HTTP."""
    found = [Alternative(caption=caption.text, score=caption.score) for caption in outcome.captions]
    milliseconds = {**outcome.timings, "total_ms": 1e3 * (time.perf_counter() - begin)}
    return CaptionResponse(
        caption=found[0].caption,
        score=found[0].score,
        alternatives=found,
        model=outcome.model,
        version=outcome.version,
        request_id=request_id,
        timings=Timings(**{name: round(milliseconds.get(name, 0.0), 2) for name in Timings.model_fields}),
        retries=outcome.retries,
    )


async def _events(request: Request, parts: Parts, *, begin: float) -> AsyncGenerator[bytes, None]:
    """A stream as server-sent events."""
    try:
        async for part in parts:
            if isinstance(part, str):
                yield event({"text": part}, name="token")
            else:
                found = shape(part, begin=begin, request_id=request_id(request.scope))
                yield event(found.model_dump(), name="caption")
    except Exception as error:
        detail = late_error(request.scope, error)
        yield event(ErrorResponse(error=detail).model_dump(), name="error")


async def _lines(request: Request, pictures: list[Picture], answer: Answer) -> AsyncGenerator[bytes, None]:
    """A line for each picture, in the order in which they become ready; closing it cancels the others."""
    places = asyncio.Semaphore(AT_ONCE)

    async def work(index: int, picture: Picture) -> CaptionLine | ErrorLine:
        try:
            async with places:
                found = await answer(picture)
        except Exception as error:  # one picture's bad luck is no other's
            return ErrorLine(index=index, id=picture.name, error=late_error(request.scope, error))
        return CaptionLine(index=index, id=picture.name, **found.model_dump())

    tasks = [asyncio.create_task(work(index, picture)) for index, picture in enumerate(pictures)]
    try:
        for done in asyncio.as_completed(tasks):
            yield line((await done).model_dump())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
