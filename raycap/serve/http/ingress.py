"""The deployment that faces HTTP: app.py in a Serve replica, over the captioners' handle. Knows no checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from raycap.serve.config import ServeConfig
from raycap.serve.http.app import create_app
from raycap.serve.http.door import Door
from raycap.serve.http.metrics import ServeObserver
from raycap.serve.http.remote import RemoteCaptioner


class IngressReplica:
    """Made from what can be pickled; the app is built in the replica."""

    def __init__(
        self, captioner: DeploymentHandle, config: dict[str, Any], key_digests: Sequence[str]
    ) -> None:
        self.captioner = captioner
        self.config = ServeConfig.model_validate(config)
        self.key_digests = key_digests
        self.door = Door(max_bytes=self.config.max_held_bytes)

    def __serve_build_asgi_app__(self) -> FastAPI:
        observer = ServeObserver()
        config = self.config
        captioner = RemoteCaptioner(
            self.captioner, tries=config.tries, models=config.models, observer=observer
        )
        return create_app(
            captioner,
            config=config,
            key_digests=self.key_digests,
            observer=observer,
            echo_request_id=False,
            door=self.door,
        )

    async def close(self) -> int:
        """Take no more requests; gives the number of those that are not answered yet. For `raycap serve`."""
        self.door.closed = True
        return self.door.inside


Ingress = serve.deployment(name="Ingress", max_ongoing_requests=100)(serve.ingress()(IngressReplica))
