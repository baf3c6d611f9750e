"""What is the same or nearly so, among captions and among photos, in time that grows with their number.

Candidates are those that share one of several keys; a candidate counts only once it is compared itself. Keys shared
by very many are followed to MAX_NEIGHBOURS neighbours only, so that a boilerplate caption cannot take for ever.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from raycap.explore.survey import Look, Survey

MAX_NEIGHBOURS = 50
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

PERMUTATIONS, BANDS = (
    64,
    16,
)  # of MinHash: texts alike by 0.7 share a band with probability 0.99, by 0.3 with 0.12
ALIKE = 0.7  # shared share of words and pairs of words: about one word of ten is another

MARGIN = 0.2  # that a signature's estimate is below the truth: three standard deviations
PAIRS_AT_ONCE = 100_000

IMAGE_BANDS = 8  # of 16 of the 128 bits: at most 7 bits apart is always found
MAX_BITS = 10  # of 128 that the hashes of near-duplicate photos differ in
MAX_GREY = 10.0  # mean difference of their small grey pictures, of 255
MAX_SHARE = (
    0.25  # the same as a share of what stands out from the background: another object on the same plain one
)
SURELY_GREY = 1.0  # differences up to this are compression's
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Signatures = np.ndarray[Any, np.dtype[np.uint32]]  # (sets, PERMUTATIONS)
Keys = np.ndarray[Any, np.dtype[np.uint64]]
Pairs = np.ndarray[Any, np.dtype[np.int64]]  # (pairs, 2), the smaller place first


def pairs_with_equal_keys(keys: Keys, *, neighbours: int = MAX_NEIGHBOURS) -> Pairs:
    """Places that share a key in some column of (items, columns), each pair once."""
    found = [np.empty(0, dtype=np.int64)]
    for column in keys.T:
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        for step in range(1, min(neighbours, len(order) - 1) + 1):
            equal = ordered[step:] == ordered[:-step]
            if not equal.any():
                break
            found.append(
                order[:-step][equal] * len(keys) + order[step:][equal]
            )  # order is stable: first < second
    return np.stack(np.divmod(np.unique(np.concatenate(found)), max(len(keys), 1)), axis=1)


@dataclass(frozen=True)
class Texts:
    """Captions as words alone (lower case, no punctuation), each different one once."""

    words: list[str]
    """A blank between any two."""
    images: list[list[int]]
    """Of each, the images it was written about; one that has it twice stands twice."""
    example: list[int]
    """Of each, the first caption that reads so."""


def different_texts(survey: Survey) -> Texts:
    """The captions of a survey by what they say."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, caption in enumerate(survey.captions):
        places[" ".join(WORD.findall(caption.lower()))].append(place)
    owners = survey.owner.tolist()
    return Texts(
        list(places),
        [[owners[place] for place in own] for own in places.values()],
        [own[0] for own in places.values()],
    )


class NearCaptions(NamedTuple):
    """Two texts of different images that say nearly the same."""

    alike: float
    first: int
    second: int


def near_captions(texts: Texts) -> list[NearCaptions]:
    """Pairs of places among `texts`, the most alike first; those that one image alone has are left out."""
    flat, starts = shingles(texts.words)
    signatures = minhash(flat, starts)
    candidates = pairs_with_equal_keys(band_keys(signatures))
    likely = candidates[agreement(signatures, candidates) > ALIKE - MARGIN]

    @functools.lru_cache(maxsize=10_000)  # the pairs come ordered by their first
    def content(place: int) -> frozenset[int]:
        return frozenset(flat[starts[place] : starts[place + 1]].tolist())

    found = []
    for first, second in likely.tolist():
        one, other = content(first), content(second)
        alike = len(one & other) / len(one | other)
        if alike >= ALIKE and differ(texts.images[first], texts.images[second]):
            found.append(NearCaptions(alike, first, second))
    return sorted(
        found, key=lambda pair: (-pair.alike, -len(texts.words[pair.first]), pair.first, pair.second)
    )


def differ(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two texts stand under more than one image."""
    return one[0] != other[0] or len({*one, *other}) > 1


def shingles(texts: Sequence[str]) -> tuple[Keys, Numbers]:
    """Words and pairs of neighbours as numbers, perhaps twice: those of text i are flat[starts[i]:starts[i + 1]]."""
    numbers: dict[str, int] = {}
    counts = np.array([text.count(" ") + 1 for text in texts], dtype=np.int64)
    named = (numbers.setdefault(word, len(numbers) + 1) for text in texts for word in text.split(" "))
    words = np.fromiter(named, dtype=np.uint64, count=int(counts.sum()))
    starts = np.append(0, np.cumsum(counts))
    pairs = words + np.append(words[1:], words[:1]) * np.uint64(1 << 32)
    pairs[starts[1:] - 1] = words[starts[1:] - 1]  # no pair begins with a text's last word
    return scrambled(np.stack([words, pairs], axis=1).ravel()), 2 * starts


def scrambled(numbers: Keys) -> Keys:
    """Each number as another one that looks random, but 0 as itself (SplitMix64, Steele and others, 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))


