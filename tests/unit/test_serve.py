"""The HTTP layer and the captioner without Serve: bodies, settings, limits, one shape of error, grouping."""

import asyncio
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request
from PIL import Image
from toy_family import ENCODER, make_base

from raycap.checkpoint import Manifest
from raycap.decoding import DecodingConfig
from raycap.schema import Caption
from raycap.serve import errors
from raycap.serve.captioner import Captioner, Outcome
from raycap.serve.config import ServeConfig
from raycap.serve.protocol import CaptionResponse
from raycap.serve.service import CaptionService
from raycap.vision import BadImageError

TIMINGS = {"decode_ms": 1.0, "wait_ms": 2.0, "model_ms": 3.0}


def jpeg(grey: int = 90, size: tuple[int, int] = (24, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(buffer, "JPEG")
    return buffer.getvalue()


class FakeEngine:
    """Says the mean grey level and the number of beams, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, DecodingConfig]] = []

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        return np.full((3, 4, 4), round(float(image.mean())), dtype=np.uint8)

    def caption_pixels(self, pixels: np.ndarray, decoding: DecodingConfig) -> list[list[Caption]]:
        self.calls.append((len(pixels), decoding))
        if decoding.max_tokens > 64:
            raise ValueError(f"max_tokens={decoding.max_tokens} is above the model's 64")
        return [
            [
                Caption(f"{round(float(image.mean()))} x{decoding.beams} #{i}", -float(i))
                for i in range(decoding.n)
            ]
            for image in pixels
        ]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    config = make_base(tmp_path_factory.mktemp("base"))
    return Manifest(
        family="toy",
        model=config.model_dump(),
        encoder=ENCODER,
        decoding=DecodingConfig(beams=4),
        metrics={},
        step=1,
        epoch=0,
        base=[],
        versions={},
        commit="",
        created="",
        files={},
        digest="0123456789abcdef",
    )


class LocalCaptioner:
    """What a replica does, in this process; two seeds stand for a bug and for a slow model."""

    def __init__(self) -> None:
        self.captioner = Captioner(FakeEngine(), max_pixels=10_000)

    async def caption(self, image: bytes, decoding: dict[str, Any]) -> Outcome:
        if decoding["seed"] == 13:
            raise RuntimeError("secret /path/of/the/server")
        if decoding["seed"] == 14:
            await asyncio.sleep(5)
        try:
            return self.captioner.infer([self.captioner.read(image, decoding)])[0]
        except BadImageError as error:
            return Outcome(bad_image=str(error))

    async def ping(self) -> None:
        """Always ready."""


Post = Callable[..., httpx.Response]


@pytest.fixture
def post(manifest: Manifest) -> Post:
    """POST to /v1/caption of an app that calls a real Captioner with a fake engine."""
    config = ServeConfig(max_body_bytes=20_000, timeout_s=0.2)
    return poster(CaptionService(LocalCaptioner(), manifest=manifest, config=config))


def poster(service: CaptionService) -> Post:
    app = FastAPI()
    errors.install(app)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return await service.health()

    @app.post("/v1/caption")
    async def caption(request: Request) -> CaptionResponse:
        return await service.answer(request)

    async def send(path: str = "/v1/caption", method: str = "POST", **request: Any) -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            headers = {"x-request-id": "abc", **request.pop("headers", {})}
            return await client.request(method, path, headers=headers, **request)

    return lambda *args, **kwargs: asyncio.run(send(*args, **kwargs))


def encoded(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.mark.parametrize(
    "body",
    [
        {"content": jpeg()},
        {"content": jpeg(), "headers": {"content-type": "image/jpeg"}},
        {"content": jpeg(), "headers": {"content-type": "application/x-www-form-urlencoded"}},  # curl's own
        {"files": {"image": ("a.jpg", jpeg())}},
        {"files": {"file": ("a.jpg", jpeg(), "image/jpeg")}},
        {"json": {"image": encoded(jpeg())}},
        {"json": {"image": "data:image/jpeg;base64," + encoded(jpeg())}},
    ],
    ids=["raw", "raw typed", "raw curl", "multipart", "multipart typed", "json", "json data url"],
)
def test_three_ways_to_send_an_image(post: Post, body: dict[str, Any]) -> None:
    answer = post(**body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["caption"] == "90 x4 #0"  # the checkpoint's own beams
    assert found["alternatives"] == [{"caption": "90 x4 #0", "score": 0.0}]
    assert (found["model"], found["version"], found["request_id"]) == ("toy", "0123456789ab", "abc")
    assert set(found["timings"]) == {"decode_ms", "wait_ms", "model_ms", "total_ms"}
    assert found["timings"]["total_ms"] >= found["timings"]["model_ms"]


@pytest.mark.parametrize(
    "body",
    [
        {"content": jpeg(), "params": {"beams": 5, "n": 2}},
        {"files": {"image": jpeg()}, "data": {"beams": "5", "n": "2"}},
        {"json": {"image": encoded(jpeg()), "beams": 5, "n": 2}},
        {"json": {"image": encoded(jpeg()), "beams": 5}, "params": {"beams": 9, "n": 2}},  # the body wins
    ],
    ids=["query", "form", "json", "both"],
)
def test_settings_come_with_the_query_or_the_body(post: Post, body: dict[str, Any]) -> None:
    found = post(**body).json()
    assert [one["caption"] for one in found["alternatives"]] == ["90 x5 #0", "90 x5 #1"]
    assert found["caption"] == "90 x5 #0"


@pytest.mark.parametrize(
    ("body", "status", "code", "message"),
    [
        ({"content": b"no image"}, 400, "bad_image", "not an image"),
        ({"content": jpeg()[:150]}, 400, "bad_image", "damaged"),
        ({"content": jpeg(size=(200, 100))}, 400, "bad_image", "the limit is 10,000 pixels"),
        ({"content": b""}, 400, "no_image", "holds no image"),
        ({"data": {"beams": "3"}, "files": {}}, 400, "bad_image", "not an image"),
        ({"json": {"beams": 3}}, 400, "no_image", "holds no image"),
        ({"json": {"image": "%%%"}}, 400, "bad_base64", "not valid base64"),
        ({"json": {"image": 7}}, 400, "bad_json", "string 'image'"),
        ({"json": [1]}, 400, "bad_json", "JSON object"),
        (
            {"content": b"[" * 19_000, "headers": {"content-type": "application/json"}},
            400,
            "bad_json",
            "not valid JSON",
        ),
        (
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "bad_json",
            "not valid JSON",
        ),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_form", "boundary"),
        ({"content": b"x" * 20_001}, 413, "body_too_large", "20,000 bytes"),
        ({"content": jpeg(), "params": {"beams": 99}}, 422, "invalid_parameter", "beams"),
        ({"content": jpeg(), "params": {"beams": "many"}}, 422, "invalid_parameter", "beams"),
        ({"content": jpeg(), "params": {"temperature": "nan"}}, 422, "invalid_parameter", "temperature"),
        ({"content": jpeg(), "params": {"beam": 3}}, 422, "invalid_parameter", "beam"),
        ({"content": jpeg(), "params": {"n": 9}}, 422, "invalid_parameter", "n=9 captions need beams=9"),
        (
            {"content": jpeg(), "params": {"max_tokens": 90}},
            422,
            "invalid_parameter",
            "max_tokens=90 is above the model's 64",
        ),
        ({"content": jpeg(), "params": {"seed": 13}}, 500, "internal_error", "its log says why"),
        ({"content": jpeg(), "params": {"seed": 14}}, 504, "timeout", "within 0.2 s"),
        ({"path": "/v2"}, 404, "not_found", "Not Found"),
        ({"method": "GET"}, 405, "method_not_allowed", "Method Not Allowed"),
    ],
)
def test_every_error_has_one_shape(
    post: Post, body: dict[str, Any], status: int, code: str, message: str
) -> None:
    answer = post(**body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert (error["code"], error["request_id"]) == (code, "abc")
    assert message in error["message"]
    assert "Traceback" not in answer.text
    assert "/path/of" not in answer.text


def test_health_waits_for_a_captioner(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    captioner = LocalCaptioner()
    send = poster(CaptionService(captioner, manifest=manifest, config=ServeConfig()))
    answer = send("/healthz", "GET")
    assert answer.json() == {"status": "ok", "model": "toy", "version": "0123456789ab"}
    monkeypatch.setattr("raycap.serve.service.PING_TIMEOUT_S", 0.05)
    monkeypatch.setattr(captioner, "ping", lambda: asyncio.sleep(5))
    answer = send("/healthz", "GET")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert answer.headers["retry-after"] == "5"


def test_a_body_without_a_length_is_given_up_at_the_limit(post: Post) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 5000
            yield b"x" * 5000

    assert post(content=endless()).status_code == 413
    assert sent <= 30_000


def test_requests_with_different_settings_are_grouped_within_a_batch() -> None:
    engine = FakeEngine()
    captioner = Captioner(engine, max_pixels=10_000)
    three, five = DecodingConfig(beams=3).model_dump(), DecodingConfig(beams=5, n=2).model_dump()
    jobs = [captioner.read(jpeg(grey), settings) for grey, settings in [(10, three), (20, five), (30, three)]]
    found = captioner.infer(jobs)
    assert [outcome.captions[0].text for outcome in found] == ["10 x3 #0", "20 x5 #0", "30 x3 #0"]
    assert [len(outcome.captions) for outcome in found] == [1, 2, 1]
    assert [(size, decoding.beams) for size, decoding in engine.calls] == [(2, 3), (1, 5)]
    assert all(outcome.timings["wait_ms"] >= 0 for outcome in found)


def test_settings_beyond_the_model_fail_only_their_own_request() -> None:
    """One request for more tokens than the model has positions failed everybody's in its batch, with 500."""
    captioner = Captioner(FakeEngine(), max_pixels=10_000)
    usual, long = DecodingConfig().model_dump(), DecodingConfig(max_tokens=90).model_dump()
    jobs = [captioner.read(jpeg(grey), settings) for grey, settings in [(10, usual), (20, long), (30, usual)]]
    first, second, third = captioner.infer(jobs)
    assert [first.captions[0].text, third.captions[0].text] == ["10 x3 #0", "30 x3 #0"]
    assert second == Outcome(bad_settings="max_tokens=90 is above the model's 64")


def test_a_missing_checkpoint_is_said_before_anything_starts(tmp_path: Path) -> None:
    from raycap.checkpoint import CheckpointError
    from raycap.serve import build_app

    with pytest.raises(CheckpointError, match="no checkpoint at"):
        build_app(ServeConfig(checkpoint=str(tmp_path / "none")))
