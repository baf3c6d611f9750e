"""POST /v1/caption in process: bodies, parameters, limits, streams, hang-ups, one shape of error."""

import asyncio
import base64
import json
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import httpx
import pytest
from serve_fakes import (
    BREAKS,
    BUG,
    REFUSED,
    SLOW,
    VERSION,
    FakeCaptioner,
    ask,
    body,
    client_that,
    make_app,
    picture,
    speak,
)

from raycap.schema import Caption
from raycap.serve.config import ServeConfig
from raycap.serve.contract import ModelInfo, Order, Outcome
from raycap.serve.http.app import create_app
from raycap.serve.http.door import Door
from raycap.serve.http.errors import ApiError
from raycap.serve.http.fetch import FetchError


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The one shape of every error."""
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    for secret in ("Traceback", "/path/of", "site-packages", ".py"):
        assert secret not in answer.text
    return error


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    """Server-sent events as names and data."""
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize(
    "request_body",
    [
        {"content": picture()},
        {"content": picture(), "headers": {"content-type": "image/jpeg"}},
        {
            "content": picture(kind="PNG"),
            "headers": {"content-type": "image/jpeg"},
        },  # the bytes say what it is
        {"content": picture(kind="WEBP")},
        {
            "content": picture(),
            "headers": {"content-type": "application/x-www-form-urlencoded"},
        },  # curl's own
        {"files": {"image": ("a.jpg", picture())}},
        {"files": {"file": ("a.jpg", picture(), "image/jpeg")}},
        {"json": {"image": encoded(picture())}},
        {"json": {"image": "data:image/jpeg;base64," + encoded(picture())}},
        {"json": {"image": base64.encodebytes(picture()).decode()}},
    ],
    ids=[
        "raw",
        "typed",
        "png",
        "webp",
        "curl",
        "form",
        "form typed",
        "json",
        "data url",
        "json of many lines",
    ],
)
def test_ways_to_send_an_image(request_body: dict[str, Any]) -> None:
    captioner = FakeCaptioner()
    answer = ask(make_app(captioner), **request_body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["caption"] == "90 x4 #0"
    assert found["alternatives"] == [{"caption": "90 x4 #0", "score": 0.0}]
    assert (found["model"], found["version"], found["request_id"]) == ("default", VERSION, "abc")
    assert found["retries"] == 0
    assert set(found["timings"]) == {"decode_ms", "queue_ms", "model_ms", "total_ms"}
    (order,) = captioner.orders
    assert (order.settings, order.model) == ({}, "")  # only what the request named: nothing


@pytest.mark.parametrize(
    "request_body",
    [
        {"content": picture(), "params": {"beams": 5, "n": 2}},
        {"files": {"image": picture()}, "data": {"beams": "5", "n": "2"}},
        {"json": {"image": encoded(picture()), "beams": 5, "n": 2}},
        {"json": {"image": encoded(picture()), "beams": 5}, "params": {"beams": 9, "n": 2}},  # the body wins
    ],
    ids=["query", "form", "json", "both"],
)
def test_parameters_come_with_the_query_or_the_body(request_body: dict[str, Any]) -> None:
    captioner = FakeCaptioner()
    found = ask(make_app(captioner), **request_body).json()
    assert [one["caption"] for one in found["alternatives"]] == ["90 x5 #0", "90 x5 #1"]
    assert captioner.orders[0].settings == {"beams": 5, "n": 2}


@pytest.mark.parametrize(("name", "asked"), [("default", ""), ("", ""), ("small", "small")])
def test_a_model_is_asked_for_by_its_name(name: str, asked: str) -> None:
    captioner = FakeCaptioner()
    app = make_app(captioner, models={"small": "runs/small"})
    assert ask(app, content=picture(), params={"model": name}).json()["model"] == (asked or "default")
    assert captioner.orders[0].model == asked
    assert captioner.orders[0].settings == {}


JSON = {"content-type": "application/json"}
FORM = {"content-type": "application/x-www-form-urlencoded"}


def escaped(data: dict[str, Any]) -> dict[str, Any]:
    """JSON in pure ASCII: so halves of surrogate pairs travel."""
    return {"content": json.dumps(data).encode(), "headers": JSON}


BAD_REQUESTS: list[tuple[dict[str, Any], int, str, str]] = [
    ({"content": b"no image"}, 400, "bad_image", "not an image"),
    ({"content": picture(size=(200, 100))}, 400, "bad_image", "10,000 pixels"),
    ({"content": picture(kind="GIF")}, 400, "bad_image", "GIF"),
    ({"content": picture(kind="BMP")}, 400, "bad_image", "BMP"),
    ({"content": b""}, 400, "no_image", "holds no image"),
    ({"content": b"beams=3", "headers": FORM}, 400, "bad_image", "not an image"),
    ({"json": {"beams": 3}}, 400, "no_image", "holds no image"),
    ({"json": {"image": "%%%"}}, 400, "bad_base64", "not valid base64"),
    (escaped({"image": "\udfff"}), 400, "bad_base64", "not valid base64"),
    ({"json": {"image": 7}}, 400, "bad_json", "must be strings"),
    ({"json": [1]}, 400, "bad_json", "JSON object"),
    ({"content": b"[" * 19_000, "headers": JSON}, 400, "bad_json", "not valid JSON"),
    ({"content": b"{", "headers": JSON}, 400, "bad_json", "not valid JSON"),
    ({"content": b"\xff\xfe", "headers": JSON}, 400, "bad_json", "not valid JSON"),
    ({"content": b'{"beams": ' + b"9" * 5000 + b"}", "headers": JSON}, 400, "bad_json", "not valid JSON"),
    ({"json": {"url": "https://example.org/a.jpg"}}, 400, "url_not_allowed", "send the image itself"),
    ({"json": {"url": "https://example.org/a.jpg", "image": "YQ=="}}, 400, "no_image", "both"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_form", "boundary"),
    ({"files": [("a", picture()), ("b", picture())]}, 400, "bad_form", "Too many files"),
    (
        {"files": {"image": picture()}, "data": {f"f{i}": "1" for i in range(40)}},
        400,
        "bad_form",
        "Too many fields",
    ),
    ({"files": {"image": picture()}, "data": {"model": "m" * 3000}}, 400, "bad_form", "maximum size"),
    ({"content": b"x" * 20_001}, 413, "body_too_large", "20,000 bytes"),
    ({"content": b"x", "headers": {"content-length": "9" * 5000}}, 413, "body_too_large", "20,000 bytes"),
    ({"content": picture(), "params": {"beams": 99}}, 422, "invalid_parameter", "beams"),
    ({"content": picture(), "params": {"beams": "many"}}, 422, "invalid_parameter", "beams"),
    ({"content": picture(), "params": {"temperature": "nan"}}, 422, "invalid_parameter", "temperature"),
    ({"content": picture(), "params": {"beam": 3}}, 422, "invalid_parameter", "beam: no such parameter"),
    ({"json": {"image": "YQ==", "beams": [[[]]]}}, 422, "invalid_parameter", "beams: must be a number"),
    ({"json": {"image": "YQ==", "beams": "9" * 900}}, 422, "invalid_parameter", "beams: must be a number"),
    (escaped({"image": "YQ==", "\ud800": 1}), 422, "invalid_parameter", "unicode"),
    ({"content": picture(), "params": {"seed": REFUSED}}, 422, "invalid_parameter", "above the model's 64"),
    ({"content": picture(), "params": {"model": "big"}}, 404, "model_not_found", "known: default"),
    (escaped({"image": "YQ==", "model": "\ud800"}), 422, "invalid_parameter", "model"),
    ({"content": picture(), "params": {"seed": BUG}}, 500, "internal_error", "its log says why"),
    (
        {"content": picture(), "params": {"seed": BUG, "stream": True}},
        500,
        "internal_error",
        "its log says why",
    ),
    ({"content": picture(), "params": {"seed": REFUSED, "stream": True}}, 422, "invalid_parameter", "64"),
    ({"path": "/v2"}, 404, "not_found", "/docs"),
    ({"path": "/v1/caption/"}, 404, "not_found", "/docs"),
    ({"method": "GET"}, 405, "method_not_allowed", "another method"),
]


@pytest.mark.parametrize(("request_body", "status", "code", "message"), BAD_REQUESTS)
def test_every_error_has_one_shape(
    request_body: dict[str, Any], status: int, code: str, message: str
) -> None:
    answer = ask(make_app(), **request_body)
    assert answer.status_code == status, answer.text
    error = error_of(answer)
    assert (error["code"], error["request_id"]) == (code, "abc")
    assert message in error["message"]
    assert len(error["message"]) < 600


def test_a_form_may_not_choose_a_slow_codec() -> None:
    """Python's punycode takes the square of a field's length: one form kept a whole ingress busy for minutes."""
    kind = "multipart/form-data; boundary=x; charset=punycode"
    answer = ask(make_app(), content=b"--x--", headers={"content-type": kind})
    assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_form")


def test_json_of_nothing_but_brackets_is_not_parsed() -> None:
    """15 MB of `[],[],` became half a gigabyte of lists."""
    content = b'{"image": [' + b"[]," * 30_000 + b"[]]}"
    answer = ask(make_app(max_body_bytes=200_000), content=content, headers=JSON)
    assert "commas" in error_of(answer)["message"]


def test_time_is_up_with_504_and_the_captioner_is_told() -> None:
    captioner = FakeCaptioner()
    answer = ask(make_app(captioner, timeout_s=0.1), content=picture(), params={"seed": SLOW})
    assert (answer.status_code, error_of(answer)["code"]) == (504, "timeout")
    assert answer.headers["retry-after"] == "1"
    assert captioner.cancelled == 1


@pytest.mark.parametrize("header", ["x-request-timeout-seconds", "timeout"])
def test_no_header_moves_the_deadline(header: str) -> None:
    app = make_app(timeout_s=0.1)
    answer = ask(app, content=picture(), params={"seed": SLOW}, headers={header: "1000"})
    assert answer.status_code == 504


class Fetching:
    """Stands for the fetcher, which has its own tests."""

    async def fetch(self, url: str) -> bytes:
        if url != "https://example.org/a.jpg":
            raise FetchError("url_not_allowed", "this server fetches no images from that host")
        return picture(70)


@pytest.mark.parametrize(
    ("path", "request_of"),
    [
        ("/v1/caption", lambda url: {"json": {"url": url}}),
        ("/v1/caption", lambda url: {"files": {"url": (None, url)}}),
        ("/v1/captions", lambda url: {"json": {"images": [{"url": url}]}}),
        ("/", lambda url: {"json": {"inputs": url}}),
    ],
)
def test_an_image_by_url_is_fetched_where_hosts_are_named(
    path: str, request_of: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raycap.serve.http.service.Fetcher", lambda *args, **kwargs: Fetching())
    app = make_app(fetch_hosts=["example.org"])
    assert "70 x4" in ask(app, path, **request_of("https://example.org/a.jpg")).text
    assert '"url_not_allowed"' in ask(app, path, **request_of("https://elsewhere.org/a.jpg")).text


def test_the_page_runs_nothing_from_elsewhere() -> None:
    answer = ask(make_app(), "/", "GET")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.lstrip().lower().startswith("<!doctype html>")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self' 'unsafe-inline'" in policy
    assert "frame-ancestors 'none'" in policy


def test_mutated_images_never_fail_the_server() -> None:
    """Bytes flipped, cut and doubled: each is captioned or refused, and the app goes on."""

    class Anything(FakeCaptioner):
        async def caption(self, order: Order) -> Outcome:
            return Outcome([Caption("a dog", -1.0)])

    app = make_app(Anything())
    random = Random(0)
    seeds = [picture(kind=kind) for kind in ("JPEG", "PNG", "WEBP")]

    def mutated() -> bytes:
        data = bytearray(random.choice(seeds))
        for _ in range(random.randint(1, 8)):
            data[random.randrange(min(len(data), random.choice([32, 700])))] = random.randrange(256)
        return bytes(data[: random.randint(1, len(data))] * random.randint(1, 2))

    async def send_all() -> Counter[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            answers = [await client.post("/v1/caption", content=mutated()) for _ in range(400)]
        return Counter(answer.status_code for answer in answers)

    found = asyncio.run(send_all())
    assert set(found) == {200, 400}


def test_an_overload_is_429_with_retry_after() -> None:
    class Full(FakeCaptioner):
        async def caption(self, order: Any) -> Outcome:
            raise ApiError(429, "overloaded", "too many requests wait; try again", retry_after_s=1)

    for params in ({}, {"stream": True}):
        answer = ask(make_app(Full()), content=picture(), params=params)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        assert error_of(answer)["code"] == "overloaded"


def test_a_stream_gives_pieces_and_then_everything() -> None:
    answer = ask(make_app(), content=picture(), params={"stream": True, "beams": 5, "n": 2})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *tokens, (last, whole) = events(answer)
    assert {name for name, _ in tokens} == {"token"}
    assert "".join(data["text"] for _, data in tokens) == whole["caption"] == "90 x5 #0"
    assert last == "caption"
    assert len(whole["alternatives"]) == 2
    assert whole["request_id"] == "abc"


@pytest.mark.parametrize(("top_k", "code"), [(BREAKS, "internal_error"), (SLOW, "timeout")])
def test_a_stream_that_fails_midway_ends_with_an_error_event(top_k: int, code: str) -> None:
    captioner = FakeCaptioner()
    answer = ask(
        make_app(captioner, timeout_s=0.3), content=picture(), params={"stream": True, "top_k": top_k}
    )
    (first, _), (last, data) = events(answer)
    assert (answer.status_code, first, last) == (200, "token", "error")
    assert (data["error"]["code"], data["error"]["request_id"]) == (code, "abc")
    assert "/path" not in answer.text


def test_a_stream_without_an_outcome_is_an_error() -> None:
    class Silent(FakeCaptioner):
        async def stream(self, order: Any) -> Any:
            for _ in ():
                yield ""

    answer = ask(make_app(Silent()), content=picture(), params={"stream": True})
    assert (answer.status_code, error_of(answer)["code"]) == (503, "unavailable")


@pytest.mark.parametrize("query", [b"seed=14", b"seed=14&stream=true"])
def test_hanging_up_cancels_the_captioner_call(query: bytes) -> None:
    captioner = FakeCaptioner()
    client = client_that(body(picture()), waits_for=lambda: bool(captioner.orders))
    sent = asyncio.run(speak(make_app(captioner), client, query=query))
    assert (sent, captioner.cancelled, captioner.running) == ([], 1, 0)


def test_hanging_up_in_the_middle_of_a_stream_cancels_it() -> None:
    captioner = FakeCaptioner()
    sent: list[Any] = []
    client = client_that(body(picture()), waits_for=lambda: captioner.running == 0 and bool(captioner.orders))
    sent = asyncio.run(speak(make_app(captioner), client, query=b"top_k=14&stream=true"))
    assert captioner.cancelled == 1
    assert not any(message["type"] == "http.response.body" and not message["more_body"] for message in sent)


def test_hanging_up_while_sending_leaves_no_trace() -> None:
    captioner = FakeCaptioner()
    client = client_that(body(b"abc", more=True), waits_for=lambda: True)
    assert asyncio.run(speak(make_app(captioner), client)) == []
    assert captioner.orders == []


def test_a_body_without_a_length_is_given_up_at_the_limit() -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 5000
            yield b"x" * 5000

    assert ask(make_app(), content=endless()).status_code == 413
    assert sent <= 30_000


@pytest.mark.parametrize("path", ["/v1/caption", "/v1/captions", "/v1/chat/completions", "/"])
def test_a_sender_that_is_too_slow_is_given_up(path: str) -> None:
    client = client_that(body(b"abc", more=True))
    start, content = asyncio.run(speak(make_app(timeout_s=0.1), client, path=path))
    assert start["status"] == 408
    assert json.loads(content["body"])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "ä"])
def test_a_harmful_request_id_is_replaced(given: str) -> None:
    answer = ask(make_app(), content=b"", headers={"x-request-id": given.encode("latin-1")})
    made = error_of(answer)["request_id"]
    assert made != given
    assert len(made) == 32


def test_answers_are_neither_sniffed_nor_kept() -> None:
    for answer in (ask(make_app(), content=picture()), ask(make_app(), "/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_health_asks_nobody_and_readiness_a_captioner(monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = FakeCaptioner()
    app = make_app(captioner)
    assert ask(app, "/healthz", "GET").json() == {"status": "ok"}
    assert ask(app, "/readyz", "GET").json() == {"status": "ready"}
    monkeypatch.setattr("raycap.serve.http.service.READY_S", 0.05)
    captioner.ready = False
    assert ask(app, "/readyz", "GET").json() == {"status": "ready"}  # as it said a moment ago
    monkeypatch.setattr("raycap.serve.http.service.DESCRIBED_S", 0)
    app = make_app(captioner)
    assert ask(app, "/healthz", "GET").status_code == 200
    answer = ask(app, "/readyz", "GET")
    assert (answer.status_code, error_of(answer)["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"] == "5"
    assert ask(app, "/version", "GET").status_code == 503


def test_the_version_is_the_captioners() -> None:
    found = ask(make_app(), "/version", "GET").json()
    assert set(found) == {"raycap", "model"}
    assert (found["model"]["version"], found["model"]["family"]) == (VERSION, "toy")


class Seen:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []
        self.codes: list[str] = []

    def answered(self, route: str, *, status: int, seconds: float) -> None:
        self.answers.append((route, status))

    def refused(self, code: str) -> None:
        self.codes.append(code)

    def retried(self) -> None:
        """Not here."""


def test_every_request_is_observed_under_a_path_of_ours() -> None:
    """A metric for each path that clients make up would grow for ever."""
    app = make_app()
    app.state.observer = seen = Seen()
    ask(app, content=picture())
    ask(app, content=b"x")
    ask(app, content=picture(), params={"seed": BUG})
    ask(app, "/v1/models/nothing", "GET")
    ask(app, "/made/up", "GET")
    asyncio.run(speak(app, client_that(body(b"a", more=True), waits_for=lambda: True)))
    assert seen.answers == [
        ("/v1/caption", 200),
        ("/v1/caption", 400),
        ("/v1/caption", 500),
        ("/v1/models/{model}", 404),
        ("unknown", 404),
        ("/v1/caption", 499),
    ]
    assert seen.codes == ["bad_image", "internal_error", "model_not_found", "not_found"]


def test_a_full_queue_is_no_reason_to_be_taken_out_of_service() -> None:
    """`/readyz` was 503 under overload, and a load balancer would have sent everybody to the next instance."""

    class Full(FakeCaptioner):
        async def describe(self, model: str = "") -> ModelInfo:
            raise ApiError(429, "overloaded", "too many requests wait; try again")

    assert ask(make_app(Full()), "/readyz", "GET").json() == {"status": "ready"}


def test_bodies_beyond_what_an_ingress_holds_are_refused() -> None:
    """A thousand requests of 15 MB each would have filled any memory."""
    app = make_app(max_held_bytes=2 * len(picture()))
    assert ask(app, content=picture()).status_code == 200
    assert ask(app, content=picture()).status_code == 200  # what was answered is held no more
    answer = ask(app, content=picture() * 3)
    assert (answer.status_code, error_of(answer)["code"]) == (429, "overloaded")
    assert answer.headers["retry-after"] == "1"


def test_a_closed_door_lets_what_is_inside_end_and_nothing_in() -> None:
    door = Door(max_bytes=100_000)

    class Closing(FakeCaptioner):
        async def caption(self, order: Order) -> Outcome:
            door.closed = True
            assert door.inside == 1
            return await super().caption(order)

    app = create_app(Closing(), config=ServeConfig(), door=door)
    assert ask(app, content=picture()).status_code == 200
    assert door.inside == 0
    answer = ask(app, content=picture())
    assert (answer.status_code, error_of(answer)["code"]) == (503, "stopping")
    assert answer.headers["retry-after"] == "1"
