"""The best of all checkpoints below a folder, by any strategy."""

from __future__ import annotations

from dataclasses import replace

from raycap import choosing
from raycap.checkpoint import CheckpointError, find_checkpoints
from raycap.choosing import Choice
from raycap.metrics.measure import METEOR


def choose_best(place: str, *, by: str) -> Choice:
    """The best of every checkpoint below a folder or URI, the oldest first where a strategy asks for an order.

    The choice's names are paths. Metrics are those that training measured; they compare only where the runs were
    validated on the same images.

    Raises:
        ConfigError: no such strategy.
        CheckpointError: no checkpoint there, or none with the metrics that the strategy compares.
    """
    strategy = choosing.parse(by)
    found = sorted(find_checkpoints(place), key=lambda one: (one.manifest.created, one.path))
    if not found:
        raise CheckpointError(f"no checkpoint below {place}; give a folder of runs, or a run")
    try:
        choice = strategy({one.path: one.manifest.metrics for one in found})
    except choosing.NoCandidateError as error:
        hint = (
            "; training measures METEOR only where train.choose names it" if METEOR in strategy.named else ""
        )
        raise CheckpointError(f"{place}: {error}{hint}") from None
    return replace(choice, reason=f"by {by}: {choice.reason}")
