"""Captions for requests as they come: images join between two steps, and leave when their caption ends.

One thread owns the models. Images that join together and ask for the same settings form a group; all groups take
each step together, whatever their settings and however far they are, so that weights are read once a step.
Knows neither Serve nor asyncio: a result is a `concurrent.futures.Future`.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor

from raycap.decoding import DecodingConfig
from raycap.engine import Pixels
from raycap.models import CaptionGroup
from raycap.schema import Caption

logger = logging.getLogger(__name__)
UNWANTED = "nobody waits for this caption any more"
Kind = tuple[int, DecodingConfig]


class Engine(Protocol):
    """The part of CaptionEngine that the scheduler uses."""

    def encode(self, pixels: Pixels) -> Tensor:
        """Features of readied images (batch, 3, height, width)."""

    def start(self, features: Tensor, decoding: DecodingConfig) -> CaptionGroup:
        """Begin captions of features (batch, patches, vision_dim)."""

    def step(self, groups: Sequence[CaptionGroup]) -> None:
        """One token further with groups of this engine."""


@dataclass(frozen=True)
class Captioned:
    """What a job's future gives."""

    captions: list[Caption]
    queue_s: float
    """From submission to joining."""
    model_s: float
    """From joining to the captions."""


@dataclass(eq=False)
class Job:
    """One image on its way."""

    engine: Engine
    pixels: Pixels
    decoding: DecodingConfig
    wanted_until: float = math.inf
    """Unix time; after it the job fails with TimeoutError."""
    on_draft: Callable[[str], object] | None = None
    """Called in the scheduler's thread, after every step, with the beginning of the caption that is certain."""
    future: Future[Captioned] = field(default_factory=Future)
    queued_at: float = field(default_factory=time.perf_counter)
    joined_at: float = 0.0

    @property
    def kind(self) -> Kind:
        """Jobs of one kind may form a group."""
        return id(self.engine), self.decoding

    def unwanted(self) -> bool:
        """Whether nobody waits any more; an expired job is told so."""
        if not self.future.cancelled() and time.time() > self.wanted_until:
            self.fail(TimeoutError(UNWANTED))
        return self.future.done()

    def finish(self, captions: list[Caption]) -> None:
        """Hand over the captions, unless the job was cancelled."""
        if self.future.set_running_or_notify_cancel():
            now = time.perf_counter()
            self.future.set_result(Captioned(captions, self.joined_at - self.queued_at, now - self.joined_at))

    def fail(self, error: BaseException) -> None:
        """Hand over an error, unless the job was cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False)
class Run:
    """A group with the jobs that its images came from, by their place in it."""

    engine: Engine
    group: CaptionGroup
    jobs: dict[int, Job]


class Scheduler:
    """Owns the thread in which models run. Cancel a job's future to give it up."""

    def __init__(
        self, *, max_images: int, max_groups: int, on_step: Callable[[int], None] | None = None
    ) -> None:
        """
        Args:
            max_images: most images in progress.
            max_groups: most groups in progress.
            on_step: called after every step with the number of images that took part.
        """
        self.max_images, self.max_groups, self.on_step = max_images, max_groups, on_step
        self.failure: BaseException | None = None
        """Of the last step, where it failed: the device may be lost."""
        self.beat = time.monotonic()
        """When a step last began."""
        self._waiting: deque[Job] = deque()
        self._runs: list[Run] = []
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="captioning", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Captioned]:
        """Queue an image.

        The future gives its captions, or raises: ValueError for settings beyond the model, TimeoutError when it
        is no longer wanted, what else went wrong in the model otherwise.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("the scheduler is closed")
            self._waiting.append(job)
            self._changed.notify()
        return job.future

    def check(self, *, stalled_after_s: float = 120) -> None:
        """Raise RuntimeError where captioning no longer works: the last step failed, or one hangs."""
        if self.failure is not None:
            raise RuntimeError(f"captioning failed: {self.failure}")
        if not self._thread.is_alive():
            raise RuntimeError("the captioning thread has ended")
        if (self._runs or self._waiting) and time.monotonic() - self.beat > stalled_after_s:
            raise RuntimeError(f"a captioning step takes longer than {stalled_after_s:g} s")

    def close(self) -> None:
        """End the thread after its step; jobs that are not done are cancelled."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        for job in [*self._waiting, *(job for run in self._runs for job in run.jobs.values())]:
            job.future.cancel()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting or self._runs)
                if self._closed:
                    return
                joining = self._choose_joining()
            self.beat = time.monotonic()
            try:
                for engine, jobs in _by_engine(joining).items():
                    self._begin(engine, jobs)
                self._step()
            except (
                Exception
            ) as error:  # neither encoding nor stepping: whatever it is, nobody is to wait for ever
                self._fail([*joining, *(job for run in self._runs for job in run.jobs.values())], error)
                self._runs = []

    def _choose_joining(self) -> list[Job]:
        """First come, first served, as far as there is room for images, and for groups where they are small.

        Every group costs each step some time of its own: beyond `max_groups` one may begin that has more
        images than those in progress have on average, so that a crowd does not wait behind a few.
        """
        self._waiting = deque(job for job in self._waiting if not job.unwanted())
        in_progress = sum(run.group.open_images for run in self._runs)
        candidates = list(self._waiting)[: max(0, self.max_images - in_progress)]
        groups = len(self._runs)
        begun: set[Kind] = set()
        for kind, size in Counter(job.kind for job in candidates).items():  # in the order in which they came
            if groups >= self.max_groups and size * groups <= in_progress:
                break
            begun.add(kind)
            groups, in_progress = groups + 1, in_progress + size
        joining = [job for job in candidates if job.kind in begun]
        self._waiting = deque(job for job in self._waiting if job not in joining)
        return joining

    def _begin(self, engine: Engine, jobs: list[Job]) -> None:
        now = time.perf_counter()
        kinds: dict[DecodingConfig, list[int]] = defaultdict(list)
        for place, job in enumerate(jobs):
            job.joined_at = now
            kinds[job.decoding].append(place)
        try:
            features = engine.encode(np.stack([job.pixels for job in jobs]))
        except Exception as error:
            self._fail(jobs, error)
            return
        for decoding, places in kinds.items():
            members = [jobs[place] for place in places]
            try:
                group = engine.start(features[places], decoding)
            except ValueError as error:  # settings beyond this model
                for job in members:
                    job.fail(error)
            except Exception as error:
                self._fail(members, error)
            else:
                self._runs.append(Run(engine, group, dict(enumerate(members))))

    def _step(self) -> None:
        took_part = sum(len(run.jobs) for run in self._runs)
        for engine in {run.engine: None for run in self._runs}:
            runs = [run for run in self._runs if run.engine is engine]
            try:
                engine.step([run.group for run in runs])
            except Exception as error:
                self._fail([job for run in runs for job in run.jobs.values()], error)
                self._runs = [run for run in self._runs if run.engine is not engine]
                continue
            self.failure = None
            for run in runs:
                _deliver(run)
        self._runs = [run for run in self._runs if run.jobs]
        if self.on_step and took_part:
            self.on_step(took_part)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        """Every job learns of it, and so does the health check."""
        logger.error("captioning failed", exc_info=error)
        self.failure = error
        failure = RuntimeError("captioning failed")  # never a ValueError, which would blame the settings
        failure.__cause__ = error
        for job in jobs:
            if not job.future.done():
                job.fail(failure)


def _by_engine(jobs: Sequence[Job]) -> dict[Engine, list[Job]]:
    engines: dict[Engine, list[Job]] = defaultdict(list)
    for job in jobs:
        engines[job.engine].append(job)
    return engines


def _deliver(run: Run) -> None:
    """Hand over what is done, show drafts of the rest, give up what nobody wants."""
    for place, captions in run.group.take_done():
        run.jobs.pop(place).finish(captions)
    for place, job in list(run.jobs.items()):
        if job.unwanted():
            run.group.drop(place)
            del run.jobs[place]
        elif job.on_draft:
            job.on_draft(run.group.draft(place))
