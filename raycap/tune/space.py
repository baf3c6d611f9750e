"""The search space: which settings a sweep varies, and over what, written as one line a setting.

A dimension is text (`loguniform 1e-4 1e-2`) or, in YAML, a list of values. Knows nothing of Ray or of Optuna.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raycap.config import ConfigError

GRAMMAR = (
    "choice A B ..., grid A B ..., uniform LOW HIGH, loguniform LOW HIGH, int LOW HIGH [STEP], logint LOW HIGH, "
    "or a YAML list of values"
)
DISCRETE = ("choice", "grid")
RANGES = ("uniform", "loguniform", "int", "logint")
WORDS = {"true": True, "false": False}
INNER = 0.38196601125  # a place inside a range that is no whole number of anything
PROBED = 64  # whole numbers of a range that are all tried before a sweep; of longer ones some


@dataclass(frozen=True)
class Dimension:
    """One setting and what it is drawn from."""

    name: str
    kind: str
    values: tuple[Any, ...] = ()
    """Of choice and grid."""
    low: float = 0.0
    high: float = 0.0
    step: int = 1

    @property
    def is_log(self) -> bool:
        """Whether it is drawn, and drawn on paper, by its logarithm."""
        return self.kind in {"loguniform", "logint"}

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers of a range."""
        return self.kind in {"int", "logint"}

    @property
    def all_values(self) -> tuple[Any, ...] | None:
        """Every value it can take; None where they are too many to list."""
        if self.kind in DISCRETE:
            return self.values
        if self.kind == "int":
            return tuple(range(int(self.low), int(self.high) + 1, self.step))
        return None

    def draw(self, source: random.Random) -> Any:
        """A value at random."""
        if (values := self.all_values) is not None:
            return source.choice(values)
        return self.at(source.random())

    def at(self, share: float) -> Any:
        """The value of a range that lies at a share of its way."""
        if self.is_log:
            value = self.low ** (1 - share) * self.high**share
        else:
            value = self.low + share * (self.high - self.low)
        value = round(value) if self.is_whole else float(f"{value:.4g}") if 0 < share < 1 else value
        return min(max(value, self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Whether a value is one that it can take."""
        if (values := self.all_values) is not None:
            return value in values
        return (
            isinstance(value, int | float)
            and self.low <= value <= self.high
            and (not self.is_whole or value == round(value))
        )

    def probes(self) -> tuple[Any, ...]:
        """Values that tell whether the setting takes this dimension: all, or both ends and one between."""
        values = self.all_values
        if values is None:
            return self.at(0.0), self.at(INNER), self.at(1.0)
        few = len(values) <= PROBED or self.kind in DISCRETE
        return values if few else (values[0], values[int(INNER * len(values))], values[-1])


def parse_space(space: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """The dimensions of a `tune.space` block, in its order.

    Raises:
        ConfigError: nothing to vary, or a line that is not of the grammar.
    """
    if not space:
        raise ConfigError(
            "tune.space is empty; name what to vary in the YAML file, e.g. `optim.lr: loguniform 1e-4 1e-2` "
            f"({GRAMMAR})"
        )
    return tuple(parse_dimension(name, given) for name, given in space.items())


def parse_dimension(name: str, given: Any) -> Dimension:
    """One line of a search space.

    Raises:
        ConfigError: it is not of the grammar.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        return _discrete(name, "choice", [freeze(value) for value in given], given)
    kind, *arguments = str(given).split() or [""]
    if any(argument.endswith(",") for argument in (kind, *arguments)) and isinstance(given, str):
        raise ConfigError(
            f"tune.space: {name}: {given!r} has commas; values are separated by blanks ({GRAMMAR})"
        )
    if isinstance(given, Mapping):
        raise ConfigError(
            f"tune.space: {name} holds a block; write its settings with dots, e.g. "
            f"`{name}.{next(iter(given), 'lr')}: uniform 0 0.3`"
        )
    if kind in DISCRETE:
        return _discrete(name, kind, [parse_value(text) for text in arguments], given)
    if kind not in RANGES:
        raise ConfigError(f"tune.space: {name} is drawn from {given!r}, which is none of: {GRAMMAR}")
    return _range(name, kind, arguments, given)


def parse_value(text: str) -> Any:
    """A word as the number or the truth value that it spells, else the word."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def freeze(value: Any) -> Any:
    """A value of a YAML list, its strings read as in a line (`1e-3` is text to YAML), its lists as tuples."""
    if isinstance(value, str):
        return parse_value(value)
    return tuple(freeze(item) for item in value) if isinstance(value, list) else value


def grid_points(dimensions: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Every combination of the dimensions' values, the last one fastest.

    Raises:
        ConfigError: a dimension with too many values to list.
    """
    for dimension in dimensions:
        if dimension.all_values is None:
            raise ConfigError(
                f"tune.algorithm=grid takes listed values, and {dimension.name} is drawn by {dimension.kind}; "
                "write `grid A B ...`, or take tune.algorithm=random or optuna"
            )
    names = [dimension.name for dimension in dimensions]
    products = itertools.product(*(dimension.all_values or () for dimension in dimensions))
    return [dict(zip(names, values, strict=True)) for values in products]


def count_points(dimensions: Sequence[Dimension]) -> float:
    """How many combinations there are; infinite where a dimension has too many values to list."""
    return math.prod(math.inf if d.all_values is None else len(d.all_values) for d in dimensions)


def random_point(dimensions: Sequence[Dimension], *, seed: int, number: int) -> dict[str, Any]:
    """The settings of trial `number` (from 1): grid dimensions in turn over all their combinations, others drawn.

    A trial's settings depend on its number and the seed alone, so that a resumed sweep draws what it would have.
    """
    source = random.Random(f"{seed} {number}")
    points = grid_points([dimension for dimension in dimensions if dimension.kind == "grid"])
    turn = points[(number - 1) % len(points)]
    return {d.name: turn[d.name] if d.name in turn else d.draw(source) for d in dimensions}


def _discrete(name: str, kind: str, values: Sequence[Any], given: Any) -> Dimension:
    if not values:
        raise ConfigError(f"tune.space: {name} has no values ({given!r}); write e.g. `{kind} 8 16`")
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ConfigError(f"tune.space: {name} names a value twice ({given!r}); leave one out")
    return Dimension(name, kind, tuple(values))


def _range(name: str, kind: str, arguments: Sequence[str], given: Any) -> Dimension:
    numbers = [parse_value(argument) for argument in arguments]
    whole = kind in {"int", "logint"}
    example = f"{kind} 1 8" if whole else f"{kind} 1e-4 1e-2"
    allowed = (2, 3) if kind == "int" else (2,)
    right = int if whole else (int, float)
    if len(numbers) not in allowed or any(
        isinstance(n, bool) or not isinstance(n, right) or not math.isfinite(n) for n in numbers
    ):
        raise ConfigError(f"tune.space: {name}: {given!r} is not {kind} LOW HIGH; write e.g. `{example}`")
    low, high, *rest = numbers
    if low >= high or (kind.startswith("log") and low <= 0) or (rest and rest[0] < 1):
        raise ConfigError(
            f"tune.space: {name}: {given!r} has no range; LOW is below HIGH"
            f"{', and above 0' if kind.startswith('log') else ''}, e.g. `{example}`"
        )
    return Dimension(name, kind, low=low, high=high, step=rest[0] if rest else 1)
