"""A real deployment on a free port, called over HTTP as a client would."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import free_port
from prepared import make_picture
from small_run import make_run

from raycap.engine import CaptionEngine

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def engine(run: Path) -> CaptionEngine:
    return CaptionEngine.load(str(run), device="cpu")


@pytest.fixture(scope="module")
def client(ray_session: None, run: Path) -> Iterator[httpx.Client]:
    from ray import serve

    from raycap.serve import ServeConfig, build_app

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build_app(ServeConfig(checkpoint=str(run), batch_wait_s=0.05)), name="raycap")
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    serve.shutdown()


def test_three_ways_to_send_an_image(client: httpx.Client, engine: CaptionEngine) -> None:
    picture = make_picture(3)
    bodies: list[dict[str, Any]] = [
        {"content": picture},
        {"content": picture, "headers": {"content-type": "image/jpeg"}},
        {"files": {"image": ("photo.jpg", picture)}},
        {"json": {"image": base64.b64encode(picture).decode()}},
    ]
    expected = engine.caption(picture, n=2)
    for body in bodies:
        answer = client.post("/v1/caption", params={"n": 2}, **body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert [one["caption"] for one in found["alternatives"]] == [caption.text for caption in expected]
        assert [one["score"] for one in found["alternatives"]] == pytest.approx(
            [caption.score for caption in expected], abs=1e-4
        )
        assert found["caption"] == expected[0].text
        assert found["version"] == engine.manifest.digest[:12]
        assert found["request_id"] == answer.headers["x-request-id"]


def test_requests_at_once_share_batches_and_keep_their_settings(
    client: httpx.Client, engine: CaptionEngine
) -> None:
    def post(index: int) -> Any:
        settings = {"beams": 1 + index % 2, "max_tokens": 5}
        return client.post("/v1/caption", content=make_picture(index), params=settings).json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(16)))
    expected = [engine.caption(make_picture(i), beams=1 + i % 2, max_tokens=5).text for i in range(16)]
    assert [answer["caption"] for answer in answers] == expected
    assert len(set(expected)) > 4


def test_errors_leave_in_one_shape(client: httpx.Client) -> None:
    answers = [
        client.post("/v1/caption", content=b"no image"),
        client.post("/v1/caption", content=make_picture(0), params={"beams": 99}),
        client.get("/nothing"),
    ]
    assert [answer.status_code for answer in answers] == [400, 422, 404]
    for answer, code in zip(answers, ("bad_image", "invalid_parameter", "not_found"), strict=True):
        error = answer.json()["error"]
        assert (error["code"], error["request_id"]) == (code, answer.headers["x-request-id"])


def test_health_names_the_model(client: httpx.Client, engine: CaptionEngine) -> None:
    assert client.get("/healthz").json() == {
        "status": "ok",
        "model": "gpt2_cross",
        "version": engine.manifest.digest[:12],
    }
