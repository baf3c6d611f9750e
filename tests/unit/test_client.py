"""The client against servers that fail in scripted ways, and against the real app over a fake captioner."""

import asyncio
import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from ports import free_port
from serve_fakes import SLOW, FakeCaptioner, make_app, picture

import raycap
from raycap.client import Alternative, Answer, ClientError, ServedModel
from raycap.vision import BadImageError

FOUND = {
    "caption": "a dog",
    "score": -0.5,
    "alternatives": [{"caption": "a dog", "score": -0.5}, {"caption": "a cat", "score": -0.7}],
    "model": "lora",
    "version": "01ab",
    "request_id": "abc",
    "timings": {"total_ms": 12.5},
    "retries": 2,
}
ANSWER = Answer(
    "a dog",
    -0.5,
    (Alternative("a dog", -0.5), Alternative("a cat", -0.7)),
    "lora",
    "01ab",
    "abc",
    {"total_ms": 12.5},
    server_retries=2,
)
Step = Callable[[Callable[..., Awaitable[None]]], Awaitable[None]]


def failure(code: str = "overloaded", message: str = "too many requests wait") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "request_id": "xyz"}}


def answers(content: Any, status: int = 200, **headers: str) -> Step:
    """Answers with JSON, or with text or bytes as they are."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]

    async def step(send: Callable[..., Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    return step


def breaks(content: bytes = b"", *, started: bool = True) -> Step:
    """Cuts the connection, after some of the answer."""

    async def step(send: Callable[..., Awaitable[None]]) -> None:
        length = [(b"content-length", b"99999")]
        await send({"type": "http.response.start", "status": 200, "headers": length if started else []})
        await send({"type": "http.response.body", "body": content, "more_body": True})
        raise RuntimeError("as scripted")

    return step


def lines(*found: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in found)


def line(index: int, text: str = "") -> dict[str, Any]:
    return {"index": index, "id": "", **FOUND, "caption": text or f"image {index}"}


def events(*found: tuple[str, dict[str, Any]]) -> bytes:
    return b"".join(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode() for name, data in found)


class Script:
    """An app that takes one step for each request, the last one again and again, and keeps what was asked."""

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps)
        self.asked: list[SimpleNamespace] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.asked.append(
            SimpleNamespace(
                method=scope["method"], path=scope["path"], query=query, body=body, headers=headers
            )
        )
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        await step(send)


class Served:
    """Apps served in threads, until the test ends."""

    def __init__(self) -> None:
        self.running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def __call__(self, app: Any) -> str:
        """Serve an app; gives its address."""
        port = free_port()
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", lifespan="off", ws="none"
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        self.running.append((server, thread))
        while not server.started:
            time.sleep(0.005)
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        for server, thread in self.running:
            server.force_exit = server.should_exit = True
            thread.join(10)


@pytest.fixture
def served() -> Iterator[Served]:
    running = Served()
    yield running
    running.stop()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited between tries, and were not."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waited.append))
    return waited


Scripted = Callable[..., tuple[Any, Script]]


@pytest.fixture
def scripted(served: Served) -> Iterator[Scripted]:
    """A client of a script, by the script's steps."""
    clients: list[Any] = []

    def make(*steps: Step, **options: Any) -> tuple[Any, Script]:
        script = Script(*steps)
        clients.append(raycap.Client(served(script), **{"tries": 4, **options}))
        return clients[-1], script

    yield make
    for client in clients:
        client.close()


# ---------------------------------------------------------------------------------------------- one image


def test_an_answer_is_a_value(scripted: Scripted) -> None:
    client, script = scripted(answers(FOUND), api_key="secret")
    assert client.caption(b"image", beams=5, sample=True, model="lora") == ANSWER
    (asked,) = script.asked
    assert (asked.method, asked.path, asked.query) == (
        "POST",
        "/v1/caption",
        "beams=5&sample=true&model=lora",
    )
    assert (asked.body, asked.headers["authorization"]) == (b"image", "Bearer secret")
    with pytest.raises(dataclasses.FrozenInstanceError):
        client.caption(b"image").text = "a cat"