def minhash(flat: Keys, starts: Numbers) -> Signatures:
    """Signatures (sets, PERMUTATIONS) of the sets flat[starts[i]:starts[i + 1]].

    Two agree in a place with a probability of what their sets share (Broder, On the resemblance and containment of
    documents, 1997).
    """
    odd = np.random.default_rng(0).integers(0, 1 << 63, PERMUTATIONS, dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    signatures = np.empty((len(starts) - 1, PERMUTATIONS), dtype=np.uint32)
    for column in range(PERMUTATIONS if len(flat) else 0):
        values = (flat * odd[column] >> np.uint64(32)).astype(np.uint32)
        signatures[:, column] = np.minimum.reduceat(values, starts[:-1])
    return signatures


def agreement(signatures: Signatures, pairs: Pairs) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The share of places in which the signatures of each pair agree, an estimate of how alike they are."""
    shares = np.empty(len(pairs))
    for begin in range(0, len(pairs), PAIRS_AT_ONCE):
        first, second = pairs[begin : begin + PAIRS_AT_ONCE].T
        shares[begin : begin + PAIRS_AT_ONCE] = (signatures[first] == signatures[second]).mean(axis=1)
    return shares


def band_keys(signatures: Signatures) -> Keys:
    """One number for each run of a signature's places: (sets, BANDS)."""
    rows = PERMUTATIONS // BANDS
    odd = np.random.default_rng(1).integers(0, 1 << 63, rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys: Keys = (signatures.reshape(-1, BANDS, rows) * odd).sum(axis=2, dtype=np.uint64)
    return keys


class NearPhotos(NamedTuple):
    """Two photos that are the same file (0 bits, 0 grey levels) or look the same."""

    same_file: bool
    bits: int
    grey: float
    first: int
    second: int


def near_photos(looks: Sequence[Look]) -> list[NearPhotos]:
    """Pairs of places among photos, same files first, then by how much they differ."""
    if not looks:
        return []
    hashes = np.array([look.hashes for look in looks], dtype=np.uint64)  # (photos, 2)
    keys = hashes.view(np.uint16).astype(np.uint64)  # (photos, IMAGE_BANDS)
    content = np.array([int.from_bytes(look.content[:8], "big") for look in looks], dtype=np.uint64)
    candidates = pairs_with_equal_keys(np.concatenate([keys, content[:, None]], axis=1))
    one, other = candidates.T
    near = (np.bitwise_count(hashes[one] ^ hashes[other]).sum(axis=1) <= MAX_BITS) | (
        content[one] == content[other]
    )
    pairs = [
        compare(looks[first], looks[second], first, second) for first, second in candidates[near].tolist()
    ]
    found = [pair for pair in pairs if pair.same_file or looks_same(pair, looks)]
    return sorted(found, key=lambda pair: (not pair.same_file, pair.bits, pair.grey, pair.first))


def looks_same(pair: NearPhotos, looks: Sequence[Look]) -> bool:
    """Whether two photos are one, compressed or scaled anew: alike in all, and in what stands out too.

    Where most of a picture is plain, as in drawings and product photos, hashes and mean tell little. Of 242 Flickr30k
    photos halved or compressed to quality 30 all shares are below 0.2, of pairs of different drawings above 0.3.
    """
    if pair.bits > MAX_BITS or pair.grey > MAX_GREY:
        return False
    one, other = (looks[place].grey.astype(np.float32) for place in (pair.first, pair.second))
    one, other = one - np.median(one), other - np.median(other)
    outstanding = max(np.abs(one).mean(), np.abs(other).mean())
    return bool(pair.grey <= SURELY_GREY or np.abs(one - other).mean() <= MAX_SHARE * outstanding)


def compare(one: Look, other: Look, first: int, second: int) -> NearPhotos:
    """Two photos by their hashes and their small grey pictures; unreadable ones by their files alone."""
    same_file = one.content == other.content
    if one.problem or other.problem:
        return NearPhotos(same_file, 128, 255.0, first, second)
    bits = sum((a ^ b).bit_count() for a, b in zip(one.hashes, other.hashes, strict=True))
    grey = float(np.abs(one.grey.astype(np.int16) - other.grey).mean())
    return NearPhotos(same_file, bits, grey, first, second)
