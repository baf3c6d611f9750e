"""OpenAI's chat completions to an order and back: answers are read by the openai package's own types."""

import base64
from typing import Any

import pytest
from openai.pagination import SyncPage
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from raycap.decoding import DecodingConfig
from raycap.schema import Caption
from raycap.serve.contract import ModelInfo, Outcome
from raycap.serve.http.openai_protocol import (
    MAX_TOKENS,
    MESSAGE_LENGTH,
    ChatError,
    chunk,
    closing_chunks,
    completion,
    model_list,
    read_chat,
)
from raycap.serve.http.protocol import CaptionParameters

IMAGE = b"\xff\xd8\xff not looked at here"
DATA_URL = "data:image/jpeg;base64," + base64.b64encode(IMAGE).decode()
OUTCOME = Outcome([Caption("a dog", -0.5), Caption("a cat", -0.7)], tokens=6, model="lora", version="01ab")
SEARCH = {"sample": False, "temperature": 1.0, "top_k": 0, "top_p": 1.0}


def image_part(url: Any = DATA_URL) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def body(*parts: Any, **fields: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": "What is this?"}, *(parts or [image_part()])]
    return {"model": "lora", "messages": [{"role": "user", "content": content}], **fields}


def strict(kind: type[Any], answer: dict[str, Any]) -> Any:
    """Read by the client's own type; with `strict`, it would take a wrong type for what it is not."""
    return kind.model_validate(answer, strict=True)


# ------------------------------------------------------------------------------------------------ reading


def test_the_image_comes_in_a_data_url_or_by_name() -> None:
    request = read_chat(body())
    assert (request.image, request.url, request.model) == (IMAGE, "", "lora")
    assert (request.settings, request.stream, request.include_usage) == ({}, False, False)
    request = read_chat(body(image_part("HTTPS://example.com/a.jpg")))
    assert (request.image, request.url) == (b"", "HTTPS://example.com/a.jpg")
    assert read_chat(body(image_part("DATA:;base64,/9j/"))).image == b"\xff\xd8\xff"


def test_the_last_user_message_counts() -> None:
    earlier = {"role": "user", "content": [image_part("https://example.com/old.jpg")]}
    talk = [{"role": "system", "content": "Be brief."}, earlier, {"role": "assistant", "content": "A dog."}]
    assert read_chat({"messages": [*talk, *body()["messages"]]}).image == IMAGE
    with pytest.raises(ChatError, match="the last user message holds no image"):
        read_chat({"messages": [*talk, {"role": "user", "content": "and its colour?"}]})


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"max_tokens": 20}, {"max_tokens": 20}),
        ({"max_tokens": 20, "max_completion_tokens": 12}, {"max_tokens": 12}),
        ({"max_tokens": 300}, {"max_tokens": MAX_TOKENS}),  # as in OpenAI's own example
        ({"temperature": 0}, SEARCH),
        ({"temperature": 0.0, "top_p": 0.5}, SEARCH),
        ({"temperature": None, "n": None, "stop": None}, {}),
        ({"temperature": 0.7}, {"temperature": 0.7, "sample": True}),
        ({"temperature": 1, "seed": 7}, {"temperature": 1.0, "seed": 7, "sample": True}),
        ({"top_p": 0.9}, {"top_p": 0.9, "sample": True}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"n": 1}, {"n": 1}),
        ({"n": 2}, {"n": 2, "beams": 3}),
        ({"temperature": 0.01}, {"temperature": 0.05, "sample": True}),
        ({"seed": 2**40 + 3}, {"seed": 3}),
        ({"n": 5, "temperature": 0}, {"n": 5, "beams": 5, **SEARCH}),
        ({"n": 5, "temperature": 1}, {"n": 5, "temperature": 1.0, "sample": True}),
        ({"n": 2, "beams": 8}, {"n": 2, "beams": 8}),  # raycap's own, as the client's extra_body sends them
        ({"top_k": 40, "sample": True}, {"top_k": 40, "sample": True}),
        ({"unheard_of": 1, "store": True, "user": "me", "metadata": {"a": "b"}}, {}),
    ],
)
def test_settings_are_translated(fields: dict[str, Any], settings: dict[str, Any]) -> None:
    found = read_chat(body(**fields)).settings
    assert found == settings
    DecodingConfig.model_validate({**DecodingConfig().model_dump(), **found})


