"""Captions as arrays of n-gram numbers, so that BLEU and CIDEr-D count whole corpora at once.

An n-gram's number is found from the number of its first n-1 words and its last word, so a table of sorted keys
for each n is enough to number a corpus and to look another corpus up in it. Knows nothing of scores.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
ORDERS = (1, 2, 3, 4)
_SHIFT = 32  # a key is prefix << 32 | word
_WORD = (1 << _SHIFT) - 1


@dataclass(frozen=True)
class Words:
    """Captions' words in one run; `owner` is the caption of each word."""

    words: list[str]
    owner: Ints
    lengths: Ints

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]]) -> Words:
        """From tokens; a token holding a no-break space ("1 1/2") is several words here, as in the reference."""
        words = list(itertools.chain.from_iterable(captions))
        if any(len(word.split()) != 1 for word in set(words)):
            captions = [" ".join(tokens).split() for tokens in captions]
            words = list(itertools.chain.from_iterable(captions))
        lengths = np.fromiter(map(len, captions), dtype=np.int64, count=len(captions))
        owner = np.repeat(np.arange(len(captions), dtype=np.int64), lengths)
        return cls(words, owner, lengths)

    def together(self, order: int) -> npt.NDArray[np.bool_]:
        """For each position but the last order - 1, whether an n-gram of one caption starts there."""
        size = len(self.words) - order + 1
        together: npt.NDArray[np.bool_] = self.owner[: max(size, 0)] == self.owner[order - 1 :]
        return together


def sort_stable(keys: Ints) -> tuple[Ints, Ints]:
    """Keys (not negative) in order, and their places before; equal ones stay in theirs.

    Key and place are sorted as one number where they fit into one: several times as fast as an argsort.
    """
    bits = max(len(keys) - 1, 0).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits < 64:
        packed = np.sort(keys << bits | np.arange(len(keys)))
        return packed >> bits, packed & ((1 << bits) - 1)
    place = np.argsort(keys, kind="stable")
    return keys[place], place


