"""The scheduler with an engine of scripted steps: joining, leaving, limits, cancelling, failing."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch

from raycap.decoding import DecodingConfig
from raycap.models import CaptionGroup
from raycap.schema import Caption
from raycap.serve.captioning.scheduler import Job, Scheduler

GREEDY, BEAMS = DecodingConfig(beams=1), DecodingConfig(beams=3)


class ScriptedGroup(CaptionGroup):
    """An image's caption is its number of steps, which its first pixel says."""

    def __init__(self, steps: list[int]) -> None:
        self.left = dict(enumerate(steps))
        self.steps = steps
        self.taken = 0
        self.done: list[int] = []

    @property
    def open_images(self) -> int:
        return len(self.left)

    def advance(self) -> None:
        self.taken += 1
        self.left = {image: left - 1 for image, left in self.left.items()}
        self.done += [image for image, left in self.left.items() if not left]
        self.left = {image: left for image, left in self.left.items() if left}

    def take_done(self) -> list[tuple[int, list[Caption]]]:
        done, self.done = self.done, []
        return [(image, [Caption(f"{self.steps[image]} steps", 0.0)]) for image in done]

    def drop(self, image: int) -> None:
        self.left.pop(image, None)

    def draft(self, image: int) -> str:
        return "x" * self.taken


class ScriptedEngine:
    """Takes a step only when the test allows it, and remembers which groups took it."""

    def __init__(self) -> None:
        self.allowed = threading.Semaphore(0)
        self.taken = threading.Semaphore(0)
        self.sizes: list[list[int]] = []
        self.encoded: list[int] = []
        self.error: Exception | None = None

    def encode(self, pixels: np.ndarray) -> torch.Tensor:
        self.encoded.append(len(pixels))
        return torch.from_numpy(pixels.astype(np.float32))

    def start(self, features: torch.Tensor, decoding: DecodingConfig) -> CaptionGroup:
        if decoding.max_tokens > 64:
            raise ValueError("max_tokens is above the model's 64")
        return ScriptedGroup([int(image[0, 0, 0]) for image in features])

    def step(self, groups: Sequence[CaptionGroup]) -> None:
        self.allowed.acquire()
        if self.error:
            error, self.error = self.error, None
            raise error
        self.sizes.append([group.open_images for group in groups])
        for group in groups:
            assert isinstance(group, ScriptedGroup)
            group.advance()

    def go(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.allowed.release()


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


Make = Callable[..., Scheduler]


@pytest.fixture
def scheduler(engine: ScriptedEngine) -> Iterator[Make]:
    made: list[Scheduler] = []

    def make(**limits: int) -> Scheduler:
        made.append(Scheduler(**{"max_images": 8, "max_groups": 4, **limits}))
        return made[-1]

    yield make
    engine.go(1000)
    for one in made:
        one.close()


def job(engine: ScriptedEngine, steps: int, decoding: DecodingConfig = GREEDY, **more: object) -> Job:
    return Job(engine, np.full((3, 1, 1), steps, dtype=np.uint8), decoding, **more)  # type: ignore[arg-type]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_late_image_joins_and_a_finished_one_leaves_at_once(
    engine: ScriptedEngine, scheduler: Make
) -> None:
    running = scheduler()
    long = running.submit(job(engine, 5))
    engine.go(2)
    wait_until(lambda: len(engine.sizes) == 2)
    short = running.submit(job(engine, 1, BEAMS))
    engine.go(2)  # the step that has begun goes on without it
    assert short.result(timeout=10).captions[0].text == "1 steps"
    assert not long.done()
    engine.go(1)
    assert long.result(timeout=10).captions[0].text == "5 steps"
    assert engine.sizes == [[1], [1], [1], [1, 1], [1]]


def test_what_waits_joins_together_grouped_by_settings(engine: ScriptedEngine, scheduler: Make) -> None:
    running = scheduler()
    first = running.submit(job(engine, 2))
    wait_until(lambda: engine.encoded == [1])
    others = [running.submit(job(engine, 1, decoding)) for decoding in (BEAMS, GREEDY, BEAMS)]
    engine.go(2)
    for future in [first, *others]:
        future.result(timeout=10)
    assert engine.encoded == [1, 3]  # one pass of the encoder
    assert engine.sizes == [[1], [1, 2, 1]]


def test_limits_on_images_and_groups(engine: ScriptedEngine, scheduler: Make) -> None:
    running = scheduler(max_images=3, max_groups=2)
    first = running.submit(job(engine, 3))
    wait_until(lambda: engine.encoded == [1])
    second = [running.submit(job(engine, 3)) for _ in range(3)]  # two of them join: there is room for three
    third = running.submit(job(engine, 1, BEAMS))
    engine.go(100)
    for future in [first, *second, third]:
        future.result(timeout=10)
    assert max(map(sum, engine.sizes)) == 3
    assert max(map(len, engine.sizes)) == 2
    assert engine.encoded[:2] == [1, 2]


