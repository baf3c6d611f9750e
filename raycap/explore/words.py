"""Words of captions: lengths, vocabulary and how it grows, as caption metrics split them (PTB, lower case).

Tokens are counted too, by the tokenizer that a model trains with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raycap.data.progress import progress
from raycap.explore.survey import batches
from raycap.metrics.ptb import tokenize

BATCH = 5_000  # captions at a time
GROWTH_POINTS = 60
NO_LIMIT = 1 << 20  # tokens: no caption is cut while they are counted
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Vocabulary:
    """All words of some captions."""

    lengths: Counts
    """Words of every caption."""
    counts: Counter[str]
    growth: list[tuple[int, int]]
    """(captions read, different words among them), in the order of the rows."""

    @property
    def hapax(self) -> int:
        """Words that occur once."""
        return sum(count == 1 for count in self.counts.values())

    def covered(self, *, at_least: int) -> float:
        """The share of all words said that are words said so often."""
        often = sum(count for count in self.counts.values() if count >= at_least)
        return often / max(sum(self.counts.values()), 1)


def count_words(captions: Sequence[str]) -> Vocabulary:
    """Split and count, with progress on stderr."""
    lengths: list[int] = []
    counts: Counter[str] = Counter()
    first_seen: dict[str, int] = {}
    with progress("counting words", total=len(captions)) as advance:
        for batch in batches(captions, BATCH):
            for words in tokenize(batch):
                for word in words:
                    first_seen.setdefault(word, len(lengths))
                counts.update(words)
                lengths.append(len(words))
            advance(len(batch))
    return Vocabulary(
        np.array(lengths, dtype=np.int64), counts, grow(list(first_seen.values()), len(captions))
    )


def grow(first_seen: Sequence[int], captions: int) -> list[tuple[int, int]]:
    """Different words among the first captions, at GROWTH_POINTS places; `first_seen` by word, ascending."""
    places = np.unique(np.linspace(0, captions, GROWTH_POINTS + 1).astype(int)[1:])
    return [(int(place), int(np.searchsorted(first_seen, place))) for place in places if place]


def count_tokens(captions: Sequence[str], tokenizer: str) -> Counts:
    """Tokens of every caption, without start and end, by the tokenizer in a folder or on the hub.

    Raises:
        ConfigError: no tokenizer there.
    """
    from raycap.text import CaptionTokenizer  # loads torch

    own = CaptionTokenizer.load(tokenizer)
    lengths: list[int] = []
    with progress("counting tokens", total=len(captions)) as advance:
        for batch in batches(captions, BATCH):
            lengths += [len(ids) for ids in own.encode(list(batch), max_tokens=NO_LIMIT)]
            advance(len(batch))
    return np.array(lengths, dtype=np.int64)
