"""Sorted n-grams of references: where each occurs, by image (scoring each caption on its image) or in all of them.

Knows nothing of scores.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raycap.metrics.ngrams import Entries, Ints, sort_stable

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """Where the n-grams of some captions occur in the references of their images."""

    most: Ints  # for each entry, the n-gram's largest count in one reference of the image
    entry: Ints  # the entry of each hit
    caption: Ints  # the reference of each hit
    vector: Floats  # that reference's weight of the n-gram


@dataclass(frozen=True)
class Postings:
    """The references' n-grams of one order, sorted by n-gram."""

    numbers: Ints
    caption: Ints
    vector: Floats

    def find(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Rows of n-grams, and which of `numbers` each is of; unknown n-grams (-1) have none."""
        start = np.searchsorted(self.numbers, numbers, side="left")
        stop = np.searchsorted(self.numbers, numbers, side="right")
        return ranges(start, stop), np.repeat(np.arange(len(numbers)), stop - start)


@dataclass(frozen=True)
class Join:
    """The references' n-grams of one order, sorted by image and n-gram."""

    size: int
    keys: Ints  # image * size + number, sorted
    caption: Ints
    vector: Floats
    count: Ints

    @classmethod
    def of(cls, entries: Entries, vector: Floats, image_of: Ints, size: int) -> Join:
        """From the references' entries and their weights."""
        keys, place = sort_stable(image_of[entries.owner] * size + entries.number)
        return cls(size, keys, entries.owner[place], vector[place], entries.count[place])

    def find(self, image: Ints, number: Ints) -> Found:
        """Occurrences of n-grams (-1: unknown) in the references of an image each."""
        wanted = np.where(number >= 0, image * self.size + number, -1)
        start = np.searchsorted(self.keys, wanted, side="left")
        stop = np.searchsorted(self.keys, wanted, side="right")
        hits = ranges(start, stop)
        entry = np.repeat(np.arange(len(wanted)), stop - start)
        most = np.zeros(len(wanted), dtype=np.int64)
        np.maximum.at(most, entry, self.count[hits])
        return Found(most, entry, self.caption[hits], self.vector[hits])

    @functools.cached_property
    def postings(self) -> Postings:
        """The same by n-gram alone."""
        numbers, place = sort_stable(self.keys % self.size)
        return Postings(numbers, self.caption[place], self.vector[place])


def ranges(start: Ints, stop: Ints) -> Ints:
    """The integers of [start, stop) of each row, one after another."""
    sizes = stop - start
    total = int(sizes.sum())
    if not total:
        return np.zeros(0, dtype=np.int64)
    before = np.repeat(np.cumsum(sizes) - sizes, sizes)
    found: Ints = np.arange(total, dtype=np.int64) - before + np.repeat(start, sizes)
    return found
