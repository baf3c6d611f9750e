"""The peer that Ray Serve's documentation shows: one deployment, requests batched before the call of generate().

A request that comes while a batch is captioned waits until all of the batch is done.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from raycap.benchmarks.peers_serve import Dtype
from raycap.benchmarks.peers_serve.model import PeerCaptioner, RaycapCaptioner

BATCH, WAIT_S = 32, 0.01
ONGOING = 64  # Serve's own 5 would never fill a batch


class BatchPeer:
    """A replica with the model."""

    def __init__(self, folder: str, settings: dict[str, Any], own: bool) -> None:
        self.captioner: Any = (RaycapCaptioner if own else PeerCaptioner)(Path(folder), **settings)

    async def __call__(self, request: Request) -> dict[str, str]:
        """A caption; a GET asks only whether the replica is there."""
        if request.method == "GET":
            return {"status": "ok"}
        return {"caption": await self.caption(await request.body())}

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_S)  # type: ignore[untyped-decorator]
    async def caption(self, photos: list[bytes]) -> list[str]:
        """A batch through the model, in a thread: the replica goes on taking requests meanwhile."""
        return await asyncio.to_thread(self.work, photos)

    def work(self, photos: list[bytes]) -> list[str]:
        """Captions of a batch."""
        captions: list[str] = self.captioner.caption([self.captioner.read(photo) for photo in photos])
        return captions


def run(folder: Path, *, port: int, threads: int, beams: int, dtype: Dtype, own: bool = False) -> None:
    """Serve until SIGTERM, on a Ray of this process alone; `own`: raycap's engine in the place of generate()."""
    settings = {"threads": threads, "beams": beams, "dtype": dtype}
    deployment = serve.deployment(
        name="BatchPeer", max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": threads}
    )(BatchPeer)
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        ray.init(
            address="local",
            num_cpus=threads,
            include_dashboard=False,
            object_store_memory=200_000_000,
            _temp_dir=temporary,
        )
        try:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after ray.init, which has its own
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(deployment.bind(str(folder), settings, own), name="peer", route_prefix="/")
            signal.pause()
        finally:
            serve.shutdown()
            ray.shutdown()
