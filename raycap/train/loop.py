"""The training loop, as every rank runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ray.train
import torch

from raycap import choosing
from raycap.checkpoint import LOSS_KEY
from raycap.metrics.measure import METEOR, load_meteor
from raycap.models import CaptionModel
from raycap.schema import CaptionBatch
from raycap.train.batches import plain_batches, training_batches, windows
from raycap.train.collective import rank
from raycap.train.memory import begin_peak, peak_memory
from raycap.train.optim import learning_rate_scale, set_learning_rates
from raycap.train.record import tracks
from raycap.train.rows import training_feature_rows
from raycap.train.seconds import Stopwatch
from raycap.train.step import (
    NonFiniteError,
    StepTotals,
    backward_window,
    check_finite,
    scale_and_clip,
    step_seed,
)
from raycap.train.validation import Validated, score_captions, validate, validation_decoding
from raycap.train.worker import Job, Worker, start_worker

TRAIN, REMAINING, VAL = "train", "remaining", "val"  # names of the datasets a worker has shards of


def train_worker(settings: dict[str, Any]) -> str:
    """Train, validate and save until all epochs are done; rank 0's return value reaches the driver.

    Returns:
        "" when the run is complete, else the sentence that says why it had to stop. Returned and not raised:
        Ray replaces a worker that raises, and a loss that is not finite would be met again and again.
    """
    stopwatch = Stopwatch()
    worker = start_worker(Job.from_settings(settings), stopwatch)
    if isinstance(worker, str):
        return worker
    warmup = warmup_share(worker)
    while worker.progress.epoch < worker.job.config.train.epochs:
        with stopwatch.phase("training"):
            error = train_epoch(worker, warmup=warmup)
        if error:
            return error
        ray.train.report({**finish_epoch(worker), **stopwatch.take()})
    if worker.recorder:
        worker.recorder.close()
    return ""


def train_epoch(worker: Worker, *, warmup: float) -> str:
    """Every image that the epoch has left; "" or the sentence that says why training must stop."""
    options, optim = worker.job.config.train, worker.job.config.optim
    worker.model.train()
    begin_peak(worker.device)
    for window in windows(epoch_batches(worker), size=optim.accumulate):
        step = worker.progress.step + 1
        torch.manual_seed(step_seed(options.seed, epoch=worker.progress.epoch, step=step, rank=rank()))
        totals = backward_window(worker.parallel, window, empty=worker.empty, precision=options.precision)
        if totals.images == 0:  # every rank has run out of images
            break
        norm = scale_and_clip(worker.parameters, count=totals.count, clip_norm=optim.clip_norm)
        try:
            check_finite(totals, norm=norm, step=step)
        except NonFiniteError as error:
            return (
                f"{error}; nothing of it is saved. Look for broken features, or start anew with a lower rate: "
                "raycap train RUN/config.yaml --run NEW --optim.lr ..."
            )
        before = worker.share()
        keys = [batch["image_key"] for batch in window]
        worker.progress.count_step(keys, images=totals.images, loss_sum=totals.loss_sum, count=totals.count)
        scale = learning_rate_scale(optim, before=before, after=worker.share(), warmup=warmup)
        rates = set_learning_rates(worker.optimizer, scale=scale)
        worker.optimizer.step()
        worker.optimizer.zero_grad()
        worker.average.update(step)
        record_step(worker, totals, norm=norm, rates=rates)
        if options.checkpoint_every_steps and step % options.checkpoint_every_steps == 0:
            worker.save({})
    worker.optimizer.zero_grad()
    return ""


def epoch_batches(worker: Worker) -> Iterator[CaptionBatch]:
    """This rank's share of the epoch's images; after a resume of those that no rank has seen."""
    name = REMAINING if len(worker.progress.seen) else TRAIN
    return training_batches(
        ray.train.get_dataset_shard(name),
        worker.collate.at(worker.progress.epoch),
        worker.job.config.train,
        epoch=worker.progress.epoch,
        rank=rank(),
        device=worker.device,
    )


def warmup_share(worker: Worker) -> float:
    """Share of the run over which the learning rate rises."""
    options, optim = worker.job.config.train, worker.job.config.optim
    if not optim.warmup_steps:
        return optim.warmup_share
    images_a_step = options.batch_size * options.num_workers * optim.accumulate
    return min(1.0, optim.warmup_steps * images_a_step / max(1, options.epochs * worker.job.num_images))


def record_step(worker: Worker, totals: StepTotals, *, norm: float, rates: Mapping[str, float]) -> None:
    """Rank 0 writes the step down."""
    if worker.recorder is None:
        return
    row = {
        "step": worker.progress.step,
        "epoch": worker.progress.epoch + 1,
        "loss": totals.loss_sum / max(totals.count, 1.0),
        **{"lr" if name == "new" else f"lr_{name}": rate for name, rate in rates.items()},
        "gradient_norm": norm,
        "images": totals.images,
        "tokens": int(totals.count),
        **{name: float(value) for name, value in totals.logs.items()},
        **(worker.watched() if tracks(worker.progress.step) else {}),
    }
    worker.recorder.step(row, share=worker.share())


def finish_epoch(worker: Worker) -> dict[str, Any]:
    """Validate, write the epoch down, save; returns the metrics to report. Every rank must call it."""
    progress, recorder = worker.progress, worker.recorder
    with worker.stopwatch.phase("validation"):
        finish_model(worker)
        found = run_validation(worker)
    metrics = {"train_loss": progress.next_epoch(), **found.metrics}
    row = {"step": progress.step, "epoch": progress.epoch, **metrics, **peak_memory(worker.device)}
    with worker.stopwatch.phase("checkpoint"):
        if recorder:
            recorder.epoch({**row, **worker.watched()}, found.captions, found.scores)
        worker.save(metrics)
        if recorder:
            recorder.saved()
    return row


def finish_model(worker: Worker) -> None:
    """Families that build something from the training rows (a caption bank) do so before they are validated."""
    if type(worker.model).finish is CaptionModel.finish:
        return
    worker.model.eval()
    with worker.average.applied():
        worker.model.finish(training_feature_rows(worker.job.config))


def run_validation(worker: Worker) -> Validated:
    """Only rank 0 scores captions; nothing where the split is empty."""
    job = worker.job
    if not job.references:
        return Validated({})
    options = job.config.train
    if worker.recorder:
        worker.recorder.validating(len(job.references))
    shard = ray.train.get_dataset_shard(VAL)
    batches = plain_batches(shard, worker.collate, batch_size=options.batch_size, device=worker.device)
    decoding = validation_decoding(job.config.decoding, beams=options.val_beams)
    with worker.average.applied():
        loss, captions = validate(worker.model, batches, decoding=decoding, precision=options.precision)
    if worker.recorder is None:
        return Validated({LOSS_KEY: loss})
    # only where the strategy asks for it: it needs word lists that not everyone has
    meteor = load_meteor() if METEOR in choosing.parse(options.strategy).named else None
    return score_captions(loss, captions, job.references, metric=options.metric, meteor=meteor)
