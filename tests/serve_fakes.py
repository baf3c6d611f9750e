"""A captioner for tests of the HTTP face, and ways to call the app: as a client does, and message by message."""

import asyncio
import io
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from raycap.schema import Caption
from raycap.serve.config import ServeConfig
from raycap.serve.contract import ModelInfo, Order, Outcome
from raycap.serve.http.app import create_app

VERSION = "0123456789ab"
BUG, SLOW, REFUSED, BREAKS = 13, 14, 15, 16  # seeds that make the fake misbehave
DIES, WAITS, DIES_LATE, TAKES_TIME = 21, 22, 23, 24  # and that make FakeReplica
TIMINGS = {"decode_ms": 1.0, "queue_ms": 2.0, "model_ms": 3.0}


def picture(grey: int = 90, *, size: tuple[int, int] = (24, 16), kind: str = "JPEG") -> bytes:
    """An encoded image of one shade."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(buffer, kind)
    return buffer.getvalue()


def grey_of(image: bytes) -> int:
    """The shade of a picture()."""
    with Image.open(io.BytesIO(image)) as opened:
        return int(opened.convert("L").getpixel((0, 0)))


class FakeCaptioner:
    """Says the shade of the image and the beams, remembers its orders, and counts who gave up on it."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.cancelled = 0
        self.running = 0
        self.most_at_once = 0
        self.ready = True

    async def caption(self, order: Order) -> Outcome:
        self.orders.append(order)
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            return await self._work(order)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def stream(self, order: Order) -> AsyncIterator[str | Outcome]:
        outcome = await self.caption(order)
        if outcome.problem:
            yield outcome
            return
        try:
            for piece in outcome.captions[0].text.partition(" "):
                yield piece
                if order.settings.get("top_k") == BREAKS:
                    raise RuntimeError("secret /path/of/the/server")
                if order.settings.get("top_k") == SLOW:
                    await asyncio.sleep(60)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        yield outcome

    async def describe(self, model: str = "") -> ModelInfo:
        if not self.ready:
            await asyncio.sleep(60)
        return ModelInfo(model or "default", "toy", VERSION, 1_790_000_000, {"raycap": "0"})

    async def _work(self, order: Order) -> Outcome:
        seed = order.settings.get("seed")
        if seed == BUG:
            raise RuntimeError("secret /path/of/the/server")
        if seed == SLOW:
            await asyncio.sleep(60)
        if seed == REFUSED:
            return Outcome(problem="invalid_parameter", message="max_tokens=90 is above the model's 64")
        await asyncio.sleep(0)
        n, beams = order.settings.get("n", 1), order.settings.get("beams", 4)
        captions = [Caption(f"{grey_of(order.image)} x{beams} #{i}", -float(i)) for i in range(n)]
        return Outcome(captions, 5 * n, order.model or "default", VERSION, TIMINGS)


class FakeReplica:
    """Says the shade of an image; leaves files that tell what happened to it."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    async def caption(self, order: Order) -> Outcome:
        seed = order.settings.get("seed", 0)
        if seed == DIES and self._first_time("died"):
            os._exit(1)
        if seed == WAITS:
            (self.folder / "waiting").touch()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                (self.folder / "cancelled").touch()
                raise
        if seed == TAKES_TIME:
            await asyncio.sleep(0.5)
        return Outcome([Caption(f"shade {grey_of(order.image)}", -1.0)], 3, order.model or "default", VERSION)

    async def stream(self, order: Order) -> AsyncGenerator[str | Outcome, None]:
        if order.settings.get("seed") == DIES and self._first_time("stream-died"):
            os._exit(1)
        outcome = await self.caption(Order(order.image, model=order.model))
        yield "shade "
        if order.settings.get("seed") == DIES_LATE:
            await asyncio.sleep(0.5)  # the piece leaves the process
            os._exit(1)
        if order.settings.get("seed") == WAITS:
            (self.folder / "stream-waiting").touch()
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                (self.folder / "stream-cancelled").touch()
                raise
        yield outcome.captions[0].text.removeprefix("shade ")
        yield outcome

    async def describe(self, model: str = "") -> ModelInfo | None:
        return ModelInfo(model or "default", "toy", VERSION, 1, {})

    def _first_time(self, name: str) -> bool:
        file = self.folder / name
        found = not file.exists()
        file.touch()
        return found


def make_app(
    captioner: FakeCaptioner | None = None, *, key_digests: list[str] | None = None, **settings: Any
) -> FastAPI:
    """The app over a fake captioner, with small limits."""
    config = ServeConfig(**{"max_body_bytes": 20_000, "max_pixels": 10_000, "timeout_s": 5, **settings})
    return create_app(captioner or FakeCaptioner(), config=config, key_digests=key_digests or [])


def ask(app: FastAPI, path: str = "/v1/caption", method: str = "POST", **request: Any) -> httpx.Response:
    """One request in process."""

    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            headers = {"x-request-id": "abc", **request.pop("headers", {})}
            return await client.request(method, path, headers=headers, **request)

    return asyncio.run(send())


Message = dict[str, Any]


async def speak(
    app: FastAPI,
    receive: Callable[[], Awaitable[Message]],
    *,
    path: str = "/v1/caption",
    method: str = "POST",
    query: bytes = b"",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> list[Message]:
    """One request as a server hands it over, with a client that `receive` plays; gives what the app sent."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": headers or [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    return sent


def client_that(
    *messages: Message, waits_for: Callable[[], bool] | None = None
) -> Callable[[], Awaitable[Message]]:
    """Sends messages, then waits until something is so and hangs up; without a condition it stays for ever."""
    left = list(messages)

    async def receive() -> Message:
        if left:
            return left.pop(0)
        while waits_for is None or not waits_for():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    return receive


def body(content: bytes, *, more: bool = False) -> Message:
    """A piece of a request's body."""
    return {"type": "http.request", "body": content, "more_body": more}
