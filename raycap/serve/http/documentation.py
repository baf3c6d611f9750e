"""What /docs says of bodies and answers: FastAPI cannot read it off the routes, because they read bodies themselves."""

from __future__ import annotations

from typing import Any

from raycap.serve.http.protocol import CaptionParameters, ErrorResponse, HuggingFaceCaption

Answers = dict[int | str, dict[str, Any]]
PIXEL = (  # a grey PNG of 1 x 1 pixels: an example that works when it is sent
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
DESCRIPTION = """Image captioning over HTTP.

- **raycap's own protocol**: `POST /v1/caption` for one image, `POST /v1/captions` for many.
- **OpenAI's**: `POST /v1/chat/completions`, `GET /v1/models`; point the `openai` client's `base_url` at `/v1`.
- **Hugging Face's** image-to-text: `POST /`, as `InferenceClient(model=URL).image_to_text(...)` sends it.

Every error is `{"error": {"code", "message", "request_id"}}`. `code` is for programs, `message` for people.
"""
EVENT = {  # one server-sent event
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string", "description": "JSON."}},
}
CAPTION_EXAMPLE = {
    "caption": "a dog runs through the snow",
    "score": -0.52,
    "alternatives": [
        {"caption": "a dog runs through the snow", "score": -0.52},
        {"caption": "a brown dog in the snow", "score": -0.61},
    ],
    "model": "default",
    "version": "0123456789ab",
    "request_id": "3f0c5d1e",
    "timings": {"decode_ms": 4.1, "queue_ms": 0.6, "model_ms": 48.9, "total_ms": 55.2},
    "retries": 0,
}


def error(description: str, code: str, message: str) -> dict[str, Any]:
    """The documentation of one status."""
    example = {"error": {"code": code, "message": message, "request_id": "3f0c5d1e"}}
    return {
        "model": ErrorResponse,
        "description": description,
        "content": {"application/json": {"example": example}},
    }


UNAUTHORIZED: Answers = {
    401: error("No API key, or an unknown one.", "unauthorized", "send an API key as ...")
}
NOT_READY: Answers = {503: error("No captioner is ready.", "not_ready", "no captioner is ready yet")}
NO_MODEL: Answers = {
    404: error("No such model.", "model_not_found", "no model 'b' is served here; known: default")
}
ERRORS: Answers = {
    400: error("No usable image, or a malformed body.", "bad_image", "damaged image: broken data stream"),
    **NO_MODEL,
    408: error("The body arrived too slowly.", "request_timeout", "the request did not arrive within 30 s"),
    413: error(
        "The body is too long.", "body_too_large", "the request body is over the limit of 15,000,000 bytes"
    ),
    422: error(
        "A parameter is not allowed.", "invalid_parameter", "beams: Input should be less than or equal to 10"
    ),
    429: error("Too many requests wait; see Retry-After.", "overloaded", "too many requests wait; try again"),
    500: error("A fault of the server's.", "internal_error", "the server failed on this request"),
    503: error("Captioners died under the request.", "unavailable", "the captioner stopped; try again"),
    504: error("No caption in time.", "timeout", "no caption within 30 s; try again, or ask for fewer beams"),
}
CAPTION_ANSWERS: Answers = {
    200: {
        "description": "Captions; with `stream=true` server-sent events.",
        "content": {
            "application/json": {"example": CAPTION_EXAMPLE},
            "text/event-stream": {
                "schema": EVENT,
                "example": 'event: token\ndata: {"text": "a dog"}\n\nevent: caption\ndata: {"caption": "a dog"}\n\n',
            },
        },
    },
    **ERRORS,
}
CAPTIONS_ANSWERS: Answers = {
    200: {
        "description": "A line of JSON for each image, as it becomes ready.",
        "content": {
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"index": 1, "id": "b.jpg", "caption": "a dog"}\n{"index": 0, "error": {}}\n',
            }
        },
    },
    **ERRORS,
}
HUGGING_FACE_ANSWERS: Answers = {
    200: {
        "model": list[HuggingFaceCaption],
        "description": "The captions, best first.",
        "content": {"application/json": {"example": [{"generated_text": "a dog runs through the snow"}]}},
    },
    **ERRORS,
}
COMPLETION_ANSWERS: Answers = {
    200: {
        "description": "A `chat.completion`; with `stream` its chunks as server-sent events, then `[DONE]`.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "id": "chatcmpl-3f0c5d1e",
                    "object": "chat.completion",
                    "created": 1790000000,
                    "model": "default",
                    "choices": [
                        {
                            "index": 0,
                            "message": {"role": "assistant", "content": "a dog runs through the snow"},
                            "finish_reason": "stop",
                        }
                    ],
                    "usage": {"prompt_tokens": 0, "completion_tokens": 7, "total_tokens": 7},
                },
            },
            "text/event-stream": {"schema": EVENT},
        },
    },
    **ERRORS,
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
# Without the defaults: what a request does not name is the checkpoint's own.
PARAMETERS: dict[str, dict[str, Any]] = {
    name: {key: value for key, value in schema.items() if key not in {"default", "title"}}
    for name, schema in CaptionParameters.model_json_schema()["properties"].items()
}
MODEL = {"type": "string", "description": "Name of a served model; none is the default one."}
SHARED = {**PARAMETERS, "model": MODEL}
ENCODED = {"type": "string", "description": "Base64, or a data URL."}
LINK = {"type": "string", "description": "Where the server fetches the image, if it was set up to."}
STREAM = {
    "type": "boolean",
    "description": "Answer with events: `token` for each piece of the best caption, then `caption` with everything.",
}
ONE = {**SHARED, "stream": STREAM}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


