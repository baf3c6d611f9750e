"""RemoteCaptioner over a handle of the tests' own: retries, full queues, cancelling. tests/ray has the real one."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError
from ray.serve.exceptions import BackPressureError

from raycap.schema import Caption
from raycap.serve.contract import ModelInfo, Order, Outcome
from raycap.serve.http import remote
from raycap.serve.http.errors import ApiError
from raycap.serve.http.observe import Unobserved
from raycap.serve.http.remote import RemoteCaptioner

INFO = ModelInfo("default", "toy", "0123", 1, {})
OUTCOME = Outcome([Caption("a dog", -1.0)], 2, "default", "0123")
DIED = [
    ActorDiedError(),
    ActorUnavailableError("gone", None),
    ObjectLostError("0" * 56, None, ""),
    asyncio.CancelledError(),
]


class Response:
    """A call's result to be: what the next item of a script says, awaited or iterated."""

    def __init__(self, script: list[Any], calls: list[str]) -> None:
        self.script = script
        self.calls = calls
        self.error: BaseException | None = None

    def cancel(self) -> None:
        """As Serve's: raises again what the call failed with (which made a 503 of Serve's out of our 429)."""
        if self.error:
            raise self.error
        self.calls.append("cancel")

    def __await__(self) -> Any:
        return self._next().__await__()

    def __aiter__(self) -> "Response":
        return self

    async def __anext__(self) -> Any:
        found = await self._next()
        if found == "end":
            raise StopAsyncIteration
        return found

    async def _next(self) -> Any:
        item = self.script.pop(0)
        await (asyncio.sleep(60) if item == "hang" else asyncio.sleep(0))
        if isinstance(item, BaseException):
            self.error = item
            raise item
        return item


class Handle:
    """The parts of a DeploymentHandle that are used; all its copies share a script and a list of calls."""

    def __init__(self, *script: Any, calls: list[str] | None = None, options: str = "") -> None:
        self.script = list(script)
        self.calls = [] if calls is None else calls
        self.chosen = options

    def options(self, **options: Any) -> "Handle":
        copy = Handle(calls=self.calls, options=f"{self.chosen}{sorted(options.items())}")
        copy.script = self.script
        return copy

    def __getattr__(self, method: str) -> "Handle":
        if method.startswith("_"):
            raise AttributeError(method)
        copy = self.options()
        copy.chosen = f"{method} {self.chosen.removesuffix('[]')}".strip()
        return copy

    def remote(self, *args: Any) -> Response:
        self.calls.append(self.chosen.removesuffix("[]"))
        return Response(self.script, self.calls)


class Retries(Unobserved):
    def __init__(self) -> None:
        self.count = 0

    def retried(self) -> None:
        self.count += 1


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PAUSE_S", 0.0)


def captioner_over(handle: Handle, observer: Retries | None = None) -> RemoteCaptioner:
    return RemoteCaptioner(handle, tries=3, models=["small"], observer=observer or Retries())  # type: ignore[arg-type]


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


async def parts_of(captioner: RemoteCaptioner, order: Order) -> list[Any]:
    return [part async for part in captioner.stream(order)]


@pytest.mark.parametrize("error", DIED, ids=lambda error: type(error).__name__)
def test_a_request_whose_captioner_died_is_handed_to_another(error: BaseException) -> None:
    """A stopping replica cancels its calls: awaiting one then raises CancelledError, though nobody cancelled us."""
    observer = Retries()
    outcome = run(captioner_over(Handle(error, error, OUTCOME), observer).caption(Order(b"image")))
    assert (outcome.captions, outcome.retries, observer.count) == (OUTCOME.captions, 2, 2)


def test_there_are_no_more_tries_than_allowed() -> None:
    handle = Handle(*[ActorDiedError()] * 3)
    with pytest.raises(ApiError, match="try again") as refused:
        run(captioner_over(handle).caption(Order(b"image")))
    assert (refused.value.status, refused.value.code, handle.script) == (503, "unavailable", [])


def test_nothing_is_tried_for_somebody_who_is_gone() -> None:
    handle = Handle(ActorDiedError(), OUTCOME)
    with pytest.raises(ApiError):
        run(captioner_over(handle).caption(Order(b"image", wanted_until=time.time() - 1)))
    assert handle.script == [OUTCOME]


@pytest.mark.parametrize("kind", ["caption", "stream"])
def test_a_full_queue_is_429_at_once(kind: str) -> None:
    handle = Handle(BackPressureError(64, 64), OUTCOME)
    captioner = captioner_over(handle)
    order = Order(b"image")
    with pytest.raises(ApiError) as refused:
        run(captioner.caption(order) if kind == "caption" else parts_of(captioner, order))
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    assert handle.script == [OUTCOME]


def test_a_fault_of_the_captioners_code_is_not_tried_again() -> None:
    handle = Handle(KeyError("a bug"), OUTCOME)
    with pytest.raises(KeyError):
        run(captioner_over(handle).caption(Order(b"image")))
    assert handle.script == [OUTCOME]


@pytest.mark.parametrize("kind", ["caption", "stream"])
def test_cancelling_reaches_the_replica(kind: str) -> None:
    async def hang_up(handle: Handle) -> None:
        captioner = captioner_over(handle)
        order = Order(b"image")
        work = captioner.caption(order) if kind == "caption" else parts_of(captioner, order)
        task = asyncio.create_task(work)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    handle = Handle("hang")
    run(hang_up(handle))
    assert handle.calls[1:] == ["cancel"]
    handle = Handle("a", "hang")
    if kind == "stream":
        run(hang_up(handle))
        assert handle.calls[1:] == ["cancel"]


def test_a_stream_is_tried_again_before_its_first_piece() -> None:
    found = run(
        parts_of(captioner_over(Handle(ActorDiedError(), "a", " dog", OUTCOME, "end")), Order(b"image"))
    )
    assert found[:2] == ["a", " dog"]
    assert (found[2].captions, found[2].retries) == (OUTCOME.captions, 1)


def test_a_stream_that_breaks_later_is_an_error() -> None:
    handle = Handle("a", ActorDiedError(), "a", OUTCOME, "end")
    with pytest.raises(ApiError) as refused:
        run(parts_of(captioner_over(handle), Order(b"image")))
    assert refused.value.code == "unavailable"
    assert handle.script[0] == "a"


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda captioner: captioner.caption(Order(b"")), "caption"),
        (
            lambda captioner: captioner.caption(Order(b"", model="small")),
            "caption [('multiplexed_model_id', 'small')]",
        ),
        (lambda captioner: captioner.describe("small"), "describe"),
    ],
)
def test_further_models_go_where_they_are_loaded(
    call: Callable[[RemoteCaptioner], Coroutine[Any, Any, Any]], expected: str
) -> None:
    handle = Handle(OUTCOME if "caption" in expected else INFO)
    run(call(captioner_over(handle)))
    assert handle.calls == [expected]


def test_a_model_that_no_captioner_knows_is_a_key_error() -> None:
    assert run(captioner_over(Handle(ActorDiedError(), INFO)).describe()) == INFO
    with pytest.raises(KeyError):
        run(captioner_over(Handle(None)).describe("other"))
