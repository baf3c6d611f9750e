"""The peer that most people write first: FastAPI, and one request at a time through the model in a thread."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from fastapi import FastAPI, Request

from raycap.benchmarks.peers_serve.model import PeerCaptioner


def build_app(captioner: PeerCaptioner) -> FastAPI:
    """The app around a model."""
    app = FastAPI()
    # The one thread is the lock. With a lock and many threads, each would bring idle OpenMP workers that spin.
    model = ThreadPoolExecutor(1)

    @app.post("/v1/caption")
    async def caption(request: Request) -> dict[str, str]:
        pixels = await asyncio.to_thread(captioner.read, await request.body())
        found = await asyncio.get_running_loop().run_in_executor(model, captioner.caption, [pixels])
        return {"caption": found[0]}

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app


def run(captioner: PeerCaptioner, *, port: int) -> None:
    """Serve until SIGTERM."""
    import uvicorn

    uvicorn.run(build_app(captioner), host="127.0.0.1", port=port, log_level="warning", access_log=False)
