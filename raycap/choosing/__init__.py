"""Choosing among candidates (checkpoints, trials, runs) by more than one number.

A strategy is text, the same in a preset (`train.choose`), in a sweep and in `raycap models best --by`: a metric's
name, or NAME or NAME:ARGUMENTS as GRAMMAR lists them. Knows nothing of where the numbers come from.
"""

from __future__ import annotations

from raycap.choosing.grammar import GRAMMAR, Strategy, parse
from raycap.choosing.rules import (
    CAPTION_METRICS,
    LOSSES,
    Candidates,
    Choice,
    Metrics,
    NoCandidateError,
    by_centre,
    by_metric,
    by_pareto,
    by_weights,
    lexicographic,
)

__all__ = [
    "CAPTION_METRICS",
    "GRAMMAR",
    "LOSSES",
    "Candidates",
    "Choice",
    "Metrics",
    "NoCandidateError",
    "Strategy",
    "by_centre",
    "by_metric",
    "by_pareto",
    "by_weights",
    "choose",
    "lexicographic",
    "parse",
]


def choose(candidates: Candidates, by: str) -> Choice:
    """The best of `candidates` by a strategy's text; of equals the earlier.

    A candidate takes part if it has a finite value of every metric that the strategy names. Of the metrics that a
    strategy compares without naming them (`cider-centred`, `pareto`), one that some candidate was not measured on
    is compared for none; one that is NaN or infinite for a candidate puts that candidate out.

    Raises:
        ConfigError: no such strategy.
        NoCandidateError: no candidate takes part.
    """
    return parse(by)(candidates)