def test_a_crowd_does_not_wait_behind_a_few(engine: ScriptedEngine, scheduler: Make) -> None:
    """Groups of one image took all places for groups, and dozens of images waited for their captions to end."""
    running = scheduler(max_images=16, max_groups=2)
    few = []
    for number in (1, 2):
        few.append(running.submit(job(engine, 6)))
        wait_until(lambda number=number: len(engine.encoded) == number)  # type: ignore[misc]
        engine.go(1)
    wait_until(lambda: len(engine.sizes) == 2)
    crowd = [running.submit(job(engine, 2)) for _ in range(5)]
    engine.go(100)
    for future in [*few, *crowd]:
        future.result(timeout=10)
    assert [1, 1, 5] in engine.sizes or [1, 1, 1, 4] in engine.sizes


def test_cancelling_frees_the_place(engine: ScriptedEngine, scheduler: Make) -> None:
    running = scheduler(max_images=1)
    given_up = running.submit(job(engine, 50))
    waiting = running.submit(job(engine, 1))
    never = running.submit(job(engine, 1))
    wait_until(lambda: engine.encoded == [1])
    assert given_up.cancel()
    assert never.cancel()
    engine.go(2)
    assert waiting.result(timeout=10).captions[0].text == "1 steps"
    assert engine.encoded == [1, 1]


def test_what_nobody_waits_for_is_not_begun(engine: ScriptedEngine, scheduler: Make) -> None:
    running = scheduler()
    with pytest.raises(TimeoutError, match="nobody waits"):
        running.submit(job(engine, 1, wanted_until=time.time() - 1)).result(timeout=10)
    assert engine.encoded == []


def test_drafts_are_shown_after_every_step(engine: ScriptedEngine, scheduler: Make) -> None:
    drafts: list[str] = []
    engine.go(3)
    scheduler().submit(job(engine, 3, on_draft=drafts.append)).result(timeout=10)
    assert drafts == ["x", "xx"]


def test_settings_beyond_the_model_cost_only_their_own_image(engine: ScriptedEngine, scheduler: Make) -> None:
    """One request for more tokens than the model has positions failed everybody's in its batch, with 500."""
    running = scheduler()
    blocker = running.submit(job(engine, 1))
    wait_until(lambda: engine.encoded == [1])
    bad = running.submit(job(engine, 1, DecodingConfig(max_tokens=90)))
    good = running.submit(job(engine, 1))
    engine.go(2)
    assert blocker.result(timeout=10)
    assert good.result(timeout=10)
    with pytest.raises(ValueError, match="above the model's 64"):
        bad.result(timeout=10)
    running.check()


def test_a_failing_step_fails_its_images_and_the_health_check_until_one_succeeds(
    engine: ScriptedEngine, scheduler: Make
) -> None:
    running = scheduler()
    engine.error = RuntimeError("device lost")
    engine.go(1)
    with pytest.raises(RuntimeError, match="captioning failed"):
        running.submit(job(engine, 2)).result(timeout=10)
    with pytest.raises(RuntimeError, match="captioning failed: device lost"):
        running.check()
    engine.go(2)
    running.submit(job(engine, 2)).result(timeout=10)
    running.check()


@pytest.mark.parametrize("where", ["step", "draft", "on_step"])
def test_no_error_is_taken_for_a_wrong_setting_or_ends_the_thread(
    engine: ScriptedEngine, scheduler: Make, where: str
) -> None:
    """A ValueError out of a step blamed everybody's settings; one out of a draft ended the thread for good."""

    def fail(_: object) -> None:
        if engine.sizes == [[1]]:
            raise ValueError("beams")

    running = scheduler()
    if where == "step":
        engine.error = ValueError("beams")
    elif where == "on_step":
        running.on_step = fail
    engine.go(1)
    broken = running.submit(job(engine, 2, on_draft=fail if where == "draft" else None))
    with pytest.raises(RuntimeError, match="captioning failed"):
        broken.result(timeout=10)
    engine.go(2)
    assert running.submit(job(engine, 2)).result(timeout=10).captions[0].text == "2 steps"


def test_a_step_that_hangs_fails_the_health_check(engine: ScriptedEngine, scheduler: Make) -> None:
    running = scheduler()
    running.submit(job(engine, 1))
    wait_until(lambda: engine.encoded == [1])
    time.sleep(0.02)
    with pytest.raises(RuntimeError, match="longer than"):
        running.check(stalled_after_s=0.01)


def test_closing_cancels_what_is_left(engine: ScriptedEngine) -> None:
    running = Scheduler(max_images=1, max_groups=1)
    begun, queued = running.submit(job(engine, 9)), running.submit(job(engine, 9))
    wait_until(lambda: engine.encoded == [1])
    engine.go(100)
    running.close()
    assert queued.cancelled() or queued.done()
    assert begun.done()
    with pytest.raises(RuntimeError, match="closed"):
        running.submit(job(engine, 1))