def test_images_come_in_every_form(scripted: Scripted, tmp_path: Path) -> None:
    data = picture(7, kind="PNG")
    (tmp_path / "a.png").write_bytes(data)
    opened = Image.open(io.BytesIO(data))
    client, script = scripted(answers(FOUND))
    for image in (data, tmp_path / "a.png", str(tmp_path / "a.png"), opened, np.asarray(opened)):
        client.caption(image)
    for asked in script.asked:
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(asked.body))), np.asarray(opened))
    with pytest.raises(BadImageError, match="and this is int"):
        client.caption(7)
    with pytest.raises(ValueError, match="captions takes several images, and got one"):
        next(client.captions("a.png"))
    with pytest.raises(ValueError, match="not ASCII"):
        raycap.Client("http://localhost", api_key="schlüssel")
    with pytest.raises(FileNotFoundError):
        client.caption(tmp_path / "b.png")
    assert len(script.asked) == 5


def test_what_may_pass_is_tried_again(scripted: Scripted, waits: list[float]) -> None:
    steps = [answers(failure(), status) for status in (429, 502, 503, 504)]
    client, script = scripted(
        *steps, breaks(b'{"cap'), breaks(started=False), answers(b"<html>", 502), answers(FOUND), tries=8
    )
    assert client.caption(b"image") == dataclasses.replace(ANSWER, retries=7)
    assert [asked.body for asked in script.asked] == [b"image"] * 8
    assert len(waits) == 7
    assert all(0 < wait <= 8 for wait in waits)
    assert sum(waits) > 12  # as long as a server takes to start again
    assert waits[5] > waits[0]


def test_the_server_says_how_long_to_wait(scripted: Scripted, waits: list[float]) -> None:
    client, _ = scripted(
        answers(failure(), 429, retry_after="7"), answers(failure(), 503, retry_after="soon"), answers(FOUND)
    )
    assert client.caption(b"image").retries == 2
    assert waits[0] == 7
    assert waits[1] < 1


def test_no_wait_goes_beyond_the_deadline(scripted: Scripted, waits: list[float]) -> None:
    client, script = scripted(answers(failure(), 429, retry_after="61"), timeout_s=60)
    with pytest.raises(ClientError, match="too many requests wait") as caught:
        client.caption(b"image")
    assert (caught.value.code, caught.value.status, caught.value.request_id) == ("overloaded", 429, "xyz")
    assert (len(script.asked), waits) == (1, [])


def test_tries_end(scripted: Scripted, waits: list[float]) -> None:
    client, script = scripted(answers(failure(), 503), tries=3)
    with pytest.raises(ClientError) as caught:
        client.caption(b"image")
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)
    assert (len(script.asked), len(waits)) == (3, 2)


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 422, 500])
def test_what_stays_is_not_tried_again(status: int, scripted: Scripted, waits: list[float]) -> None:
    client, script = scripted(answers(failure("bad_image", "not an image"), status, retry_after="1"))
    with pytest.raises(ClientError, match=r"^not an image$") as caught:
        client.caption(b"image")
    error = caught.value
    assert (error.code, error.status, error.request_id) == ("bad_image", status, "xyz")
    assert (len(script.asked), waits) == (1, [])


def test_nobody_there(waits: list[float]) -> None:
    with (
        raycap.Client(f"http://127.0.0.1:{free_port()}", tries=3) as client,
        pytest.raises(ClientError, match=r"^no answer from 127\.0\.0\.1: ") as caught,
    ):
        client.caption(b"image")
    assert (caught.value.code, caught.value.status, len(waits)) == ("unreachable", 0, 2)


