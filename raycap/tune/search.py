"""What Ray Tune asks and is told: the next trial, and whether one goes on.

Trials are known by their number here, not by Tune's ids, so that a sweep that goes on after a kill knows its past:
it is told again from the trials' records, and nothing is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from raycap.config import describe_validation_error
from raycap.tune.config import TuneOptions
from raycap.tune.record import TrialRecord
from raycap.tune.space import Dimension, grid_points, random_point
from raycap.tune.study import Study

NUMBER = "number"  # the one setting that Tune itself knows of a trial
BASELINE = 1


class Planner(Searcher):  # type: ignore[misc]
    """Gives out the trials: those that a killed sweep had begun, then new ones until there are enough."""

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
        self.next = max(records, default=0) + 1
        self.points = grid_points(dimensions) if options.algorithm == "grid" else []
        if options.baseline and self.own in self.points:
            self.points.remove(dict(self.own))
        self.study = Study(dimensions, options, lower=self.lower) if options.algorithm == "optuna" else None
        for record in records.values():
            self._tell(record)
        self.numbers: dict[str, int] = {}

    @property
    def total(self) -> int:
        """Trials of the whole sweep."""
        if self.options.algorithm == "grid":
            return len(self._baseline) + len(self.points)
        return self.options.trials

    @property
    def left(self) -> int:
        """Trials still to be given out."""
        return len(self.begun) + max(0, self.total - self.next + 1)

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The number of the trial to run next; its settings are in its record."""
        if self.begun:
            return self._give(trial_id, self.begun.pop(0))
        while self.next <= self.total:
            record = TrialRecord(number=self.next, settings=self._draw(self.next))
            self.next += 1
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

    @property
    def _baseline(self) -> list[Mapping[str, Any]]:
        return [self.own] if self.options.baseline else []

    def _draw(self, number: int) -> dict[str, Any]:
        first = len(self._baseline)
        if number <= first:
            return dict(self.own)
        if self.options.algorithm == "grid":
            return self.points[number - first - 1]
        if self.study:
            return self.study.ask(number)
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
        decision = super().on_trial_result(tune_controller, Numbered(number), result)
        ends = number == self.kept or result.get("epoch", 0) >= self.epochs
        return self.CONTINUE if ends else str(decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial is over."""
        super().on_trial_complete(tune_controller, Numbered(trial.config[NUMBER]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial that had not begun is given up."""
        super().on_trial_remove(tune_controller, Numbered(trial.config[NUMBER]))
