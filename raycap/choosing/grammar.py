"""Strategies as text, the same on the command line, in a preset and in a sweep; what is wrong is one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from raycap.choosing.rules import (
    KNOWN,
    TOLERANCE,
    Candidates,
    Choice,
    by_centre,
    by_metric,
    by_pareto,
    by_weights,
    lexicographic,
)
from raycap.config import ConfigError

CENTRES = {"cider-centred": "cider_d", "meteor-centred": "meteor"}
GRAMMAR = (
    "a metric (cider_d), weighted:cider_d=1,bleu_4=0.5, cider-centred, cider-centred:0.02, "
    "cider-centred:bleu_4=0.02,rouge_l=0.01, meteor-centred (likewise), pareto, pareto:cider_d,val_loss, "
    "lexicographic:cider_d=0.02,meteor=0.01,val_loss"
)


@dataclass(frozen=True)
class Strategy:
    """A parsed strategy; call it with candidates."""

    text: str
    named: tuple[str, ...]
    """Metrics that a candidate must have to take part."""
    rule: Callable[[Candidates], Choice]

    def __call__(self, candidates: Candidates) -> Choice:
        """Choose.

        Raises:
            NoCandidateError: none has what is compared.
        """
        return self.rule(candidates)


def parse(text: str) -> Strategy:
    """The strategy that a text names.

    Raises:
        ConfigError: no such strategy, or arguments that do not fit it.
    """
    name, colon, arguments = text.strip().partition(":")
    if colon and not arguments.strip():
        raise ConfigError(f"strategy {text!r} has nothing after the colon; known: {GRAMMAR}")
    if name in KNOWN and not colon:
        return Strategy(text, (name,), lambda found: by_metric(found, metric=name))
    if name in CENTRES:
        return _parse_centred(text, CENTRES[name], arguments)
    if name == "pareto":
        metrics = tuple(_pairs(text, arguments, takes_values=False)) if arguments else ()
        return Strategy(text, metrics, lambda found: by_pareto(found, metrics=metrics))
    if name == "weighted" and colon:
        weights = {metric: _number(text, metric, value) for metric, value in _pairs(text, arguments).items()}
        if not all(weight > 0 for weight in weights.values()):
            raise ConfigError(f"strategy {text!r}: weights are above 0 (a loss is subtracted by itself)")
        return Strategy(text, tuple(weights), lambda found: by_weights(found, weights=weights))
    if name == "lexicographic" and colon:
        slacks = {metric: _share(text, metric, v or "0") for metric, v in _pairs(text, arguments).items()}
        return Strategy(text, tuple(slacks), lambda found: lexicographic(found, slacks=slacks))
    raise ConfigError(f"unknown strategy {text!r}; known: {GRAMMAR}; metrics: {', '.join(KNOWN)}")


def _parse_centred(text: str, centre: str, arguments: str) -> Strategy:
    if arguments and "=" in arguments:
        pairs = _pairs(text, arguments)
        if centre in pairs:
            raise ConfigError(f"strategy {text!r}: {centre} is the centre, and takes no tolerance")
        held = {metric: _share(text, metric, value) for metric, value in pairs.items()}
        return Strategy(text, (centre, *held), lambda found: by_centre(found, centre=centre, tolerances=held))
    tolerance = _share(text, "the tolerance", arguments) if arguments else TOLERANCE
    return Strategy(text, (centre,), lambda found: by_centre(found, centre=centre, tolerance=tolerance))


def _pairs(text: str, arguments: str, *, takes_values: bool = True) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for argument in arguments.split(","):
        metric, equals, value = (part.strip() for part in argument.partition("="))
        if metric not in KNOWN:
            raise ConfigError(f"strategy {text!r}: unknown metric {metric!r}; known: {', '.join(KNOWN)}")
        if metric in pairs:
            raise ConfigError(f"strategy {text!r} names {metric} twice")
        if equals and not takes_values:
            raise ConfigError(
                f"strategy {text!r}: metrics stand alone here, without {argument.strip()!r}'s number"
            )
        pairs[metric] = value
    return pairs


def _number(text: str, metric: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"strategy {text!r}: {metric} needs a number and has {value!r}; e.g. {metric}=0.5")
    return number


def _share(text: str, metric: str, value: str) -> float:
    number = _number(text, metric, value)
    if not 0 <= number < 1:
        raise ConfigError(
            f"strategy {text!r}: {metric} is a share of the best value, from 0 to below 1, and is {value}"
        )
    return number
