"""An HTTP request to image bytes and settings: multipart, JSON with base64, or the bare image.

Settings come from the query string and, where there are any, from the form's or the JSON's fields, which win.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from raycap.config import describe_validation_error
from raycap.serve.errors import ApiError
from raycap.serve.protocol import CaptionParameters

IMAGE = "image"  # the form's or the JSON's field that holds the image
WAYS = 'send the image as the body, as multipart field \'image\', or as JSON {"image": "<base64>"}'


async def read_request(request: Request, *, max_body_bytes: int) -> tuple[bytes, CaptionParameters]:
    """Image bytes and the settings that the request names.

    Raises:
        ApiError: 413 a body that is too long, 400 one without an image, 422 settings that are not allowed.
    """
    body = await _read_body(request, max_body_bytes)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: Mapping[str, Any] = {}
    image = body
    if kind == "multipart/form-data":
        image, fields = await _read_form(request, body)
    elif kind == "application/json":
        image, fields = _read_json(body)
    if not image:
        raise ApiError(400, "no_image", f"the request holds no image; {WAYS}")
    return image, _parameters({**request.query_params, **fields})


async def _read_body(request: Request, limit: int) -> bytes:
    """The body, given up as soon as it is known to be too long."""
    problem = ApiError(413, "body_too_large", f"the request body is over the limit of {limit:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise problem
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise problem
    return bytes(body)


async def _read_form(request: Request, body: bytes) -> tuple[bytes, dict[str, Any]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    image = b""
    fields: dict[str, Any] = {}
    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=32) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    image = await value.read()
                else:
                    fields[name] = value
    except HTTPException as error:  # what starlette raises on a malformed form
        raise ApiError(400, "bad_form", f"the form cannot be read: {error.detail}") from None
    return image, fields


def _read_json(body: bytes) -> tuple[bytes, dict[str, Any]]:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):  # the latter of brackets within brackets within ...
        raise ApiError(400, "bad_json", f"the body is not valid JSON; {WAYS}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get(IMAGE, ""), str):
        raise ApiError(400, "bad_json", f"the body must be a JSON object with a string 'image'; {WAYS}")
    encoded = fields.pop(IMAGE, "")
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    try:
        return base64.b64decode("".join(encoded.split()), validate=True), fields
    except (binascii.Error, ValueError):
        raise ApiError(400, "bad_base64", "the field 'image' is not valid base64") from None


def _parameters(fields: Mapping[str, Any]) -> CaptionParameters:
    try:
        return CaptionParameters.model_validate(fields)
    except ValidationError as error:
        raise ApiError(422, "invalid_parameter", describe_validation_error(error)) from None
