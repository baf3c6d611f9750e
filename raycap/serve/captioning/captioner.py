"""The captioner of a replica: orders in, outcomes out, many at a time.

Image bytes are decoded in threads of their own, beside the scheduler's thread, in which the models run.
Knows neither Serve nor HTTP: `replica.py` puts it into a deployment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Protocol

from raycap.checkpoint import Manifest
from raycap.config import ConfigError
from raycap.engine import Pixels, merge_decoding
from raycap.serve.captioning.scheduler import UNWANTED, Engine, Job, Scheduler
from raycap.serve.contract import FORMATS, ModelInfo, Order, Outcome
from raycap.vision import BadImageError, decode_image

logger = logging.getLogger(__name__)
REPLACEMENT = "\ufffd"  # how a character shows whose last bytes are in a token to come


class ServedEngine(Engine, Protocol):
    """The part of CaptionEngine that serving uses."""

    manifest: Manifest

    def preprocess(self, image: Pixels) -> Pixels:
        """Encoder input of an image."""


class Observer(Protocol):
    """Is told what happens; Serve's is in replica.py."""

    def outcome(self, outcome: Outcome) -> None:
        """An order is done."""

    def step(self, images: int) -> None:
        """A decoding step with this many images is done."""


class Captioner:
    """Decodes, schedules and shapes the outcome."""

    def __init__(
        self,
        find_engine: Callable[[str], Awaitable[ServedEngine]],
        scheduler: Scheduler,
        *,
        manifests: Mapping[str, Manifest],
        max_pixels: int,
        readers: int,
        observer: Observer,
    ) -> None:
        """
        Args:
            find_engine: the engine of a model's name; may load it.
            scheduler: where the models run.
            manifests: of the models that are served, by name, the default one first.
            max_pixels: a larger image is refused.
            readers: threads that decode images.
            observer: is told of every outcome.
        """
        self.find_engine, self.scheduler, self.observer = find_engine, scheduler, observer
        self.manifests = manifests
        self.max_pixels = max_pixels
        self.readers = ThreadPoolExecutor(readers, thread_name_prefix="reading")

    async def caption(self, order: Order) -> Outcome:
        """Captions of an image. Cancelling gives its place to another."""
        outcome = await self._caption(order, on_draft=None)
        self.observer.outcome(outcome)
        return outcome

    async def stream(self, order: Order) -> AsyncIterator[str | Outcome]:
        """Pieces of the best caption as they become certain, then the outcome."""
        drafts: asyncio.Queue[str] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(
            self._caption(order, on_draft=lambda text: loop.call_soon_threadsafe(drafts.put_nowait, text))
        )
        task.add_done_callback(lambda _: drafts.put_nowait(""))  # wakes the loop below
        sent = ""
        try:
            while not task.done():
                certain = (await drafts.get()).rstrip(REPLACEMENT)
                if len(certain) > len(sent):
                    yield certain[len(sent) :]
                    sent = certain
            outcome = task.result()
        finally:
            task.cancel()
        if outcome.captions and (rest := outcome.captions[0].text[len(sent) :]):
            yield rest
        self.observer.outcome(outcome)
        yield outcome

    async def describe(self, model: str = "") -> ModelInfo | None:
        """The model under a name, whether or not it is loaded; None where there is none."""
        name = model or self.default
        manifest = self.manifests.get(name)
        if manifest is None:
            return None
        return ModelInfo(
            model=name,
            family=manifest.family,
            version=version_of(manifest),
            created=_unix_time(manifest.created),
            versions=manifest.versions,
        )

    @property
    def default(self) -> str:
        """The name of the model that captions where a request names none."""
        return next(iter(self.manifests))

    async def _caption(self, order: Order, *, on_draft: Callable[[str], object] | None) -> Outcome:
        name = order.model or self.default
        if name not in self.manifests:
            known = ", ".join(self.manifests)
            return Outcome(
                model=name, problem="unknown_model", message=f"no model {name!r} is served; known: {known}"
            )
        labels: dict[str, Any] = {"model": name, "version": version_of(self.manifests[name])}
        begin = time.perf_counter()
        try:
            engine = await self.find_engine(name)
        except (ValueError, OSError):
            logger.exception("model %r cannot be loaded", name)
            message = f"model {name!r} cannot be loaded; the server's log says why"
            return Outcome(problem="model_unavailable", message=message, **labels)
        try:
            decoding = merge_decoding(engine.manifest.decoding, order.settings)
            pixels = await asyncio.get_running_loop().run_in_executor(self.readers, self._read, engine, order)
            decoded = time.perf_counter()
            job = Job(engine, pixels, decoding, order.wanted_until, on_draft)
            found = await asyncio.wrap_future(self.scheduler.submit(job))
        except ConfigError as error:
            return Outcome(problem="invalid_parameter", message=str(error), **labels)
        except BadImageError as error:
            return Outcome(problem="bad_image", message=str(error), **labels)
        except TimeoutError as error:
            return Outcome(problem="timeout", message=str(error), **labels)
        except ValueError as error:  # settings beyond this model
            return Outcome(problem="invalid_parameter", message=str(error), **labels)
        timings = {
            "decode_ms": 1e3 * (decoded - begin),
            "queue_ms": 1e3 * found.queue_s,
            "model_ms": 1e3 * found.model_s,
        }
        return Outcome(
            found.captions, sum(caption.tokens for caption in found.captions), timings=timings, **labels
        )

    def _read(self, engine: ServedEngine, order: Order) -> Pixels:
        if time.time() > order.wanted_until:
            raise TimeoutError(UNWANTED)
        return engine.preprocess(decode_image(order.image, formats=FORMATS, max_pixels=self.max_pixels))


def version_of(manifest: Manifest) -> str:
    """Identifies a checkpoint among its like."""
    return manifest.digest[:12]


def _unix_time(created: str) -> int:
    """Of a manifest's ISO time; 0 where it has none."""
    return int(datetime.fromisoformat(created).timestamp()) if created else 0
