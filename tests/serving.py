"""Deploying serve_config.yaml to the test cluster with `serve deploy`, as one does in production, and watching it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 180


def wait_until(condition: Callable[[], bool], what: str, *, deadline_s: float = DEADLINE_S) -> float:
    """Poll until it holds; gives the seconds that took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < deadline_s, f"waited {deadline_s} s for: {what}"
        time.sleep(0.1)
    return time.monotonic() - begin


def photo(seed: int, *, kilobytes: int = 150) -> bytes:
    """A JPEG of about that size: blocks of random colours under noise, which does not compress."""
    random = np.random.default_rng(seed)
    side = int((kilobytes * 1000 / 0.72) ** 0.5) // 4 * 4
    blocks = random.integers(0, 256, (4, 4, 3)).repeat(side // 4, axis=0).repeat(side // 4, axis=1)
    pixels = 0.7 * blocks + 0.3 * random.integers(0, 256, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@dataclass(frozen=True)
class Service:
    """The application of serve_config.yaml on the test cluster."""

    dashboard: str
    port: int
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(
        self,
        *,
        args: dict[str, Any],
        captioner: dict[str, Any] | None = None,
        ingress: dict[str, Any] | None = None,
    ) -> None:
        """`serve deploy` of the file with some of its values replaced; returns at once."""
        document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        document["http_options"]["port"] = self.port
        (application,) = document["applications"]
        application["args"] |= args
        for deployment, changes in zip(application["deployments"], (ingress, captioner), strict=True):
            deployment |= changes or {}
            if "num_replicas" in (changes or {}):
                deployment.pop("autoscaling_config", None)
        config = self.folder / "serve_config.yaml"
        config.write_text(yaml.safe_dump(document))
        command = [str(Path(sys.executable).with_name("serve")), "deploy", str(config)]
        environment = {**os.environ, "RAY_DASHBOARD_ADDRESS": self.dashboard}
        environment.pop("RAYCAP_CHECKPOINT", None)
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def status(self) -> str:
        """RUNNING, DEPLOYING, DEPLOY_FAILED, UNHEALTHY ...; "" where Serve is not up."""
        from ray import serve

        found = serve.status().applications.get("raycap")
        return found.status.value if found else ""

    def message(self) -> str:
        """Why the application is in its status."""
        from ray import serve

        deployments = serve.status().applications["raycap"].deployments
        return " ".join(deployment.message for deployment in deployments.values())

    def wait_for(self, status: str) -> float:
        """Until the application has a status."""
        return wait_until(lambda: self.status() == status, f"application {status}")

    def running(self, deployment: str = "Captioner") -> int:
        """Replicas of a deployment that run."""
        from ray import serve

        states = serve.status().applications["raycap"].deployments[deployment].replica_states
        return int(states.get("RUNNING", 0))

    def processes(self, name: str) -> list[int]:
        """Process ids of Serve's actors with this in their name."""
        from ray.util.state import list_actors

        actors = list_actors(self.dashboard, filters=[("state", "=", "ALIVE")], limit=1000)
        return [actor.pid for actor in actors if name in (actor.name or "")]

    def kill(self, name: str) -> None:
        """SIGKILL one of Serve's processes."""
        os.kill(self.processes(name)[0], signal.SIGKILL)

    def ready(self) -> bool:
        """Whether a captioner answers."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False
