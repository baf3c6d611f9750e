"""A load generator: many clients that post bodies to a URL, bounded in count and in time, and what became of each.

Two modes: a number of clients, each with one request at a time (closed), or requests at a rate whatever the answers
do (open). It knows nothing of raycap; load_process.py runs it in a process of its own, beside the server's.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp

from raycap.benchmarks.load_report import LoadReport, Reply

RETRIED = (408, 429, 502, 503, 504)
UNANSWERED: dict[str, Any] = {"status": 0, "error": "unanswered when the time was up"}
IDLE_S = 2.0  # an idle connection goes before the server (uvicorn: after 5 s) closes it under a new request
LONGEST_WAIT_S = 5.0  # between two tries, whatever Retry-After says


@dataclass(frozen=True)
class Load:
    """What to send."""

    url: str
    clients: int
    """Most requests open at a time."""
    requests: int
    limit_s: float
    """Everything ends then; what is still open counts as unanswered."""
    params: dict[str, Any] = field(default_factory=dict)
    """Query string."""
    headers: dict[str, str] = field(default_factory=dict)
    tries: int = 1
    """How often a request is sent, where it is refused or its connection breaks."""
    rate: float = 0
    """Requests a second, in even steps from the start; 0: each client sends when its last answer is there."""

    def __post_init__(self) -> None:
        if min(self.clients, self.requests, self.tries) < 1 or self.limit_s <= 0 or self.rate < 0:
            raise ValueError(
                f"clients={self.clients}, requests={self.requests}, tries={self.tries} must be 1 or more, "
                f"limit_s={self.limit_s:g} above 0 and rate={self.rate:g} 0 or more"
            )


async def run_load(
    url: str,
    bodies: Sequence[bytes],
    *,
    clients: int,
    requests: int,
    limit_s: float,
    params: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    tries: int = 1,
    rate: float = 0,
) -> LoadReport:
    """POST the bodies in turn; the settings are those of Load.

    A latency is counted from when a request was due: at a rate, waiting for one of `clients` is part of it.
    """
    settings = {"clients": clients, "requests": requests, "limit_s": limit_s, "tries": tries, "rate": rate}
    load = Load(url, params=dict(params or {}), headers=dict(headers or {}), **settings)  # type: ignore[arg-type]
    return await send_load(load, bodies)


async def send_load(
    load: Load, bodies: Sequence[bytes], *, stop_on: signal.Signals | None = None
) -> LoadReport:
    """Send everything, or as much as fits into the time.

    Args:
        stop_on: a signal to this process after which nothing more is sent; what is open is waited for.

    Raises:
        ValueError: there is no body to send.
    """
    if not bodies:
        raise ValueError("no body to send; give one at least")
    query = {name: _text(value) for name, value in load.params.items()}
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S)
    timeout = aiohttp.ClientTimeout(total=None)  # limit_s bounds them all together
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=load.headers) as session:
        run = _Run(session, load, query, bodies)
        if stop_on:
            asyncio.get_running_loop().add_signal_handler(stop_on, run.stop)
        await run.send_all()
    return LoadReport(asdict(load), run.replies, run.elapsed_s)


class _Run:
    """The state of one run."""

    def __init__(
        self, session: aiohttp.ClientSession, load: Load, query: dict[str, str], bodies: Sequence[bytes]
    ) -> None:
        self.session, self.load, self.query, self.bodies = session, load, query, bodies
        self.replies: list[Reply] = []
        self.numbers = iter(range(load.requests))
        self.elapsed_s = 0.0
        self.stopping = False

    def stop(self) -> None:
        """Send nothing more."""
        self.stopping = True

    async def send_all(self) -> None:
        self.began = time.perf_counter()
        try:
            async with asyncio.timeout(self.load.limit_s), asyncio.TaskGroup() as clients:
                for _ in range(min(self.load.clients, self.load.requests)):
                    clients.create_task(self.client())
        except TimeoutError:
            pass  # the replies say which requests were open then
        self.elapsed_s = time.perf_counter() - self.began
        self.replies.sort(key=lambda reply: reply.index)

    async def client(self) -> None:
        """One client: takes the next request when it is free, and not before the request is due."""
        for number in self.numbers:
            due_s = number / self.load.rate if self.load.rate else self.since()
            await asyncio.sleep(max(0.0, due_s - self.since()))
            if self.stopping:
                return
            await self.request(number, due_s)

    async def request(self, number: int, due_s: float) -> None:
        """Send a request until it is answered for good, and note what became of it."""
        found: dict[str, Any] = UNANSWERED
        retries = 0
        try:
            found = await self.once(number)
            while retries < self.load.tries - 1 and _transient(found):
                await asyncio.sleep(_wait(found, retries))
                retries, found = retries + 1, UNANSWERED
                found = await self.once(number)
        finally:
            latency_s = self.since() - due_s
            self.replies.append(
                Reply(index=number, due_s=due_s, latency_s=latency_s, retries=retries, **found)
            )

    async def once(self, number: int) -> dict[str, Any]:
        """Status, answer and error of one try; a connection that fails has status 0."""
        body = io.BytesIO(self.bodies[number % len(self.bodies)])
        try:
            async with self.session.post(self.load.url, data=body, params=self.query) as response:
                text = await response.text()
                wait = response.headers.get("Retry-After", "")
                return {"status": response.status, "answer": _parsed(text), "retry_after": wait, "error": ""}
        except (aiohttp.ClientError, OSError) as error:
            return {"status": 0, "error": f"{type(error).__name__}: {error}"}

    def since(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.began


def _transient(found: Mapping[str, Any]) -> bool:
    """Whether another try may succeed, much as raycap.Client judges it."""
    broken_ingress = found["status"] == 500 and not isinstance(found.get("answer"), dict)
    return broken_ingress or found["status"] in (0, *RETRIED)


def _wait(found: Mapping[str, Any], retries: int) -> float:
    """Seconds before the next try: what Retry-After asks for, else doubling; spread, so that clients part."""
    asked = str(found.get("retry_after", ""))
    wanted = float(asked) if asked.isdigit() else 0.1 * 2**retries
    return min(LONGEST_WAIT_S, wanted) * random.uniform(1.0, 1.25)


def _parsed(text: str) -> Any:
    """An answer: JSON, or its text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _text(value: Any) -> str:
    """A query value as the server reads it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
