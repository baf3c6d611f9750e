"""What Ray Tune asks and is told: the next trial, and whether one goes on.

Trials are known by their number here, not by Tune's ids, so that a sweep that goes on after a kill knows its past:
it is told again from the trials' records, and nothing is ever unpickled.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from raycap.config import describe_validation_error
from raycap.tune.config import TuneOptions
from raycap.tune.record import TrialRecord
from raycap.tune.space import Dimension, count_points, grid_points, random_point
from raycap.tune.study import Study

NUMBER = "number"  # the one setting that Tune itself knows of a trial
BASELINE = 1
LISTED = 10_000  # combinations of a space at most, that are listed to find one that was not tried


class Planner(Searcher):  # type: ignore[misc]
    """Gives out the trials: those that a killed sweep had begun, then new ones until there are enough.

    None is given out twice: trials with the same settings would come to the same.
    """

    def __init__(
        self,
        options: TuneOptions,
        dimensions: Sequence[Dimension],
        *,
        own: Mapping[str, Any],
        objective: tuple[str, bool],
        records: Mapping[int, TrialRecord],
        check: Callable[[Mapping[str, Any], int], object],
        write: Callable[[TrialRecord], None],
    ) -> None:
        """A planner of a sweep.

        Args:
            options: of the sweep.
            dimensions: what varies.
            own: the preset's own settings, the first trial's where there is a baseline.
            objective: the metric to learn from, and whether less of it is better.
            records: of the trials so far; kept up to date by the driver.
            check: raises ValidationError for settings that contradict each other.
            write: puts a trial's record down.
        """
        super().__init__()
        self.options, self.dimensions, self.own = options, dimensions, own
        self.metric_name, self.lower = objective
        self.records, self.check, self.write = records, check, write
        self.begun = [number for number, record in sorted(records.items()) if not record.is_over]
        self.points = self._untried() if options.algorithm == "grid" else []
        self.fresh = self._fresh()
        self.total = len(records) + len(self.fresh)
        self.study = Study(dimensions, options, lower=self.lower) if options.algorithm == "optuna" else None
        for record in records.values():
            self._tell(record)
        self.numbers: dict[str, int] = {}

    @property
    def left(self) -> int:
        """Trials still to be given out."""
        return len(self.begun) + len(self.fresh)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The number of the trial to run next; its settings are in its record."""
        if self.begun:
            return self._give(trial_id, self.begun.pop(0))
        while self.fresh:
            number = self.fresh.pop(0)
            record = TrialRecord(number=number, settings=self._new(number))
            try:
                self.check(record.settings, record.number)
            except (
                ValidationError
            ) as error:  # contradicting settings: named in the table, and the next is drawn
                reason = describe_validation_error(error).splitlines()[0]
                self.write(record.changed(state="failed", reason=reason))
                continue
            self.write(record)
            return self._give(trial_id, record.number)
        return str(Searcher.FINISHED)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Learn from a trial that is over."""
        record = self.records.get(self.numbers.pop(trial_id, 0))
        if record and not error:
            self._tell(record)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' records are all that a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""

    def _give(self, trial_id: str, number: int) -> dict[str, Any]:
        self.numbers[trial_id] = number
        return {NUMBER: number}

    def _untried(self) -> list[dict[str, Any]]:
        """Combinations that no trial has; the preset's own is its first trial's."""
        tried = [record.point for record in self.records.values()]
        tried += [dict(self.own)] if self.options.baseline else []
        return [point for point in grid_points(self.dimensions) if point not in tried]

    def _fresh(self) -> list[int]:
        """Numbers of the trials that are not there yet: as many as asked for, or as there are combinations left."""
        own = int(self.options.baseline and BASELINE not in self.records)
        if self.options.algorithm == "grid":
            count = own + len(self.points)
            return list(itertools.islice((n for n in itertools.count(1) if n not in self.records), count))
        numbers = [number for number in range(1, self.options.trials + 1) if number not in self.records]
        few = count_points(self.dimensions) <= LISTED
        return numbers[: own + len(self._untried())] if few else numbers

    def _new(self, number: int) -> dict[str, Any]:
        """Settings that no trial has; of a space without end what is drawn is new."""
        if number == BASELINE and self.options.baseline:
            return dict(self.own)
        if self.options.algorithm == "grid":
            return self.points.pop(0)
        settings = self._draw(number)
        if count_points(self.dimensions) > LISTED:
            return settings
        untried = self._untried()
        if settings in untried:
            return settings
        if self.study:
            self.study.withdraw(number)
        return random.Random(f"{self.options.seed} {number}").choice(untried)

    def _draw(self, number: int) -> dict[str, Any]:
        if self.study:
            return self.study.ask(number)
        first = int(self.options.baseline)
        return random_point(self.dimensions, seed=self.options.seed, number=number - first)

    def _tell(self, record: TrialRecord) -> None:
        value = record.best(self.metric_name, lower=self.lower)
        if self.study and value is not None and record.state != "failed":
            self.study.tell(record, value)


@dataclass
class Numbered:
    """A trial as the scheduler needs it, under its number."""

    number: int
    trial_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.trial_id = f"{self.number:04d}"


class Asha(ASHAScheduler):  # type: ignore[misc]
    """Ray's ASHA (Li et al. 2018, https://arxiv.org/abs/1810.05934) that keeps the baseline and knows the past."""

    def __init__(
        self,
        options: TuneOptions,
        *,
        epochs: int,
        objective: tuple[str, bool],
        records: Mapping[int, TrialRecord],
    ) -> None:
        """A scheduler of a sweep; `records` are what came before it was killed."""
        metric, lower = objective
        super().__init__(
            time_attr="epoch",
            metric=metric,
            mode="min" if lower else "max",
            max_t=epochs,
            grace_period=min(options.grace_epochs, epochs),
            reduction_factor=options.reduction,
        )
        self.epochs = epochs
        self.kept = BASELINE if options.baseline else 0
        for record in records.values():
            past = Numbered(record.number)
            super().on_trial_add(None, past)
            for epoch, value in record.values(metric):
                super().on_trial_result(None, past, {"epoch": epoch, metric: value})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial begins, or goes on."""
        super().on_trial_add(tune_controller, Numbered(trial.config[NUMBER]))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a trial goes on after an epoch; after its last one it ends by itself, its records closed."""
        number = trial.config[NUMBER]
        if math.isfinite(result.get(self.metric, 0.0)):
            decision = super().on_trial_result(tune_controller, Numbered(number), result)
        else:  # it would be compared with no other, and spoil the cut for all
            decision = self.STOP
        ends = number == self.kept or result.get("epoch", 0) >= self.epochs
        return self.CONTINUE if ends else str(decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial is over; all its epochs were told."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial that had not begun is given up."""
        super().on_trial_remove(tune_controller, Numbered(trial.config[NUMBER]))
