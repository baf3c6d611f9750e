"""OpenAI's chat completions with an image, to raycap's settings and back. Translation only: no HTTP, no fetching.

A captioner takes no instructions: text beside the image is accepted and not followed. What a request asks for and
cannot have (tools, JSON answers, stop words) is refused instead of being left out silently.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from raycap.config import describe_validation_error
from raycap.serve.contract import ModelInfo, Outcome
from raycap.serve.http.protocol import CaptionParameters

MAX_TOKENS = 60  # OpenAI's examples ask for hundreds, and a captioner may have 64 positions
MAX_SEED, MIN_TEMPERATURE = 2**31 - 1, 0.05  # of CaptionParameters
MESSAGE_LENGTH = 300  # characters: messages repeat what came, which may be long
# OpenAI's fields that would change the answer, with the values that do not; null never does.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "stop": ([], ""),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
SEARCH = {"sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""No sampling, whatever the checkpoint does by itself."""


class ChatError(ValueError):
    """A request that cannot be answered: a code for programs, one sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class ChatRequest:
    """What a chat completion asks of a captioner."""

    image: bytes
    """Encoded, as it came; empty where `url` names the image."""
    url: str
    """http or https, not yet checked against anything; "" where the request brings the image."""
    settings: dict[str, Any]
    """Settings of DecodingConfig that the request names."""
    model: str
    """"" is the default one."""
    stream: bool
    include_usage: bool
    """Whether a stream ends with a chunk that counts tokens."""


def read_chat(body: Any) -> ChatRequest:
    """A request's decoded JSON as image and settings.

    The image is that of the last user message. Settings that OpenAI does not have (beams, top_k, ...) may stand
    beside its own. `max_tokens` above raycap's cap means the cap: it asks for no more than that many.

    Raises:
        ChatError: no image or several, a setting out of range, or one that a captioner cannot honour.
    """
    if not isinstance(body, dict):
        raise ChatError("bad_request", f"the body must be a JSON object, and is {_kind(body)}")
    _refuse_unsupported(body)
    image, url = _read_image(body.get("messages"))
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise ChatError("bad_request", f"stream_options must be an object, and is {_kind(options)}")
    return ChatRequest(
        image=image,
        url=url,
        settings=_settings({name: value for name, value in body.items() if value is not None}),
        model=_typed(body, "model", ""),
        stream=_typed(body, "stream", False),
        include_usage=_typed(options, "include_usage", False),
    )


def completion(outcome: Outcome, *, request_id: str, created: int, max_tokens: int = 0) -> dict[str, Any]:
    """A `chat.completion` with a choice for each caption, best first.

    Args:
        created: Unix time.
        max_tokens: what the request named (0: nothing), for `finish_reason`. It is `length` where the captions
            have as many tokens as they may; outcomes count tokens of all captions together.
    """
    finish = _finish(outcome, max_tokens)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": caption.text, "refusal": None},
            "logprobs": None,
            "finish_reason": finish,
        }
        for index, caption in enumerate(outcome.captions)
    ]
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": created,
        "model": outcome.model,
        "system_fingerprint": outcome.version,
        "choices": choices,
        "usage": _usage(outcome),
    }


def chunk(
    text: str,
    *,
    request_id: str,
    created: int,
    model: str,
    index: int = 0,
    first: bool = False,
    finish: str = "",
) -> dict[str, Any]:
    """A `chat.completion.chunk` with a piece of one choice.

    Args:
        text: the piece; "" leaves the content out, but for the first chunk.
        first: opens the choice: names the role.
        finish: closes the choice: its finish reason.
    """
    delta: dict[str, Any] = {"role": "assistant"} if first else {}
    if text or first:
        delta["content"] = text
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish or None}
    return _chunk([choice], request_id=request_id, created=created, model=model)


def closing_chunks(
    outcome: Outcome, *, request_id: str, created: int, include_usage: bool = False, max_tokens: int = 0
) -> list[dict[str, Any]]:
    """What follows the pieces of the best caption: its end, the other captions whole, and usage if asked for."""
    common: dict[str, Any] = {"request_id": request_id, "created": created, "model": outcome.model}
    finish = _finish(outcome, max_tokens)
    chunks = [chunk("", finish=finish, **common)]
    for index, caption in enumerate(outcome.captions[1:], start=1):
        chunks.append(chunk(caption.text, index=index, first=True, **common))
        chunks.append(chunk("", index=index, finish=finish, **common))
    if include_usage:
        chunks.append({**_chunk([], **common), "usage": _usage(outcome)})
    return chunks


def model_list(infos: Sequence[ModelInfo]) -> dict[str, Any]:
    """The answer to GET /v1/models."""
    return {"object": "list", "data": [model_entry(info) for info in infos]}


def model_entry(info: ModelInfo) -> dict[str, Any]:
    """One model, as in the list and at GET /v1/models/NAME; family and version are raycap's additions."""
    return {
        "id": info.model,
        "object": "model",
        "created": info.created,
        "owned_by": "raycap",
        "family": info.family,
        "version": info.version,
    }


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for name, neutral in NEUTRAL.items():
        value = body.get(name)
        if value is None or value in neutral:
            continue
        if name == "tools" and body.get("tool_choice") == "none":
            continue
        raise ChatError("unsupported_parameter", f"a captioner cannot honour {name}; leave it out")