@pytest.mark.parametrize("drips", [True, False])
def test_a_slow_server_is_given_up_at_the_deadline(drips: bool, scripted: Scripted) -> None:
    """A byte now and then keeps a timeout for each read from running out."""

    async def step(send: Callable[..., Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await asyncio.sleep(0.02)
            await send({"type": "http.response.body", "body": b" " * drips, "more_body": True})

    client, script = scripted(step, timeout_s=0.3)
    with pytest.raises(ClientError, match=r"no answer within 0\.3 s, tries included") as caught:
        client.caption(b"image")
    assert (caught.value.code, len(script.asked)) == ("deadline", 1)


@pytest.mark.parametrize("content", [b"<html>", b"[]", {"caption": "a dog"}, {**FOUND, "alternatives": [1]}])
def test_what_is_no_raycap_server_is_said(content: Any, scripted: Scripted) -> None:
    client, _ = scripted(answers(content))
    with pytest.raises(ClientError, match="does not speak raycap's protocol; check the URL"):
        client.caption(b"image")


def test_a_refusal_without_a_sentence_has_its_status(scripted: Scripted) -> None:
    client, _ = scripted(answers(b"no", 403))
    with pytest.raises(ClientError, match="the server answered with status 403") as caught:
        client.caption(b"image")
    assert caught.value.code == "status_403"


@pytest.mark.parametrize(
    "arguments", [{"url": "localhost:8000"}, {"url": "http://[::1"}, {"timeout_s": 0}, {"tries": 0}]
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"url is|must be above 0"):
        raycap.Client(**{"url": "http://localhost", **arguments})


# -------------------------------------------------------------------------------------------- many images


def sent_images(asked: SimpleNamespace) -> list[bytes]:
    boundary = b"--" + asked.headers["content-type"].partition("boundary=")[2].encode()
    return [part.partition(b"\r\n\r\n")[2][:-2] for part in asked.body.split(boundary)[1:-1]]


def test_captions_come_as_they_are_ready(scripted: Scripted) -> None:
    client, script = scripted(answers(lines(line(2), line(0), line(1))))
    found = list(client.captions([b"a", b"b", b"c"], beams=5))
    assert [(one.index, one.text) for one in found] == [(2, "image 2"), (0, "image 0"), (1, "image 1")]
    (asked,) = script.asked
    assert (asked.path, asked.query) == ("/v1/captions", "beams=5")
    assert sent_images(asked) == [b"a", b"b", b"c"]


def test_images_are_read_and_sent_in_batches(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def images(size: int) -> Iterator[bytes]:
        for index in range(40):
            read.append(index)
            yield bytes([index]) * size

    client, script = scripted(answers(lines(*map(line, range(32)))), answers(lines(*map(line, range(8)))))
    found = client.captions(images(1))
    assert next(found).index == 0
    assert len(read) == 33
    assert [one.index for one in found] == list(range(1, 40))
    assert [len(sent_images(asked)) for asked in script.asked] == [32, 8]
    monkeypatch.setattr("raycap.client.client.BATCH_BYTES", 1000)
    client, script = scripted(*[answers(lines(*map(line, range(8))))] * 5)
    assert [one.index for one in client.captions(images(125))] == list(range(40))
    assert list(client.captions([])) == []


def test_one_refused_image_is_no_others_problem(scripted: Scripted) -> None:
    client, script = scripted(answers(lines({"index": 1, **failure("bad_image", "not an image")}, line(0))))
    first, second = client.captions([b"a", b"b"])
    assert (first.index, first.problem, first.message, first.request_id) == (
        1,
        "bad_image",
        "not an image",
        "xyz",
    )
    assert (second.index, second.problem) == (0, "")
    assert len(script.asked) == 1


def test_only_what_is_missing_is_sent_again(scripted: Scripted, waits: list[float]) -> None:
    client, script = scripted(
        answers(failure(), 503),
        answers(lines(line(3), {"index": 1, **failure()}, line(0), {"index": 2, **failure("timeout")})),
        breaks(lines(line(1, "image 2"))),
        answers(lines(line(0, "image 1"))),
    )
    found = list(client.captions([b"a", b"b", b"c", b"d"]))
    assert [(one.index, one.text, one.retries) for one in found] == [
        (3, "image 3", 1),
        (0, "image 0", 1),
        (2, "image 2", 2),
        (1, "image 1", 3),
    ]
    assert [sent_images(asked) for asked in script.asked] == [
        [b"a", b"b", b"c", b"d"],
        [b"a", b"b", b"c", b"d"],
        [b"b", b"c"],
        [b"b"],
    ]
    assert len(waits) == 3


def test_images_that_a_server_never_gets_to_have_its_reason(scripted: Scripted, waits: list[float]) -> None:
    late = answers(lines({"index": 0, **failure()}))
    client, _ = scripted(answers(lines(line(0), {"index": 1, **failure()})), late, tries=3)
    found = list(client.captions([b"a", b"b"]))
    assert [(one.index, one.problem) for one in found] == [(0, ""), (1, "overloaded")]
    assert len(waits) == 2


def test_a_batch_that_is_refused_or_broken_off_raises(scripted: Scripted, waits: list[float]) -> None:
    client, _ = scripted(answers(failure("unauthorized", "send an API key"), 401))
    with pytest.raises(ClientError, match="send an API key"):
        list(client.captions([b"a"]))
    client, _ = scripted(answers(lines(line(0))), answers(b""))
    found = client.captions([b"a", b"b"])
    assert next(found).index == 0
    with pytest.raises(ClientError, match="the server stopped with 1 images to go") as caught:
        next(found)
    assert caught.value.code == "broken_off"
    for bad in (line(1), line(-1), {"index": "0"}):
        client, _ = scripted(answers(lines(bad)))
        with pytest.raises(ClientError, match="does not speak raycap's protocol"):
            list(client.captions([b"a"]))


def test_time_that_the_caller_takes_does_not_count(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("raycap.client.calls.time", SimpleNamespace(monotonic=lambda: now))
    client, _ = scripted(answers(lines(line(0), line(1))), timeout_s=10)
    found = client.captions([b"a", b"b"])
    assert next(found).index == 0
    now = 100.0
    assert next(found).index == 1


# ---------------------------------------------------------------------------------------------- streaming

TOKENS = [("token", {"text": "a "}), ("token", {"text": "dog\n"})]


def test_a_caption_is_streamed(scripted: Scripted, waits: list[float]) -> None:
    whole = events(*TOKENS, ("caption", FOUND))
    client, script = scripted(
        answers(failure(), 503), breaks(), answers(events(("error", failure()))), answers(whole)
    )
    assert list(client.stream(b"image", beams=1)) == ["a ", "dog\n"]
    assert {asked.query for asked in script.asked} == {"beams=1&stream=true"}
    assert len(waits) == 3


def test_a_stream_is_not_begun_again(scripted: Scripted, waits: list[float]) -> None:
    """Pieces that the caller has would come twice."""
    for step in (
        breaks(events(TOKENS[0])),
        answers(events(TOKENS[0])),
        answers(events(TOKENS[0], ("error", failure()))),
    ):
        client, script = scripted(step)
        found = client.stream(b"image")
        assert next(found) == "a "
        with pytest.raises(ClientError, match="the caption broke off") as caught:
            next(found)
        assert (caught.value.code, len(script.asked), waits) == ("broken_off", 1, [])
    client, script = scripted(answers(events(("error", failure("bad_image", "not an image")))))
    with pytest.raises(ClientError, match="not an image"):
        list(client.stream(b"image"))
    assert len(script.asked) == 1


def test_a_stream_may_be_left(scripted: Scripted) -> None:
    async def endless(send: Callable[..., Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": events(TOKENS[0]), "more_body": True})
            await asyncio.sleep(0.001)

    client, script = scripted(endless)
    found = client.stream(b"image")
    assert next(found) == "a "
    found.close()
    assert len(script.asked) == 1


# ------------------------------------------------------------------------------------------- the real app


def test_the_real_app_is_understood(served: Served) -> None:
    captioner = FakeCaptioner()
    digest = hashlib.sha256(b"0123456789abcdef").hexdigest()
    url = served(make_app(captioner, key_digests=[digest], max_body_bytes=10_000_000))
    with raycap.Client(url, api_key="0123456789abcdef") as client:
        found = client.caption(picture(90), beams=5, n=2)
        assert (found.text, found.score) == ("90 x5 #0", 0.0)
        assert [one.text for one in found.alternatives] == ["90 x5 #0", "90 x5 #1"]
        assert (found.model, found.version, found.retries, found.server_retries) == (
            "default",
            "0123456789ab",
            0,
            0,
        )
        assert found.request_id
        assert set(found.timings) == {"decode_ms", "queue_ms", "model_ms", "total_ms"}
        assert "".join(client.stream(picture(90))) == "90 x4 #0"
        many = [picture(index) for index in range(40)] + [b"no image"]
        answers = {one.index: one for one in client.captions(many)}
        assert [answers[index].text for index in range(40)] == [f"{index} x4 #0" for index in range(40)]
        assert answers[40].problem == "bad_image"
        assert client.models() == [ServedModel("default", "toy", "0123456789ab", 1_790_000_000)]
        with pytest.raises(ClientError, match="beams") as caught:
            client.caption(picture(), beams=99)
        assert (caught.value.status, caught.value.code) == (422, "invalid_parameter")
    with raycap.Client(url) as client, pytest.raises(ClientError, match="send an API key"):
        client.models()


def test_a_client_that_leaves_frees_its_place(served: Served) -> None:
    captioner = FakeCaptioner()
    with raycap.Client(served(make_app(captioner)), timeout_s=0.3) as client:
        with pytest.raises(ClientError, match="no answer within"):
            client.caption(picture(), seed=SLOW)
        while not captioner.cancelled:
            time.sleep(0.005)


def test_the_client_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys, raycap; raycap.Client('http://localhost'); "
        "print(sorted({'torch', 'ray', 'transformers', 'pyarrow', 'fastapi'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = raycap.Server
