"""POST /v1/captions in process: a line for each image, each with its own luck."""

import asyncio
import base64
import json
from typing import Any

import httpx
import pytest
from serve_fakes import FakeCaptioner, ask, body, client_that, grey_of, make_app, picture, speak

from raycap.serve.contract import Order, Outcome
from raycap.serve.http.routes.captions import AT_ONCE

PATH = "/v1/captions"
FIELDS = {
    "caption",
    "score",
    "alternatives",
    "model",
    "version",
    "request_id",
    "timings",
    "retries",
    "index",
    "id",
}


def encoded(grey: int = 90) -> str:
    return base64.b64encode(picture(grey)).decode()


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


class Ordered(FakeCaptioner):
    """The darker the image, the later it is done."""

    def __init__(self, greys: list[int]) -> None:
        super().__init__()
        self.left = sorted(greys, reverse=True)

    async def _work(self, order: Order) -> Outcome:
        grey = grey_of(order.image)
        while self.left[0] != grey:
            await asyncio.sleep(0)
        self.left.pop(0)
        return await super()._work(order)


@pytest.mark.parametrize("kind", ["json", "multipart"])
def test_lines_come_as_they_become_ready(kind: str) -> None:
    greys = [10, 60, 110, 160]
    request: dict[str, Any] = {
        "json": {
            "json": {"images": [{"image": encoded(grey), "id": str(grey)} for grey in greys], "beams": 5}
        },
        "multipart": {
            "files": [("images", (str(grey), picture(grey))) for grey in greys],
            "data": {"beams": "5"},
        },
    }[kind]
    found = lines(ask(make_app(Ordered(greys)), PATH, **request))
    assert [line["index"] for line in found] == [3, 2, 1, 0]
    assert [line["id"] for line in found] == ["160", "110", "60", "10"]
    assert [line["caption"] for line in found] == [f"{grey} x5 #0" for grey in reversed(greys)]
    assert all(set(line) == FIELDS and line["request_id"] == "abc" for line in found)


def test_one_bad_image_fails_no_other() -> None:
    images = [
        encoded(),
        "%%%",
        base64.b64encode(b"no image").decode(),
        7,
        {"image": encoded(), "name": "typo"},
        {"id": "nothing"},
        {"url": "https://example.org/a.jpg", "id": 5},
        {"image": encoded(), "id": "\ud800"},
        None,
    ]
    content = json.dumps({"images": images}).encode()
    found = lines(ask(make_app(), PATH, content=content, headers={"content-type": "application/json"}))
    by_index = {line["index"]: line for line in found}
    assert sorted(by_index) == list(range(len(images)))
    codes = [by_index[index].get("error", {}).get("code") for index in range(len(images))]
    assert codes == [
        None,
        "bad_base64",
        "bad_image",
        "bad_json",
        "bad_json",
        "no_image",
        "url_not_allowed",
        None,
        "bad_json",
    ]
    assert (by_index[5]["id"], by_index[6]["id"], by_index[7]["id"]) == ("nothing", "5", "?")
    assert by_index[1]["error"]["request_id"] == "abc"


def test_a_fault_of_ours_is_one_images_too() -> None:
    class Faulty(FakeCaptioner):
        async def _work(self, order: Order) -> Outcome:
            if grey_of(order.image) == 20:
                raise RuntimeError("secret /path/of/the/server")
            return await super()._work(order)

    answer = ask(make_app(Faulty()), PATH, json={"images": [encoded(20), encoded(30)]})
    by_index = {line["index"]: line for line in lines(answer)}
    assert by_index[0]["error"]["code"] == "internal_error"
    assert by_index[1]["caption"].startswith("30")
    assert "/path" not in answer.text


class Full(FakeCaptioner):
    """Answers nobody before as many as are allowed have come."""

    def __init__(self) -> None:
        super().__init__()
        self.full = asyncio.Event()

    async def _work(self, order: Order) -> Outcome:
        if self.running == AT_ONCE:
            self.full.set()
        await self.full.wait()
        return await super()._work(order)


def test_one_request_does_not_take_all_places() -> None:
    """A captioner that answered at once made this a matter of timing."""
    captioner = Full()
    answer = ask(make_app(captioner, max_body_bytes=10**6), PATH, json={"images": [encoded()] * 30})
    assert len(lines(answer)) == 30
    assert captioner.most_at_once == AT_ONCE


def test_time_is_up_for_each_image() -> None:
    captioner = FakeCaptioner()
    found = lines(
        ask(make_app(captioner, timeout_s=0.3), PATH, json={"images": [encoded()] * 10, "seed": 14})
    )
    assert [line["error"]["code"] for line in found] == ["timeout"] * 10
    assert captioner.cancelled == AT_ONCE


def test_hanging_up_cancels_the_rest() -> None:
    captioner = FakeCaptioner()
    content = json.dumps({"images": [encoded()] * 12, "seed": 14}).encode()
    client = client_that(body(content), waits_for=lambda: captioner.running == AT_ONCE)
    asyncio.run(
        speak(make_app(captioner), client, path=PATH, headers=[(b"content-type", b"application/json")])
    )
    assert (captioner.cancelled, captioner.running, len(captioner.orders)) == (AT_ONCE, 0, AT_ONCE)


@pytest.mark.parametrize(
    ("request_body", "status", "code"),
    [
        ({"content": picture()}, 400, "no_image"),
        ({"json": {"images": []}}, 400, "no_image"),
        ({"json": {"images": "abc"}}, 400, "bad_json"),
        ({"json": {}}, 400, "bad_json"),
        ({"json": {"images": ["YQ=="] * 33}}, 400, "too_many_images"),
        ({"files": [("images", b"a")] * 33}, 400, "bad_form"),
        ({"files": {}, "data": {"beams": "3"}}, 400, "no_image"),
        ({"json": {"images": [encoded()], "beams": 99}}, 422, "invalid_parameter"),
        ({"json": {"images": [encoded()], "stream": True}}, 422, "invalid_parameter"),
        ({"json": {"images": [encoded()], "model": "big"}}, 404, "model_not_found"),
    ],
)
def test_what_is_wrong_with_all_is_an_answer_of_its_own(
    request_body: dict[str, Any], status: int, code: str
) -> None:
    answer = ask(make_app(), PATH, **request_body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