def _read_image(messages: Any) -> tuple[bytes, str]:
    """Bytes or a URL: the image of the last user message."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ChatError("bad_request", "messages must be a list of objects with role and content")
    contents = [message.get("content") for message in messages if message.get("role") == "user"]
    parts = contents[-1] if contents and isinstance(contents[-1], list) else []
    urls = [url for part in parts if (url := _image_of_part(part))]
    if not urls:
        raise ChatError(
            "no_image", "the last user message holds no image; give it a content part of type image_url"
        )
    if len(urls) > 1:
        raise ChatError(
            "too_many_images", f"the last user message holds {len(urls)} images; send one a request"
        )
    scheme = urls[0][:8].lower()
    if scheme.startswith(("http://", "https://")):
        return b"", urls[0]
    if not scheme.startswith("data:"):
        raise ChatError(
            "bad_request", "image_url.url must be a data URL with base64, or start with http(s)://"
        )
    return _read_data_url(urls[0]), ""


def _image_of_part(part: Any) -> str:
    """The URL of an image part, "" for one of text."""
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return ""
    if kind != "image_url":
        raise ChatError("bad_request", "a content part's type must be text or image_url")
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str) or not url:
        raise ChatError("bad_request", 'an image_url part must hold {"image_url": {"url": "..."}}')
    return url


def _read_data_url(url: str) -> bytes:
    head, _, encoded = url[5:].partition(",")
    if not head.lower().endswith(";base64"):
        raise ChatError("bad_request", "a data URL must look like data:image/jpeg;base64,...")
    try:
        image = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):  # the latter where it is not even ASCII
        raise ChatError("bad_base64", "the data URL's content is not valid base64") from None
    if not image:
        raise ChatError("no_image", "the data URL is empty")
    return image


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """DecodingConfig's settings that the request names, within the caps."""
    given = {name: body[name] for name in CaptionParameters.model_fields if name in body}
    deterministic = _is_zero(given.get("temperature"))
    if deterministic:  # not within the caps: it stands for no sampling
        given |= SEARCH
    if "max_completion_tokens" in body:  # the newer name
        given["max_tokens"] = body["max_completion_tokens"]
    if isinstance(given.get("max_tokens"), int):
        given["max_tokens"] = min(given["max_tokens"], MAX_TOKENS)
    seed, temperature = given.get("seed"), given.get("temperature")
    if isinstance(seed, int) and seed > MAX_SEED:  # OpenAI's has 64 bits
        given["seed"] = seed % (MAX_SEED + 1)
    if isinstance(temperature, float) and 0 < temperature < MIN_TEMPERATURE:  # OpenAI's reaches down to 0
        given["temperature"] = MIN_TEMPERATURE
    settings = _within_caps(given)
    if not deterministic and (settings.get("temperature") or settings.get("top_p", 1.0) < 1):
        settings.setdefault("sample", True)  # as OpenAI's models do, whose temperature is 1 by itself
    if settings.get("n", 1) > 1 and not settings.get("sample"):
        settings.setdefault("beams", max(settings["n"], CaptionParameters().beams))
    return settings


def _within_caps(given: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return CaptionParameters.model_validate(given).given()
    except ValidationError as error:
        message = describe_validation_error(error).replace("\n", "; ")
        raise ChatError("invalid_parameter", message[:MESSAGE_LENGTH]) from None


def _finish(outcome: Outcome, max_tokens: int) -> str:
    full = max_tokens > 0 and outcome.tokens >= max_tokens * len(outcome.captions)
    return "length" if full else "stop"


def _usage(outcome: Outcome) -> dict[str, int]:
    """Captions' tokens; an image costs none."""
    return {"prompt_tokens": 0, "completion_tokens": outcome.tokens, "total_tokens": outcome.tokens}


def _chunk(choices: list[dict[str, Any]], *, request_id: str, created: int, model: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion.chunk",
        "created": created,
        "model": model,
        "choices": choices,
    }


def _is_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == 0


def _typed(body: Mapping[str, Any], name: str, default: Any) -> Any:
    """A field that must be of its default's type; null is the default."""
    value = default if body.get(name) is None else body[name]
    if not isinstance(value, type(default)):
        raise ChatError("bad_request", f"{name} must be {_kind(default)}, and is {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    """JSON's name for the type of a value."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
