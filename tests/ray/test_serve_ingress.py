"""The ingress in Serve, over a captioner of the tests' own: replicas that die, full queues, clients that hang up."""

import base64
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from ports import free_port
from serve_fakes import DIES, DIES_LATE, TAKES_TIME, VERSION, WAITS, FakeReplica, picture

from raycap.serve.config import ServeConfig
from raycap.serve.http.ingress import Ingress
from raycap.serve.http.keys import key_digests

pytestmark = [pytest.mark.ray, pytest.mark.slow]
KEY = "a-key-of-the-tests-0123"
TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replica")


@pytest.fixture(scope="module")
def client(ray_session: None, folder: Path) -> Iterator[httpx.Client]:
    from ray import serve

    port = free_port()
    options = {
        "num_cpus": 0,
        "runtime_env": {"env_vars": {"PYTHONPATH": f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"}},
    }
    deployment = serve.deployment(
        name="Captioner", max_ongoing_requests=4, max_queued_requests=4, ray_actor_options=options
    )
    captioner = deployment(FakeReplica).bind(str(folder))
    config = ServeConfig(models={"small": "unused"}).model_dump(mode="json")
    ingress = Ingress.options(ray_actor_options={"num_cpus": 0})
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(ingress.bind(captioner, config, key_digests({"RAYCAP_API_KEYS": KEY})), name="ingress")
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=headers) as client:
        yield client
    serve.shutdown()


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline, f"{file.name} never came"
        time.sleep(0.02)


def test_an_answer_has_one_request_id(client: httpx.Client) -> None:
    """Serve's proxy sets the header; set by the app too it came twice."""
    answer = client.post("/v1/caption", content=picture(30), headers={"x-request-id": "abc"})
    assert answer.status_code == 200, answer.text
    assert (answer.json()["caption"], answer.json()["version"]) == ("shade 30", VERSION)
    assert answer.headers.get_list("x-request-id") == ["abc"] == [answer.json()["request_id"]]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_keys_guard_the_deployment(client: httpx.Client) -> None:
    without = {"authorization": ""}
    assert client.get("/readyz", headers=without).json() == {"status": "ready"}
    refused = client.post("/v1/caption", content=picture(), headers=without)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthorized")


def test_the_openai_client_over_serve(client: httpx.Client) -> None:
    url = "data:image/jpeg;base64," + base64.b64encode(picture(40)).decode()
    messages: list[Any] = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=KEY, max_retries=0) as service:
        stream = service.chat.completions.create(model="small", messages=messages, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "shade 40"
        assert [model.id for model in service.models.list()] == ["default", "small"]


def test_many_images_in_one_request(client: httpx.Client) -> None:
    files = [("images", (f"{grey}.jpg", picture(grey))) for grey in (10, 20, 30)]
    lines = [
        httpx.Response(200, text=line).json()
        for line in client.post("/v1/captions", files=files).iter_lines()
    ]
    assert {line["id"]: line["caption"] for line in lines} == {
        "10.jpg": "shade 10",
        "20.jpg": "shade 20",
        "30.jpg": "shade 30",
    }


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_survives_the_death_of_its_replica(client: httpx.Client, stream: bool) -> None:
    answer = client.post("/v1/caption", content=picture(50), params={"seed": DIES, "stream": stream})
    assert answer.status_code == 200, answer.text
    assert "shade 50" in answer.text
    assert "".join(answer.text.split()).endswith('"retries":1}')


def test_a_stream_that_breaks_off_says_so(client: httpx.Client) -> None:
    answer = client.post("/v1/caption", content=picture(50), params={"seed": DIES_LATE, "stream": True})
    first, last = answer.text.strip().split("\n\n")
    assert first.startswith("event: token")
    assert last.startswith("event: error")
    assert "unavailable" in last


@pytest.mark.parametrize(("query", "prefix"), [("", ""), ("&stream=true", "stream-")])
def test_hanging_up_reaches_the_replica(client: httpx.Client, folder: Path, query: str, prefix: str) -> None:
    assert client.post("/v1/caption", content=picture()).status_code == 200  # one that died before is back
    path, patience = f"/v1/caption?seed={WAITS}{query}", httpx.Timeout(60, read=3)
    with pytest.raises(httpx.ReadTimeout):
        client.post(path, content=picture(), timeout=patience)
    wait_for(folder / f"{prefix}waiting")
    wait_for(folder / f"{prefix}cancelled")


def test_an_overload_is_429_and_the_others_are_answered(client: httpx.Client) -> None:
    with ThreadPoolExecutor(24) as pool:
        post = lambda _: client.post("/v1/caption", content=picture(), params={"seed": TAKES_TIME})  # noqa: E731
        answers = list(pool.map(post, range(24)))
    assert {answer.status_code for answer in answers} == {200, 429}, [answer.text for answer in answers]
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert (refused.headers["retry-after"], refused.json()["error"]["code"]) == ("1", "overloaded")
