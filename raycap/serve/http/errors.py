"""Errors as HTTP answers: one shape, a request id, no path and no traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Scope

from raycap.serve.http.observe import observer_of
from raycap.serve.http.protocol import ErrorDetail, ErrorResponse

logger = logging.getLogger(__name__)
MESSAGE_LENGTH = 500  # characters: messages repeat what came, which may be long
SENTENCES = {
    404: "nothing is served under this path; /docs lists what is",
    405: "this path takes another method",
}


class ApiError(Exception):
    """An answer other than 200, with a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}


def install(app: FastAPI) -> None:
    """Make every foreseen error of an app leave in raycap's shape (envelope.py sees to the others)."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)


def request_id(scope: Scope) -> str:
    """The id that a request got when it came in."""
    found: str = scope["raycap.request_id"]
    return found


def error_detail(scope: Scope, code: str, message: str) -> ErrorDetail:
    """An error's inner shape. Every error of every protocol passes here, and is counted here."""
    observer_of(scope).refused(code)
    # JSON may bring halves of surrogate pairs, and a message that repeats one could not be sent.
    text = message[:MESSAGE_LENGTH].encode("utf-8", "backslashreplace").decode()
    return ErrorDetail(code=code, message=text, request_id=request_id(scope))


def error_answer(
    scope: Scope, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer that an error becomes."""
    return answer_of(error_detail(scope, code, message), status=status, headers=headers)


def answer_of(detail: ErrorDetail, *, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error's shape as an answer."""
    return JSONResponse(ErrorResponse(error=detail).model_dump(), status_code=status, headers=headers)


def late_error(scope: Scope, error: Exception) -> ErrorDetail:
    """An error for which no answer of its own can be sent any more, or that nobody foresaw (then logged)."""
    if isinstance(error, ApiError):
        return error_detail(scope, error.code, str(error))
    logger.error("request %s failed", request_id(scope), exc_info=error)
    return error_detail(scope, "internal_error", "the server failed on this request; its log says why")


def describe(problems: list[Any]) -> str:
    """Pydantic's problems with a request's parameters in one sentence each, without repeating long values."""
    return "; ".join(f"{_place(problem)}: {_reason(problem)}" for problem in problems[:5])


def _place(problem: Any) -> str:
    """The parameter's name, without `query` before it."""
    return ".".join(str(part)[:40] for part in problem["loc"][-1:]) or "parameters"


def _reason(problem: Any) -> str:
    if problem["type"] == "extra_forbidden":
        return "no such parameter; /docs lists them"
    value = problem["input"]
    came = f" (got {value!r:.60})" if isinstance(value, (str, int, float)) else ""
    return f"{problem['msg'].removeprefix('Value error, ')}{came}"


def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_answer(request.scope, error.status, error.code, str(error), headers=error.headers)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    """An unknown path or method."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = HTTPStatus(status).phrase.lower().replace(" ", "_")
    message = SENTENCES.get(status, str(error.detail))
    return error_answer(request.scope, status, code, message, headers=error.headers)


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Query parameters that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    return error_answer(request.scope, 422, "invalid_parameter", describe(list(error.errors())))
