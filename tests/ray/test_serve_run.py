"""`serve run serve_config.yaml` as a user types it, with the file's own settings but for the port."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from ports import free_port
from prepared import make_picture
from small_run import make_run

from raycap.engine import CaptionEngine

ROOT = Path(__file__).resolve().parents[2]
START_S = 180


@contextmanager
def serve_run(config: Path, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a process group of its own, interrupted at the end as by Ctrl-C."""
    command = [str(Path(sys.executable).with_name("serve")), "run", str(config)]
    with log.open("wb") as output:
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


def wait_until_healthy(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # the proxy does not listen yet
        time.sleep(0.5)
    pytest.fail(f"not healthy after {START_S} s:\n{log.read_text()}")


@pytest.mark.ray
@pytest.mark.slow
def test_serve_run_answers_a_photo_and_leaves_no_token(tmp_path: Path) -> None:
    run = make_run(tmp_path / "models")
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    document["http_options"]["port"] = free_port()
    config = tmp_path / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document))
    (tmp_path / "home").mkdir()
    log = tmp_path / "serve.log"
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = {
            **os.environ,
            "HOME": str(tmp_path / "home"),
            "RAY_TMPDIR": ray_folder,
            "RAY_AUTH_MODE": "disabled",  # as the file's first lines say
            "RAYCAP_CHECKPOINT": str(run),
        }
        environment.pop("RAY_ADDRESS", None)
        url = f"http://127.0.0.1:{document['http_options']['port']}"
        with serve_run(config, environment, log) as process, httpx.Client(base_url=url, timeout=60) as client:
            wait_until_healthy(client, process, log)
            answer = client.post("/v1/caption", content=make_picture(3))
    assert answer.status_code == 200, log.read_text()
    assert (
        answer.json()["caption"] == CaptionEngine.load(str(run), device="cpu").caption(make_picture(3)).text
    )
    assert not (tmp_path / "home/.ray/auth_token").exists()
