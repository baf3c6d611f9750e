"""What the ingress does with an image, the same for every protocol: fetch, check, call the captioner, name problems.

Knows neither bodies nor answers, and nothing of the checkpoint: what a captioner says of itself is passed on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Self

from raycap.serve.config import ServeConfig
from raycap.serve.contract import FORMATS, CaptionerClient, ModelInfo, Order, Outcome
from raycap.serve.http.deadline import Deadline
from raycap.serve.http.errors import ApiError
from raycap.serve.http.fetch import Fetcher, FetchError
from raycap.serve.http.pictures import Picture
from raycap.vision import BadImageError, inspect_image

READY_S = 5.0
DESCRIBED_S = 1.0  # a captioner is asked so often, not for everybody who asks whether it is there
STATUSES = {
    "bad_image": 400,
    "invalid_parameter": 422,
    "unknown_model": 404,
    "model_unavailable": 503,
    "timeout": 504,
}
MODEL_NOT_FOUND = "model_not_found"  # OpenAI's code, on all routes
BROKEN_OFF = "the captioner stopped before it was done; try again"


class CaptionService:
    """Captions images by calling a captioner, wherever that runs."""

    def __init__(self, captioner: CaptionerClient, *, config: ServeConfig) -> None:
        self.captioner = captioner
        self.config = config
        self.described: dict[str, tuple[float, ModelInfo]] = {}
        hosts, limit = config.fetch_hosts, config.max_body_bytes
        self.fetcher = Fetcher(hosts, max_bytes=limit, timeout_s=config.fetch_timeout_s) if hosts else None

    def deadline(self) -> Deadline:
        """The end of a request that comes in now."""
        return Deadline(self.config.timeout_s)

    async def caption(
        self, picture: Picture, *, settings: dict[str, Any], model: str, deadline: Deadline
    ) -> Outcome:
        """Captions of a picture.

        Raises:
            ApiError: the picture or a setting is at fault (4xx), or it took too long (504).
        """
        async with deadline.captioning():
            order = await self._order(picture, settings=settings, model=model, deadline=deadline)
            return _sound(await self.captioner.caption(order))

    async def open_stream(
        self, picture: Picture, *, settings: dict[str, Any], model: str, deadline: Deadline
    ) -> Parts:
        """Pieces of the best caption, then the outcome; the first part is there before this returns.

        So that what is wrong from the start is an HTTP error of its own and not an event of a stream.

        Raises:
            ApiError: as `caption` does, here or from the parts.
        """
        async with deadline.captioning():
            order = await self._order(picture, settings=settings, model=model, deadline=deadline)
        parts = Parts(self.captioner.stream(order), deadline=deadline)
        try:
            await parts.peek()
        except BaseException:
            await parts.aclose()
            raise
        return parts

    def model(self, name: str) -> str:
        """The contract's name of a model that a request names: "" for the default one.

        Raises:
            ApiError: 404, none is served under that name.
        """
        if name in ("", self.config.model_name):
            return ""
        if name not in self.config.models:
            known = ", ".join([self.config.model_name, *self.config.models])
            raise ApiError(404, MODEL_NOT_FOUND, f"no model {name[:60]!r} is served here; known: {known}")
        return name

    async def describe(self, name: str = "") -> ModelInfo:
        """What a captioner says of one of its models.

        Raises:
            ApiError: 404 no such model, 503 no captioner is ready with it.
        """
        wanted = self.model(name)
        known = self.described.get(wanted)
        if known and time.monotonic() < known[0]:
            return known[1]
        try:
            async with asyncio.timeout(READY_S):
                info = await self.captioner.describe(wanted)
        except KeyError:
            raise ApiError(404, MODEL_NOT_FOUND, f"no model {name[:60]!r} is served here") from None
        except TimeoutError:
            raise ApiError(503, "not_ready", "no captioner is ready yet", retry_after_s=5) from None
        self.described[wanted] = time.monotonic() + DESCRIBED_S, info
        return info

    async def describe_all(self) -> list[ModelInfo]:
        """Every served model, the default one first."""
        names = ["", *self.config.models]
        return list(await asyncio.gather(*(self.describe(name) for name in names)))

    async def _order(
        self, picture: Picture, *, settings: dict[str, Any], model: str, deadline: Deadline
    ) -> Order:
        if picture.problem:
            raise picture.problem
        name = self.model(model)
        image = await self._fetch(picture.url) if picture.url else picture.data
        try:  # in a thread: Pillow may be kept busy by the header of a picture that was made for it
            await asyncio.to_thread(
                inspect_image,
                image,
                formats=FORMATS,
                max_pixels=self.config.max_pixels,
                max_side=self.config.max_side,
            )
        except BadImageError as error:
            raise ApiError(400, "bad_image", str(error)) from None
        return Order(image, settings=settings, model=name, wanted_until=deadline.wanted_until)

    async def _fetch(self, url: str) -> bytes:
        if self.fetcher is None:
            message = "this server fetches no images by URL; send the image itself"
            raise ApiError(400, "url_not_allowed", message)
        try:
            return await self.fetcher.fetch(url)
        except FetchError as error:
            raise ApiError(400, error.code, str(error)) from None


class Parts:
    """A captioner's stream that is sound: it ends with an outcome that has captions, in time, or raises ApiError."""

    def __init__(self, stream: AsyncIterator[str | Outcome], *, deadline: Deadline) -> None:
        self._stream = stream
        self._deadline = deadline
        self._peeked: list[str | Outcome] = []
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str | Outcome:
        part = self._peeked.pop() if self._peeked else await self._next()
        self._ended = not isinstance(part, str)
        return part

    async def peek(self) -> None:
        """Wait for the first part, which stays the first."""
        self._peeked = [await self._next()]

    async def aclose(self) -> None:
        """Free the captioner's place. Unlike a generator's, this works before the first part too."""
        if isinstance(self._stream, AsyncGenerator):
            await self._stream.aclose()

    async def _next(self) -> str | Outcome:
        if self._ended:
            raise StopAsyncIteration
        async with self._deadline.captioning():
            part = await anext(self._stream, None)
        if part is None:
            raise ApiError(503, "unavailable", BROKEN_OFF, retry_after_s=1)
        return part if isinstance(part, str) else _sound(part)


def _sound(outcome: Outcome) -> Outcome:
    """An outcome with captions.

    Raises:
        ApiError: it has a problem instead.
    """
    if outcome.problem:
        code = MODEL_NOT_FOUND if outcome.problem == "unknown_model" else outcome.problem
        late = 1 if outcome.problem == "timeout" else 0
        raise ApiError(STATUSES[outcome.problem], code, outcome.message, retry_after_s=late)
    return outcome
