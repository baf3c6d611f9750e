"""Hugging Face's image-to-text task: POST /, as huggingface_hub's InferenceClient sends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request

from raycap.serve.http import documentation
from raycap.serve.http.bodies import content_type, decode_base64, read_body, read_json
from raycap.serve.http.deadline import unless_hung_up
from raycap.serve.http.errors import ApiError
from raycap.serve.http.pictures import Picture, merge
from raycap.serve.http.protocol import HuggingFaceCaption, ManyQuery
from raycap.serve.http.service import CaptionService

# transformers' names of generation settings; raycap's own stand beside them
NAMES = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "num_beams": "beams",
    "num_return_sequences": "n",
    "do_sample": "sample",
    "no_repeat_ngram_size": "no_repeat_ngram",
}
NESTED = ("generation_parameters", "generate_kwargs")


def router(service: CaptionService) -> APIRouter:
    """The route of Hugging Face's task."""
    routes = APIRouter(tags=["hugging face"])

    @routes.post(
        "/",
        response_model=list[HuggingFaceCaption],
        responses=documentation.HUGGING_FACE_ANSWERS,
        openapi_extra=documentation.HUGGING_FACE_BODY,
    )
    async def image_to_text(request: Request) -> Any:
        """Caption an image: its bytes, or JSON `{"inputs": "<base64>", "parameters": {...}}`."""
        deadline = service.deadline()
        body = await read_body(request, limit=service.config.max_body_bytes, deadline=deadline)
        picture, query = Picture(body), ManyQuery()
        if content_type(request) == "application/json":
            picture, query = _read(read_json(body))
        if not (picture.data or picture.url):
            raise ApiError(400, "no_image", 'send the image as the body, or as JSON {"inputs": "<base64>"}')
        work = service.caption(picture, settings=query.given(), model=query.model, deadline=deadline)
        outcome = await unless_hung_up(request.receive, work)
        return [HuggingFaceCaption(generated_text=caption.text) for caption in outcome.captions]

    return routes


def _read(body: Mapping[str, Any]) -> tuple[Picture, ManyQuery]:
    inputs, parameters = body.get("inputs"), body.get("parameters") or {}
    if not isinstance(inputs, str) or not isinstance(parameters, dict):
        raise ApiError(400, "bad_json", 'the body must be {"inputs": "<base64>", "parameters": {...}}')
    query = merge(ManyQuery(), _renamed(parameters))
    if inputs[:8].lower().startswith(("http://", "https://")):
        return Picture(url=inputs), query
    return Picture(decode_base64(inputs)), query


def _renamed(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Generation settings under raycap's names, out of the objects that Hugging Face nests them in."""
    flat = {name: value for name, value in parameters.items() if name not in NESTED and value is not None}
    for nested in NESTED:
        inner = parameters.get(nested)
        flat |= inner if isinstance(inner, dict) else {}
    return {NAMES.get(name, name): value for name, value in flat.items()}
