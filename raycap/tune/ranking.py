"""From the trials' records to what a sweep has found: the ranking, what mattered, where the seconds went.

Pure functions; knows nothing of Ray or of files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycap import choosing
from raycap.choosing import Choice, Metrics, NoCandidateError
from raycap.tune.record import PHASES, TrialRecord
from raycap.tune.space import Dimension

MIN_TRIALS = 4  # fewer say nothing of what mattered


@dataclass(frozen=True)
class Ranked:
    """A trial with the epoch that its strategy chooses."""

    record: TrialRecord
    epoch: int
    metrics: Metrics


@dataclass(frozen=True)
class Importance:
    """How far a setting orders the trials, from 0 to 1, and which way (0 where it has no order)."""

    name: str
    strength: float
    direction: int


def rank(records: Mapping[int, TrialRecord], *, by: str) -> tuple[list[Ranked], str]:
    """The trials that have not failed, the best first, each at its best epoch by the same strategy; and why the first.

    Args:
        records: of the trials.
        by: a strategy (see raycap.choosing).
    """
    found = {}
    for number, record in sorted(records.items()):
        if record.state != "failed" and (epoch := best_epoch(record, by=by)):
            found[number] = Ranked(record, epoch, record.metrics[str(epoch)])
    choice = choose_or_none({str(number): ranked.metrics for number, ranked in found.items()}, by)
    if choice is None:
        return [], ""
    return [found[int(name)] for name in choice.ranking], choice.reason


def best_epoch(record: TrialRecord, *, by: str) -> int:
    """The epoch that a strategy chooses among a trial's own; 0 where there is none."""
    choice = choose_or_none({str(e): record.metrics[str(e)] for e in sorted(map(int, record.metrics))}, by)
    return int(choice.name) if choice else 0


def choose_or_none(candidates: Mapping[str, Metrics], by: str) -> Choice | None:
    """What a strategy chooses, if anything takes part."""
    try:
        return choosing.choose(candidates, by)
    except NoCandidateError:
        return None


def common_epoch(records: Mapping[int, TrialRecord], metric: str) -> int:
    """The last epoch that every trial with any has; at it trials compare, however long each went on."""
    lasts = [record.values(metric)[-1][0] for record in records.values() if record.values(metric)]
    return min(lasts, default=0)


def importances(
    records: Mapping[int, TrialRecord], dimensions: Sequence[Dimension], *, metric: str, lower: bool
) -> list[Importance]:
    """How far each setting orders the trials by `metric` at their common epoch, the strongest first.

    Of a range of numbers, and of listed numbers, the absolute value of Spearman's rank correlation; of other listed
    values the correlation ratio of the ranks (the root of the share of their variance that lies between the values).
    Both look at one setting at a time, and with a dozen trials tell only strong effects from chance. Empty for
    fewer than MIN_TRIALS trials.
    """
    epoch = common_epoch(records, metric)
    trials = [
        record for record in records.values() if epoch and dict(record.values(metric)).get(epoch) is not None
    ]
    if len(trials) < MIN_TRIALS:
        return []
    sign = -1.0 if lower else 1.0
    values = ranks([sign * dict(record.values(metric))[epoch] for record in trials])
    found = [importance(d, [record.settings[d.name] for record in trials], values) for d in dimensions]
    return sorted(found, key=lambda item: -item.strength)


def importance(dimension: Dimension, settings: Sequence[Any], values: np.ndarray[Any, Any]) -> Importance:
    """One setting's, of trials whose values are given as ranks."""
    numbers = [s for s in settings if isinstance(s, int | float) and not isinstance(s, bool)]
    if len(numbers) == len(settings):
        correlation = correlate(ranks(numbers), values)
        return Importance(dimension.name, abs(correlation), int(np.sign(correlation)))
    groups: dict[str, list[float]] = {}
    for setting, value in zip(settings, values.tolist(), strict=True):
        groups.setdefault(repr(setting), []).append(value)
    between = sum(len(group) * (np.mean(group) - values.mean()) ** 2 for group in groups.values())
    whole = float(((values - values.mean()) ** 2).sum())
    return Importance(dimension.name, math.sqrt(between / whole) if whole else 0.0, 0)


def ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    array = np.asarray(values, dtype=float)
    below = (array[None, :] < array[:, None]).sum(axis=1)  # (values,)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    mean: np.ndarray[Any, Any] = below + (equal + 1) / 2
    return mean


def correlate(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Pearson's correlation; 0 where one of the two does not vary."""
    one, other = one - one.mean(), other - other.mean()
    scale = math.sqrt(float((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / scale) if scale else 0.0


def seconds_of(records: Mapping[int, TrialRecord]) -> dict[str, float]:
    """Seconds of all trials together: total, each phase, startup (all else: processes starting and ending), and
    not_training.
    """
    total = sum(record.seconds.get("total", 0.0) for record in records.values())
    phases = {name: sum(r.seconds.get(name, 0.0) for r in records.values()) for name in PHASES}
    startup = max(0.0, total - sum(phases.values()))
    return {
        "total_s": total,
        **phases,
        "startup_s": startup,
        "not_training_s": total - phases["training_s"],
    }