def starts_of_runs(ordered: Ints) -> npt.NDArray[np.bool_]:
    """Where sorted values change, the first included."""
    new = np.ones(len(ordered), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return new


@dataclass(frozen=True)
class NgramTable:
    """Numbers of n-grams: words by name, and for n = 2, 3, 4 the sorted keys, an n-gram's number being its place."""

    vocabulary: dict[str, int]
    keys: tuple[Ints, Ints, Ints]

    @classmethod
    def of(cls, captions: Words) -> tuple[NgramTable, list[Ints]]:
        """The table of some captions, and the numbers at their positions as `find` gives them."""
        vocabulary = {word: number for number, word in enumerate(dict.fromkeys(captions.words))}
        size = max(len(vocabulary), 1)
        first = np.fromiter(map(vocabulary.__getitem__, captions.words), np.int64, len(captions.words))
        numbers, keys = [first], []
        for order in ORDERS[1:]:
            together = captions.together(order)
            prefix, last = numbers[-1][: len(together)], first[order - 1 :]
            found = np.full(len(together), -1, dtype=np.int64)
            ordered, place = sort_stable(prefix[together] * size + last[together])
            new = starts_of_runs(ordered)
            number = np.empty(len(place), dtype=np.int64)
            number[place] = np.cumsum(new) - 1
            found[together] = number
            numbers.append(found)
            unique = ordered[new]
            keys.append((unique // size << _SHIFT) | unique % size)
        return cls(vocabulary, (keys[0], keys[1], keys[2])), numbers

    def size(self, order: int) -> int:
        """Number of n-grams of one order."""
        return len(self.vocabulary) if order == 1 else len(self.keys[order - 2])

    def find(self, captions: Words) -> list[Ints]:
        """For n = 1..4 the number of the n-gram starting at each position, -1 where none or unknown."""
        get = self.vocabulary.get
        first = np.fromiter((get(word, -1) for word in captions.words), np.int64, len(captions.words))
        numbers = [first]
        for order in ORDERS[1:]:
            together = captions.together(order)
            prefix, last = numbers[-1][: len(together)], first[order - 1 :]
            keys = self.keys[order - 2]
            found = np.full(len(together), -1, dtype=np.int64)
            if len(keys):
                wanted = (prefix << _SHIFT) | last
                place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
                known = together & (prefix >= 0) & (last >= 0) & (keys[place] == wanted)
                found[known] = place[known]
            numbers.append(found)
        return numbers


@dataclass(frozen=True)
class Entries:
    """The distinct n-grams of each caption, by caption and first position, so sums do not depend on the batch."""

    owner: Ints
    number: Ints  # in the table asked for; -1 unknown
    df_number: Ints  # in the document frequencies' table; -1 unknown
    count: Ints

    @classmethod
    def of(cls, captions: Words, order: int, local: Ints, number: Ints, df_number: Ints) -> Entries:
        """Entries of one order; `local` numbers tell n-grams apart, known to the tables or not."""
        starts = np.flatnonzero(captions.together(order))
        owner = captions.owner[starts]
        span = int(local.max(initial=0)) + 1
        ordered, place = sort_stable(owner * span + local[starts])
        runs = np.flatnonzero(starts_of_runs(ordered))
        counts = np.zeros(len(starts), dtype=np.int64)
        counts[place[runs]] = np.diff(np.append(runs, len(ordered)))  # each at its n-gram's first position
        at = np.flatnonzero(counts)
        return cls(owner[at], number[starts][at], df_number[starts][at], counts[at])


class DocumentFrequency:
    """In how many images' references each n-gram occurs: what CIDEr-D weighs n-grams by."""

    def __init__(self, table: NgramTable, counts: Sequence[Ints], *, num_images: int, source: str) -> None:
        self.table = table
        self.num_images = num_images
        self.source = source
        self._counts = tuple(counts)
        log_images = np.log(float(num_images)) if num_images else 0.0
        self._weights = tuple(
            np.append(log_images - np.log(np.maximum(1.0, count.astype(np.float64))), log_images)
            for count in counts
        )

    @classmethod
    def of(
        cls,
        captions: Words,
        image_of: Ints,
        *,
        num_images: int,
        source: str,
        numbered: tuple[NgramTable, list[Ints]] | None = None,
    ) -> DocumentFrequency:
        """Count in captions; `image_of` is the image of each, `numbered` their table where it is there already."""
        table, numbers = numbered or NgramTable.of(captions)
        counts = []
        for order, number in zip(ORDERS, numbers, strict=True):
            starts = np.flatnonzero(captions.together(order))
            size = table.size(order)
            pairs = np.sort(image_of[captions.owner[starts]] * max(size, 1) + number[starts])
            once = pairs[starts_of_runs(pairs)]  # np.unique would hash, which takes ten times as long
            counts.append(np.bincount(once % max(size, 1), minlength=size).astype(np.int64))
        return cls(table, counts, num_images=num_images, source=source)

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], *, num_images: int, source: str = "given"
    ) -> DocumentFrequency:
        """From n-grams written with spaces ("a dog") and the number of images they occur in."""
        phrases = list(counts)
        table, numbers = NgramTable.of(Words.of([phrase.split(" ") for phrase in phrases]))
        sizes = [len(phrase.split(" ")) for phrase in phrases]
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if sizes else np.zeros(0)
        tallies = [np.zeros(table.size(order), dtype=np.int64) for order in ORDERS]
        for phrase, size, start in zip(phrases, sizes, starts, strict=True):
            if size not in ORDERS:
                raise ValueError(f"document frequencies count 1 to 4 words; {phrase!r} has {size}")
            tallies[size - 1][numbers[size - 1][int(start)]] = counts[phrase]
        return cls(table, tallies, num_images=num_images, source=source)

    def counts(self) -> dict[str, int]:
        """As plain n-grams and counts, to keep as JSON or to add to another worker's."""
        phrases = list(self.table.vocabulary)
        words = phrases
        out: dict[str, int] = {}
        for order in ORDERS:
            if order > 1:
                keys = self.table.keys[order - 2]
                phrases = [f"{phrases[key >> _SHIFT]} {words[key & _WORD]}" for key in keys.tolist()]
            out.update(zip(phrases, self._counts[order - 1].tolist(), strict=True))
        return out

    def tally(self, order: int) -> Ints:
        """In how many images each n-gram of the table occurs."""
        return self._counts[order - 1]

    def weights(self, order: int, numbers: Ints) -> npt.NDArray[np.float64]:
        """Inverse document frequencies; an unknown n-gram (-1) weighs as one that occurs once."""
        return self._weights[order - 1][numbers]


def merge_counts(parts: Sequence[DocumentFrequency], *, source: str) -> DocumentFrequency:
    """Document frequencies of several disjoint sets of images together."""
    vocabulary: dict[str, int] = {}
    for part in parts:
        for word in part.table.vocabulary:
            vocabulary.setdefault(word, len(vocabulary))
    words = [np.array([vocabulary[word] for word in part.table.vocabulary], dtype=np.int64) for part in parts]
    totals = [_summed(words, [part.tally(1) for part in parts], len(vocabulary))]
    keys, prefixes = [], words
    for order in ORDERS[1:]:
        moved = [
            (prefix[key >> _SHIFT] << _SHIFT) | word[key & _WORD]
            for prefix, word, key in zip(
                prefixes, words, (part.table.keys[order - 2] for part in parts), strict=True
            )
        ]
        unique, inverse = np.unique(np.concatenate([np.zeros(0, np.int64), *moved]), return_inverse=True)
        prefixes = np.split(inverse.astype(np.int64), np.cumsum([len(key) for key in moved])[:-1])
        totals.append(_summed(prefixes, [part.tally(order) for part in parts], len(unique)))
        keys.append(unique)
    return DocumentFrequency(
        NgramTable(vocabulary, (keys[0], keys[1], keys[2])),
        totals,
        num_images=sum(part.num_images for part in parts),
        source=source,
    )


def _summed(numbers: Sequence[Ints], tallies: Sequence[Ints], size: int) -> Ints:
    total = np.zeros(size, dtype=np.int64)
    for number, tally in zip(numbers, tallies, strict=True):
        total[number] += tally  # a part's n-grams are distinct
    return total
