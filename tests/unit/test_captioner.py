"""The captioner with a real engine of random weights: outcomes, streams, refusals, deadlines, hanging up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from prepared import make_picture
from small_run import make_run

from raycap.checkpoint import CheckpointError
from raycap.engine import CaptionEngine
from raycap.serve.captioning.captioner import Captioner
from raycap.serve.captioning.scheduler import Scheduler
from raycap.serve.contract import Order, Outcome


class Seen:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.steps: list[int] = []

    def outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def step(self, images: int) -> None:
        self.steps.append(images)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> CaptionEngine:
    run: Path = make_run(tmp_path_factory.mktemp("captioner"))
    return CaptionEngine.load(str(run), device="cpu")


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def captioner(engine: CaptionEngine, seen: Seen) -> Iterator[Captioner]:
    async def find(name: str) -> CaptionEngine:
        if name == "damaged":
            raise CheckpointError("damaged checkpoint: /path/of/the/server")
        assert name in ("one", "two")
        return engine

    scheduler = Scheduler(max_images=4, max_groups=4, on_step=seen.step)
    manifests = dict.fromkeys(["one", "two", "damaged"], engine.manifest)
    yield Captioner(find, scheduler, manifests=manifests, max_pixels=100_000, readers=1, observer=seen)
    scheduler.close()


def test_an_outcome_tells_captions_model_version_and_times(
    captioner: Captioner, engine: CaptionEngine, seen: Seen
) -> None:
    picture = make_picture(3)
    outcome = asyncio.run(captioner.caption(Order(picture, {"n": 2})))
    expected = engine.caption(picture, n=2)
    assert [caption.text for caption in outcome.captions] == [caption.text for caption in expected]
    assert outcome.tokens == sum(caption.tokens for caption in expected) > 0
    assert (outcome.model, outcome.version) == ("one", engine.manifest.digest[:12])
    assert set(outcome.timings) == {"decode_ms", "queue_ms", "model_ms"}
    assert all(value >= 0 for value in outcome.timings.values())
    assert seen.outcomes == [outcome]
    assert seen.steps


def test_many_orders_with_settings_of_their_own(captioner: Captioner, engine: CaptionEngine) -> None:
    settings = [{"beams": 1 + index % 3, "max_tokens": 5 + index % 2} for index in range(10)]
    orders = [Order(make_picture(index), of_order) for index, of_order in enumerate(settings)]

    async def all_at_once() -> list[Outcome]:
        return await asyncio.gather(*map(captioner.caption, orders))

    outcomes = asyncio.run(all_at_once())
    expected = [engine.caption(order.image, **order.settings).text for order in orders]
    assert [outcome.captions[0].text for outcome in outcomes] == expected


@pytest.mark.parametrize(
    "settings",
    [{"beams": 1, "max_tokens": 12}, {"beams": 3}, {"sample": True, "n": 2, "seed": 4}],
    ids=["greedy", "beams", "sampling"],
)
def test_the_pieces_of_a_stream_are_the_caption(captioner: Captioner, settings: dict[str, object]) -> None:
    async def stream() -> list[str | Outcome]:
        return [piece async for piece in captioner.stream(Order(make_picture(5), settings))]

    *pieces, outcome = asyncio.run(stream())
    assert isinstance(outcome, Outcome)
    assert "".join(map(str, pieces)) == outcome.captions[0].text
    if settings.get("beams") == 1:
        assert len(pieces) > 2


@pytest.mark.parametrize(
    ("order", "problem", "message"),
    [
        (Order(b"no image"), "bad_image", "not an image"),
        (Order(make_picture(1), {"beams": 99}), "invalid_parameter", "beams"),
        (Order(make_picture(1), {"beam": 3}), "invalid_parameter", "beam"),
        (Order(make_picture(1), {"max_tokens": 65}), "invalid_parameter", "above the model's 64"),
        (Order(make_picture(1), model="three"), "unknown_model", "known: one, two, damaged"),
        (Order(make_picture(1), model="damaged"), "model_unavailable", "log says why"),
        (Order(make_picture(1), wanted_until=time.time() - 1), "timeout", "nobody waits"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_problems_are_values(
    captioner: Captioner, seen: Seen, order: Order, problem: str, message: str, streaming: bool
) -> None:
    async def last_of_stream() -> Outcome:
        (outcome,) = [piece async for piece in captioner.stream(order)]
        assert isinstance(outcome, Outcome)
        return outcome

    ask: Callable[[], Awaitable[Outcome]] = last_of_stream if streaming else lambda: captioner.caption(order)

    async def run() -> Outcome:
        return await ask()

    outcome = asyncio.run(run())
    assert (outcome.problem, outcome.captions) == (problem, [])
    assert message in outcome.message
    assert seen.outcomes == [outcome]


def test_hanging_up_frees_the_place(captioner: Captioner, seen: Seen) -> None:
    async def cancel_all() -> Outcome:
        long = Order(make_picture(1), {"beams": 1, "min_tokens": 59, "max_tokens": 60})
        tasks = [asyncio.create_task(captioner.caption(long)) for _ in range(8)]
        while not seen.steps:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await captioner.caption(Order(make_picture(2), {"beams": 1, "max_tokens": 3}))

    assert asyncio.run(cancel_all()).captions
    assert not seen.outcomes[:-1]
    assert len(seen.steps) < 60


def test_models_are_described_without_being_loaded(captioner: Captioner, engine: CaptionEngine) -> None:
    async def describe() -> tuple[object, ...]:
        return tuple([await captioner.describe(name) for name in ("", "two", "three")])

    default, second, unknown = asyncio.run(describe())
    assert (default.model, second.model, unknown) == ("one", "two", None)  # type: ignore[attr-defined]
    assert default.version == engine.manifest.digest[:12]  # type: ignore[attr-defined]
