"""`serve run` and `raycap serve` as a user types them, on a Ray of their own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ports import free_port
from prepared import make_picture
from serving import wait_until
from small_run import make_run

from raycap.benchmarks.load_process import start_load
from raycap.engine import CaptionEngine

ROOT = Path(__file__).resolve().parents[2]
START_S = 180
LONG = {"beams": 10, "min_tokens": 50, "max_tokens": 60}
NO_ANSWER = {"ClientConnectorError", "ServerDisconnectedError", "ClientOSError"}
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@contextmanager
def started(
    command: list[str], config: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, interrupted at the end as by Ctrl-C; its log stands beside `config`."""
    with log_of(config).open("wb") as output:
        process = subprocess.Popen(
            command, cwd=config.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def log_of(config: Path) -> Path:
    return config.with_suffix(".log")


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # the proxy does not listen yet
        time.sleep(0.5)
    pytest.fail(f"not ready after {START_S} s:\n{log.read_text()}")


def configure(folder: Path, **changes: dict[str, Any]) -> tuple[Path, str]:
    """serve_config.yaml in a folder, with a port of its own and changes to deployments; and its address."""
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    document["http_options"]["port"] = free_port()
    for deployment in document["applications"][0]["deployments"]:
        deployment |= changes.get(deployment["name"], {})
    document["applications"][0]["args"] |= changes.get("args", {})
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document))
    return config, f"http://127.0.0.1:{document['http_options']['port']}"


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a user who has a home and no Ray that runs."""
    (tmp_path / "home").mkdir()
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = {**os.environ, "HOME": str(tmp_path / "home"), "RAY_TMPDIR": ray_folder}
        environment["RAY_AUTH_MODE"] = "disabled"  # as the file's first lines say
        for name in ("RAY_ADDRESS", "RAYCAP_CHECKPOINT"):
            environment.pop(name, None)
        yield environment


def of_the_same_ray(environment: dict[str, str]) -> list[str]:
    """Command lines of the processes that have this environment."""
    mark = f"RAY_TMPDIR={environment['RAY_TMPDIR']}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended, or is another user's
            continue
    return found


def test_serve_run_answers_a_photo_and_leaves_no_token(tmp_path: Path, environment: dict[str, str]) -> None:
    run = make_run(tmp_path / "models")
    config, url = configure(tmp_path)
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    environment["RAYCAP_CHECKPOINT"] = str(run)
    with started(command, config, environment) as process, httpx.Client(base_url=url, timeout=60) as client:
        wait_until_healthy(client, process, log_of(config))
        answer = client.post("/v1/caption", content=make_picture(3))
    assert answer.status_code == 200, log_of(config).read_text()
    assert (
        answer.json()["caption"] == CaptionEngine.load(str(run), device="cpu").caption(make_picture(3)).text
    )
    assert not (tmp_path / "home/.ray/auth_token").exists()


def raycap_serve(config: Path, run: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("raycap")),
        "serve",
        str(config),
        "--checkpoint",
        str(run),
    ]


def test_sigterm_under_load_answers_what_was_accepted(tmp_path: Path, environment: dict[str, str]) -> None:
    """Serve stops captioners and ingresses at the same time: what waited at an ingress was answered with 500."""
    run = make_run(tmp_path / "models")
    config, url = configure(
        tmp_path,
        args={"max_batch_size": 2, "timeout_s": 60},
        Captioner={"max_ongoing_requests": 3, "max_queued_requests": 100},
    )
    pictures = [make_picture(seed) for seed in range(40)]
    engine = CaptionEngine.load(str(run), device="cpu")
    expected = [engine.caption(picture, **LONG).text for picture in pictures]
    with (
        started(raycap_serve(config, run), config, environment) as process,
        httpx.Client(base_url=url, timeout=120) as client,
        ThreadPoolExecutor(len(pictures)) as pool,
    ):
        wait_until_healthy(client, process, log_of(config))
        asked = [
            pool.submit(httpx.post, f"{url}/v1/caption", content=picture, params=LONG, timeout=120)
            for picture in pictures
        ]
        wait(asked, return_when=FIRST_COMPLETED)
        with start_load(
            f"{url}/v1/caption", pictures, clients=2, requests=100_000, limit_s=120, rate=20
        ) as load:
            process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in asked]
            code = process.wait(timeout=120)
            load.stop()
            report = load.report()
    assert [answer.status_code for answer in answers] == [200] * len(pictures)
    assert [answer.json()["caption"] for answer in answers] == expected
    assert code == 0, log_of(config).read_text()
    assert set(report.statuses) <= {200, 503, 0}, report.summary()
    for reply in report.replies:
        if reply.status == 503:
            assert reply.answer["error"]["code"] == "stopping"
            assert reply.retry_after == "1"
        # no connection, or one that ended before anything was answered; never half an answer
        assert not reply.error or reply.error.split(":")[0] in NO_ANSWER, reply.error
    assert report.statuses.get(503)
    wait_until(lambda: not of_the_same_ray(environment), "Ray ends", deadline_s=30)


def test_what_cannot_be_served_is_said_in_a_sentence(tmp_path: Path, environment: dict[str, str]) -> None:
    """A damaged checkpoint left the process alive and silent; a missing one left a traceback, and then hung."""
    run = make_run(tmp_path / "models")
    config, _ = configure(tmp_path)
    (weights,) = run.rglob("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-7] + b"damaged")
    typo = tmp_path / "typo.yaml"
    typo.write_text("applications: [")
    for command, code, message in [
        (raycap_serve(config, run), 1, "has changed since it was written"),
        (raycap_serve(config, tmp_path / "nowhere"), 1, "no checkpoint at"),
        (raycap_serve(typo, run), 2, "is not valid YAML"),
        (raycap_serve(tmp_path / "none.yaml", run), 2, "no such file"),
    ]:
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180
        )
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == code, done.stderr
        assert last.startswith("raycap: ")
        assert message in last
    wait_until(lambda: not of_the_same_ray(environment), "Ray ends", deadline_s=30)
