"""Optuna over a sweep's dimensions: asked for settings, told what they came to. Knows nothing of Ray."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from raycap.tune.config import TuneOptions
from raycap.tune.record import TrialRecord
from raycap.tune.space import Dimension


class Study:
    """Optuna's TPE over the dimensions (Bergstra et al. 2011, https://papers.nips.cc/paper/4443).

    Trials are added whole, by number, and once: in a sweep that goes on those of before it was killed.
    """

    def __init__(self, dimensions: Sequence[Dimension], options: TuneOptions, *, lower: bool) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.dimensions, self.seed = optuna, dimensions, options.seed
        self.startup = max(2, options.trials // 4)  # drawn at random before there is something to learn from
        self.study = optuna.create_study(direction="minimize" if lower else "maximize")
        self.distributions = {d.name: self._distribution(d) for d in dimensions}
        self.asked: dict[int, Any] = {}
        self.told: set[int] = set()

    def ask(self, number: int) -> dict[str, Any]:
        """Settings for a trial; its number seeds the sampler, so that a resumed sweep draws nothing twice."""
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=self.seed * 100_003 + number, n_startup_trials=self.startup
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", self.optuna.exceptions.ExperimentalWarning)
            trial = self.study.ask(self.distributions)
        self.asked[number] = trial
        return {d.name: self._decoded(d, trial.params[d.name]) for d in self.dimensions}

    def withdraw(self, number: int) -> None:
        """Settings that were asked for are not tried: they repeat a trial."""
        self.study.tell(self.asked.pop(number), state=self.optuna.trial.TrialState.FAIL)

    def tell(self, record: TrialRecord, value: float) -> None:
        """What a trial came to. The baseline may lie outside the space, and then teaches nothing."""
        if record.number in self.told:
            return
        self.told.add(record.number)
        if record.number in self.asked:
            self.study.tell(self.asked.pop(record.number), value)
            return
        settings = record.point
        if all(d.contains(settings[d.name]) for d in self.dimensions):
            params = {d.name: self._encoded(d, settings[d.name]) for d in self.dimensions}
            self.study.add_trial(
                self.optuna.trial.create_trial(params=params, distributions=self.distributions, value=value)
            )

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self.optuna.distributions
        if dimension.kind == "int":
            values = dimension.all_values or ()
            return kinds.IntDistribution(values[0], values[-1], step=dimension.step)
        if dimension.kind == "logint":
            return kinds.IntDistribution(int(dimension.low), int(dimension.high), log=True)
        if dimension.all_values is None:
            return kinds.FloatDistribution(dimension.low, dimension.high, log=dimension.is_log)
        return kinds.CategoricalDistribution(range(len(dimension.all_values)))  # Optuna wants scalars

    def _decoded(self, dimension: Dimension, value: Any) -> Any:
        if dimension.kind in {"choice", "grid"}:
            return dimension.values[value]
        return value if dimension.is_whole else min(max(float(f"{value:.4g}"), dimension.low), dimension.high)

    def _encoded(self, dimension: Dimension, value: Any) -> Any:
        return dimension.values.index(value) if dimension.kind in {"choice", "grid"} else value
