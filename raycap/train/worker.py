"""What one rank holds while it trains: built fresh, or as the last checkpoint left it."""

from __future__ import annotations

import logging
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train.torch
import torch
from torch import nn

from raycap import checkpoint
from raycap.checkpoint import EncoderInfo, RunCheckpoints
from raycap.config import ConfigError
from raycap.data.loading import CaptionCollate
from raycap.models import CaptionModel
from raycap.schema import CaptionBatch
from raycap.text import CaptionTokenizer
from raycap.train.attempt import is_current
from raycap.train.batches import empty_batch
from raycap.train.collective import first_error, gather, rank
from raycap.train.config import TrainConfig
from raycap.train.optim import WeightAverage, build_optimizer
from raycap.train.record import Clock, MetricsLog, Recorder
from raycap.train.report import Sample
from raycap.train.screen import Board, BoardHandler
from raycap.train.seconds import Stopwatch
from raycap.train.state import Progress, pack_state, unpack_state
from raycap.train.tracking import open_trackers


class SupersededError(RuntimeError):
    """Another process has taken over the run folder."""


@dataclass(frozen=True)
class Job:
    """What the driver tells the workers; crosses Ray's door as a dict."""

    config: TrainConfig
    run: str
    attempt: str
    device: str
    encoder: EncoderInfo
    num_images: int
    references: Mapping[int, Sequence[str]]  # what people wrote of the validation images, by image key
    samples: Sequence[Sample]
    vocabulary: Sequence[int]
    board: Board | None

    def settings(self) -> dict[str, Any]:
        """The dict for `train_loop_config`."""
        return {
            **vars(self),
            "config": self.config.model_dump(mode="json"),
            "encoder": self.encoder.model_dump(mode="json"),
            "samples": [vars(sample) for sample in self.samples],
            "board": self.board.actor if self.board else None,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Job:
        """Validated again on the worker."""
        parsed = {
            "config": TrainConfig.model_validate(settings["config"]),
            "encoder": EncoderInfo.model_validate(settings["encoder"]),
            "samples": [Sample(**sample) for sample in settings["samples"]],
            "board": Board(settings["board"]) if settings["board"] is not None else None,
        }
        return cls(**{**settings, **parsed})


@dataclass
class Worker:
    """One rank: the model and its optimizer, where the run stands, and (rank 0) the records."""

    job: Job
    device: torch.device
    model: CaptionModel
    parallel: nn.Module  # the model in DDP; the model itself where one worker trains alone
    parameters: list[nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    tokenizer: CaptionTokenizer
    collate: CaptionCollate
    empty: CaptionBatch
    checkpoints: RunCheckpoints
    progress: Progress
    recorder: Recorder | None
    stopwatch: Stopwatch

    def share(self) -> float:
        """Share of the run's images already seen."""
        done = self.progress.epoch * self.job.num_images + self.progress.images
        return done / max(1, self.job.config.train.epochs * self.job.num_images)

    def watched(self) -> dict[str, dict[str, float]]:
        """What the family wants watched, as a part of a row of metrics.jsonl; nothing where there is nothing."""
        scalars = self.model.watched()
        if not scalars:
            return {}
        together = torch.stack([value.float() for value in scalars.values()])
        values = together.tolist()  # so that the device is waited for once
        return {"watched": dict(zip(scalars, values, strict=True))}

    def save(self, metrics: Mapping[str, float]) -> None:
        """Write a checkpoint of where the run stands; every rank must call it.

        Raises:
            SupersededError: another process writes to this run by now.
        """
        seen = self.progress.seen_by_all()
        if self.recorder is None:
            return
        if superseded(self.job):
            raise SupersededError(superseded(self.job))
        state = pack_state(self.progress, seen, self.optimizer, self.average)
        with self.stopwatch.phase("checkpoint"), self.average.applied():
            self.checkpoints.save_step(
                self.model,
                model_config=self.job.config.model,
                tokenizer=self.tokenizer,
                encoder=self.job.encoder,
                decoding=self.job.config.decoding,
                metrics=metrics,
                step=self.progress.step,
                epoch=self.progress.epoch,
                vocabulary=self.job.vocabulary,
                training=state,
            )


def start_worker(job: Job, stopwatch: Stopwatch) -> Worker | str:
    """This rank ready to train; or a sentence where any rank cannot. Every rank must call it."""
    seed_everything(job.config.train.seed)
    if rank() == 0 and job.board:
        logging.getLogger("raycap").addHandler(BoardHandler(job.board))
    device = torch.device(job.device) if job.device != "cuda" else ray.train.torch.get_device()
    built: tuple[CaptionTokenizer, CaptionModel, torch.optim.Optimizer] | None = None
    error = superseded(job)
    if not error:
        try:
            built = build(job, device=device)
        except (ConfigError, checkpoint.CheckpointError) as problem:
            error = str(problem)
    # agreed on by all, so that no rank waits for one that has left
    if error := first_error(gather(error)):
        return error
    assert built is not None
    tokenizer, model, optimizer = built
    checkpoints = RunCheckpoints(job.run, metric=job.config.train.strategy)
    average = WeightAverage(model, decay=job.config.optim.ema_decay)
    progress = restore(checkpoints, model, optimizer=optimizer, average=average)
    parallel = in_parallel(model, device=device)
    worker = Worker(
        job=job,
        device=device,
        model=model,
        parallel=parallel,
        parameters=[p for p in model.parameters() if p.requires_grad],
        optimizer=optimizer,
        average=average,
        tokenizer=tokenizer,
        collate=CaptionCollate(tokenizer, max_tokens=job.config.train.max_tokens),
        empty=empty_batch(
            patches=job.encoder.patches,
            vision_dim=job.encoder.vision_dim,
            start_id=tokenizer.start_id,
            end_id=tokenizer.end_id,
            device=device,
        ),
        checkpoints=checkpoints,
        progress=progress,
        recorder=None,
        stopwatch=stopwatch,
    )
    if rank() == 0:
        worker.recorder = start_recorder(worker)
    return worker


def build(job: Job, *, device: torch.device) -> tuple[CaptionTokenizer, CaptionModel, torch.optim.Optimizer]:
    """Tokenizer, model on its device, and optimizer.

    Raises:
        ConfigError: the model or the optimizer cannot be had on this machine.
    """
    tokenizer = job.config.model.load_tokenizer()
    model = job.config.model.build(tokenizer=tokenizer, vision_dim=job.encoder.vision_dim)
    model.prepare_training(job.config.train.precision)
    model.to(device)
    return tokenizer, model, build_optimizer(model, job.config.optim, device=device)


def in_parallel(model: CaptionModel, *, device: torch.device) -> nn.Module:
    """The model in DDP where several workers train, itself where one does."""
    # Buffers are not synced in forward: ranks differ in how many forwards they make within a step.
    options = {"broadcast_buffers": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        parallel: nn.Module = ray.train.torch.prepare_model(
            model, move_to_device=device, parallel_strategy_kwargs=options
        )
    return parallel


def restore(
    checkpoints: RunCheckpoints,
    model: CaptionModel,
    *,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage,
) -> Progress:
    """Put back what the newest whole checkpoint holds; from the start where there is none."""
    folder = checkpoints.newest_valid()
    if folder is None:
        return Progress()
    _, state = checkpoint.restore(folder, model)
    if state is None:
        raise checkpoint.CheckpointError(f"{folder} has no training state, so training cannot go on from it")
    return unpack_state(state, optimizer=optimizer, average=average)


def start_recorder(worker: Worker) -> Recorder:
    """Rank 0's records, going on from where the run stands."""
    job, progress = worker.job, worker.progress
    document = job.config.model_dump(mode="json")
    recorder = Recorder(
        run=job.run,
        epochs=job.config.train.epochs,
        metric=job.config.train.metric,
        log=MetricsLog(job.run, step=progress.step, epoch=progress.epoch),
        board=job.board,
        trackers=open_trackers(job.config.tracking, run=job.run, config=document, step=progress.step),
        samples=job.samples,
        clock=Clock(share=worker.share()),
    )
    trained = sum(p.numel() for p in worker.parameters)
    total = sum(p.numel() for p in worker.model.parameters())
    recorder.say(
        f"{job.config.model.family}: {trained:,} of {total:,} weights train, on {job.num_images:,} images, "
        f"{job.config.train.num_workers} x {job.device}, {job.config.train.precision}"
    )
    if progress.step:
        recorder.say(
            f"going on from step {progress.step}: {progress.epoch} epochs complete, "
            f"{progress.images} images of the next one seen"
        )
    return recorder


def superseded(job: Job) -> str:
    """A sentence where a later attempt has taken over the run folder, else ""."""
    if is_current(job.run, job.attempt):
        return ""
    return f"another `raycap train --resume` has taken over {job.run}; this one stops"


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: new layers start the same in every rank and run."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