def test_a_checkpoint_that_samples_by_itself_is_deterministic_at_temperature_0() -> None:
    own = DecodingConfig(sample=True, temperature=0.6, top_k=50, top_p=0.9).model_dump()
    merged = DecodingConfig.model_validate({**own, **read_chat(body(temperature=0)).settings})
    assert not merged.sample


def test_the_cap_on_tokens_suits_a_small_captioner() -> None:
    """OpenAI's example asks for 300 tokens; 100 of them were too many for the quickstart's 64 positions."""
    assert CaptionParameters(max_tokens=MAX_TOKENS).max_tokens == MAX_TOKENS < 64


def test_streaming_and_usage() -> None:
    request = read_chat(body(stream=True, stream_options={"include_usage": True}))
    assert (request.stream, request.include_usage) == (True, True)
    assert not read_chat(body(stream=None, stream_options={"include_usage": None})).include_usage


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function"}]},
        {"functions": [{"name": "f"}]},
        {"tool_choice": "required"},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"logit_bias": {"50256": -100}},
        {"presence_penalty": 0.5},
        {"frequency_penalty": -1},
        {"stop": "dog"},
        {"stop": ["dog"]},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "alloy", "format": "wav"}},
        {"web_search_options": {}},
        {"moderation": {"model": "m"}},
        {"verbosity": "high"},
    ],
)
def test_what_would_change_the_answer_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ChatError, match=f"cannot honour {next(iter(fields))}") as caught:
        read_chat(body(**fields))
    assert caught.value.code == "unsupported_parameter"


def test_neutral_values_are_accepted() -> None:
    neutral = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logprobs": False}
    neutral |= {"presence_penalty": 0.0, "frequency_penalty": 0, "stop": [], "modalities": ["text"]}
    neutral |= {"logit_bias": {}, "audio": None, "parallel_tool_calls": True, "service_tier": "auto"}
    assert read_chat(body(**neutral)).settings == {}
    assert read_chat(body(tools=[{"type": "function"}], tool_choice="none", n=1)).settings == {"n": 1}


@pytest.mark.parametrize(
    ("request_body", "code", "message"),
    [
        ([], "bad_request", "must be a JSON object, and is a list"),
        (None, "bad_request", "and is null"),
        ({}, "bad_request", "messages must be a list"),
        ({"messages": "hello"}, "bad_request", "messages must be a list"),
        ({"messages": ["hello"]}, "bad_request", "messages must be a list"),
        ({"messages": []}, "no_image", "holds no image"),
        ({"messages": [{"role": "user"}]}, "no_image", "holds no image"),
        ({"messages": [{"role": "assistant", "content": [image_part()]}]}, "no_image", "holds no image"),
        (body(image_part(), image_part()), "too_many_images", "holds 2 images"),
        (body("a dog"), "bad_request", "text or image_url"),
        (body({"type": "input_audio", "input_audio": {}}), "bad_request", "text or image_url"),
        (body({"type": "file", "file": {}}), "bad_request", "text or image_url"),
        (body({"type": ["image_url"]}), "bad_request", "text or image_url"),
        (body({"type": "image_url"}), "bad_request", "must hold"),
        (body({"type": "image_url", "image_url": DATA_URL}), "bad_request", "must hold"),
        (body(image_part(7)), "bad_request", "must hold"),
        (body(image_part("")), "bad_request", "must hold"),
        (body(image_part("file:///etc/passwd")), "bad_request", "must be a data URL"),
        (body(image_part("ftp://example.com/a.jpg")), "bad_request", "must be a data URL"),
        (body(image_part("//example.com/a.jpg")), "bad_request", "must be a data URL"),
        (body(image_part(" " + DATA_URL)), "bad_request", "must be a data URL"),
        (body(image_part("data:image/png,raw")), "bad_request", "data:image/jpeg;base64"),
        (body(image_part("data:image/png;base64")), "no_image", "is empty"),
        (body(image_part("data:image/png;base64,")), "no_image", "is empty"),
        (body(image_part("data:image/png;base64,////\n")), "bad_base64", "not valid base64"),
        (body(image_part("data:image/png;base64,AAA")), "bad_base64", "not valid base64"),
        (body(image_part("data:image/png;base64,__--")), "bad_base64", "not valid base64"),
        (body(image_part("data:image/png;base64,\udce4\udce4")), "bad_base64", "not valid base64"),
        (body(model=7), "bad_request", "model must be a string, and is a number"),
        (body(stream="yes"), "bad_request", "stream must be true or false, and is a string"),
        (body(stream_options=[1]), "bad_request", "stream_options must be an object, and is a list"),
        (body(stream_options={"include_usage": 1}), "bad_request", "include_usage must be true or false"),
        (body(n=11), "invalid_parameter", "n: "),
        (body(n=0), "invalid_parameter", "n: "),
        (body(max_tokens=0), "invalid_parameter", "max_tokens: "),
        (body(max_completion_tokens=-1), "invalid_parameter", "max_tokens: "),
        (body(temperature=-0.1), "invalid_parameter", "temperature: "),
        (body(temperature=99), "invalid_parameter", "temperature: "),
        (body(temperature=float("nan")), "invalid_parameter", "temperature: "),
        (body(top_p=0), "invalid_parameter", "top_p: "),
        (body(seed=-1), "invalid_parameter", "seed: "),
        (body(n=10**400), "invalid_parameter", "n: "),
        (body(temperature="hot" * 10_000), "invalid_parameter", "temperature: "),
    ],
)
def test_what_cannot_be_answered_is_said_in_a_sentence(request_body: Any, code: str, message: str) -> None:
    with pytest.raises(ChatError) as caught:
        read_chat(request_body)
    assert caught.value.code == code
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= MESSAGE_LENGTH


