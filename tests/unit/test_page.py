"""The page at "/" in headless Chromium, against an app with scripted answers in the API's shapes."""

import asyncio
import base64
import io
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from PIL import Image
from ports import free_port

import raycap

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: raycap[test]")
PAGE = Path(raycap.__file__).parent / "serve/http/page/index.html"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
POLICY = (
    "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' blob: data:"
)
Page = Any  # playwright's, which may not be installed


def photo(colour: str = "teal", size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def caption(
    text: str = "a dog runs on the beach", *, model: str = "default", n: int = 3, **rest: Any
) -> dict[str, Any]:
    """An answer of POST /v1/caption."""
    found = [
        {"caption": text if i == 0 else f"{text}, take {i + 1}", "score": -0.5 - i / 4} for i in range(n)
    ]
    timings = {"decode_ms": 3.1, "queue_ms": 1.2, "model_ms": 210.4, "total_ms": 216.0}
    answer = {**found[0], "alternatives": found, "model": model, "version": "0123456789ab"}
    return {**answer, "request_id": "req-1", "timings": timings, "retries": 0, **rest}


def failure(status: int, code: str, message: str, **headers: str) -> Response:
    detail = {"code": code, "message": message, "request_id": "req-9"}
    return JSONResponse({"error": detail}, status_code=status, headers=headers)


@dataclass
class Seen:
    """A request as it came."""

    query: dict[str, str]
    body: bytes
    headers: dict[str, str]
    hung_up: bool = False


@dataclass
class Script:
    """What the app answers, and what it was asked."""

    url: str
    models: list[str] = field(default_factory=lambda: ["default"])
    answer: Callable[[Seen, Request], Awaitable[Response]] | None = None
    seen: list[Seen] = field(default_factory=list)

    def says(self, response: Callable[[Seen], Any]) -> None:
        async def answer(seen: Seen, request: Request) -> Response:
            found = response(seen)
            return found if isinstance(found, Response) else JSONResponse(found)

        self.answer = answer


def scripted_app(script: Script) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text(), headers={"Content-Security-Policy": POLICY})

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model"} for name in script.models]}

    @app.post("/v1/caption")
    async def post(request: Request) -> Response:
        seen = Seen(dict(request.query_params), await request.body(), dict(request.headers))
        script.seen.append(seen)
        if script.answer:
            return await script.answer(seen, request)
        return JSONResponse(caption(model=seen.query.get("model", "default"), n=int(seen.query["n"])))

    return app


