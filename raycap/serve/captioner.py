"""The deployment that owns the model: image bytes in, captions out, several requests to a batch.

`Captioner` is the plain class, tested without Ray; `CaptionerReplica` adds Serve's batching around it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from ray import serve

from raycap.decoding import DecodingConfig
from raycap.engine import CaptionEngine, Pixels
from raycap.schema import Caption
from raycap.serve.config import ServeConfig
from raycap.vision import BadImageError, decode_image


class Engine(Protocol):
    """The part of CaptionEngine that serving uses."""

    def preprocess(self, image: Pixels) -> Pixels:
        """Encoder input of an image."""

    def caption_pixels(self, pixels: Pixels, decoding: DecodingConfig) -> list[list[Caption]]:
        """Captions of encoder inputs (batch, 3, height, width)."""


@dataclass(frozen=True)
class Job:
    """An image that waits for its batch."""

    pixels: Pixels
    decoding: DecodingConfig
    decode_s: float
    queued_at: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class Outcome:
    """What became of an image: captions with timings in milliseconds, or the reason there are none.

    The reason (no usable image, or settings beyond this model) travels back as a value, because an exception
    would arrive wrapped in Ray's own, and would fail the whole batch.
    """

    captions: list[Caption] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    bad_image: str = ""
    bad_settings: str = ""


class Captioner:
    """Reading and captioning, with the engine handed in."""

    def __init__(self, engine: Engine, *, max_pixels: int) -> None:
        self.engine = engine
        self.max_pixels = max_pixels

    def read(self, image: bytes, decoding: dict[str, Any]) -> Job:
        """Decode and ready one image.

        Raises:
            BadImageError: not a usable image.
        """
        begin = time.perf_counter()
        pixels = self.engine.preprocess(decode_image(image, max_pixels=self.max_pixels))
        return Job(pixels, DecodingConfig.model_validate(decoding), time.perf_counter() - begin)

    def infer(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Caption a batch. Jobs with the same decoding settings go through the model together.

        Settings that the model refuses (more tokens than its positions) cost those jobs only.
        """
        begin = time.perf_counter()
        groups: dict[DecodingConfig, list[int]] = {}
        for index, job in enumerate(jobs):
            groups.setdefault(job.decoding, []).append(index)
        captions: dict[int, list[Caption]] = {}
        refused: dict[int, str] = {}
        for decoding, members in groups.items():
            pixels = np.stack([jobs[index].pixels for index in members])
            try:
                found = self.engine.caption_pixels(pixels, decoding)
            except ValueError as error:
                refused |= dict.fromkeys(members, str(error))
                continue
            captions |= zip(members, found, strict=True)
        end = time.perf_counter()
        return [
            Outcome(bad_settings=refused[index])
            if index in refused
            else Outcome(
                captions[index],
                {
                    "decode_ms": 1e3 * job.decode_s,
                    "wait_ms": 1e3 * (begin - job.queued_at),
                    "model_ms": 1e3 * (end - begin),
                },
            )
            for index, job in enumerate(jobs)
        ]


class CaptionerReplica:
    """A replica: one engine, one batch at a time, requests gathered while it runs."""

    def __init__(self, config: dict[str, Any], checkpoint: str) -> None:
        settings = ServeConfig.model_validate(config)
        engine = CaptionEngine.load(checkpoint, **settings.of_engine())
        self.captioner = Captioner(engine, max_pixels=settings.max_pixels)
        self.infer.set_max_batch_size(settings.max_batch_size)
        self.infer.set_batch_wait_timeout_s(settings.batch_wait_s)

    async def ping(self) -> None:
        """Answers once the engine is loaded."""

    async def caption(self, image: bytes, decoding: dict[str, Any]) -> Outcome:
        """Captions of one image; it may share its batch with others."""
        try:
            job = await asyncio.to_thread(self.captioner.read, image, decoding)
        except BadImageError as error:
            return Outcome(bad_image=str(error))
        outcome: Outcome = await self.infer(job)
        return outcome

    @serve.batch  # type: ignore[untyped-decorator]
    async def infer(self, jobs: list[Job]) -> list[Outcome]:
        """A batch through the model, in a thread: the replica goes on answering meanwhile."""
        return await asyncio.to_thread(self.captioner.infer, jobs)


CaptionerDeployment = serve.deployment(name="Captioner", max_ongoing_requests=32)(CaptionerReplica)
