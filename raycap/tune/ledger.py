"""What becomes of every trial, written down and said as it happens, in the sweep's driver."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.tune
from pydantic import ValidationError
from ray import cloudpickle

from raycap.config import ConfigError, describe_validation_error
from raycap.data.progress import clock_time, say
from raycap.train.attempt import is_current, take_over
from raycap.train.launch import TrainingError, first_line
from raycap.tune.config import SweepConfig
from raycap.tune.ranking import rank
from raycap.tune.record import TrialRecord, write_trial
from raycap.tune.report import SweepError, describe, earlier_wall_s, short, write_report
from raycap.tune.search import NUMBER
from raycap.tune.settings import objective
from raycap.tune.space import Dimension


class Ledger(ray.tune.Callback):  # type: ignore[misc]
    """Writes down what becomes of every trial, and says it; runs in the driver."""

    def __init__(
        self, config: SweepConfig, dimensions: tuple[Dimension, ...], records: dict[int, TrialRecord]
    ) -> None:
        self.config, self.dimensions, self.records = config, dimensions, records
        self.metric, _ = objective(config)
        self.started = time.monotonic()
        self.earlier_s = earlier_wall_s(config.tune.run)
        self.begun: dict[int, float] = {}
        self.before: dict[int, float] = {}
        self.attempt = ""
        self.total = len(records)
        """Trials of the whole sweep."""
        self.ended = 0
        """Trials that came to their end in this process, whichever it was."""

    @property
    def wall_s(self) -> float:
        """Seconds that the sweep has taken, those before a kill included."""
        return self.earlier_s + time.monotonic() - self.started

    def report(self) -> None:
        """Renew sweep.json and sweep.html."""
        report = describe(self.config, self.dimensions, self.records, wall_s=self.wall_s)
        write_report(report, self.dimensions)

    def take_over(self) -> None:
        """From now on this process writes to the sweep, and one that still does stops."""
        self.attempt = take_over(self.config.tune.run)

    def write(self, record: TrialRecord) -> None:
        """Put a record down.

        Raises:
            SweepError: another process writes to this sweep by now.
        """
        if not is_current(self.config.tune.run, self.attempt):
            raise SweepError(
                f"another `raycap tune --resume` has taken over {self.config.tune.run}; this one stops"
            )
        self.records[record.number] = record
        write_trial(self.config.tune.run, record)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is about to start."""
        record = self.records[trial.config[NUMBER]]
        self.begun[record.number] = time.monotonic()
        self.before[record.number] = record.seconds.get("total", 0.0)
        settings = "  ".join(f"{name} {short(value)}" for name, value in record.settings.items())
        say(f"trial {record.number} {'goes on' if record.epoch else 'begins'}: {settings}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: Mapping[str, Any], **info: Any
    ) -> None:
        """A trial has finished an epoch."""
        record = self.records[trial.config[NUMBER]]
        known = str(result["epoch"]) in record.metrics
        record = self._timed(record.with_epoch(result))
        self.write(record)
        if not known and self.metric in result:
            say(
                f"trial {record.number}  epoch {result['epoch']}/{self.config.train.epochs}  "
                f"{self.metric} {result[self.metric]:.4f}"
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has come to its end, or asha has ended it."""
        record = self._timed(self.records[trial.config[NUMBER]])
        over = record.epoch >= self.config.train.epochs
        self.write(record.changed(state="finished" if over else "stopped"))
        took = clock_time(record.seconds["total"])
        say(
            f"trial {record.number} {'is finished' if over else f'is ended after epoch {record.epoch}'} ({took})"
        )
        self._after_trial()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed; the others go on."""
        record = self._timed(self.records[trial.config[NUMBER]])
        reason = failure(trial)
        self.write(record.changed(state="failed", reason=reason))
        say(f"trial {record.number} has failed: {reason}")
        self._after_trial()

    def standing(self) -> str:
        """How far the sweep is, what is best so far, and about how long the rest takes at the pace so far."""
        over = sum(record.is_over for record in self.records.values())
        parts = [f"{over} of {self.total} trials are over"]
        ranking, _ = rank(self.records, by=self.config.train.strategy)
        if ranking:
            value = ranking[0].metrics.get(self.metric)
            number = "" if value is None else f", {self.metric} {value:.4f}"
            parts.append(f"best so far is trial {ranking[0].record.number}{number}")
        if self.ended and over < self.total:
            pace = (time.monotonic() - min(self.begun.values())) / self.ended
            parts.append(f"about {clock_time(pace * (self.total - over))} left")
        return "; ".join(parts)

    def _after_trial(self) -> None:
        self.ended += 1
        say(self.standing())
        self.report()

    def _timed(self, record: TrialRecord) -> TrialRecord:
        begun = self.begun.get(record.number)
        if begun is None:
            return record
        total = self.before[record.number] + time.monotonic() - begun
        return record.changed(seconds={**record.seconds, "total": total})


def failure(trial: Any) -> str:
    """Why a trial has failed, in one line."""
    file = trial.pickled_error_file  # this process has just written it, from the exception that it had
    if not file or not Path(file).is_file():
        return "Ray Tune says nothing of why"
    error = cloudpickle.loads(Path(file).read_bytes())
    cause: BaseException = getattr(error, "cause", None) or error
    if isinstance(cause, ValidationError):
        return describe_validation_error(cause).splitlines()[0]
    if isinstance(cause, TrainingError | ConfigError):
        return str(cause).splitlines()[0]
    return first_line(cause)
