"""A real deployment on a free port, called over HTTP as a client would, and by every example of the README."""

import base64
import json
import re
import subprocess
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from PIL import Image
from ports import free_port
from prepared import make_picture
from small_run import make_run

import raycap
from raycap.engine import CaptionEngine

pytestmark = pytest.mark.ray
ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "localhost:8000"  # in the README


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def second(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run over the same encoder and language model."""
    return make_run(tmp_path_factory.mktemp("second"), encoder=run.parent / "encoder", seed=2)


@pytest.fixture(scope="module")
def engine(run: Path) -> CaptionEngine:
    return CaptionEngine.load(str(run), device="cpu")


@pytest.fixture(scope="module")
def client(ray_session: str, run: Path, second: Path) -> Iterator[httpx.Client]:
    from ray import serve

    from raycap.serve import ServeConfig, build_app

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    settings = ServeConfig(
        checkpoint=str(run), models={"second": str(second), "third": str(run)}, max_loaded_models=1
    )
    serve.run(build_app(settings), name="raycap")
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


def test_health_readiness_and_version(client: httpx.Client, engine: CaptionEngine) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert engine.manifest.digest[:12] in client.get("/version").text


def test_further_models_are_loaded_on_demand_and_the_oldest_dropped(
    client: httpx.Client, engine: CaptionEngine, second: Path
) -> None:
    """`max_loaded_models` is 1: asking for two in turn loads each anew, and answers stay right."""
    other = CaptionEngine.load(str(second), device="cpu")
    picture = make_picture(4)
    expected = {"default": engine, "second": other, "third": engine}
    assert other.caption(picture).text != engine.caption(picture).text
    for name in ("second", "third", "default", "second"):
        found = client.post("/v1/caption", content=picture, params={"model": name}).json()
        assert (found["model"], found["caption"]) == (name, expected[name].caption(picture).text)
        assert found["version"] == expected[name].manifest.digest[:12]
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["default", "second", "third"]


def test_a_stream_through_serve(client: httpx.Client, engine: CaptionEngine) -> None:
    picture, settings = make_picture(6), {"beams": 1, "max_tokens": 12}
    with client.stream("POST", "/v1/caption", content=picture, params={**settings, "stream": True}) as answer:
        lines = list(answer.iter_lines())
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(piece["text"] for piece in data[:-1]) == data[-1]["caption"]
    assert data[-1]["caption"] == engine.caption(picture, **settings).text
    assert len(data) > 3


def test_raycaps_own_client(client: httpx.Client, engine: CaptionEngine, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(make_picture(8))
    with raycap.Client(str(client.base_url)) as ours:
        assert ours.caption(photo, beams=3).text == engine.caption(photo, beams=3).text
        answers = {answer.index: answer.text for answer in ours.captions([make_picture(n) for n in range(5)])}
        assert answers == {n: engine.caption(make_picture(n)).text for n in range(5)}


def test_metrics_are_exported_to_prometheus(client: httpx.Client, ray_session: str) -> None:
    """By Ray's agent on every node, at the addresses that Ray lists for Prometheus."""
    client.post("/v1/caption", content=make_picture(1))
    client.post("/v1/caption", content=b"no image")
    targets = json.loads(
        (
            Path(ray._private.worker._global_node.get_temp_dir_path()) / "prom_metrics_service_discovery.json"
        ).read_text()
    )
    wanted = {
        "ray_raycap_captions_total",
        "ray_raycap_stage_seconds_bucket",
        "ray_raycap_batch_images_bucket",
        "ray_raycap_requests_total",
        "ray_raycap_rejections_total",
    }
    deadline = time.monotonic() + 60
    found: set[str] = set()
    while not wanted <= found and time.monotonic() < deadline:
        pages = [httpx.get(f"http://{address}/metrics").text for address in targets[0]["targets"]]
        found = {name for name in wanted if any(name in page for page in pages)}
        time.sleep(1)
    assert found == wanted


def blocks(language: str) -> list[str]:
    """The code blocks of one language in the section."""
    section = (ROOT / "README.md").read_text().split("\n## Serving\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, flags=re.DOTALL)


def curls() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if "curl " in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader stands: with photo.jpg and other.png."""
    place = tmp_path_factory.mktemp("reader")
    (place / "other.png").write_bytes(make_picture(2))
    with Image.open(place / "other.png") as image:
        image.convert("RGB").save(place / "photo.jpg")
    return place


@pytest.fixture(scope="module")
def address(client: httpx.Client) -> str:
    """Where the reader's localhost:8000 is."""
    return f"{client.base_url.host}:{client.base_url.port}"


def test_the_readme_shows_every_way_to_ask() -> None:
    text = "\n".join([*curls(), *blocks("python")])
    ways = [
        "/v1/caption\n",
        "/v1/captions",
        "stream=true",
        "/v1/models",
        "raycap.Client",
        "openai",
        "image_to_text",
    ]
    assert [way for way in ways if way not in text] == []
    assert len(curls()) >= 8


@pytest.mark.parametrize("command", curls())
def test_readme_curl(address: str, folder: Path, command: str) -> None:
    command = command.split(" # ")[0].replace("curl ", "curl -sS --fail-with-body ").replace(ADDRESS, address)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"/v1/captions": '"index"', "stream=true": "event: caption", "/v1/caption": '"alternatives"'}
    for part, found in expected.items():
        if part in command:
            assert found in done.stdout
            break
    else:
        assert done.stdout.startswith("{")


@pytest.mark.parametrize("code", blocks("python"), ids=["raycap", "others"])
def test_readme_python(
    address: str,
    folder: Path,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as other tests need it
    exec(compile(textwrap.dedent(code).replace(ADDRESS, address), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2
    assert all(line.strip() for line in lines)