# ------------------------------------------------------------------------------------------------ writing


def test_a_completion_is_what_the_client_reads() -> None:
    answer = strict(ChatCompletion, completion(OUTCOME, request_id="abc", created=1_700_000_000))
    assert (answer.id, answer.created, answer.model) == ("chatcmpl-abc", 1_700_000_000, "lora")
    assert answer.system_fingerprint == "01ab"
    assert [(one.index, one.message.content, one.finish_reason) for one in answer.choices] == [
        (0, "a dog", "stop"),
        (1, "a cat", "stop"),
    ]
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (0, 6, 6)


@pytest.mark.parametrize(("max_tokens", "finish"), [(0, "stop"), (2, "length"), (3, "length"), (4, "stop")])
def test_captions_that_fill_their_tokens_finish_by_length(max_tokens: int, finish: str) -> None:
    answer = completion(OUTCOME, request_id="abc", created=0, max_tokens=max_tokens)
    assert {choice["finish_reason"] for choice in answer["choices"]} == {finish}


def test_a_streams_chunks_are_what_the_client_reads() -> None:
    common: dict[str, Any] = {"request_id": "abc", "created": 5}
    written = [chunk("", model="lora", first=True, **common)]
    written += [chunk(text, model="lora", **common) for text in ("a ", "dog")]
    written += closing_chunks(OUTCOME, include_usage=True, **common)
    chunks = [strict(ChatCompletionChunk, one) for one in written]
    assert {one.id for one in chunks} == {"chatcmpl-abc"}
    assert {one.model for one in chunks} == {"lora"}
    assert [len(one.choices) for one in chunks] == [1] * 6 + [0]
    assert chunks[0].choices[0].delta.role == "assistant"
    texts, finishes = {0: "", 1: ""}, {}
    for choice in (choice for one in chunks for choice in one.choices):
        texts[choice.index] += choice.delta.content or ""
        finishes.setdefault(choice.index, []).append(choice.finish_reason)
    assert texts == {0: "a dog", 1: "a cat"}
    assert finishes == {0: [None, None, None, "stop"], 1: [None, "stop"]}
    assert [one.usage and one.usage.completion_tokens for one in chunks] == [None] * 6 + [6]
    assert not any("usage" in one for one in closing_chunks(OUTCOME, **common))


def test_models_are_what_the_client_reads() -> None:
    info = ModelInfo("lora", family="gpt2_cross", version="01ab", created=1_700_000_000, versions={})
    listed = model_list([info])
    page = SyncPage[Model].model_validate(listed)
    assert [(one.id, one.created, one.owned_by) for one in page.data] == [("lora", 1_700_000_000, "raycap")]
    assert strict(Model, listed["data"][0]).model_extra == {"family": "gpt2_cross", "version": "01ab"}
