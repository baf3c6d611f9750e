"""The HTTP face of the deployment. Routes only: CaptionService does the work."""

# No `from __future__ import annotations` here: FastAPI reads the routes' annotations on the replica.

from typing import Any

from fastapi import FastAPI, Request
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from raycap import __version__
from raycap.checkpoint import Manifest
from raycap.serve import errors
from raycap.serve.captioner import Outcome
from raycap.serve.config import ServeConfig
from raycap.serve.protocol import CaptionResponse, ErrorResponse
from raycap.serve.service import CaptionService

app = FastAPI(title="raycap", version=__version__, description="Image captioning over HTTP.")
errors.install(app)
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}}


class RemoteCaptioner:
    """The captioner deployment behind its handle; full queues and dead replicas become 503."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def caption(self, image: bytes, decoding: dict[str, Any]) -> Outcome:
        """Captions of an image."""
        try:
            outcome: Outcome = await self.handle.caption.remote(image, decoding)
        except BackPressureError:
            raise errors.ApiError(
                503, "overloaded", "too many requests wait; try again", retry_after_s=1
            ) from None
        except (RayActorError, DeploymentUnavailableError):
            raise errors.ApiError(
                503, "unavailable", "the model was restarted; try again", retry_after_s=1
            ) from None
        return outcome

    async def ping(self) -> None:
        """Returns when a captioner is ready."""
        await self.handle.ping.remote()


class Routes:
    """Translates HTTP to a call of the captioner and back."""

    def __init__(self, captioner: DeploymentHandle, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        self.service = CaptionService(
            RemoteCaptioner(captioner),
            manifest=Manifest.model_validate(manifest),
            config=ServeConfig.model_validate(config),
        )

    @app.post("/v1/caption", responses=ERRORS)
    async def caption(self, request: Request) -> CaptionResponse:
        """Caption an image: the bare bytes, multipart field `image`, or JSON `{"image": "<base64>"}`."""
        return await self.service.answer(request)

    @app.get("/healthz")
    async def healthz(self) -> dict[str, str]:
        """Which model answers."""
        return await self.service.health()


Ingress = serve.deployment(name="Ingress", max_ongoing_requests=100)(serve.ingress(app)(Routes))
