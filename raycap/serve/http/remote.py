"""The captioner deployment as the ingress sees it: a CaptionerClient over a Serve handle, with retries.

A caption has no effects, so that a request whose replica died is handed to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import AsyncGenerator, Callable, Collection
from typing import Any

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    WorkerCrashedError,
)
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator

from raycap.serve.contract import ModelInfo, Order, Outcome
from raycap.serve.http.errors import ApiError
from raycap.serve.http.observe import Observer

logger = logging.getLogger(__name__)
PAUSE_S = (
    0.1  # before the second try, twice that before the third ...: the router must learn that a replica died
)
DIED = (
    RayActorError,
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
    RequestCancelledError,
    asyncio.CancelledError,  # as a call ends that a stopping replica cancelled; see _was_cancelled
)
REFUSED = (BackPressureError, *DIED)


class RemoteCaptioner:
    """Captioners behind a handle."""

    def __init__(
        self, handle: DeploymentHandle, *, tries: int, models: Collection[str], observer: Observer
    ) -> None:
        self.handle = handle
        self.limit = tries
        self.observer = observer
        # Serve sends a model's requests to the replicas that have it in memory.
        self.handles = {name: handle.options(multiplexed_model_id=name) for name in models}

    async def caption(self, order: Order) -> Outcome:
        """Captions of an image.

        Raises:
            ApiError: 429 too many wait, 503 every try met a captioner that died.
        """
        handle = self.handles.get(order.model, self.handle)
        tries = self._tries(until=order.wanted_until)
        outcome: Outcome = await tries.result(lambda: handle.caption.remote(order))
        return dataclasses.replace(outcome, retries=tries.failed)

    async def stream(self, order: Order) -> AsyncGenerator[str | Outcome, None]:
        """Pieces of the best caption, then the outcome. Tried again only as long as nothing was given.

        Raises:
            ApiError: 429 too many wait, 503 the captioner died.
        """
        handle = self.handles.get(order.model, self.handle).options(stream=True)
        tries = self._tries(until=order.wanted_until)
        given = False
        while True:
            response = handle.stream.remote(order)
            try:
                async for part in response:
                    given = True
                    yield part if isinstance(part, str) else dataclasses.replace(part, retries=tries.failed)
                return
            except REFUSED as error:
                await tries.again(error, possible=not given)
            finally:
                _cancel(response)

    async def describe(self, model: str = "") -> ModelInfo:
        """A model, as its captioner sees it.

        Raises:
            KeyError: no model is served under that name.
            ApiError: 429 too many wait, 503 every try met a captioner that died.
        """
        tries = self._tries(until=math.inf)
        info: ModelInfo | None = await tries.result(lambda: self.handle.describe.remote(model))
        if info is None:
            raise KeyError(model)
        return info

    def _tries(self, *, until: float) -> Tries:
        return Tries(limit=self.limit, until=until, observer=self.observer)


class Tries:
    """One request's tries, until one succeeds, there were enough of them, or nobody waits any more (Unix time)."""

    def __init__(self, *, limit: int, until: float, observer: Observer) -> None:
        self.limit = limit
        self.until = until
        self.observer = observer
        self.failed = 0

    async def result(self, call: Callable[[], DeploymentResponse[Any]]) -> Any:
        """What a call returns, called again where captioners die under it.

        Raises:
            ApiError: as `again` does.
        """
        while True:
            response = call()
            try:
                return await response
            except asyncio.CancelledError as error:
                _cancel(response)  # Serve's own await leaves the replica at work
                await self.again(error)
            except REFUSED as error:
                await self.again(error)

    async def again(self, error: BaseException, *, possible: bool = True) -> None:
        """Returns when another try makes sense.

        Raises:
            ApiError: 429 the queue is full, 503 no more tries.
            asyncio.CancelledError: this task was cancelled, and not only the replica's.
        """
        if isinstance(error, asyncio.CancelledError) and _was_cancelled():
            raise error
        if isinstance(error, BackPressureError):
            raise ApiError(429, "overloaded", "too many requests wait; try again", retry_after_s=1) from None
        self.failed += 1
        if not possible or self.failed >= self.limit or time.time() >= self.until:
            logger.warning("a request was given up after %d tries: %r", self.failed, error)
            raise ApiError(
                503, "unavailable", "the captioner stopped during the request; try again", retry_after_s=1
            ) from None
        self.observer.retried()
        await asyncio.sleep(PAUSE_S * 2 ** (self.failed - 1))


def _cancel(response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]) -> None:
    """Free a call's place. Serve's `cancel` raises again what the call failed with, where it did."""
    with contextlib.suppress(*REFUSED):
        response.cancel()


def _was_cancelled() -> bool:
    """Whether the running task itself was cancelled: by its client, its deadline, or a shutdown."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
