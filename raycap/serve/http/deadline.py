"""How long a request may take, and the end of its work when nobody waits for it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from raycap.serve.http.errors import ApiError

Result = TypeVar("Result")


class Deadline:
    """The end of a request's time, from when it came in. Nothing that a client sends moves it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = asyncio.get_running_loop().time() + seconds
        self.wanted_until = time.time() + seconds

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[None, None]:
        """Work on the client's side: 408 when time is up."""
        async with self._within(
            408, "request_timeout", f"the request did not arrive within {self.seconds:g} s"
        ):
            yield

    @asynccontextmanager
    async def captioning(self) -> AsyncGenerator[None, None]:
        """Work on the server's side: 504 when time is up."""
        async with self._within(504, "timeout", self.too_late):
            yield

    @property
    def too_late(self) -> str:
        """What a client is told whose caption took too long."""
        return f"no caption within {self.seconds:g} s; try again, or ask for fewer beams"

    @asynccontextmanager
    async def _within(self, status: int, code: str, message: str) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout_at(self.at) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ApiError(status, code, message, retry_after_s=1) from None


async def unless_hung_up(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns; it is cancelled when the client hangs up first. The body must have been read.

    Raises:
        ClientDisconnect: the client hung up.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_hang_up(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return await task
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    """Returns when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
