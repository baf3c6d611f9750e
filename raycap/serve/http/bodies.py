"""Request bodies as bytes, JSON and forms, each with limits on what a hostile one can cost. Knows no protocol."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from raycap.serve.http.deadline import Deadline
from raycap.serve.http.door import Visit
from raycap.serve.http.errors import ApiError

MAX_FIELDS = 32
MAX_FIELD_BYTES = 2_000
MAX_COMMAS = 20_000  # in JSON: a body of nothing but [] and commas would take 30 times its size in memory
WHITESPACE = b" \t\r\n"


@dataclass(frozen=True)
class Form:
    """A multipart body."""

    files: list[tuple[str, bytes]] = field(default_factory=list)
    """File names and contents, in order."""
    fields: dict[str, str] = field(default_factory=dict)


def content_type(request: Request) -> str:
    """The body's type without parameters, in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, *, limit: int, deadline: Deadline) -> bytes:
    """The body, given up as soon as it is known to be too long.

    Raises:
        ApiError: 413 it is longer than `limit` bytes, 408 it did not arrive in time, 429 there is no room for it.
        ClientDisconnect: the client hung up.
    """
    problem = ApiError(413, "body_too_large", f"the request body is over the limit of {limit:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 15 or int(declared) > limit):
        raise problem
    body = bytearray()
    visit: Visit = request.scope["raycap.visit"]
    async with deadline.reading():
        async for piece in request.stream():
            body += piece
            if len(body) > limit:
                raise problem
            visit.bring(len(piece))
    return bytes(body)


def read_json(body: bytes) -> dict[str, Any]:
    """The object in a JSON body.

    Raises:
        ApiError: 400, not JSON, no object, or of too many parts.
    """
    if body.count(b",") > MAX_COMMAS:
        raise ApiError(400, "bad_json", f"the JSON body has over {MAX_COMMAS:,} commas; send fewer values")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):  # the latter of brackets within brackets within ...
        raise ApiError(400, "bad_json", "the body is not valid JSON") from None
    if not isinstance(found, dict):
        raise ApiError(400, "bad_json", "the body must be a JSON object")
    return found


async def read_form(request: Request, body: bytes, *, max_files: int) -> Form:
    """The files and fields of a multipart body.

    Raises:
        ApiError: 400, malformed, or of too many parts.
    """
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"us-ascii"}:
        # Python knows codecs (punycode, idna) that take the square of a field's length in time.
        raise ApiError(400, "bad_form", "the form's charset must be utf-8")
    parser = MultiPartParser(
        request.headers,
        _once(body),
        max_files=max_files,
        max_fields=MAX_FIELDS,
        max_part_size=MAX_FIELD_BYTES,
    )
    parser.spool_max_size = len(body) + 1  # it is in memory already: nothing goes to a temporary file
    form = Form()
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        raise ApiError(400, "bad_form", f"the form cannot be read: {error.message}") from None
    for name, value in parts.multi_items():
        if isinstance(value, UploadFile):
            form.files.append((value.filename or "", await value.read()))
        else:
            form.fields[name] = value
    await parts.close()
    return form


def decode_base64(text: str) -> bytes:
    """The bytes behind base64 or a data URL, with or without line breaks.

    Raises:
        ApiError: 400, not base64.
    """
    encoded = text.partition(",")[2] if text[:5].lower() == "data:" else text
    try:
        return base64.b64decode(encoded.encode("ascii").translate(None, WHITESPACE), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "bad_base64", "the image is not valid base64") from None


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body
