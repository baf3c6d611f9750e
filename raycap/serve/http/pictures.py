"""Which images a request names and with which parameters, for raycap's own routes and Hugging Face's.

Parameters come from the query string and, where there are any, from the form's or the JSON's fields, which win.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from raycap.serve.http.bodies import content_type, decode_base64, read_form, read_json
from raycap.serve.http.errors import ApiError, describe
from raycap.serve.http.protocol import ManyQuery

Query = TypeVar("Query", bound=ManyQuery)
IMAGE, IMAGES, URL = "image", "images", "url"  # fields of a form or of JSON
WAYS = 'send the image as the body, as multipart field \'image\', or as JSON {"image": "<base64>"}'
MAX_NAME = 200  # characters of an image's id or file name that come back
MAX_VALUE = 200  # of a parameter


@dataclass(frozen=True)
class Picture:
    """An image as a request names it: its bytes, or where they are."""

    data: bytes = b""
    url: str = ""
    name: str = ""
    problem: ApiError | None = None
    """Why there is none, where other images of the request may be good."""


async def read_one(request: Request, body: bytes, query: Query) -> tuple[Picture, Query]:
    """The image of a request, and all its parameters.

    Raises:
        ApiError: 400 a body without an image, 422 parameters that are not allowed.
    """
    kind = content_type(request)
    fields: dict[str, Any] = {}
    picture = Picture(body)
    if kind == "multipart/form-data":
        form = await read_form(request, body, max_files=1)
        fields = dict(form.fields)
        picture = Picture(form.files[0][1] if form.files else b"", url=fields.pop(URL, ""))
    elif kind == "application/json":
        fields = read_json(body)
        picture = _from_json({name: fields.pop(name) for name in (IMAGE, URL) if name in fields})
    return _whole(picture), merge(query, fields)


async def read_many(
    request: Request, body: bytes, query: Query, *, max_images: int
) -> tuple[list[Picture], Query]:
    """The images of a request, bad ones with their problem, and the parameters that hold for all.

    Raises:
        ApiError: 400 neither a form nor JSON with images, or too many; 422 parameters that are not allowed.
    """
    kind = content_type(request)
    if kind == "multipart/form-data":
        form = await read_form(request, body, max_files=max_images)
        fields: Mapping[str, Any] = form.fields
        pictures = [Picture(data, name=_name(name)) for name, data in form.files]
    elif kind == "application/json":
        fields = read_json(body)
        pictures = _from_list(fields.pop(IMAGES, None), max_images=max_images)
    else:
        raise ApiError(400, "no_image", 'send several multipart files, or JSON {"images": ["<base64>", ...]}')
    if not pictures:
        raise ApiError(400, "no_image", "the request holds no image")
    return [_checked(picture) for picture in pictures], merge(query, fields)


def merge(query: Query, fields: Mapping[str, Any]) -> Query:
    """A query's parameters with those of the body in their place.

    Raises:
        ApiError: 422, unknown or out of range.
    """
    for name, value in fields.items():
        if not isinstance(value, (str, int, float)) or len(str(value)) > MAX_VALUE:
            message = f"{name[:40]}: must be a number, true, false or a short text"
            raise ApiError(422, "invalid_parameter", message)
    try:
        return type(query).model_validate({**query.named(), **fields})
    except ValidationError as error:
        raise ApiError(422, "invalid_parameter", describe(list(error.errors()))) from None


def _from_list(items: Any, *, max_images: int) -> list[Picture]:
    if not isinstance(items, list):
        raise ApiError(400, "bad_json", 'the body must hold {"images": [...]}')
    if len(items) > max_images:
        raise ApiError(
            400, "too_many_images", f"{len(items)} images; at most {max_images} go into one request"
        )
    return [_from_item(item) for item in items]


def _from_item(item: Any) -> Picture:
    """An image of several; its problem stays its own."""
    fields = item if isinstance(item, dict) else {IMAGE: item}
    name = fields.get("id", "")
    try:
        unknown = set(fields) - {IMAGE, URL, "id"}
        if unknown or not isinstance(name, (str, int)):
            raise ApiError(400, "bad_json", "an image is base64, or an object of image or url, and id")
        found = _from_json(fields)
    except ApiError as error:
        return Picture(problem=error, name=_name(name))
    return Picture(found.data, url=found.url, name=_name(name))


def _from_json(fields: Mapping[str, Any]) -> Picture:
    image, url = fields.get(IMAGE, ""), fields.get(URL, "")
    if not isinstance(image, str) or not isinstance(url, str):
        raise ApiError(400, "bad_json", f"'image' and 'url' must be strings; {WAYS}")
    return Picture(decode_base64(image), url=url)


def _whole(picture: Picture) -> Picture:
    """A picture with exactly one of bytes and URL."""
    if bool(picture.data) == bool(picture.url):
        what = "both an image and a URL; send one" if picture.url else f"no image; {WAYS}"
        raise ApiError(400, "no_image", f"the request holds {what}")
    return picture


def _checked(picture: Picture) -> Picture:
    try:
        return picture if picture.problem else _whole(picture)
    except ApiError as error:
        return Picture(name=picture.name, problem=error)


def _name(value: Any) -> str:
    """An id or file name as it may come back in JSON: no endless one, no half of a surrogate pair."""
    return str(value)[:MAX_NAME].encode("utf-8", "replace").decode() if isinstance(value, (str, int)) else ""
