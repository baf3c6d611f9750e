"""The whole HTTP face as a plain FastAPI app over a captioner, wherever that runs. Knows nothing of Serve."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import APIKeyHeader, HTTPBasic, HTTPBearer

from raycap import __version__
from raycap.serve.config import ServeConfig
from raycap.serve.contract import CaptionerClient
from raycap.serve.http import documentation, errors
from raycap.serve.http.door import Door
from raycap.serve.http.envelope import Envelope
from raycap.serve.http.keys import Keys
from raycap.serve.http.observe import Observer, Unobserved
from raycap.serve.http.routes import captions, chat, health, hugging_face
from raycap.serve.http.service import CaptionService

# For the documentation only, which then has a field for the key: Keys, around the app, is what checks it.
SCHEMES = [
    Depends(HTTPBearer(auto_error=False)),
    Depends(HTTPBasic(auto_error=False)),
    Depends(APIKeyHeader(name="X-API-Key", auto_error=False)),
]


def create_app(
    captioner: CaptionerClient,
    *,
    config: ServeConfig,
    key_digests: Sequence[str] = (),
    observer: Observer | None = None,
    echo_request_id: bool = True,
    door: Door | None = None,
) -> FastAPI:
    """The app.

    Args:
        key_digests: SHA-256 digests of API keys (keys.key_digests); with none, everybody may use it.
        observer: is told of every request.
        echo_request_id: whether answers carry X-Request-ID; Serve's proxy sets it itself, and would set it twice.
        door: counts the requests; closing it refuses further ones.
    """
    app = FastAPI(
        title="raycap",
        version=__version__,
        description=documentation.DESCRIPTION,
        redirect_slashes=False,  # a redirect would repeat the Host header that the client made up
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.observer = observer or Unobserved()
    errors.install(app)
    service = CaptionService(captioner, config=config)
    app.include_router(health.open_router(service))
    for router in (captions.router, chat.router, hugging_face.router, health.router):
        _include(app, router(service), locked=bool(key_digests))
    if key_digests:
        app.add_middleware(Keys, digests=key_digests)
    app.add_middleware(Envelope, echo_id=echo_request_id, door=door or Door(max_bytes=config.max_held_bytes))
    return app


def _include(app: FastAPI, router: APIRouter, *, locked: bool) -> None:
    if locked:
        app.include_router(router, dependencies=SCHEMES, responses=documentation.UNAUTHORIZED)
    else:
        app.include_router(router)
