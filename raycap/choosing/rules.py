"""The rules by which one of several candidates is chosen: pure functions of a mapping from names to metrics.

A share is of the best value that any candidate has of a metric. Knows nothing of how a rule is written down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Metrics: TypeAlias = Mapping[str, float]
Candidates: TypeAlias = Mapping[str, Metrics]
CAPTION_METRICS = (
    "bleu_1",
    "bleu_2",
    "bleu_3",
    "bleu_4",
    "rouge_l",
    "cider_d",
    "meteor",
    "spice",
    "clip_score",
    "ref_clip_score",
)
LOSSES = ("val_loss", "train_loss")  # lower is better; of caption metrics higher is
KNOWN = (*CAPTION_METRICS, *LOSSES)
TOLERANCE = 0.05  # share of a metric's best value that a centred strategy lets go by default
ROUNDING = 1e-9  # of shares: 0.2 -> 0.19 is a fall of 5 %, whatever binary fractions make of it


class NoCandidateError(ValueError):
    """No candidate has what the strategy compares; the message says what is missing."""


@dataclass(frozen=True)
class Choice:
    """What a strategy chose, and why."""

    name: str
    reason: str
    """One sentence."""
    ranking: tuple[str, ...]
    """All that took part, the best first."""


def by_metric(candidates: Candidates, *, metric: str) -> Choice:
    """The best value of one metric: the highest, of a loss the lowest."""
    table = taking_part(candidates, [metric])
    ranking = sorted(table, key=lambda name: -gain(metric, table[name][metric]))
    best = table[ranking[0]][metric]
    extreme = "lowest" if metric in LOSSES else "highest"
    return Choice(ranking[0], f"{metric} {best:.4f} is the {extreme} of {_count(table)}", tuple(ranking))


def by_weights(candidates: Candidates, *, weights: Mapping[str, float]) -> Choice:
    """The highest sum of the metrics times their weights; losses are subtracted.

    Values enter as they are, so that no candidate changes how two others compare.
    """
    table = taking_part(candidates, weights)
    sums = {
        name: math.fsum(weight * gain(metric, metrics[metric]) for metric, weight in weights.items())
        for name, metrics in table.items()
    }
    ranking = sorted(table, key=lambda name: -sums[name])
    terms = " ".join(
        f"{'-' if metric in LOSSES else '+'} {weight:g} {metric}" for metric, weight in weights.items()
    ).removeprefix("+ ")
    return Choice(
        ranking[0], f"{terms} = {sums[ranking[0]]:.4f} is the highest of {_count(table)}", tuple(ranking)
    )


def by_centre(
    candidates: Candidates,
    *,
    centre: str,
    tolerances: Mapping[str, float] | None = None,
    tolerance: float = TOLERANCE,
) -> Choice:
    """The best value of the centre metric among candidates whose other metrics hold their tolerances.

    A metric holds where it lies below the best value that any candidate has of it by no more than its tolerance,
    a share of that best value. The others are those of `tolerances`; without it all caption metrics, each with
    `tolerance`. Candidates that do not hold come after those that do, the smallest excess first.
    """
    table = taking_part(candidates, [centre, *(tolerances or {})])
    if tolerances is None:
        table, compared = comparable(table, [name for name in CAPTION_METRICS if name != centre])
        tolerances = dict.fromkeys(compared, tolerance)
    falls = {name: _falls(table, name, tolerances) for name in table}
    excess = {name: _excess(falls[name], tolerances) for name in table}
    ranking = sorted(table, key=lambda name: (excess[name], -gain(centre, table[name][centre])))
    chosen = ranking[0]
    value = f"{centre} {table[chosen][centre]:.4f}"
    if excess[chosen] > 0:
        worst = max(tolerances, key=lambda metric: falls[chosen][metric] - tolerances[metric])
        reason = (
            f"none of {_count(table)} holds every tolerance, and this one misses by least "
            f"({worst} {falls[chosen][worst]:.1%} below the best, {tolerances[worst]:.1%} allowed)"
        )
    else:
        holding = sum(value == 0 for value in excess.values())
        reason = f"{value} is the best of the {holding} of {_count(table)} whose other metrics hold their tolerances"
    return Choice(chosen, reason, tuple(ranking))


def by_pareto(candidates: Candidates, *, metrics: Sequence[str] = ()) -> Choice:
    """From the first candidate on to the next one for which no metric falls and one rises, in the order given.

    So the first sets the bar (in training the first epoch, in a folder the oldest), and what is chosen is better
    than it on every metric, and beaten on all by none. Compared are `metrics`, or all caption metrics.
    """
    table = taking_part(candidates, metrics)
    compared: Sequence[str] = metrics
    if not metrics:
        table, compared = comparable(table, CAPTION_METRICS)
    ranking: list[str] = []
    left = list(table)
    while left:
        best = left[0]
        for name in left[1:]:
            if _dominates(table[name], table[best], compared):
                best = name
        ranking.append(best)
        left.remove(best)
    names = ", ".join(compared)
    if len(table) == 1:
        reason = "it is the only candidate"
    elif ranking[0] == next(iter(table)):
        reason = f"it is the first, and each of the {len(table) - 1} others falls on one of {names} or rises on none"
    else:
        reason = f"none of {names} fell on the way to it from {next(iter(table))}, and no other goes on so"
    return Choice(ranking[0], reason, tuple(ranking))


def lexicographic(candidates: Candidates, *, slacks: Mapping[str, float]) -> Choice:
    """The first metric decides, unless candidates lie within its slack of its best value; of those the next does.

    A slack is a share of the best value. The last metric decides alone (its slack says what counts as equal, and of
    equals the earlier is taken).
    """
    table = taking_part(candidates, slacks)
    ranking: list[str] = []
    steps: list[str] = []
    while len(ranking) < len(table):
        group = {name: table[name] for name in table if name not in ranking}
        found, path = _narrowed(group, slacks)
        ranking.append(found)
        steps = steps or path
    return Choice(ranking[0], f"of {_count(table)} {', '.join(steps)}", tuple(ranking))


def taking_part(candidates: Candidates, named: Iterable[str]) -> dict[str, Metrics]:
    """Candidates with a finite value of every named metric.

    Raises:
        NoCandidateError: there is none.
    """
    wanted = list(named)
    found = {
        name: metrics
        for name, metrics in candidates.items()
        if all(math.isfinite(metrics.get(metric, math.nan)) for metric in wanted)
    }
    if found:
        return found
    if not candidates:
        raise NoCandidateError("there is no candidate to choose from")
    raise NoCandidateError(
        f"none of {_count(candidates)} has a finite value of {' and '.join(wanted)}; measured are "
        f"{', '.join(sorted({metric for metrics in candidates.values() for metric in metrics})) or 'none'}"
    )


def comparable(candidates: Candidates, metrics: Sequence[str]) -> tuple[dict[str, Metrics], list[str]]:
    """Candidates that have caption metrics, all finite, and those of `metrics` that each of them was measured on.

    Raises:
        NoCandidateError: no candidate has any that is finite.
    """
    measured = {name: m for name, m in candidates.items() if any(key in m for key in CAPTION_METRICS)}
    shared = [metric for metric in metrics if all(metric in found for found in measured.values())]
    table = {name: m for name, m in measured.items() if all(math.isfinite(m[metric]) for metric in shared)}
    if not table:
        raise NoCandidateError(f"none of {_count(candidates)} has finite caption metrics")
    return table, shared


def gain(metric: str, value: float) -> float:
    """A value so that higher is better."""
    return -value if metric in LOSSES else value


def _best(table: Candidates, metric: str) -> float:
    return max((metrics[metric] for metrics in table.values()), key=lambda value: gain(metric, value))


def _fall(metric: str, value: float, best: float) -> float:
    """How far a value lies below the best, as a share of it."""
    difference = gain(metric, best) - gain(metric, value)
    return difference / abs(best) if best else math.inf * difference if difference else 0.0


def _falls(table: Candidates, name: str, metrics: Iterable[str]) -> dict[str, float]:
    return {metric: _fall(metric, table[name][metric], _best(table, metric)) for metric in metrics}


def _excess(falls: Metrics, tolerances: Metrics) -> float:
    """The most by which a fall is larger than its tolerance; 0 where all hold."""
    largest = max((falls[metric] - tolerances[metric] for metric in tolerances), default=0.0)
    return largest if largest > ROUNDING else 0.0


def _dominates(one: Metrics, other: Metrics, metrics: Sequence[str]) -> bool:
    gains = [gain(metric, one[metric]) - gain(metric, other[metric]) for metric in metrics]
    return all(value >= 0 for value in gains) and any(value > 0 for value in gains)


def _narrowed(group: Candidates, slacks: Metrics) -> tuple[str, list[str]]:
    """The one that is left of a group, and what narrowed it."""
    left = dict(group)
    path = []
    for place, (metric, slack) in enumerate(slacks.items(), start=1):
        best = _best(left, metric)
        near = {n: m for n, m in left.items() if _fall(metric, m[metric], best) <= slack + ROUNDING}
        path.append(f"{len(near)} within {slack:.1%} of the best {metric} ({best:.4f})")
        left = near
        if len(left) == 1 or place == len(slacks):
            break
    return next(iter(left)), path


def _count(candidates: Candidates) -> str:
    return f"{len(candidates)} candidate{'s' if len(candidates) != 1 else ''}"
