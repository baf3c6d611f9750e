"""Whether the service lives, whether it is ready, what runs here, and the page."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from raycap import __version__
from raycap.serve.http import documentation
from raycap.serve.http.errors import ApiError
from raycap.serve.http.protocol import ModelVersion, Status, VersionResponse
from raycap.serve.http.service import CaptionService

# The page is one file that holds its own style and script; nothing from elsewhere may run in it or frame it.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def open_router(service: CaptionService) -> APIRouter:
    """The routes that need no key."""
    routes = APIRouter(tags=["health"])

    @routes.get("/healthz")
    async def healthz() -> Status:
        """The ingress lives. Asks no captioner: a slow model is no reason to restart what stands before it."""
        return Status(status="ok")

    @routes.get("/readyz", responses=documentation.NOT_READY)
    async def readyz() -> Status:
        """A captioner is ready to answer."""
        try:
            await service.describe()
        except ApiError as error:
            if error.status == 429:  # many ask, which is no reason to send them elsewhere
                return Status(status="ready")
            raise ApiError(503, "not_ready", "no captioner is ready yet", retry_after_s=5) from None
        return Status(status="ready")

    return routes


def router(service: CaptionService) -> APIRouter:
    """The routes that need a key, where there are keys."""
    routes = APIRouter(tags=["health"])

    @routes.get("/version", responses=documentation.NOT_READY)
    async def version() -> VersionResponse:
        """raycap's version, and the default model's as its captioner gives it."""
        info = await service.describe()
        return VersionResponse(raycap=__version__, model=ModelVersion(**asdict(info)))

    @routes.get("/", response_class=HTMLResponse)
    async def page() -> Response:
        """The page on which people try the models."""
        return HTMLResponse(_page(), headers=PAGE_HEADERS)

    return routes


@cache
def _page() -> str:
    file = resources.files("raycap.serve.http") / "page" / "index.html"
    if not file.is_file():
        raise HTTPException(404)
    return file.read_text(encoding="utf-8")
