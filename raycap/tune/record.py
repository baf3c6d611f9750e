"""What is known of every trial, one JSON file each beside its run: enough to rank them, and to go on after a kill.

Written by the sweep's driver alone, whole or not at all. Knows nothing of Ray.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from raycap import storage
from raycap.config import ConfigError, Frozen, describe_validation_error
from raycap.train.record import EPOCH, read_metrics
from raycap.tune.settings import TRIALS, trial_folder
from raycap.tune.space import freeze

TRIAL = "trial.json"
NOT_REPORTED = {"samples", "sample_scores", "watched"}  # rows of metrics.jsonl have them besides
PHASES = ("loading_s", "training_s", "validation_s", "checkpoint_s")
TUNES_OWN = {"time_this_iter_s", "time_total_s", "time_since_restore"}  # that Ray Tune puts beside a report
NOT_METRICS = {"kind", "step", "epoch", "gpu_memory_gib", *NOT_REPORTED, *PHASES, *TUNES_OWN}


class TrialRecord(Frozen):
    """A trial, as far as it has come."""

    number: int
    settings: dict[str, Any]
    """Dotted settings to values, drawn or (the baseline's) the preset's own."""
    state: Literal["begun", "finished", "stopped", "failed"] = "begun"
    """stopped: asha ended it early."""
    reason: str = ""
    """Why it failed."""
    epoch: int = 0
    """Epochs done."""
    seconds: dict[str, float] = Field(default_factory=dict)
    """Wall-clock seconds by phase, and `total`, from the trial's start to its end, over all attempts."""
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Of every epoch, by its number; one that was not finite is absent."""

    @property
    def point(self) -> dict[str, Any]:
        """The settings as a space has them: of a tuple JSON makes a list."""
        return {name: freeze(value) for name, value in self.settings.items()}

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state != "begun"

    def changed(self, **fields: Any) -> TrialRecord:
        """The record with some fields replaced."""
        return TrialRecord.model_validate({**self.model_dump(), **fields})

    def with_epoch(self, row: Mapping[str, Any]) -> TrialRecord:
        """The record after an epoch was reported; one that is known already changes nothing."""
        if str(row["epoch"]) in self.metrics:
            return self
        metrics = {name: float(value) for name, value in row.items() if is_metric(name, value)}
        seconds = dict(self.seconds)
        for phase in PHASES:
            if phase in row:
                seconds[phase] = seconds.get(phase, 0.0) + float(row[phase])
        return self.changed(
            epoch=max(self.epoch, int(row["epoch"])),
            metrics={**self.metrics, str(row["epoch"]): metrics},
            seconds=seconds,
        )

    def values(self, metric: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric, by epoch."""
        return sorted((int(epoch), row[metric]) for epoch, row in self.metrics.items() if metric in row)

    def best(self, metric: str, *, lower: bool) -> float | None:
        """The best value that any epoch had."""
        found = [value for _, value in self.values(metric)]
        return (min if lower else max)(found) if found else None


def is_metric(name: str, value: Any) -> bool:
    """Whether a reported field is one of training's metrics, with a value that can be compared."""
    return name not in NOT_METRICS and isinstance(value, float) and math.isfinite(value)


def write_trial(sweep: str, record: TrialRecord) -> None:
    """Write a trial's record."""
    path = storage.join(trial_folder(sweep, record.number), TRIAL)
    storage.write_json(path, record.model_dump(mode="json"))


def read_trial(sweep: str, number: int) -> TrialRecord:
    """A trial's record.

    Raises:
        FileNotFoundError: no such trial.
        ConfigError: its record is damaged.
    """
    path = storage.join(trial_folder(sweep, number), TRIAL)
    try:
        return TrialRecord.model_validate(storage.read_json(path))
    except ValidationError as error:
        reason = describe_validation_error(error).splitlines()[0]
    except ValueError as error:
        reason = str(error)
    raise ConfigError(
        f"{path} is damaged ({reason}); delete the folder {trial_folder(sweep, number)}, and "
        f"`raycap tune --resume {sweep}` runs that trial again"
    )


def check_names(records: Mapping[int, TrialRecord], names: Collection[str], *, sweep: str) -> None:
    """Whether the trials of a sweep that goes on varied the same settings as its config does now.

    Raises:
        ConfigError: one varied others.
    """
    for record in records.values():
        if differing := sorted(set(record.settings) ^ set(names)):
            raise ConfigError(
                f"trial {record.number} of {sweep} and the space in its config.yaml differ in {', '.join(differing)}; "
                "a sweep keeps the settings that it varies: put them back, or start another sweep"
            )


def read_trials(sweep: str) -> dict[int, TrialRecord]:
    """All trials of a sweep, by number.

    Raises:
        ConfigError: a record is damaged.
    """
    folder = storage.join(sweep, TRIALS)
    numbers = [int(name) for name in storage.list_names(folder) if name.isdecimal()]
    there = [n for n in numbers if storage.exists(storage.join(trial_folder(sweep, n), TRIAL))]
    return {number: read_trial(sweep, number) for number in sorted(there)}


def recorded_epochs(run: str, *, done: int) -> list[dict[str, Any]]:
    """What a run wrote of its first `done` epochs: the rows that it reported, without their seconds."""
    return [
        {name: value for name, value in row.items() if name not in {"kind", *NOT_REPORTED}}
        for row in read_metrics(run)
        if row["kind"] == EPOCH and row["epoch"] <= done
    ]
