"""From a config to a run: checks first, then data, workers and the loop are put together."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
import ray.train
import ray.train.torch
import yaml

from raycap import storage
from raycap.checkpoint import RunCheckpoints, read_manifest, read_training
from raycap.config import ConfigError
from raycap.data import forwarded_environment
from raycap.data.loading import WholeSplit
from raycap.train.attempt import take_over
from raycap.train.checks import (
    backend,
    check,
    scaling,
    with_absolute_paths,
    worker_device,
)
from raycap.train.config import TrainConfig
from raycap.train.loop import REMAINING, TRAIN, VAL, train_worker
from raycap.train.rows import Rows, load_rows
from raycap.train.screen import Board, watched
from raycap.train.worker import Job

CONFIG = "config.yaml"
CONTROLLER_FAILURES = 3  # Ray's own default waits for ever on a cluster that cannot start the workers

logger = logging.getLogger(__name__)


class TrainingError(ValueError):
    """Training had to stop; the message says why and how to go on."""


def train(config: TrainConfig) -> str:
    """Train from the start; returns the run folder.

    Raises:
        ConfigError: something is missing or does not fit, found before anything starts.
        TrainingError: training itself had to stop.
    """
    run = storage.absolute(config.train.run)
    if storage.list_names(run):
        raise ConfigError(
            f"{run} is not empty: continue that run with `raycap train --resume {config.train.run}`, "
            "or give another folder (--train.run)"
        )
    return start(config, run=run)


def resume(run: str) -> str:
    """Continue a run from its newest whole checkpoint, with its own settings; returns the run folder.

    Raises:
        ConfigError: no run there.
        TrainingError: as `train`.
    """
    run = storage.absolute(run)
    path = storage.join(run, CONFIG)
    if not storage.exists(path):
        raise ConfigError(f"no run at {run}: {CONFIG} is not there; give the folder that `raycap train` made")
    return start(TrainConfig.model_validate(yaml.safe_load(storage.read_bytes(path))), run=run)


def start(
    config: TrainConfig,
    *,
    run: str,
    rows: Rows | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
    shown: bool = True,
) -> str:
    """Check, read the data, train (from the newest checkpoint of `run`), with progress on the terminal.

    Args:
        config: of the run.
        run: its folder, absolute.
        rows: read already, as a sweep's trials share them.
        callbacks: to which metrics are reported once an epoch.
        shown: whether there is a terminal to show progress on.
    """
    config = with_absolute_paths(config, run=run)
    newest = RunCheckpoints(run).newest_valid()
    if newest and read_manifest(newest).epoch >= config.train.epochs:
        logger.warning("%s has all its %d epochs; nothing is left to do", run, config.train.epochs)
        return run
    check(config, run=run)
    rows = rows or load_rows(config)
    if newest and read_manifest(newest).encoder.fingerprint != rows.encoder.fingerprint:
        raise ConfigError(
            f"{run} was trained on features of another encoder than {config.encoder.name} is now; "
            "put the encoder back as it was, or start a new run"
        )
    document = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    storage.write_bytes(storage.join(run, CONFIG), document.encode())
    if not shown:
        fit(config, run=run, rows=rows, callbacks=callbacks)
        return run
    board = Board()
    with watched(board):
        fit(config, run=run, rows=rows, board=board, callbacks=callbacks)
    return run


def fit(
    config: TrainConfig,
    *,
    run: str,
    rows: Rows,
    board: Board | None = None,
    callbacks: Sequence[ray.train.UserCallback] = (),
) -> None:
    """Train over rows that are already there; metrics are reported to `callbacks` once an epoch.

    Raises:
        TrainingError: it had to stop.
    """
    options = config.train
    device = worker_device(config)
    job = Job(
        config=config,
        run=run,
        attempt=take_over(run),
        device=device,
        encoder=rows.encoder,
        num_images=rows.num_images,
        references=rows.references,
        samples=rows.samples,
        vocabulary=rows.vocabulary,
        board=board,
    )
    trainer = ray.train.torch.TorchTrainer(
        train_worker,
        train_loop_config=job.settings(),
        torch_config=ray.train.torch.TorchConfig(backend=backend(config, device=device)),
        scaling_config=scaling(config, device=device),
        run_config=ray.train.RunConfig(
            name=job.attempt,
            storage_path=storage.join(run, "ray"),
            failure_config=ray.train.FailureConfig(
                max_failures=options.max_failures, controller_failure_limit=CONTROLLER_FAILURES
            ),
            callbacks=[*callbacks, *([Announcer(board)] if board else [])],
            worker_runtime_env={"env_vars": forwarded_environment()},
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
        datasets={
            TRAIN: rows.train,
            REMAINING: Remaining(rows, run=run),
            **({VAL: rows.val} if rows.val is not None else {}),
        },
        dataset_config=WholeSplit(),
    )
    try:
        with interruptible():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise TrainingError(
            f"training failed: {root_cause(error)}; go on with `raycap train --resume {run}`"
        ) from error
    if result.return_value:
        raise TrainingError(result.return_value)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts: Ray's own handler ends the workers and then leaves with exit code 0, as if all were done."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():  # the only one that may; sweeps use others
            signal.signal(signal.SIGINT, handler)


class Remaining:
    """The images of the epoch in progress that the newest whole checkpoint has not seen.

    Ray calls it whenever it starts a group of workers, so that a group that replaces a lost one goes on
    where the checkpoint it restores had stopped.
    """

    def __init__(self, rows: Rows, *, run: str) -> None:
        self.rows = rows
        self.run = run

    def __call__(self) -> ray.data.Dataset:
        """A dataset for what is left; all of it where the checkpoint begins an epoch."""
        folder = RunCheckpoints(self.run).newest_valid()
        state = read_training(folder) if folder else None
        if state is None or not len(state.tensors["seen"]):
            return self.rows.train
        return self.rows.without(state.tensors["seen"].tolist())


class Announcer(ray.train.UserCallback):  # type: ignore[misc]
    """Says on the terminal that workers were lost; runs in Ray Train's controller."""

    def __init__(self, board: Board) -> None:
        self.board = board

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        """One line a lost worker."""
        for rank, error in worker_exceptions.items():
            self.board.say(
                f"worker {rank} was lost: {first_line(error)}; starting again from the last checkpoint"
            )


def root_cause(error: Exception) -> str:
    """The first worker's failure, or the controller's, in one line."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    return first_line(next(iter(failures.values())))


def first_line(error: BaseException) -> str:
    """What went wrong in another process, without its traceback: the last line's first sentence."""
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    sentence = lines[-1].strip().split(". ")[0].removesuffix(".") if lines else "no message"
    return f"{sentence} ({type(cause).__name__})"
