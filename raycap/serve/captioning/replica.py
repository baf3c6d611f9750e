"""A captioner as a deployment of Ray Serve: what it loads, which further models it keeps, its health and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.serve import metrics

from raycap.checkpoint import read_manifest, resolve
from raycap.engine import CaptionEngine
from raycap.serve.captioning.captioner import Captioner
from raycap.serve.captioning.loading import SharedLoading
from raycap.serve.captioning.scheduler import Scheduler
from raycap.serve.config import ServeConfig
from raycap.serve.contract import ModelInfo, Order, Outcome

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
IMAGES = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 128]
STAGES = ("decode", "queue", "model")


class ReplicaMetrics:
    """Prometheus metrics of a replica; Ray's agent on every node exports them."""

    def __init__(self) -> None:
        self.captions = metrics.Counter("raycap_captions", description="Captions made.", tag_keys=("model",))
        self.refusals = metrics.Counter(
            "raycap_refusals", description="Images that got no caption.", tag_keys=("model", "problem")
        )
        self.stages = metrics.Histogram(
            "raycap_stage_seconds",
            description="Time an image spends in a stage: decode, queue or model.",
            boundaries=SECONDS,
            tag_keys=("model", "stage"),
        )
        self.batch = metrics.Histogram(
            "raycap_batch_images", description="Images in a decoding step.", boundaries=IMAGES
        )

    def outcome(self, outcome: Outcome) -> None:
        """See captioner.Observer."""
        model = {"model": outcome.model}
        if outcome.problem:
            self.refusals.inc(tags={**model, "problem": outcome.problem})
            return
        self.captions.inc(len(outcome.captions), tags=model)
        for stage in STAGES:
            self.stages.observe(outcome.timings[f"{stage}_ms"] / 1e3, tags={**model, "stage": stage})

    def step(self, images: int) -> None:
        """See captioner.Observer."""
        self.batch.observe(images)


def captioner_deployment(*, max_loaded_models: int) -> serve.Deployment:
    """The deployment `Captioner`; Serve wants the number of further models when the class is made."""

    class CaptionerReplica:
        """One engine and the thread it runs in, shared by all requests of this replica."""

        def __init__(self, config: dict[str, Any], checkpoints: dict[str, str]) -> None:
            """`checkpoints` by model name, the default one first; that one is loaded now, the others on demand."""
            self.settings = ServeConfig.model_validate(config)
            self.checkpoints: Mapping[str, str] = checkpoints
            self.further: SharedLoading[CaptionEngine] = SharedLoading(self.load_model)
            default = next(iter(checkpoints.values()))
            self.engine = CaptionEngine.load(default, **self.settings.of_engine())
            observer = ReplicaMetrics()
            self.scheduler = Scheduler(
                max_images=self.settings.max_batch_size,
                max_groups=self.settings.max_groups,
                on_step=observer.step,
            )
            self.captioner = Captioner(
                self.find_engine,
                self.scheduler,
                manifests={name: read_manifest(resolve(place)) for name, place in checkpoints.items()},
                max_pixels=self.settings.max_pixels,
                readers=self.settings.reading_threads,
                observer=observer,
            )

        async def caption(self, order: Order) -> Outcome:
            """Captions of one image."""
            return await self.captioner.caption(order)

        async def stream(self, order: Order) -> AsyncIterator[str | Outcome]:
            """Pieces of the caption, then the outcome."""
            async for piece in self.captioner.stream(order):
                yield piece

        async def describe(self, model: str = "") -> ModelInfo | None:
            """A served model; None where the name is unknown."""
            return await self.captioner.describe(model)

        async def find_engine(self, name: str) -> CaptionEngine:
            """The default engine, or a further one, loaded where it is not."""
            if name == self.captioner.default:
                return self.engine
            return await self.further(name)

        @serve.multiplexed(max_num_models_per_replica=max_loaded_models)  # type: ignore[untyped-decorator]
        async def load_model(self, name: str) -> CaptionEngine:
            """A further model, in a thread: others are answered meanwhile."""
            return await asyncio.to_thread(
                CaptionEngine.load,
                self.checkpoints[name],
                beside=self.engine,
                **self.settings.of_engine(),
            )

        def check_health(self) -> None:
            """Serve replaces the replica where this raises."""
            self.scheduler.check()

        def __del__(self) -> None:
            """Serve calls this when the replica has answered its last request."""
            if hasattr(self, "scheduler"):  # not where loading failed
                self.scheduler.close()

    # A checkpoint that cannot be loaded is given up soon; the replicas before it stay.
    return serve.deployment(name="Captioner", max_constructor_retry_count=3)(CaptionerReplica)
