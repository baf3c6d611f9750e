"""The load generator against a server whose answers are scripted: what it counts, retries, and where it stops."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from raycap.benchmarks.load import run_load
from raycap.benchmarks.load_process import run_load_in_process, start_load
from raycap.benchmarks.load_report import LoadReport, Reply

Handler = Callable[[web.Request], Awaitable[web.Response]]
BODIES = [b"first", b"second", b"third"]


def against(handler: Handler, bodies: list[bytes] = BODIES, **settings: Any) -> LoadReport:
    """A report of a load on a server with one handler."""

    async def measure() -> LoadReport:
        async with served(handler) as server:
            return await run_load(str(server.make_url("/v1/caption")), bodies, **{"limit_s": 30, **settings})

    return asyncio.run(measure())


def served(handler: Handler) -> TestServer:
    app = web.Application()
    app.router.add_post("/v1/caption", handler)
    return TestServer(app)


async def echo(request: web.Request) -> web.Response:
    """Says what came."""
    key = request.headers.get("Authorization", "")
    return web.json_response(
        {"body": (await request.read()).decode("latin-1"), "query": dict(request.query), "key": key}
    )


def test_every_request_is_sent_once_and_its_answer_kept() -> None:
    report = against(
        echo,
        clients=3,
        requests=7,
        params={"beams": 3, "sample": False},
        headers={"Authorization": "Bearer k"},
    )
    assert report.statuses == {200: 7}
    assert [reply.index for reply in report.replies] == list(range(7))
    assert [reply.answer["body"] for reply in report.replies[:4]] == ["first", "second", "third", "first"]
    assert report.replies[0].answer["query"] == {"beams": "3", "sample": "false"}
    assert report.replies[0].answer["key"] == "Bearer k"
    assert (report.unsent, report.retries, report.errors) == (0, 0, {})
    assert report.throughput == 7 / report.elapsed_s


def test_no_more_requests_are_open_than_there_are_clients() -> None:
    open_now, most = 0, 0

    async def count(request: web.Request) -> web.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.01)
        open_now -= 1
        return web.Response(text="plain")

    report = against(count, clients=4, requests=20)
    assert most == 4
    assert report.replies[0].answer == "plain"


def test_refusals_count_and_are_not_retried_unless_asked() -> None:
    async def refuse(request: web.Request) -> web.Response:
        headers = {"Retry-After": "1"} if await request.text() == "first" else {}
        return web.json_response({"error": {"code": "overloaded"}}, status=429, headers=headers)

    report = against(refuse, clients=2, requests=3)
    assert report.statuses == {429: 3}
    assert report.without_retry_after == 2
    assert report.good == []
    assert math.isnan(report.latency_s(95))
    assert report.latency_s(95, of=lambda reply: reply.status == 429) > 0


def test_refused_and_broken_requests_are_retried() -> None:
    seen: dict[str, int] = {}

    async def stumble(request: web.Request) -> web.Response:
        body = await request.text()
        seen[body] = seen.get(body, 0) + 1
        if seen[body] == 1 and body == "first":
            return web.Response(status=503, headers={"Retry-After": "0"})
        if seen[body] == 1 and body == "second":
            assert request.transport
            request.transport.abort()
        return web.Response(status=400 if body == "third" else 200)

    report = against(stumble, clients=3, requests=3, tries=3)
    assert [(reply.status, reply.retries) for reply in report.replies] == [(200, 1), (200, 1), (400, 0)]
    assert report.retries == 2


def test_a_server_that_is_not_there_is_an_error_of_every_request() -> None:
    report = asyncio.run(run_load("http://127.0.0.1:9/", BODIES, clients=2, requests=3, limit_s=30, tries=2))
    assert report.statuses == {0: 3}
    assert report.retries == 3
    assert all(name.startswith("ClientConnectorError") for name in report.errors)


def test_the_time_limit_ends_everything() -> None:
    async def hang(request: web.Request) -> web.Response:
        if await request.text() != "first":
            await asyncio.sleep(60)
        return web.Response()

    report = against(hang, clients=2, requests=9, limit_s=1.5)
    assert report.statuses == {0: 2, 200: 1}
    assert report.errors == {"unanswered when the time was up": 2}
    assert report.unsent == 6


def test_at_a_rate_requests_do_not_wait_for_answers() -> None:
    """Closed clients would slow down with the server, and hide how long its users wait."""
    everyone = asyncio.Event()
    waiting = 0

    async def all_at_once(request: web.Request) -> web.Response:
        nonlocal waiting
        waiting += 1
        if waiting == 10:
            everyone.set()
        await everyone.wait()
        return web.Response()

    report = against(all_at_once, clients=10, requests=10, rate=200)
    assert report.statuses == {200: 10}
    assert [reply.due_s for reply in report.replies] == pytest.approx([i / 200 for i in range(10)])
    assert report.replies[0].latency_s >= 9 / 200  # the last was due then, and the first waited for it


def test_at_a_rate_waiting_for_a_free_client_is_part_of_the_latency() -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response()

    report = against(slow, clients=1, requests=4, rate=1000)
    assert report.replies[3].latency_s > 0.15  # three others came first


def test_in_a_process_of_its_own() -> None:
    async def measure() -> LoadReport:
        async with served(echo) as server:
            url = str(server.make_url("/v1/caption"))
            return await asyncio.to_thread(
                run_load_in_process, url, [b"\x00\xff", *BODIES], clients=2, requests=4, limit_s=30
            )

    report = asyncio.run(measure())
    assert report.statuses == {200: 4}
    assert [reply.answer["body"] for reply in report.replies[:2]] == ["\x00\xff", "first"]
    assert report.load["clients"] == 2


def test_a_load_that_is_not_wanted_any_more_is_ended() -> None:
    with start_load("http://127.0.0.1:9/", BODIES, clients=1, requests=10**6, limit_s=600, tries=9) as load:
        assert load.process.poll() is None
    assert load.process.returncode is not None


def test_a_load_that_fails_in_its_process_says_so() -> None:
    with (
        start_load("http://127.0.0.1:9/", [], clients=1, requests=1, limit_s=1) as load,
        pytest.raises(RuntimeError, match="exit code 1"),
    ):
        load.report()


def test_percentiles_are_of_latencies_that_occurred() -> None:
    replies = [Reply(index=i, due_s=0, latency_s=float(i + 1), status=200) for i in range(100)]
    report = LoadReport({"requests": 100}, replies, 10.0)
    assert [report.latency_s(percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert report.summary()["p50_ms"] == 50_000
    assert LoadReport.from_json(report.to_json()) == report


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="clients=0"):
        asyncio.run(run_load("http://127.0.0.1:9/", BODIES, clients=0, requests=1, limit_s=1))
    with pytest.raises(ValueError, match="no body"):
        asyncio.run(run_load("http://127.0.0.1:9/", [], clients=1, requests=1, limit_s=1))
