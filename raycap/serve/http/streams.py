"""Answers that are sent piece by piece. Their work ends with them: when the client hangs up, and when time is up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from raycap.serve.http.deadline import Deadline, unless_hung_up

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
GRACE_S = 5.0  # for the last piece, an error perhaps, to reach a client that reads slowly


class Closable(Protocol):
    """Something that holds a place with a captioner."""

    async def aclose(self) -> None:
        """Free it."""


class PieceByPiece(Response):
    """Sends what a generator gives, and frees what it draws from at once in every case (StreamingResponse does not).

    Args:
        source: closed at the end. A generator that was never started does not close what it would have used.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        deadline: Deadline,
        source: Closable | None = None,
    ) -> None:
        self.pieces = pieces
        self.source = source
        self.deadline = deadline
        self.media_type = media_type
        self.status_code = 200
        self.background = None
        # nginx keeps a stream back until it is complete unless it is told not to
        self.init_headers({"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything.

        Raises:
            ClientDisconnect: the client hung up, or reads too slowly to be done in time.
        """
        try:
            async with asyncio.timeout_at(self.deadline.at + GRACE_S):
                await unless_hung_up(receive, self._send(send))
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            if self.source:
                await self.source.aclose()

    async def _send(self, send: Send) -> None:
        async with aclosing(self.pieces):
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for piece in self.pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def event(data: dict[str, Any] | str, *, name: str = "") -> bytes:
    """A server-sent event. JSON has no line breaks in it, so that no text can end the event early."""
    text = data if isinstance(data, str) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n".encode() if name else f"data: {text}\n\n".encode()


def line(data: dict[str, Any]) -> bytes:
    """A line of NDJSON."""
    return json.dumps(data).encode() + b"\n"
