"""METEOR's alignment of a caption with a reference: every possible match, then a beam search for the best set.

From Denkowski and Lavie 2014 (Meteor Universal) and the reference jar's observed choices, which the published
description leaves open; each is named where it is made. Knows nothing of scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple

from raycap.metrics.meteor.lexicon import Caption, Lexicon

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
BEAM = 40
# A path's rank is one number, smaller the better: matched words, then chunks, then distance.
_CHUNK = 1 << 24
_MATCHED = _CHUNK << 20
_rank_of = itemgetter(0)


class Match(NamedTuple):
    """Words of a reference and of a caption that stand for each other."""

    stage: int
    start: int  # in the reference
    length: int
    caption_start: int
    caption_length: int

    def caption_bits(self) -> int:
        """A bit for each position in the caption."""
        return ((1 << self.caption_length) - 1) << self.caption_start

    def bits(self) -> int:
        """A bit for each position in the reference."""
        return ((1 << self.length) - 1) << self.start


class _Step(NamedTuple):
    """A match as the search weighs it."""

    match: Match
    gain: int  # of rank
    distance: int
    end: int
    caption_start: int
    caption_end: int
    caption_bits: int

    @classmethod
    def of(cls, match: Match) -> _Step:
        """A match's weight.

        The search counts half a word for each that does not match exactly, and whole words only: a synonym gains
        nothing over no match, and is taken where it has no rival or costs no chunk.
        """
        stage, start, length, caption_start, caption_length = match
        matched = length + caption_length if stage == EXACT else length // 2 + caption_length // 2
        return cls(
            match,
            -matched * _MATCHED,
            abs(start - caption_start),
            start + length,
            caption_start,
            caption_start + caption_length,
            match.caption_bits(),
        )


# Rank, next position in the reference, where the last match ends in the caption (-1 after a gap), the caption's words
# taken, and the matches as nested pairs.
_Trail = tuple["_Trail", Match] | None
_Path = tuple[int, int, int, int, _Trail]


def align(lexicon: Lexicon, caption: Caption, reference: Caption) -> tuple[list[Match], int]:
    """The best matches and the number of chunks they fall into."""
    return _search(possible_matches(lexicon, caption, reference))


def possible_matches(lexicon: Lexicon, caption: Caption, reference: Caption) -> list[list[Match]]:
    """Matches that begin at each position of the reference: stages in order, each from left to right.

    A match may be there more than once, by several stages or by a paraphrase listed both ways; the beam search
    notices. Where caption and reference are the same words only exact matches are considered.
    """
    caption.index()
    matches: list[list[Match]] = [
        [Match(EXACT, start, 1, at, 1) for at in caption.by_number.get(word.number, ())]
        for start, word in enumerate(reference.words)
    ]
    if caption.numbers == reference.numbers:
        return matches
    numbers = caption.numbers
    for start, word in enumerate(reference.words):
        number, synsets = word.number, word.synsets
        for at in caption.by_stem.get(word.stem, ()):
            if numbers[at] != number:
                matches[start].append(Match(STEM, start, 1, at, 1))
        if not synsets.isdisjoint(caption.synsets):
            for at, other in enumerate(caption.words):
                if numbers[at] != number and not synsets.isdisjoint(other.synsets):
                    matches[start].append(Match(SYNONYM, start, 1, at, 1))
    for start, length, at, other_length in _paraphrases(lexicon, reference, caption):
        matches[start].append(Match(PARAPHRASE, start, length, at, other_length))
    for at, other_length, start, length in _paraphrases(lexicon, caption, reference):
        matches[start].append(Match(PARAPHRASE, start, length, at, other_length))
    return matches


def _paraphrases(lexicon: Lexicon, one: Caption, other: Caption) -> Iterator[tuple[int, int, int, int]]:
    """Phrases of one caption with a paraphrase in the other: start and length in each."""
    targets = other.targets
    for start, length, node in one.phrases:
        known = lexicon.paraphrases(node)
        shared = targets.keys() & known.keys()
        if shared:
            for target in sorted(shared, key=known.__getitem__):
                other_length, starts = targets[target]
                for at in starts:
                    yield start, length, at, other_length


def _search(matches: list[list[Match]]) -> tuple[list[Match], int]:
    """Beam search from left to right over the reference; matches without a rival are taken beforehand."""
    steps = [[_Step.of(match) for match in starting] for starting in matches]
    certain = _certain(steps)
    paths: list[_Path] = [(0, 0, -1, 0, None)]
    for position, choices in enumerate(steps):
        paths.sort(key=_rank_of)  # stable, so equal paths keep the order in which they were found
        del paths[BEAM:]
        if certain[position]:
            paths = [_follow(path, choices[0]) for path in paths]
        else:
            paths = _branch(paths, position, choices)
    paths.sort(key=_rank_of)
    closed = [path if path[2] < 0 else (path[0] + _CHUNK, *path[1:]) for path in paths[:BEAM]]
    rank, _, _, _, trail = min(closed, key=_rank_of)
    chosen: list[Match] = []
    while trail is not None:
        trail, match = trail
        chosen.append(match)
    return chosen[::-1], rank % _MATCHED // _CHUNK


def _certain(steps: list[list[_Step]]) -> list[bool]:
    """Whether each position's only match is of words that no other match wants."""
    seen = rivalled = caption_seen = caption_rivalled = 0  # bits for positions
    for starting in steps:
        for step in starting:
            bits = step.match.bits()
            rivalled |= seen & bits
            caption_rivalled |= caption_seen & step.caption_bits
            seen |= bits
            caption_seen |= step.caption_bits
    return [
        len(starting) == 1
        and not starting[0].match.bits() & rivalled
        and not starting[0].caption_bits & caption_rivalled
        for starting in steps
    ]


def _follow(path: _Path, step: _Step) -> _Path:
    """A path with a match that has no rival."""
    rank, _, last, taken, trail = path
    chunk = _CHUNK if last >= 0 and step.caption_start != last else 0
    return rank + step.gain + chunk + step.distance, step.end, step.caption_end, taken, (trail, step.match)


def _branch(paths: list[_Path], position: int, choices: list[_Step]) -> list[_Path]:
    """Each path with each match that begins here, and without.

    The distance of a match is added to the path it leaves, not to the one that takes it: the reference does so.
    """
    branched: list[_Path] = []
    for path in paths:
        rank, following, last, taken, trail = path
        if following > position:
            branched.append(path)
            continue
        for match, gain, distance, end, caption_start, caption_end, bits in choices:
            if taken & bits:
                continue
            chunk = _CHUNK if last >= 0 and caption_start != last else 0
            branched.append((rank + gain + chunk, end, caption_end, taken | bits, (trail, match)))
            rank += distance
        branched.append((rank if last < 0 else rank + _CHUNK, position + 1, -1, taken, trail))
    return branched