def _body(**content: dict[str, Any]) -> dict[str, Any]:
    """A request body; keyword names are the types with two underscores for the slash."""
    named = {name.replace("__", "/").replace("_", "-"): value for name, value in content.items()}
    return {"requestBody": {"required": True, "content": named}}


def _query_and_body(properties: dict[str, dict[str, Any]], /, **content: dict[str, Any]) -> dict[str, Any]:
    """The same parameters in the query string as in the body."""
    query = [
        {"name": name, "in": "query", "description": schema["description"], "schema": schema}
        for name, schema in properties.items()
    ]
    return {"parameters": query, **_body(**content)}


CAPTION_INPUT = _query_and_body(
    ONE,
    image__jpeg=BINARY,
    image__png=BINARY,
    image__webp=BINARY,
    application__octet_stream=BINARY,
    multipart__form_data={
        "schema": _object({"image": {"type": "string", "format": "binary"}, **ONE}, required=["image"])
    },
    application__json={
        "schema": _object({"image": ENCODED, "url": LINK, **ONE}),
        "examples": {
            "base64": {"value": {"image": PIXEL, "beams": 5, "n": 2}},
            "url": {"value": {"url": "https://example.org/dog.jpg"}},
        },
    },
)
CAPTIONS_INPUT = _query_and_body(
    SHARED,
    multipart__form_data={
        "schema": _object(
            {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}, **SHARED},
            required=["images"],
        )
    },
    application__json={
        "schema": _object(
            {
                "images": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "anyOf": [ENCODED, _object({"image": ENCODED, "url": LINK, "id": {"type": "string"}})]
                    },
                },
                **SHARED,
            },
            required=["images"],
        ),
        "example": {"images": [PIXEL, {"image": PIXEL, "id": "dog"}], "beams": 3},
    },
)
HUGGING_FACE_BODY = _body(
    application__octet_stream=BINARY,
    image__jpeg=BINARY,
    application__json={
        "schema": _object({"inputs": ENCODED, "parameters": {"type": "object"}}, required=["inputs"]),
        "example": {"inputs": PIXEL, "parameters": {"max_new_tokens": 20, "num_beams": 3}},
    },
)
CHAT_BODY = _body(
    application__json={
        "schema": {
            "type": "object",
            "required": ["messages"],
            "properties": {
                "model": MODEL,
                "messages": {"type": "array", "items": {"type": "object"}, "minItems": 1},
                "stream": {"type": "boolean"},
                "max_tokens": {"type": "integer"},
                "temperature": {"type": "number"},
                "n": {"type": "integer"},
            },
        },
        "example": {
            "model": "default",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is in this picture?"},
                        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                    ],
                }
            ],
        },
    },
)
