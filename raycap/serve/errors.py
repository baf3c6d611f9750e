"""Errors as HTTP answers: one shape, a request id, no path and no traceback."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from raycap.serve.protocol import ErrorDetail, ErrorResponse

logger = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer other than 200, with a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}


def install(app: FastAPI) -> None:
    """Make every error of an app leave in raycap's shape."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _unexpected)


def request_id(request: Request) -> str:
    """The id that Serve's proxy gave the request, or the client's own."""
    return request.headers.get("x-request-id", "")[:128]


def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return _answer(request, error.status, error.code, str(error), error.headers)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    """An unknown path or method."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _answer(request, error.status_code, code, error.detail, dict(error.headers or {}))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    logger.error("request %s failed", request_id(request), exc_info=error)
    return _answer(request, 500, "internal_error", "the server failed on this request; its log says why", {})


def _answer(request: Request, status: int, code: str, message: str, headers: dict[str, str]) -> JSONResponse:
    detail = ErrorDetail(code=code, message=message, request_id=request_id(request))
    return JSONResponse(ErrorResponse(error=detail).model_dump(), status_code=status, headers=headers)