async def holds(seen: Seen, request: Request) -> Response:
    """Answers when the client has hung up."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)
    seen.hung_up = True
    return Response()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no chromium or google-chrome on the path")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Script]:
    port = free_port()
    script = Script(f"http://127.0.0.1:{port}/")
    config = uvicorn.Config(scripted_app(script), host="127.0.0.1", port=port, ws="none", log_level="warning")
    served = uvicorn.Server(config)
    thread = threading.Thread(target=served.run)
    thread.start()
    until(lambda: served.started)
    yield script
    served.should_exit = True
    thread.join()


@pytest.fixture
def script(server: Script) -> Script:
    server.models, server.answer = ["default"], None
    server.seen.clear()
    return server


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Any, script: Script) -> Iterator[Open]:
    """Opens the page; at the end no script may have failed and nothing may stand in the console.

    Chromium itself notes every answer of 400 and above there: those are the test's own.
    """
    contexts, faults = [], []

    def note(message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            faults.append(message.text)

    def open_page(**settings: Any) -> Page:
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        # A listener from the start: one that comes with the key press may come after the dialog.
        page.on("filechooser", lambda chooser: None)
        page.on("console", note)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(script.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults


def until(holds: Callable[[], Any], *, limit_s: float = 30) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def pick(page: Page, data: bytes | None = None, *, name: str = "dog.jpg", kind: str = "image/jpeg") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data or photo()})


def slide(page: Page, name: str, value: float) -> None:
    page.locator(f"#{name}").fill(str(value))


def card(page: Page, number: int = 0) -> Page:
    return page.locator(".card").nth(number)


def shows(page: Page, text: str, *, selector: str = ".caption", number: int = 0) -> None:
    sync_api.expect(card(page, number).locator(selector)).to_have_text(text)


def test_picked_photo_is_captioned_from_its_own_bytes(opened: Open, script: Script) -> None:
    page, data = opened(), photo("salmon", (900, 1200))
    pick(page, data)
    shows(page, "a dog runs on the beach")
    (seen,) = script.seen
    assert seen.body == data
    assert seen.headers["content-type"] == "image/jpeg"
    sampling_off = {"sample": "false", "temperature": "1", "top_k": "0", "top_p": "1"}
    assert seen.query == {"beams": "3", "n": "3", "max_tokens": "30", "model": "default", **sampling_off}


def test_the_answer_is_shown_whole(opened: Open, script: Script) -> None:
    script.says(lambda seen: caption(retries=2))
    page = opened()
    pick(page)
    shows(page, "score −0.50", selector=".best .number")
    words = card(page).locator(".alternatives .words").all_text_contents()
    assert words == ["a dog runs on the beach, take 2", "a dog runs on the beach, take 3"]
    assert card(page).locator(".alternatives .number").all_text_contents() == ["−0.75", "−1.00"]
    widths = [
        bar.evaluate("bar => parseFloat(bar.style.width)") for bar in card(page).locator(".bar b").all()[1:]
    ]
    assert widths == pytest.approx([77.88, 60.65], abs=0.01)  # exp of the distance to the best, in percent
    assert card(page).locator(".legend dt").all_text_contents() == [
        "decode", "queue", "model", "other", "total", "round trip"
    ]  # fmt: skip
    assert card(page).locator(".legend dd").all_text_contents()[:5] == [
        "3.1 ms", "1.2 ms", "210 ms", "1.3 ms", "216 ms"
    ]  # fmt: skip
    assert card(page).locator(".facts dd").all_text_contents() == ["0123456789ab", "req-1", "2"]
    assert page.locator("#preview").get_attribute("alt") == "a dog runs on the beach"


def transfer(page: Page, *files: tuple[str, str, bytes]) -> Any:
    """A DataTransfer with files, as a drop or the clipboard brings it."""
    given = [[name, kind, base64.b64encode(data).decode()] for name, kind, data in files]
    return page.evaluate_handle(
        """given => {
          const transfer = new DataTransfer();
          for (const [name, type, data] of given) {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            transfer.items.add(new File([bytes], name, { type }));
          }
          return transfer;
        }""",
        given,
    )


def test_dropped_photo_is_captioned(opened: Open, script: Script) -> None:
    page = opened()
    files = {"dataTransfer": transfer(page, ("beach.png", "image/png", b"any bytes: the server judges"))}
    page.dispatch_event("body", "dragenter", files)
    assert "dragging" in page.locator("body").get_attribute("class")
    page.dispatch_event("body", "drop", files)
    shows(page, "a dog runs on the beach")
    assert "dragging" not in page.locator("body").get_attribute("class")
    assert script.seen[0].body == b"any bytes: the server judges"
    assert page.locator("#no-preview").text_content() == "This browser shows no preview of beach.png."


def test_pasted_photo_is_captioned(opened: Open, script: Script) -> None:
    page, data = opened(), photo("gold")
    page.evaluate(
        "clipboardData => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }))",
        transfer(page, ("image.png", "image/png", data)),
    )
    shows(page, "a dog runs on the beach")
    assert script.seen[0].body == data


def test_a_file_that_is_no_photo_is_not_sent(opened: Open, script: Script) -> None:
    page = opened()
    pick(page, b"%PDF", name="report.pdf", kind="application/pdf")
    expected = "“report.pdf” is not a JPEG, PNG or WebP photo. Choose another one."
    sync_api.expect(page.get_by_role("alert")).to_have_text(expected)
    assert script.seen == []
    pick(page)
    shows(page, "a dog runs on the beach")
    assert page.locator("#notice").is_hidden()


def test_everything_works_by_keyboard_alone(opened: Open, script: Script) -> None:
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "drop"
    assert page.locator("#drop").evaluate("drop => getComputedStyle(drop).outlineStyle") == "solid"
    for key in ("Enter", "Space"):
        with page.expect_file_chooser() as chooser:
            page.keyboard.press(key)
        chooser.value.set_files({"name": "dog.jpg", "mimeType": "image/jpeg", "buffer": photo()})
        shows(page, "a dog runs on the beach")
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if reached[-1] == "beams":
            page.keyboard.press("ArrowRight")
    assert reached == [
        "go",
        "",
        "beams",
        "n",
        "temperature",
        "tokens",
        "button small copy",
    ]  # "": the summary
    page.locator("#go").focus()
    page.keyboard.press("Enter")
    until(lambda: len(script.seen) == 3)
    assert script.seen[-1].query["beams"] == "4"


def test_every_control_has_a_name_and_results_are_announced(opened: Open) -> None:
    page = opened()
    pick(page)
    shows(page, "a dog runs on the beach")
    for name in ("Beams", "Captions", "Temperature", "Longest caption"):
        assert page.get_by_role("slider", name=name).count() == 1
    assert page.get_by_role("button", name="Choose another photo. Now: dog.jpg").count() == 1
    assert page.get_by_role("status").text_content() == "Caption: a dog runs on the beach"
    nameless = "element => !(element.labels?.length || element.ariaLabel || element.textContent.trim())"
    visible = [one for one in page.locator("button, input").all() if one.is_visible()]
    assert not [one for one in visible if one.evaluate(nameless)]


def test_two_models_side_by_side(opened: Open, script: Script) -> None:
    script.models = ["small", "large"]
    script.says(lambda seen: caption(f"what {seen.query['model']} says", model=seen.query["model"]))
    page = opened(viewport={"width": 1280, "height": 900})
    page.get_by_role("checkbox", name="large").check()
    pick(page)
    shows(page, "what small says")
    shows(page, "what large says", number=1)
    assert page.locator(".card h2").all_text_contents() == ["small", "large"]
    left, right = (card(page, number).bounding_box() for number in (0, 1))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]


def test_the_last_model_cannot_be_left_out(opened: Open, script: Script) -> None:
    script.models = ["small", "large"]
    page = opened()
    small = page.get_by_role("checkbox", name="small")
    small.evaluate("box => box.click()")
    assert small.is_checked()


def test_one_model_offers_no_choice(opened: Open) -> None:
    page = opened()
    until(lambda: page.locator("#models input").count() == 1)
    assert page.get_by_role("checkbox").count() == 0


def test_settings_reach_the_server(opened: Open, script: Script) -> None:
    page = opened()
    slide(page, "n", 6)
    assert page.locator("#beams-out").text_content() == "6"  # beam search has as many captions as beams
    slide(page, "beams", 2)
    assert page.locator("#n-out").text_content() == "2"
    slide(page, "temperature", 0.7)
    slide(page, "n", 5)
    slide(page, "tokens", 12)
    assert page.locator("#beams").is_disabled()
    pick(page)
    shows(page, "a dog runs on the beach")
    query = script.seen[0].query
    seed = query.pop("seed")
    assert query == {"sample": "true", "temperature": "0.7", "n": "5", "max_tokens": "12", "model": "default"}
    assert card(page).locator(".facts dd").last.text_content() == seed
    page.get_by_role("button", name="Caption again").click()
    until(lambda: len(script.seen) == 2)
    assert script.seen[1].query["seed"] != seed  # sampled again, not the same again


def test_an_error_of_the_server_is_shown_with_its_id(opened: Open, script: Script) -> None:
    script.says(lambda seen: failure(400, "bad_image", "the image is cut off after 12 bytes; send it whole"))
    page = opened()
    pick(page)
    shows(page, "The photo was refused", selector=".trouble h3")
    shows(page, "the image is cut off after 12 bytes; send it whole", selector=".message")
    assert card(page).locator(".facts dd").all_text_contents() == ["400", "bad_image", "req-9"]
    assert card(page).get_by_role("alert").is_visible()
    script.answer = None
    card(page).get_by_role("button", name="Try again").click()
    shows(page, "a dog runs on the beach")
    assert card(page).get_by_role("alert").count() == 0


def test_too_many_requests_says_when_to_try_again(opened: Open, script: Script) -> None:
    script.says(lambda seen: failure(429, "overloaded", "too many requests wait", **{"Retry-After": "2"}))
    page = opened()
    pick(page)
    shows(page, "The server is busy", selector=".trouble h3")
    shows(page, "You can try again now.", selector=".wait")
    script.answer = None
    card(page).get_by_role("button", name="Try again").click()
    shows(page, "a dog runs on the beach")


def test_too_many_requests_without_a_time(opened: Open, script: Script) -> None:
    script.says(lambda seen: failure(429, "overloaded", "too many requests wait"))
    page = opened()
    pick(page)
    shows(page, "Try again in a moment.", selector=".wait")


def test_an_error_not_in_our_shape(opened: Open, script: Script) -> None:
    script.says(lambda seen: HTMLResponse("<h1>Bad gateway</h1>", status_code=502))
    page = opened()
    pick(page)
    shows(page, "The server answered 502 and gave no reason.", selector=".message")


def test_one_model_may_fail_beside_another(opened: Open, script: Script) -> None:
    script.models = ["small", "large"]
    busy = failure(503, "unavailable", "the model is being loaded", **{"Retry-After": "9"})
    script.says(lambda seen: busy if seen.query["model"] == "large" else caption(model="small"))
    page = opened()
    page.get_by_role("checkbox", name="large").check()
    pick(page)
    shows(page, "a dog runs on the beach")
    shows(page, "the model is being loaded", selector=".message", number=1)


def test_an_unreachable_server(opened: Open, script: Script) -> None:
    page = opened()
    page.route("**/v1/caption*", lambda route: route.abort())
    pick(page)
    shows(page, "The server cannot be reached", selector=".trouble h3")


def test_a_key_is_asked_for_and_sent(opened: Open, script: Script) -> None:
    def guarded(seen: Seen) -> Any:
        good = seen.headers.get("authorization") == "Bearer secret"
        return caption() if good else failure(401, "unauthorized", "an API key is needed")

    script.says(guarded)
    page = opened()
    assert page.locator("#key-box").is_hidden()
    pick(page)
    shows(page, "An API key is needed", selector=".trouble h3")
    page.get_by_label("API key").fill("secret")
    page.get_by_label("API key").press("Enter")
    shows(page, "a dog runs on the beach")


def test_markup_in_an_answer_is_shown_as_text(opened: Open, script: Script) -> None:
    evil = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    script.models = ["small", evil]
    answer = {"model": evil, "version": evil, "request_id": evil}
    script.says(lambda seen: caption(evil, **answer))
    page = opened()
    page.get_by_role("checkbox", name=evil).check()
    pick(page, name=f"{evil}.jpg")
    shows(page, evil)
    script.says(lambda seen: failure(422, evil, evil))
    page.get_by_role("button", name="Caption again").click()
    shows(page, evil, selector=".message")
    assert page.evaluate("window.hacked") is None
    assert page.locator(".card img, .chip img, .card script").count() == 0


def test_a_new_photo_aborts_the_running_request(opened: Open, script: Script) -> None:
    script.answer = holds
    page = opened()
    pick(page)
    until(lambda: script.seen)
    first = script.seen[0]
    script.says(lambda seen: caption("the second photo"))
    pick(page, photo("navy"), name="second.jpg")
    until(lambda: first.hung_up)
    shows(page, "the second photo")
    assert page.locator(".card").count() == 1


def test_a_running_request_can_be_stopped(opened: Open, script: Script) -> None:
    script.answer = holds
    page = opened()
    pick(page)
    until(lambda: script.seen)
    page.get_by_role("button", name="Stop").click()
    until(lambda: script.seen[0].hung_up)
    shows(page, "Stopped", selector=".trouble h3")
    assert page.get_by_role("button", name="Caption again").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_narrow_phone(opened: Open, script: Script, scheme: str) -> None:
    script.models = ["small", "a-model-with-a-very-long-name-that-nobody-would-choose-but-somebody-did"]
    script.says(lambda seen: caption("word" * 40, model=seen.query["model"], request_id="f" * 64))
    page = opened(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme=scheme)
    page.locator("summary").click()
    page.locator(".chip").nth(1).click()
    pick(page, name="a-photo-with-a-name-as-long-as-cameras-give-them-today.jpg")
    shows(page, "word" * 40, number=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#camera").is_visible()
    with page.expect_file_chooser() as chooser:
        page.locator("#camera").click()
    assert chooser.value.element.get_attribute("capture") == "environment"


def luminance(page: Page, selector: str, what: str) -> float:
    """Relative luminance (WCAG 2) of a colour as computed."""
    colour = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{what}")
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(page: Page, selector: str, ground: str) -> float:
    light, dark = sorted(
        (luminance(page, selector, "color"), luminance(page, ground, "backgroundColor")), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(opened: Open, script: Script, scheme: str) -> None:
    page = opened(color_scheme=scheme)
    assert (luminance(page, "body", "backgroundColor") < 0.1) is (scheme == "dark")
    pick(page)
    shows(page, "a dog runs on the beach")
    for selector in (".caption", ".card h2", ".number", ".legend dt", ".alternatives small"):
        assert contrast(page, selector, ".card") >= 4.5, selector
    assert contrast(page, "#go", "#go") >= 4.5
    script.says(lambda seen: failure(400, "bad_image", "no image"))
    page.locator("#go").click()
    shows(page, "no image", selector=".message")
    assert contrast(page, ".trouble h3", ".card") >= 4.5


def test_nothing_moves_where_that_is_not_wanted(opened: Open, script: Script) -> None:
    script.answer = holds
    page = opened(reduced_motion="reduce")
    pick(page)
    until(lambda: script.seen)
    assert page.locator(".waiting i").first.evaluate("one => getComputedStyle(one).animationName") == "none"


def test_a_streamed_answer_grows(opened: Open, script: Script) -> None:
    async def stream(seen: Seen, request: Request) -> Response:
        async def events() -> Any:
            for part in ('event: token\ndata: {"text": "a dog"}\n\n', 'data: {"te', 'xt": " runs"}\r\n\r\n'):
                yield part
            while not grown.is_set():
                await asyncio.sleep(0.01)
            yield f"event: caption\ndata: {JSONResponse(caption('a dog runs', n=1)).body.decode()}\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    grown = threading.Event()
    script.answer = stream
    page = opened()
    slide(page, "n", 1)
    slide(page, "beams", 1)
    pick(page)
    shows(page, "a dog runs")
    assert card(page).locator(".copy").is_hidden()
    assert script.seen[0].query["stream"] == "true"
    grown.set()
    sync_api.expect(card(page).locator(".copy")).to_be_visible()
    shows(page, "score −0.50", selector=".best .number")


def test_a_stream_may_end_with_an_error(opened: Open, script: Script) -> None:
    detail = '{"error": {"code": "timeout", "message": "no caption within 30 s", "request_id": "req-9"}}'
    begun = 'event: token\ndata: {"text": "a dog"}\n\n'
    ends = {"with an error": f"event: error\ndata: {detail}\n\n", "too early": ""}
    script.says(lambda seen: Response(begun + ends["with an error"], media_type="text/event-stream"))
    page = opened()
    slide(page, "n", 1)
    slide(page, "temperature", 1)
    pick(page)
    shows(page, "no caption within 30 s", selector=".message")
    assert card(page).locator(".facts dd").all_text_contents() == ["timeout", "req-9"]
    script.says(lambda seen: Response(begun + ends["too early"], media_type="text/event-stream"))
    card(page).get_by_role("button", name="Try again").click()
    shows(page, "The answer broke off. Try again.", selector=".message")
    assert card(page).locator(".caption").is_hidden()


def test_the_caption_is_copied(opened: Open, script: Script) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    pick(page)
    card(page).get_by_role("button", name="Copy").click()
    sync_api.expect(page.get_by_role("status")).to_have_text("Caption copied")
    assert page.evaluate("navigator.clipboard.readText()") == "a dog runs on the beach"


def test_nothing_comes_from_elsewhere(opened: Open, script: Script) -> None:
    page = opened()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    pick(page)
    shows(page, "a dog runs on the beach")
    assert all(url.startswith((script.url, "blob:", "data:")) for url in asked)
