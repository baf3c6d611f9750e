"""The clients that people have, unmodified, against the app behind a real socket; and the same protocols by hand."""

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from fastapi import FastAPI
from huggingface_hub import InferenceClient
from ports import free_port
from serve_fakes import BREAKS, BUG, SLOW, VERSION, FakeCaptioner, ask, make_app, picture

from raycap.serve.http.keys import key_digests

KEY = "a-key-of-the-tests-0123"
DATA_URL = "data:image/jpeg;base64," + base64.b64encode(picture()).decode()


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The app on a free port; gives its address."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def captioner() -> FakeCaptioner:
    return FakeCaptioner()


@pytest.fixture(scope="module")
def url(captioner: FakeCaptioner) -> Iterator[str]:
    digests = key_digests({"RAYCAP_API_KEYS": KEY})
    with running(make_app(captioner, key_digests=digests, models={"small": "runs/small"})) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def question(url: str = DATA_URL) -> list[Any]:
    """A user's message with an image."""
    content = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]


def test_openai_answers_in_one_piece(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default", messages=question(), n=2, max_tokens=20, extra_headers={"x-request-id": "abc"}
    )
    assert [choice.message.content for choice in answer.choices] == ["90 x3 #0", "90 x3 #1"]
    assert (answer.model, answer.system_fingerprint, answer.id) == ("default", VERSION, "chatcmpl-abc")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 10


@pytest.mark.parametrize("usage", [False, True])
def test_openai_answers_in_pieces(client: openai.OpenAI, usage: bool) -> None:
    chunks = list(
        client.chat.completions.create(
            model="small", messages=question(), stream=True, stream_options={"include_usage": usage}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "90 x4 #0"
    assert {chunk.model for chunk in chunks} == {"small"}
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [bool(chunk.usage) for chunk in chunks] == [False] * (len(chunks) - 1) + [usage]
    finished = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert finished[-1] == "stop"


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["default", "small"]
    assert client.models.retrieve("small").owned_by == "raycap"


def test_openai_understands_our_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o' is served here") as missing:
        client.chat.completions.create(model="gpt-4o", messages=question())
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="fetches no images by URL"):
        client.chat.completions.create(model="default", messages=question("https://example.org/a.jpg"))
    with pytest.raises(openai.UnprocessableEntityError, match="temperature"):
        client.chat.completions.create(model="default", messages=question(), temperature=9)
    with pytest.raises(openai.InternalServerError, match="its log says why"):
        client.chat.completions.create(model="default", messages=question(), seed=BUG)
    broken = client.chat.completions.create(
        model="default", messages=question(), stream=True, extra_body={"top_k": BREAKS}
    )
    with pytest.raises(openai.APIError, match="its log says why"):
        list(broken)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=str(client.base_url), api_key="wrong", max_retries=0).models.list()


def test_hugging_face_sends_the_bare_bytes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", False
    )  # it takes 127.0.0.1 for the internet
    client = InferenceClient(model=url, token=KEY)
    assert client.image_to_text(picture(120)).generated_text == "120 x4 #0"


def test_a_photo_is_posted_by_hand_too(url: str) -> None:
    """`curl --data-binary`: the page's and the README's way."""
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}) as client:
        found = client.post("/v1/caption", content=picture(50)).json()
        assert found["caption"] == "50 x4 #0"
        with client.stream("POST", "/v1/caption?stream=true", content=picture(50)) as answer:
            assert next(answer.iter_lines()) == "event: token"


def test_a_client_that_hangs_up_frees_its_place(url: str, captioner: FakeCaptioner) -> None:
    before = captioner.cancelled
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{url}/v1/caption?seed={SLOW}", content=picture(), headers={"x-api-key": KEY}, timeout=0.3
        )
    while captioner.cancelled == before:
        time.sleep(0.01)
    assert captioner.running == 0


def test_a_declared_length_over_the_limit_is_answered_before_the_body_came(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/caption HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: 20000000000\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode())
        assert b" 413 " in connection.recv(1000)


PNG = base64.b64encode(picture(kind="PNG")).decode()


@pytest.mark.parametrize(
    ("request_body", "texts", "settings"),
    [
        ({"content": picture()}, ["90 x4 #0"], {}),
        ({"content": picture(), "headers": {"content-type": "image/jpeg"}}, ["90 x4 #0"], {}),
        ({"json": {"inputs": PNG}}, ["90 x4 #0"], {}),
        ({"json": {"inputs": f"data:image/png;base64,{PNG}", "parameters": None}}, ["90 x4 #0"], {}),
        (
            {"json": {"inputs": PNG, "parameters": {"num_beams": 2, "max_new_tokens": 9, "top_k": None}}},
            ["90 x2 #0"],
            {"beams": 2, "max_tokens": 9},
        ),
        (
            {"json": {"inputs": PNG, "parameters": {"generation_parameters": {"do_sample": True, "n": 2}}}},
            ["90 x4 #0", "90 x4 #1"],
            {"sample": True, "n": 2},
        ),
    ],
)
def test_hugging_faces_task_by_hand(
    request_body: dict[str, Any], texts: list[str], settings: dict[str, Any]
) -> None:
    captioner = FakeCaptioner()
    answer = ask(make_app(captioner), "/", **request_body)
    assert answer.json() == [{"generated_text": text} for text in texts]
    assert captioner.orders[0].settings == settings


@pytest.mark.parametrize(
    ("path", "data", "status", "code"),
    [
        ("/", {"inputs": 7}, 400, "bad_json"),
        ("/", {"inputs": ""}, 400, "no_image"),
        ("/", {"inputs": PNG, "parameters": [1]}, 400, "bad_json"),
        ("/", {"inputs": PNG, "parameters": {"num_beams": 99}}, 422, "invalid_parameter"),
        (
            "/",
            {"inputs": PNG, "parameters": {"generate_kwargs": {"penalty_alpha": 1}}},
            422,
            "invalid_parameter",
        ),
        ("/", {"inputs": PNG, "parameters": {"model": "big"}}, 404, "model_not_found"),
        ("/", {"inputs": "HTTPS://example.org/a.jpg"}, 400, "url_not_allowed"),
        ("/v1/chat/completions", {}, 400, "bad_request"),
        ("/v1/chat/completions", {"messages": question("data:;base64,YQ==")}, 400, "bad_image"),
        ("/v1/chat/completions", {"messages": question(), "tools": [1]}, 422, "unsupported_parameter"),
        ("/v1/chat/completions", {"messages": question(), "model": "m" * 9000}, 404, "model_not_found"),
    ],
)
def test_errors_of_the_other_protocols(path: str, data: dict[str, Any], status: int, code: str) -> None:
    answer = ask(make_app(), path, json=data)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["request_id"]) == (status, code, "abc")


def test_deeply_nested_chats_are_refused() -> None:
    """Brackets that JSON still took, and that a message about them could not repeat."""
    for depth in (100, 400, 700, 900, 950, 990):
        content = b'{"messages": [], "beams": ' + b"[" * depth + b"]" * depth + b"}"
        answer = ask(make_app(), "/v1/chat/completions", content=content)
        assert answer.status_code in {400, 422}


def test_a_chat_of_halves_of_surrogate_pairs_is_refused() -> None:
    data = {"messages": [{"role": "user", "content": "\ud800"}], "model": "\ud800", "stop": "\ud800"}
    assert ask(make_app(), "/v1/chat/completions", content=json.dumps(data).encode()).status_code in {
        400,
        404,
        422,
    }
