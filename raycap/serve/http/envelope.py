"""What every request gets, whatever handles it: an id, headers against misuse, a count, and an answer at all.

Plain ASGI, because Starlette's own base class for middleware hides from the app that a client hung up.
"""

from __future__ import annotations

import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raycap.serve.http.door import Door
from raycap.serve.http.errors import answer_of, error_answer, late_error
from raycap.serve.http.observe import observer_of

HUNG_UP = 499  # nginx's number for a client that left before its answer
ID_LENGTH = 128
STOPPING = "the service is stopping and takes no more requests; try again"


class Envelope:
    """The outermost layer of the app."""

    def __init__(self, app: ASGIApp, *, echo_id: bool, door: Door) -> None:
        self.app = app
        self.echo_id = echo_id
        self.door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["raycap.request_id"] = _request_id(scope)
        begin, status = time.perf_counter(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(message, scope)
            await send(message)

        try:
            if self.door.closed:
                await _turn_away(scope, receive, send_with_headers)
                return
            with self.door.entered() as visit:
                scope["raycap.visit"] = visit
                await self.app(scope, receive, send_with_headers)
        except ClientDisconnect:
            status = status or HUNG_UP
        except Exception as error:
            detail = late_error(scope, error)
            if status:  # halfway through an answer: only cutting the connection tells the client
                raise
            await answer_of(detail, status=500)(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - begin
            observer_of(scope).answered(_route(scope), status=status or HUNG_UP, seconds=seconds)

    def _add_headers(self, message: Message, scope: Scope) -> None:
        headers = MutableHeaders(scope=message)
        headers.setdefault("X-Content-Type-Options", "nosniff")
        headers.setdefault("Cache-Control", "no-store")
        if self.echo_id:
            headers["X-Request-ID"] = scope["raycap.request_id"]


async def _turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    answer = error_answer(scope, 503, "stopping", STOPPING, headers={"Retry-After": "1"})
    await answer(scope, receive, send)


def _request_id(scope: Scope) -> str:
    """The id that the proxy or the client gave, where it is harmless; else a new one."""
    for name, value in scope["headers"]:
        if (
            name == b"x-request-id"
            and 0 < len(value) <= ID_LENGTH
            and all(0x21 <= byte <= 0x7E for byte in value)
        ):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    """The path as the app declares it: what clients make up would be a new metric each."""
    return str(getattr(scope.get("route"), "path", "unknown"))
