"""Bootstrap over images: intervals of corpus scores, and whether one set of captions is better than another.

A resampling is a row of counts, how often each image was drawn, so corpus sums of all resamplings are one matrix
product. Document frequencies are held fixed. Knows nothing of what the scores are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LEVEL = 0.95
SIGNIFICANT = 0.05  # a p-value below it
MIN_COMPARED = 100  # resamplings; of 39 or fewer no p-value can be below 0.05
CHUNK_COUNTS = 1 << 22  # counts held at a time


class Resampled(Protocol):
    """Per-image numbers that can be scored for many resamplings of the images at once."""

    def __len__(self) -> int:
        """Number of images."""

    def resampled(self, counts: Floats) -> dict[str, Floats]:
        """Corpus scores (resamplings,) by metric, of (resamplings, images) counts of whole numbers."""


@dataclass(frozen=True)
class Difference:
    """How two sets of captions of the same images differ in one metric."""

    difference: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the share of resamplings in which the difference has the other sign or none."""

    @property
    def is_real(self) -> bool:
        """Whether the interval leaves out zero and p is below 0.05: of few resamplings either alone says little."""
        return (self.low > 0 or self.high < 0) and self.p_value < SIGNIFICANT


def draw(size: int, *, num_samples: int, seed: int) -> Iterator[Floats]:
    """Counts of `num_samples` resamplings of `size` images, (resamplings, size), some at a time."""
    random = np.random.default_rng(seed)
    at_once = max(1, CHUNK_COUNTS // max(size, 1))
    for begin in range(0, num_samples, at_once):
        rows = range(begin, min(begin + at_once, num_samples))
        drawn = [np.bincount(random.integers(size, size=size), minlength=size) for _ in rows]
        yield np.stack(drawn).astype(np.float64)


def intervals(
    measured: Resampled, *, num_samples: int, seed: int, level: float = LEVEL
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap (Efron 1979) of each metric's corpus score."""
    parts = [measured.resampled(counts) for counts in draw(len(measured), num_samples=num_samples, seed=seed)]
    return {name: _bounds(np.concatenate([part[name] for part in parts]), level) for name in parts[0]}


def compare(
    one: Resampled, other: Resampled, *, num_samples: int, seed: int, level: float = LEVEL
) -> dict[str, Difference]:
    """Paired bootstrap (Koehn 2004): both are scored on the same resamplings; differences are one minus other.

    Raises:
        ValueError: of other images, or no resamplings asked for.
    """
    if len(one) != len(other):
        raise ValueError(f"captions of {len(one)} images cannot be paired with captions of {len(other)}")
    if num_samples < 1:
        raise ValueError(f"a comparison needs at least one resampling; {num_samples} were asked for")
    parts = []
    for counts in draw(len(one), num_samples=num_samples, seed=seed):
        ours, theirs = one.resampled(counts), other.resampled(counts)
        parts.append({name: ours[name] - theirs[name] for name in ours if name in theirs})
    once = np.ones((1, len(one)))
    ours, theirs = one.resampled(once), other.resampled(once)
    found = {}
    for name in parts[0]:
        differences = np.concatenate([part[name] for part in parts])
        against = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
        low, high = _bounds(differences, level)
        found[name] = Difference(
            difference=float(ours[name][0] - theirs[name][0]),
            low=low,
            high=high,
            p_value=min(1.0, 2 * (against + 1) / (num_samples + 1)),
        )
    return found


def _bounds(values: Floats, level: float) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
